//! One network: how it is connected and what of it is on its bridge.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;
use vnet_common::{
    limits,
    policy::{Mode, Modes},
    timeout::Timeouts,
};

use super::{
    ABSENT_INTERFACE, Addresses, PlannedNetwork, PlannedRoute, Problem, family_of, uplinks,
};
use crate::{
    definition::{self, Filtering, ForwardMode},
    host::{Link, LinkKind, Snapshot, sysctl::HostPorts},
};

/// How the programs treat a network; `None` if they do not.
pub(super) fn modes(definition: &definition::Network) -> Option<Modes> {
    let forward = &definition.forward;
    match forward.mode.value {
        ForwardMode::Nat => {
            let masquerades_ipv6 = forward
                .nat
                .as_ref()
                .and_then(|nat| nat.ipv6.as_ref())
                .is_some_and(|ipv6| ipv6.value);
            let ipv6 = if masquerades_ipv6 { Mode::Nat } else { Mode::Route };
            Some(Modes { ipv4: Mode::Nat, ipv6 })
        }
        ForwardMode::Route => Some(Modes::both(Mode::Route)),
        ForwardMode::Isolated => Some(Modes::both(Mode::Isolated)),
        ForwardMode::Open => Some(Modes::both(Mode::Open)),
        // Without a bridge it is macvtap, which bypasses the host; with a virtual port it is on a
        // switch that is no Linux bridge.
        ForwardMode::Bridge
            if definition.bridge.name.is_some() && definition.virtual_port.is_none() =>
        {
            Some(Modes::both(Mode::Bridged))
        }
        ForwardMode::Bridge
        | ForwardMode::Private
        | ForwardMode::Vepa
        | ForwardMode::Passthrough
        | ForwardMode::Hostdev => None,
    }
}

pub(super) fn plan(
    definition: &definition::Network,
    slot: u16,
    modes: Modes,
    share: u32,
    host_ports: &HostPorts,
    host: &Snapshot,
    problems: &mut Vec<Problem>,
) -> PlannedNetwork {
    let bridge = find_bridge(definition, modes, host).map_err(|problem| problems.push(problem));
    let bridge = bridge.ok();
    let forward_ifindex = forward_ifindex(definition, host, problems);
    let nat = definition.forward.nat.as_ref();
    let limits = &definition.options.limits;
    let flows_per_guest =
        limits.flows.as_ref().map_or(limits::DEFAULT_FLOWS_PER_GUEST, |flows| flows.value);
    let ports = nat.map_or(1024..=65535, |nat| nat.ports.start..=nat.ports.end);
    // Each flow holds at most one.
    let ports_per_guest = || flows_per_guest.min(share_of_ports(&ports, host_ports));
    let mut network = PlannedNetwork {
        slot,
        name: definition.name.value.clone(),
        modes,
        bridge: definition.bridge.name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
        bridge_ifindex: bridge.map(|bridge| bridge.index),
        mtu: bridge.map_or(0, |bridge| bridge.mtu),
        subnets: definition.subnets().collect(),
        own: definition.ips.iter().map(|ip| ip.address.value).collect(),
        routes: definition.routes.iter().map(PlannedRoute::of).collect(),
        gateway: definition.ips.iter().find_map(|ip| match ip.address.value {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }),
        gateway_ipv6: definition.ips.iter().find_map(|ip| match ip.address.value {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }),
        forward_ifindex,
        ports_per_guest: limits.ports.as_ref().map_or_else(ports_per_guest, |of| of.value.into()),
        ports,
        pool: nat.and_then(|nat| nat.addresses.as_ref()).map(|range| range.value),
        endpoint_independent: definition.options.filtering() == Filtering::EndpointIndependent,
        flows_per_guest,
        new_flows_per_second: limits.new_flows.as_ref().map_or(0, |new_flows| new_flows.value),
        flow_limit: limits.network_flows.as_ref().map_or(share, |flows| flows.value),
        timeouts: timeouts(&definition.options.timeouts),
        isolated_ports: definition.port_isolated.as_ref().is_some_and(|isolated| isolated.value),
        masquerade: Addresses::default(),
    };
    network.masquerade = masquerade(&network, host);
    network
}

/// How many slots of the flow table the guests of one network may use unless it is set: one network
/// alone all of them; several so many that none takes the table from the others.
pub(super) fn share_of_flows(flow_limit: u32, networks: usize) -> u32 {
    if networks > 1 { flow_limit - flow_limit / 4 } else { flow_limit }
}

/// How many external ports one guest may hold unless it is set: half of what its external address has,
/// so that the next guest finds some. A pool has no more for a guest, which always has the same address.
fn share_of_ports(ports: &RangeInclusive<u16>, host_ports: &HostPorts) -> u32 {
    u32::try_from(host_ports.left_of(ports) / 2).unwrap_or(u32::MAX).max(1)
}

