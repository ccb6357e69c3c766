//! vnet's own options of a network: `<vnet:options>` in `<metadata>`.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    super::diagnostic::{Located, Span},
    address::{MacAddress, PortRange},
};

/// `<vnet:options>`; as by default if there is none.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Options {
    /// The start tag of `<vnet:options>`.
    #[serde(skip)]
    pub span: Option<Span>,
    /// Interfaces that lead outside although no route says so, each once.
    pub uplinks: Vec<Located<String>>,
    /// Masquerade the guests of a network that libvirt leaves open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Located<Masquerade>>,
    /// Who may send to a guest's masqueraded port; [`Filtering::default`] unless given.
    pub filtering: Option<Located<Filtering>>,
    /// What guests may use.
    pub limits: Limits,
    /// How long idle flows live.
    pub timeouts: Timeouts,
    /// The guard of every guest of the network; none if it is off.
    pub guard: Option<Located<Guard>>,
    /// What is particular to guests; each MAC address once.
    pub guests: Vec<Guest>,
    /// Ports of the host's addresses outside that lead to guests.
    pub forwards: Vec<PortForward>,
}

/// `<vnet:masquerade>`: vnet does for the network what mode 'nat' says, and libvirt, for which it is in
/// mode 'open', makes no rules of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Masquerade {
    /// Whether IPv6 is masqueraded too.
    pub ipv6: bool,
}

/// `<vnet:filtering>`: the filtering behaviour of RFC 4787 section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Only the remote address and port that the guest has sent to.
    #[default]
    AddressAndPort,
    /// Anybody.
    EndpointIndependent,
}

/// `<vnet:limits>`: each is of one guest unless it says otherwise; vnet's own default unless given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Limits {
    /// Live flows, at least 1.
    pub flows: Option<Located<u32>>,
    /// External ports of all protocols, at least 1.
    pub ports: Option<Located<u16>>,
    /// New flows per second, at least 1.
    pub new_flows: Option<Located<u32>>,
    /// Flows of all guests of the network, at least 1.
    pub network_flows: Option<Located<u32>>,
}

/// `<vnet:timeouts>`: each in seconds; vnet's own default unless given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Timeouts {
    /// TCP after the handshake, at least 1.
    pub tcp: Option<Located<u32>>,
    /// TCP opening or closing, at least 1.
    pub tcp_transitory: Option<Located<u32>>,
    /// UDP, at least 1.
    pub udp: Option<Located<u32>>,
    /// ICMP queries, at least 1.
    pub icmp: Option<Located<u32>>,
    /// Protocols without ports, at least 1.
    pub other: Option<Located<u32>>,
    /// How long the port of an ended flow is kept from other guests.
    pub port_hold_down: Option<Located<u32>>,
}

/// `<vnet:guard>`: what is checked of the frames that a guest sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches, each with its attribute")]
pub struct Guard {
    /// The source MAC address is the guest's own.
    pub mac: bool,
    /// IPv4 and IPv6 sources, ARP and neighbour discovery claim only the guest's addresses.
    pub addresses: bool,
    /// No DHCP server's answers, no router advertisements, no redirects.
    pub servers: bool,
    /// No VLAN-tagged frames.
    pub tags: bool,
    /// Where a guest's addresses come from.
    pub from: AddressSources,
}

/// `from` of `<vnet:guard>`; at least one is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AddressSources {
    /// `static`: `<host>` of `<dhcp>`, and [`Guest::addresses`].
    #[serde(rename = "static")]
    pub fixed: bool,
    /// `leases`: what the network's DHCP service has lent.
    pub leases: bool,
    /// `learn`: the first address of each family that the guest uses.
    pub learn: bool,
}

/// `<vnet:guest>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guest {
    /// The start tag of `<vnet:guest>`.
    #[serde(skip)]
    pub span: Span,
    /// The MAC address of the guest's interface.
    pub mac: Located<MacAddress>,
    /// Whether this guest is guarded; as the network's guests are, unless given.
    pub guard: Option<Located<bool>>,
    /// Addresses of the guest, besides those of `<dhcp>`.
    pub addresses: Vec<Located<IpAddr>>,
}

/// `<vnet:forward>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PortForward {
    /// The start tag of `<vnet:forward>`.
    #[serde(skip)]
    pub span: Span,
    /// The protocol.
    pub protocol: ForwardProtocol,
    /// The address of the host that it is for; all addresses of its uplinks, of the family of
    /// `to`, unless given.
    pub address: Option<Located<IpAddr>>,
    /// The ports of the host.
    pub ports: Located<PortRange>,
    /// The guest's address.
    pub to: Located<IpAddr>,
    /// The guest's port that `ports.start` leads to, and so on up to `ports.end`.
    pub to_port: u16,
}

/// `protocol` of `<vnet:forward>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Options {
    /// Who may send to a guest's masqueraded port.
    #[must_use]
    pub fn filtering(&self) -> Filtering {
        self.filtering.as_ref().map_or_else(Filtering::default, |filtering| filtering.value)
    }

    /// What is said of the guest with this MAC address.
    #[must_use]
    pub fn guest(&self, mac: MacAddress) -> Option<&Guest> {
        self.guests.iter().find(|guest| guest.mac.value == mac)
    }

    /// The guard of the guest with this MAC address; none if it is off. A guest that is guarded
    /// where the network's guests are not has the guard's defaults.
    #[must_use]
    pub fn guard_of(&self, mac: MacAddress) -> Option<Guard> {
        let network = self.guard.as_ref().map(|guard| guard.value);
        match self.guest(mac).and_then(|guest| guest.guard.as_ref()) {
            Some(Located { value: true, .. }) => Some(network.unwrap_or_default()),
            Some(Located { value: false, .. }) => None,
            None => network,
        }
    }

    /// Whether any guest of the network may be guarded.
    #[must_use]
    pub fn has_guard(&self) -> bool {
        let on = |guest: &Guest| guest.guard.as_ref().is_some_and(|guard| guard.value);
        self.guard.is_some() || self.guests.iter().any(on)
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            mac: true,
            addresses: true,
            servers: true,
            tags: true,
            from: AddressSources::default(),
        }
    }
}

impl Default for AddressSources {
    fn default() -> Self {
        Self { fixed: true, leases: true, learn: false }
    }
}

impl ForwardProtocol {
    /// The name in a definition.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl PortForward {
    /// The guest's ports.
    #[must_use]
    pub fn to_ports(&self) -> PortRange {
        let more = self.ports.value.end - self.ports.value.start;
        PortRange { start: self.to_port, end: self.to_port.saturating_add(more) }
    }
}
