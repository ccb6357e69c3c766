//! From definitions and the host as it is to what should run.

mod tables;

use std::{collections::HashMap, net::Ipv4Addr, ops::RangeInclusive};

use ipnet::IpNet;
use vnet_common::{limits, policy::Mode};

pub use tables::{SubnetKey, Tables};

use crate::{
    definition::{self, ForwardMode},
    host::{self, Link, LinkKind, LinkLayer, Snapshot, UplinkCandidate},
};

/// What the operator sets beside the definitions.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Names of the interfaces towards outside; empty for all that the host's routes use.
    pub uplinks: Vec<String>,
}

/// The index that no interface ever has: the kernel's are positive and count from 1.
pub const ABSENT_INTERFACE: u32 = i32::MAX as u32;

/// A plan, and what of the definitions it could not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What fits the host. A network without its bridge keeps its slot and its subnets, so that
    /// its packets are still known, and has nothing else.
    pub plan: Plan,
    /// What is in the way of the rest; a start refuses any.
    pub problems: Vec<Problem>,
}

/// What should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The networks, by rising slot.
    pub networks: Vec<PlannedNetwork>,
    /// The interfaces towards outside, by rising index.
    pub uplinks: Vec<PlannedUplink>,
    /// The host's ephemeral ports, which masquerading leaves alone.
    pub host_ports: RangeInclusive<u16>,
}

/// A network on its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNetwork {
    /// Its place in the network table; 0 is nobody's.
    pub slot: u16,
    /// The definition's name.
    pub name: String,
    /// How it is connected.
    pub mode: Mode,
    /// The bridge's name.
    pub bridge: String,
    /// The bridge's interface index; none while there is no such bridge.
    pub bridge_ifindex: Option<u32>,
    /// The bridge's MTU in bytes.
    pub mtu: u32,
    /// The subnets of the guests.
    pub subnets: Vec<IpNet>,
    /// The host's first IPv4 address there.
    pub gateway: Option<Ipv4Addr>,
    /// The uplink that the network is bound to; [`ABSENT_INTERFACE`] while it is not there.
    pub forward_ifindex: Option<u32>,
    /// External ports to masquerade to.
    pub ports: RangeInclusive<u16>,
}

/// An interface towards outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedUplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Whether its frames begin with the IP header.
    pub raw: bool,
    /// Addresses to masquerade to with the length of their prefixes, the preferred one first.
    pub addresses: Vec<(Ipv4Addr, u8)>,
}

/// Why the definitions cannot run on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No interface has the bridge's name.
    #[error(
        "network `{network}`: there is no bridge `{bridge}` on this host; make it (for libvirt: \
         `virsh net-start {network}`) or correct <bridge name='{bridge}'/>"
    )]
    NoBridge {
        /// The network.
        network: String,
        /// The bridge's name.
        bridge: String,
    },
    /// The interface is something else.
    #[error("network `{network}`: interface `{bridge}` is no bridge")]
    NotABridge {
        /// The network.
        network: String,
        /// The interface's name.
        bridge: String,
    },
    /// Without a name there is nothing to attach to.
    #[error(
        "network `{network}`: its definition names no bridge; write <bridge name='virbr0'/> with \
         the bridge that the guests are on"
    )]
    UnnamedBridge {
        /// The network.
        network: String,
    },
    /// `<forward dev=…>` names no interface of this host.
    #[error("network `{network}`: there is no interface `{device}` to forward to on this host")]
    NoForwardDevice {
        /// The network.
        network: String,
        /// The interface's name.
        device: String,
    },
    /// `--uplink` names no interface of this host.
    #[error("there is no interface `{name}` on this host, which `--uplink {name}` asks for")]
    NoUplink {
        /// The interface's name.
        name: String,
    },
    /// `--uplink` names the bridge of a network.
    #[error("`--uplink {name}`: this is the bridge of a network, not a way to outside")]
    UplinkIsBridge {
        /// The interface's name.
        name: String,
    },
    /// `--uplink` names a port of a bridge or of a bond.
    #[error("`--uplink {name}`: this is a port of `{master}`, which has its traffic; name that")]
    UplinkIsPort {
        /// The interface's name.
        name: String,
        /// The master's name.
        master: String,
    },
    /// The programs read Ethernet or IP headers at the start of a frame.
    #[error("`--uplink {name}`: frames of this kind of interface are not supported")]
    UnsupportedLink {
        /// The interface's name.
        name: String,
    },
    /// Nothing of what was given is served.
    #[error("none of the definitions is of a kind that this version forwards (mode 'nat')")]
    NothingToServe,
    /// More than a table holds.
    #[error("{count} {what} are more than the {limit} that vnet has room for")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// Plans the definitions for the host, as far as it has what they need.
