//! The ways in which a host may forward, and what is set up for each.

use std::fmt::Write as _;

use anyhow::Result;

use super::{BRIDGE, Layout, UPLINK};
use crate::{
    bench::report::Figure,
    lab::{Crowd, Ipv6Noise, Namespace, Node},
    modes::{Forward, Net, libvirt_rules},
};

/// What a host does with the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Forwarding {
    /// Nothing: the first program at TC drops them.
    Floor,
    /// Nothing: an XDP program drops them.
    FloorOfXdp,
    /// The kernel forwards them as they are.
    Plain,
    /// The kernel masquerades them by libvirt's rules.
    Masquerade,
    /// Likewise, and by a flowtable where the flow is known.
    Flowtable,
    /// vnet masquerades them, at TC, by way of the bridge.
    LongWays,
    /// vnet masquerades them as it does by default: at TC, past the bridge.
    Vnet,
    /// Likewise, and at XDP on the uplink.
    Xdp,
}

impl Forwarding {
    pub const ALL: [Self; 8] = [
        Self::Floor,
        Self::FloorOfXdp,
        Self::Plain,
        Self::Masquerade,
        Self::Flowtable,
        Self::LongWays,
        Self::Vnet,
        Self::Xdp,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "dropped at TC",
            Self::FloorOfXdp => "dropped at XDP",
            Self::Plain => "plain forwarding",
            Self::Masquerade => "nft masquerade",
            Self::Flowtable => "nft masquerade, flowtable",
            Self::LongWays => "vnet, short ways off",
            Self::Vnet => "vnet",
            Self::Xdp => "vnet, XDP",
        }
    }

    /// Whether packets get through.
    pub const fn forwards(self) -> bool {
        !matches!(self, Self::Floor | Self::FloorOfXdp)
    }

    /// What vnet does by default, said all the same, so that figures can say it.
    pub const DEFAULT: &[&str] = &["--short-ways", "on", "--xdp", "auto"];

    /// What vnet is told, if it runs.
    pub const fn arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::LongWays => Some(&["--short-ways", "off", "--xdp", "off"]),
            Self::Vnet => Some(Self::DEFAULT),
            Self::Xdp => Some(&["--short-ways", "on", "--xdp", "on"]),
            _ => None,
        }
    }

    /// The arguments behind those of the subjects of figures that are vnet.
    pub fn settings(figures: &[Figure]) -> Vec<(&'static str, String)> {
        let is_measured = |of: &Self| figures.iter().any(|figure| figure.subject == of.name());
        let measured = Self::ALL.into_iter().filter(is_measured);
        measured.filter_map(|of| Some((of.name(), of.arguments()?.join(" ")))).collect()
    }

    /// Whether the outside sees the host's address.
    pub const fn translates(self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Those of these that this kernel has, and why it has not the others.
    pub fn available(wanted: &[Self]) -> Result<(Vec<Self>, Vec<String>)> {
        let (mut available, mut notes) = (wanted.to_vec(), Vec::new());
        if wanted.contains(&Self::Flowtable)
            && let Some(reason) = why_no_flowtable()?
        {
            available.retain(|forwarding| *forwarding != Self::Flowtable);
            notes.push(format!("No figures of a flowtable: this kernel refuses one ({reason})."));
        }
        Ok((available, notes))
    }
}

/// Sets up what the kernel does by itself.
pub(super) fn masquerade(host: &Node, layout: &Layout) -> Result<()> {
    host.nft(&libvirt_rules(&nets(layout)))?;
    if host.enter(|| std::fs::exists(CONNTRACK_CHECKSUM))?? {
        // Real NICs have checked what arrives; a veth has not.
        host.sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
    }
    // As vnet's, so that no flow ends while others are opened.
    host.sysctl("net.netfilter.nf_conntrack_udp_timeout", "300")?;
    if layout.forwarding == Forwarding::Flowtable {
        host.nft(&flowtable(BRIDGE, UPLINK))?;
    }
    Ok(())
}

/// Connections that a host tracks; none if it has no rules.
pub(super) fn tracked(host: &Node) -> Result<Option<u64>> {
    if host.run(&["nft", "list", "tables"])?.is_empty() {
        return Ok(None);
    }
    let text = host.enter(|| std::fs::read_to_string(CONNTRACK_COUNT))??;
    Ok(Some(text.trim().parse()?))
}

const CONNTRACK_COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const CONNTRACK_CHECKSUM: &str = "/proc/sys/net/netfilter/nf_conntrack_checksum";

/// The network that is measured is in the middle of the others.
fn nets(layout: &Layout) -> Vec<Net> {
    let others = layout.networks - 1;
    let other = |number: usize| {
        // They live as long as the program, which ends with the measurement.
        let bridge = Crowd::bridge(number).leak();
        let address = format!("{}/24", Crowd::gateway(number));
        Net::new("other", Forward::Nat, bridge, &[&address])
    };
    let own = Net::new("default", Forward::Nat, BRIDGE, &layout.gateways()).nat66();
    (0..others / 2).map(other).chain([own]).chain((others / 2..others).map(other)).collect()
}

/// The definitions of all networks for vnet.
pub(super) fn definitions(layout: &Layout) -> Vec<String> {
    nets(layout)
        .iter()
        .enumerate()
        .map(|(number, net)| {
            let mut ips = String::new();
            for address in &net.addresses {
                let (address, prefix) = address.split_once('/').unwrap_or((address, "32"));
                let family = if address.contains(':') { " family='ipv6'" } else { "" };
                let _ = write!(ips, "<ip{family} address='{address}' prefix='{prefix}'/>");
            }
            let options = if net.bridge == BRIDGE {
                "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>\
                 <vnet:limits flows='4000000' ports='64512'/></vnet:options></metadata>"
            } else {
                ""
            };
            format!(
                "<network><name>n{number}</name>{options}<forward mode='nat'><nat ipv6='yes'/></forward>\
                 <bridge name='{}'/>{ips}</network>",
                net.bridge
            )
        })
        .collect()
}

fn flowtable(inside: &str, outside: &str) -> String {
    format!(
        "table inet fast {{
  flowtable both {{ hook ingress priority 0; devices = {{ \"{inside}\", \"{outside}\" }}; }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    meta l4proto {{ tcp, udp }} flow add @both
  }}
}}
"
    )
}

fn why_no_flowtable() -> Result<Option<String>> {
    let namespace = Namespace::new("flowtable", Ipv6Noise::Off)?;
    let output = namespace.run_with_input(&["nft", "-f", "-"], flowtable("lo", "lo").as_bytes());
    let Err(error) = output else { return Ok(None) };
    let text = error.to_string();
    let reason = text.lines().find_map(|line| line.split_once("Error: "));
    Ok(Some(reason.map_or(text.clone(), |(_, reason)| reason.to_owned())))
}
