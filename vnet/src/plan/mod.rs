//! From definitions and the host as it is to what should run.

pub mod beside;
mod forwarding;
mod forwards;
mod network;
mod others;
mod ports;
mod problem;
mod routes;
mod shortcut;
mod slots;
mod tables;
#[cfg(test)]
mod tests;
mod uplinks;
mod warning;
mod xdp;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use vnet_common::{family::Family, limits, policy::Modes, timeout::Timeouts};

pub use forwarding::routes_lost_by_forwarding;
pub use forwards::{ForwardPrefix, PlannedForward};
pub use others::{Others, on_the_way};
pub use ports::{GuardTables, GuestRouteKey, PlannedPort, Seen};
pub use problem::Problem;
pub use routes::{PlannedRoute, RouteState};
pub use shortcut::{LongWay, ShortcutTables, Shortcuts, Surfaces};
pub use slots::Slots;
pub use tables::{SubnetPrefix, Tables};
pub use warning::Warning;
pub use xdp::{VlanOffloads, XdpFeatures, XdpPlace, XdpSetting, devices_for_xdp};

use crate::{
    definition::{self, AddressRange},
    host::{Snapshot, sysctl::HostPorts},
};

/// What a plan depends on beside definitions and host.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of the interfaces towards outside; empty for all that the host's routes use.
    pub uplinks: Vec<String>,
    /// Live flows of all guests.
    pub flow_limit: u32,
    /// The slots that networks have already.
    pub slots: Slots,
}

impl Default for Options {
    fn default() -> Self {
        Self { uplinks: Vec::new(), flow_limit: limits::DEFAULT_SESSIONS, slots: Slots::default() }
    }
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
    /// Where the host differs from the definitions without being in the way.
    pub warnings: Vec<Warning>,
}

/// What should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The networks, in the order of their definitions.
    pub networks: Vec<PlannedNetwork>,
    /// The interfaces towards outside, by rising index.
    pub uplinks: Vec<PlannedUplink>,
    /// Ports of the uplinks' addresses that lead to guests.
    pub forwards: Vec<PlannedForward>,
    /// The host's own addresses, which nobody else may send from.
    pub own: Vec<IpAddr>,
    /// The host's own ports, which masquerading leaves alone.
    pub host_ports: HostPorts,
    /// Guests' ports, by rising index; see [`Plan::add_ports`].
    pub ports: Vec<PlannedPort>,
    /// What the guard knows of guests.
    pub guard: GuardTables,
    /// Whether packets may pass by the bridges (`--short-ways`).
    pub short_ways: bool,
}

/// A network on its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedNetwork {
    /// Its place in the network table; 0 is nobody's.
    pub slot: u16,
    /// The definition's name.
    pub name: String,
    /// How it is connected.
    pub modes: Modes,
    /// The bridge's name.
    pub bridge: String,
    /// The bridge's interface index; none while there is no such bridge.
    pub bridge_ifindex: Option<u32>,
    /// The bridge's MTU in bytes.
    pub mtu: u32,
    /// The subnets of the guests (`<ip>`).
    pub subnets: Vec<IpNet>,
    /// The host's own addresses there.
    pub own: Vec<IpAddr>,
    /// The subnets behind guests that route (`<route>`).
    pub routes: Vec<PlannedRoute>,
    /// The host's first IPv4 address there.
    pub gateway: Option<Ipv4Addr>,
    /// The host's first IPv6 address there.
    pub gateway_ipv6: Option<Ipv6Addr>,
    /// The uplink that the network is bound to; [`ABSENT_INTERFACE`] while it is not there.
    pub forward_ifindex: Option<u32>,
    /// External ports to masquerade to.
    pub ports: RangeInclusive<u16>,
    /// External addresses to masquerade to, instead of the uplink's own.
    pub pool: Option<AddressRange>,
    /// Whether anybody outside may send to its guests' mappings.
    pub endpoint_independent: bool,
    /// Live flows that one guest may have.
    pub flows_per_guest: u32,
    /// External ports that the mappings of one guest may hold.
    pub ports_per_guest: u32,
    /// Flows that one guest may open in a second; 0 for any number.
    pub new_flows_per_second: u32,
    /// Slots of the flow table that all guests together may use.
    pub flow_limit: u32,
    /// Idle times.
    pub timeouts: Timeouts,
    /// Whether guests are kept from each other.
    pub isolated_ports: bool,
    /// The bridge's own addresses, to which guests of NAT networks are masqueraded here; empty for a
    /// family that they are not let in by.
    pub masquerade: Addresses,
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
    /// Addresses to masquerade to.
    pub addresses: Addresses,
}

/// Addresses with the length of their prefixes in bits, the preferred one first; at most
/// [`limits::ADDRESSES_PER_UPLINK`] of each family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub ipv4: Vec<(Ipv4Addr, u8)>,
    /// IPv6.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
}