#[must_use]
pub fn plan(
    definitions: &[definition::Network],
    host: &Snapshot,
    host_ports: RangeInclusive<u16>,
    options: &Options,
) -> Planned {
    let mut problems = Vec::new();
    let served =
        definitions.iter().filter_map(|definition| Some((definition, mode_of(definition)?)));
    // Slots do not depend on the host, so that they stay.
    let networks: Vec<_> = (1_u16..)
        .zip(served)
        .map(|(slot, (definition, mode))| network(definition, slot, mode, host, &mut problems))
        .collect();
    if networks.is_empty() {
        problems.push(Problem::NothingToServe);
    }
    let mut uplinks = uplinks(host, &guest_bridges(definitions, host), options, &mut problems);
    let subnets = networks.iter().map(|network| network.subnets.len()).sum();
    let sizes = [
        ("networks", networks.len(), limits::NETWORKS - 1),
        ("subnets", subnets, limits::SUBNETS),
        ("uplinks", uplinks.len(), limits::UPLINKS),
    ];
    for (what, count, limit) in sizes {
        if count > limit as usize {
            problems.push(Problem::TooMany { what, count, limit: limit as usize });
        }
    }
    uplinks.truncate(limits::UPLINKS as usize);
    Planned { plan: Plan { networks, uplinks, host_ports }, problems }
}

/// How the programs treat a network; `None` if they do not.
fn mode_of(definition: &definition::Network) -> Option<Mode> {
    match definition.forward.mode.value {
        ForwardMode::Nat => Some(Mode::Nat),
        _ => None,
    }
}

fn network(
    definition: &definition::Network,
    slot: u16,
    mode: Mode,
    host: &Snapshot,
    problems: &mut Vec<Problem>,
) -> PlannedNetwork {
    let name = definition.name.value.clone();
    let bridge = find_bridge(definition, host).map_err(|problem| problems.push(problem)).ok();
    let forward_ifindex = definition.forward_device().map(|device| {
        if let Some(link) = host.link_named(device) {
            return link.index;
        }
        let device = device.to_owned();
        problems.push(Problem::NoForwardDevice { network: name.clone(), device });
        ABSENT_INTERFACE
    });
    let ports =
        definition.forward.nat.as_ref().map_or(1024..=65535, |nat| nat.ports.start..=nat.ports.end);
    let first_ipv4 = definition.ips.iter().find_map(|ip| match ip.address.value {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    });
    PlannedNetwork {
        slot,
        name,
        mode,
        bridge: definition.bridge.name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
        bridge_ifindex: bridge.map(|bridge| bridge.index),
        mtu: bridge.map_or(0, |bridge| bridge.mtu),
        subnets: definition.subnets().collect(),
        gateway: first_ipv4,
        forward_ifindex,
        ports,
    }
}

fn find_bridge<'a>(
    definition: &definition::Network,
    host: &'a Snapshot,
) -> Result<&'a Link, Problem> {
    let network = definition.name.value.clone();
    let Some(bridge) = &definition.bridge.name else {
        return Err(Problem::UnnamedBridge { network });
    };
    let bridge = bridge.value.clone();
    match host.link_named(&bridge) {
        None => Err(Problem::NoBridge { network, bridge }),
        Some(link) if link.kind != LinkKind::Bridge => Err(Problem::NotABridge { network, bridge }),
        Some(link) => Ok(link),
    }
}