fn timeouts(set: &definition::Timeouts) -> Timeouts {
    let unset = Timeouts::default();
    let of = |set: &Option<definition::Located<u32>>, unset| {
        set.as_ref().map_or(unset, |seconds| seconds.value)
    };
    Timeouts {
        tcp_established: of(&set.tcp, unset.tcp_established),
        tcp_transitory: of(&set.tcp_transitory, unset.tcp_transitory),
        udp: of(&set.udp, unset.udp),
        icmp_query: of(&set.icmp, unset.icmp_query),
        other: of(&set.other, unset.other),
        port_hold_down: of(&set.port_hold_down, unset.port_hold_down),
    }
}

/// Guests of a NAT network reach those of routed and open ones with an address of the bridge there,
/// unless that is bound to an uplink.
fn masquerade(network: &PlannedNetwork, host: &Snapshot) -> Addresses {
    let lets_in = |mode| matches!(mode, Mode::Route | Mode::Open);
    let Some(bridge) = network.bridge_ifindex.filter(|_| network.forward_ifindex.is_none()) else {
        return Addresses::default();
    };
    let mut addresses = uplinks::own_addresses(host, bridge);
    if !lets_in(network.modes.ipv4) {
        addresses.ipv4.clear();
    }
    if !lets_in(network.modes.ipv6) {
        addresses.ipv6.clear();
    }
    addresses
}

/// The other modes take no device.
fn forward_ifindex(
    definition: &definition::Network,
    host: &Snapshot,
    problems: &mut Vec<Problem>,
) -> Option<u32> {
    if !matches!(definition.forward.mode.value, ForwardMode::Nat | ForwardMode::Route) {
        return None;
    }
    let device = definition.forward_device()?;
    if let Some(link) = host.link_named(device) {
        return Some(link.index);
    }
    let network = definition.name.value.clone();
    problems.push(Problem::NoForwardDevice { network, device: device.to_owned() });
    Some(ABSENT_INTERFACE)
}

fn find_bridge<'a>(
    definition: &definition::Network,
    modes: Modes,
    host: &'a Snapshot,
) -> Result<&'a Link, Problem> {
    let network = definition.name.value.clone();
    let Some(bridge) = &definition.bridge.name else {
        return Err(Problem::UnnamedBridge { network });
    };
    let bridge = bridge.value.clone();
    match host.link_named(&bridge) {
        None if modes.ipv4 == Mode::Bridged => Err(Problem::NoHostBridge { network, bridge }),
        None => Err(Problem::NoBridge { network, bridge }),
        Some(link) if link.kind != LinkKind::Bridge => Err(Problem::NotABridge { network, bridge }),
        Some(link) => Ok(link),
    }
}

/// The bridges that definitions give to guests, also those of networks that are not served: none is
/// a way to outside. A `mode='bridge'` network is on a bridge of the host's own, which may be one.
pub(super) fn guest_bridges(definitions: &[definition::Network], host: &Snapshot) -> Vec<u32> {
    let own =
        definitions.iter().filter(|definition| definition.forward.mode.value.has_own_bridge());
    let names = own.filter_map(|definition| definition.bridge.name.as_ref());
    names.filter_map(|name| host.link_named(&name.value)).map(|link| link.index).collect()
}

impl PlannedNetwork {
    /// Whether its frames are the bridge's business alone: no packet of its guests is judged.
    #[must_use]
    pub fn is_bridged(&self) -> bool {
        self.modes.ipv4 == Mode::Bridged
    }

    /// Whether guests of NAT networks are masqueraded to addresses of its bridge.
    #[must_use]
    pub fn is_masqueraded_to(&self) -> bool {
        !self.masquerade.is_empty()
    }

    /// Whether it has guests of a family, and the host forwards for them.
    #[must_use]
    pub fn forwards(&self, family: vnet_common::family::Family) -> bool {
        let forwarded = matches!(self.modes.of(family), Mode::Nat | Mode::Route | Mode::Open);
        forwarded && self.subnets.iter().any(|subnet| family_of(subnet) == family)
    }

    /// The subnets behind guests. A route to everywhere says nothing of whose addresses those are.
    pub fn subnets_behind(&self) -> impl Iterator<Item = IpNet> {
        let destinations = self.routes.iter().map(|route| route.destination);
        destinations.filter(|prefix| prefix.prefix_len() > 0 && !holds_mapped_ipv4(prefix))
    }
}

/// Whether an IPv6 prefix has the IPv4-mapped addresses in it, as which the trie knows IPv4.
fn holds_mapped_ipv4(prefix: &IpNet) -> bool {
    let mapped = std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    matches!(prefix, IpNet::V6(prefix) if prefix.contains(&mapped))
}
