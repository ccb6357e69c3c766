//! A network of the tests: its definition, and how its bridge is made.

use std::fmt::Write as _;

/// How a network is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// `<forward mode='nat'/>`
    Nat,
    /// `<forward mode='nat' dev=…/>`
    NatTo(&'static str),
    /// `<forward mode='route'/>`
    Route,
    /// `<forward mode='route' dev=…/>`
    RouteTo(&'static str),
    /// No `<forward>`.
    Isolated,
    /// `<forward mode='open'/>`
    Open,
}

/// A network on a bridge of its own.
#[derive(Debug, Clone)]
pub struct Net {
    /// The definition's name.
    pub name: &'static str,
    /// How it is connected.
    pub forward: Forward,
    /// The bridge's name.
    pub bridge: &'static str,
    /// The host's addresses on the bridge with their prefix lengths.
    pub addresses: Vec<String>,
    /// Whether `<nat ipv6='yes'>` is said.
    pub nat66: bool,
    /// Elements of `<nat>`.
    pub nat: String,
    /// Further elements of the network.
    pub elements: String,
}

impl Net {
    /// A network with these addresses of the host.
    #[must_use]
    pub fn new(
        name: &'static str,
        forward: Forward,
        bridge: &'static str,
        addresses: &[&str],
    ) -> Self {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        let (nat, elements) = (String::new(), String::new());
        Self { name, forward, bridge, addresses, nat66: false, nat, elements }
    }

    /// With `<nat ipv6='yes'>`, if the network is a NAT network at all.
    #[must_use]
    pub fn nat66(mut self) -> Self {
        self.nat66 = true;
        self
    }

    /// With an element of `<nat>`.
    #[must_use]
    pub fn in_nat(mut self, element: &str) -> Self {
        self.nat.push_str(element);
        self
    }

    /// With a further element.
    #[must_use]
    pub fn element(mut self, element: &str) -> Self {
        let _ = writeln!(self.elements, "  {element}");
        self
    }

    /// libvirt's XML.
    #[must_use]
    pub fn definition(&self) -> String {
        let Self { name, bridge, nat, elements, .. } = self;
        let ipv6 = if self.nat66 { " ipv6='yes'" } else { "" };
        let nat = format!("<nat{ipv6}>{nat}</nat>");
        let forward = match self.forward {
            Forward::Nat => format!("  <forward mode='nat'>{nat}</forward>\n"),
            Forward::NatTo(dev) => format!("  <forward mode='nat' dev='{dev}'>{nat}</forward>\n"),
            Forward::Route => "  <forward mode='route'/>\n".to_owned(),
            Forward::RouteTo(dev) => format!("  <forward mode='route' dev='{dev}'/>\n"),
            Forward::Isolated => String::new(),
            Forward::Open => "  <forward mode='open'/>\n".to_owned(),
        };
        let mut ips = String::new();
        for address in &self.addresses {
            let (address, prefix) = address.split_once('/').unwrap_or((address, "32"));
            let family = if address.contains(':') { "ipv6" } else { "ipv4" };
            let _ =
                writeln!(ips, "  <ip family='{family}' address='{address}' prefix='{prefix}'/>");
        }
        format!(
            "<network>\n  <name>{name}</name>\n{forward}  \
             <bridge name='{bridge}' stp='on' delay='0'/>\n{ips}{elements}</network>\n"
        )
    }
}