/// Plans the definitions for the host, as far as it has what they need.
#[must_use]
pub fn plan(
    definitions: &[definition::Network],
    host: &Snapshot,
    host_ports: HostPorts,
    options: &Options,
) -> Planned {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let served =
        definitions.iter().filter_map(|definition| Some((definition, network::modes(definition)?)));
    let masquerading = definitions.iter().filter(|network| network.forward.nat.is_some()).count();
    let share = network::share_of_flows(options.flow_limit, masquerading);
    let served: Vec<_> = served.collect();
    let names: Vec<_> =
        served.iter().map(|(definition, _)| definition.name.value.as_str()).collect();
    let mut networks = Vec::new();
    // Slots do not depend on the host, so that they stay.
    for (slot, (definition, modes)) in options.slots.assign(&names).into_iter().zip(served) {
        let network =
            network::plan(definition, slot, modes, share, &host_ports, host, &mut problems);
        warnings.extend(warning::of(definition, &network, host));
        networks.push(network);
    }
    // Of a directory that is empty for now, more may come.
    if networks.is_empty() && !definitions.is_empty() {
        problems.push(Problem::NothingToServe);
    }
    let guest_bridges = network::guest_bridges(definitions, host);
    let mut uplinks = uplinks::plan(definitions, host, &guest_bridges, options, &mut problems);
    let mut forwards = forwards::plan(definitions, &networks, &uplinks, host, &mut warnings);
    problems.extend(too_many(&networks, &uplinks, &forwards));
    uplinks.truncate(limits::UPLINKS as usize);
    truncate(&mut forwards);
    let (ports, guard) = (Vec::new(), GuardTables::default());
    let own = own_addresses(host);
    let plan =
        Plan { networks, uplinks, forwards, own, host_ports, ports, guard, short_ways: false };
    Planned { plan, problems, warnings }
}

/// Every address of the host that others on its links could pretend to have. IPv6 link-local ones mean
/// something else on each link.
fn own_addresses(host: &Snapshot) -> Vec<IpAddr> {
    let own = host.addresses.iter().map(|own| own.address);
    let is_of_one_link = |own: &IpAddr| match own {
        IpAddr::V4(_) => false,
        IpAddr::V6(own) => own.is_unicast_link_local(),
    };
    own.filter(|own| !own.is_loopback() && !is_of_one_link(own))
        .take(limits::OWN_ADDRESSES)
        .collect()
}

impl Plan {
    /// One without networks.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            networks: Vec::new(),
            uplinks: Vec::new(),
            forwards: Vec::new(),
            own: Vec::new(),
            host_ports: HostPorts { ephemeral: 0..=0, reserved: Vec::new() },
            ports: Vec::new(),
            guard: GuardTables::default(),
            short_ways: false,
        }
    }

    /// The slots that its networks have.
    #[must_use]
    pub fn slots(&self) -> Slots {
        Slots::of(self.networks.iter().map(|network| (network.name.as_str(), network.slot)))
    }

    /// The network that has the longest subnet with an address.
    fn network_of_subnet(&self, address: IpAddr) -> Option<&PlannedNetwork> {
        let subnets = self
            .networks
            .iter()
            .flat_map(|network| network.subnets.iter().map(move |subnet| (subnet, network)));
        let holding = subnets.filter(|(subnet, _)| subnet.contains(&address));
        holding.max_by_key(|(subnet, _)| subnet.prefix_len()).map(|(_, network)| network)
    }
}

/// Leaves out what the programs have no room for.
fn truncate(forwards: &mut Vec<PlannedForward>) {
    let mut entries = 0;
    forwards.retain(|forward| {
        entries += forward.entries().count();
        entries <= limits::FORWARDS as usize
    });
}

fn too_many(
    networks: &[PlannedNetwork],
    uplinks: &[PlannedUplink],
    forwards: &[PlannedForward],
) -> Vec<Problem> {
    let subnets_of = |network: &PlannedNetwork| {
        let ends = network.subnets.iter().flat_map(ends).count();
        network.subnets.len() + network.subnets_behind().count() + ends
    };
    let subnets = networks.iter().map(subnets_of).sum();
    let bridges = networks.iter().filter(|network| network.is_masqueraded_to()).count();
    let prefixes = forwards.iter().map(|forward| forward.entries().count()).sum();
    let sizes = [
        ("networks", networks.len(), limits::NETWORKS - 1),
        ("subnets", subnets, limits::SUBNETS - limits::OWN_ADDRESSES as u32),
        ("uplinks", uplinks.len() + bridges, limits::UPLINKS),
        ("prefixes of forwarded ports", prefixes, limits::FORWARDS),
    ];
    sizes
        .into_iter()
        .map(|(what, count, limit)| (what, count, limit as usize))
        .filter(|(_, count, limit)| count > limit)
        .map(|(what, count, limit)| Problem::TooMany { what, count, limit })
        .collect()
}

impl Addresses {
    /// Whether there is none of either family.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// All of them without their prefixes, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4.iter().map(|(address, _)| IpAddr::from(*address));
        ipv4.chain(self.ipv6.iter().map(|(address, _)| IpAddr::from(*address)))
    }
}

/// The two addresses of an IPv4 subnet that are no station's (RFC 1122, section 3.2.1.3; those of two
/// addresses have none, RFC 3021).
fn ends(subnet: &IpNet) -> Vec<Ipv4Addr> {
    match subnet {
        IpNet::V4(subnet) if subnet.prefix_len() < 31 => vec![subnet.network(), subnet.broadcast()],
        _ => Vec::new(),
    }
}

/// The family of a prefix.
fn family_of(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::Ipv4,
        IpNet::V6(_) => Family::Ipv6,
    }
}