/// The bridges that definitions give to guests, also those of networks that are not served: none is
/// a way to outside. A `mode='bridge'` network is on a bridge of the host's own, which may be one.
fn guest_bridges(definitions: &[definition::Network], host: &Snapshot) -> Vec<u32> {
    let own =
        definitions.iter().filter(|definition| definition.forward.mode.value.has_own_bridge());
    let names = own.filter_map(|definition| definition.bridge.name.as_ref());
    names.filter_map(|name| host.link_named(&name.value)).map(|link| link.index).collect()
}

/// Whether a bridge that no definition names leads to nothing but other guests or containers: it has
/// no default route and no port that could be a wire. Sending there would pass by the host's own
/// firewall, which may keep them apart.
fn has_only_guests(candidate: &UplinkCandidate, host: &Snapshot) -> bool {
    let is_wire = |port: &Link| {
        matches!(port.kind, LinkKind::Physical | LinkKind::Bond | LinkKind::Vlan)
            || matches!(&port.kind, LinkKind::Other(kind) if kind == "team")
    };
    host.link(candidate.interface).is_some_and(|link| link.kind == LinkKind::Bridge)
        && candidate.ipv4 != host::Reach::Default
        && !host.ports_of(candidate.interface).any(is_wire)
}

fn uplinks(
    host: &Snapshot,
    bridges: &[u32],
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Vec<PlannedUplink> {
    let mut candidates: HashMap<u32, UplinkCandidate> = host::uplinks(host, bridges)
        .into_iter()
        .map(|candidate| (candidate.interface, candidate))
        .collect();
    if options.uplinks.is_empty() {
        candidates.retain(|_, candidate| !has_only_guests(candidate, host));
    } else {
        let mut named = HashMap::new();
        for name in &options.uplinks {
            match named_uplink(host, bridges, name, &mut candidates) {
                Ok(candidate) => drop(named.insert(candidate.interface, candidate)),
                Err(problem) => problems.push(problem),
            }
        }
        candidates = named;
    }
    // What the programs cannot read is left out unless it was asked for, which was refused above.
    let mut uplinks: Vec<_> = candidates.into_values().filter_map(planned_uplink).collect();
    uplinks.sort_by_key(|uplink| uplink.ifindex);
    uplinks
}

fn named_uplink(
    host: &Snapshot,
    bridges: &[u32],
    name: &str,
    candidates: &mut HashMap<u32, UplinkCandidate>,
) -> Result<UplinkCandidate, Problem> {
    let link = host.link_named(name).ok_or(Problem::NoUplink { name: name.to_owned() })?;
    if bridges.contains(&link.index) {
        return Err(Problem::UplinkIsBridge { name: name.to_owned() });
    }
    if let Some(master) = link.master.and_then(|index| host.link(index))
        && link.port.as_ref().is_some_and(|port| !matches!(port, host::Port::Other(_)))
    {
        let master = master.name.clone();
        return Err(Problem::UplinkIsPort { name: name.to_owned(), master });
    }
    if !matches!(link.layer, LinkLayer::Ethernet | LinkLayer::RawIp) {
        return Err(Problem::UnsupportedLink { name: name.to_owned() });
    }
    // An uplink without a route yet is an uplink all the same: it may get one.
    Ok(candidates.remove(&link.index).unwrap_or_else(|| UplinkCandidate {
        interface: link.index,
        name: link.name.clone(),
        layer: link.layer,
        ipv4: host::Reach::Nothing,
        ipv6: host::Reach::Nothing,
        masquerade: Vec::new(),
    }))
}

fn planned_uplink(candidate: UplinkCandidate) -> Option<PlannedUplink> {
    let raw = match candidate.layer {
        LinkLayer::Ethernet => false,
        LinkLayer::RawIp => true,
        LinkLayer::Other(_) => return None,
    };
    let addresses =
        candidate.masquerade.iter().map(|found| (found.address, found.subnet.prefix_len()));
    Some(PlannedUplink {
        ifindex: candidate.interface,
        raw,
        addresses: addresses.take(limits::ADDRESSES_PER_UPLINK).collect(),
        name: candidate.name,
    })
}
