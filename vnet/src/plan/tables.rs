//! A plan as the programs read it: the entries of their maps.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use vnet_common::{
    address::{Address, Ipv4Be},
    forward::Forward,
    limits,
    network::{
        NETWORK_ENDPOINT_INDEPENDENT, NETWORK_ISOLATED_PORTS, Network, SUBNET_BEHIND_GUEST,
        SUBNET_IS_HOST, SUBNET_NO_STATION, Subnet, Uplink, UplinkAddress,
    },
    policy::Mode,
    port::PortRange,
};

use super::{ABSENT_INTERFACE, Addresses, ForwardPrefix, Plan, PlannedNetwork, ends};

/// A prefix of a subnet: its length in bits and the IPv4-mapped address.
pub type SubnetPrefix = (u32, [u8; 16]);

/// The entries of the programs' maps, of whichever generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Slot to network.
    pub networks: BTreeMap<u32, Network>,
    /// Bridge interface index to slot.
    pub bridges: BTreeMap<u32, u32>,
    /// Prefix to subnet.
    pub subnets: BTreeMap<SubnetPrefix, Subnet>,
    /// Interface index to uplink.
    pub uplinks: BTreeMap<u32, Uplink>,
    /// Prefix of external endpoints to where they lead.
    pub forwards: BTreeMap<ForwardPrefix, Forward>,
    /// The host's ephemeral ports.
    pub host_ports: Option<PortRange>,
    /// Ports that the host has set aside.
    pub reserved_ports: Vec<RangeInclusive<u16>>,
}

impl Tables {
    /// The entries for a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut tables = Self {
            host_ports: Some(PortRange {
                first: *plan.host_ports.ephemeral.start(),
                last: *plan.host_ports.ephemeral.end(),
            }),
            reserved_ports: plan.host_ports.reserved.clone(),
            ..Self::default()
        };
        for network in &plan.networks {
            let slot = u32::from(network.slot);
            tables.networks.insert(slot, network_entry(network));
            if network.is_bridged() {
                continue;
            }
            tables.bridges.extend(network.bridge_ifindex.map(|bridge| (bridge, slot)));
            if let Some(bridge) = network.bridge_ifindex.filter(|_| network.is_masqueraded_to()) {
                tables.uplinks.insert(bridge, uplink_entry(&network.masquerade));
            }
        }
        // A subnet of a network wins over a route of another that equals it.
        for network in &plan.networks {
            tables.add_subnets(network.slot, SUBNET_BEHIND_GUEST, network.subnets_behind());
        }
        for network in &plan.networks {
            tables.add_subnets(network.slot, 0, network.subnets.iter().copied());
        }
        for network in plan.networks.iter().filter(|network| network.modes.ipv4 != Mode::Open) {
            let ends =
                network.subnets.iter().flat_map(ends).map(|end| IpNet::from(IpAddr::V4(end)));
            tables.add_subnets(network.slot, SUBNET_NO_STATION, ends);
        }
        for network in &plan.networks {
            let own = network.own.iter().copied().map(IpNet::from);
            tables.add_subnets(network.slot, SUBNET_IS_HOST, own);
        }
        // Those in a network's subnet are the network's, whether its definition names them or not.
        for own in &plan.own {
            tables.subnets.entry(subnet_key(IpNet::from(*own))).or_insert_with(|| {
                let network = plan.network_of_subnet(*own).map_or(0, |network| network.slot);
                Subnet { network, flags: SUBNET_IS_HOST }
            });
        }
        for uplink in &plan.uplinks {
            tables.uplinks.insert(uplink.ifindex, uplink_entry(&uplink.addresses));
        }
        for forward in &plan.forwards {
            // What leaves by an uplink without hooks would not be translated.
            if tables.uplinks.contains_key(&forward.uplink) {
                tables.forwards.extend(forward.entries());
            }
        }
        tables
    }

    /// Whether flows may have this address outside.
    #[must_use]
    pub fn masquerades_to(&self, external: Address) -> bool {
        let of_pool =
            |network: &Network| external.is_ipv4() && network.pool().contains(external.ipv4_part());
        let of_uplink = |uplink: &Uplink| {
            let ipv4 = &uplink.addresses[..uplink.address_count as usize];
            let ipv6 = &uplink.addresses_ipv6[..uplink.address_count_ipv6 as usize];
            ipv4.iter().any(|own| Address::from_ipv4(own.address) == external)
                || ipv6.iter().any(|own| own.address == external)
        };
        self.networks.values().any(of_pool) || self.uplinks.values().any(of_uplink)
    }

    fn add_subnets(&mut self, network: u16, flags: u16, prefixes: impl Iterator<Item = IpNet>) {
        let entry = Subnet { network, flags };
        self.subnets.extend(prefixes.map(|prefix| (subnet_key(prefix), entry)));
    }

    /// These tables with the networks of others that they do not have, as far as their places are free:
    /// what comes and goes is known before its bridge gets hooks, and until it has lost them.
    #[must_use]
    pub fn with_networks_of(&self, others: &Self) -> Self {
        let mut tables = self.clone();
        let is_new = |slot: &u32| !self.networks.contains_key(slot);
        let new = others.networks.iter().filter(|(slot, _)| is_new(slot));
        tables.networks.extend(new.map(|(slot, network)| (*slot, *network)));
        for (bridge, slot) in others.bridges.iter().filter(|(_, slot)| is_new(slot)) {
            tables.bridges.entry(*bridge).or_insert(*slot);
        }
        for (prefix, subnet) in &others.subnets {
            if is_new(&u32::from(subnet.network)) || self.networks.is_empty() {
                tables.subnets.entry(*prefix).or_insert(*subnet);
            }
        }
        // Where nothing runs, nobody gets a way out by it that they should not have yet.
        if self.networks.is_empty() {
            tables.uplinks.clone_from(&others.uplinks);
            tables.host_ports = others.host_ports;
            tables.reserved_ports.clone_from(&others.reserved_ports);
        }
        tables
    }

    /// Adds the entries of others, whose values win.
    pub(crate) fn extend(&mut self, others: &Self) {
        self.networks.extend(&others.networks);
        self.bridges.extend(&others.bridges);
        self.subnets.extend(&others.subnets);
        self.uplinks.extend(&others.uplinks);
        self.forwards.extend(&others.forwards);
    }
}

fn network_entry(network: &PlannedNetwork) -> Network {
    let pool = network.pool.map(|pool| (pool.start, pool.end));
    let (pool_first, pool_last) = pool.unwrap_or((Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
    Network {
        // No packet comes from there, so that whatever claims to is spoofed.
        bridge_ifindex: network.bridge_ifindex.unwrap_or(ABSENT_INTERFACE),
        forward_ifindex: network.forward_ifindex.unwrap_or(0),
        mode: network.modes.ipv4 as u8,
        mode_ipv6: network.modes.ipv6 as u8,
        mtu: u16::try_from(network.mtu).unwrap_or(u16::MAX),
        ports: PortRange { first: *network.ports.start(), last: *network.ports.end() },
        flows_per_guest: network.flows_per_guest,
        ports_per_guest: network.ports_per_guest,
        new_flows_per_second: network.new_flows_per_second,
        flow_limit: network.flow_limit,
        timeouts: network.timeouts,
        flags: flag(network.isolated_ports, NETWORK_ISOLATED_PORTS)
            | flag(network.endpoint_independent, NETWORK_ENDPOINT_INDEPENDENT),
        gateway: network.gateway.map_or(Ipv4Be::UNSPECIFIED, Ipv4Be::from_addr),
        pool_first: Ipv4Be::from_addr(pool_first),
        pool_last: Ipv4Be::from_addr(pool_last),
        gateway_ipv6: network
            .gateway_ipv6
            .map_or_else(Address::default, |address| Address::from_addr(address.into())),
    }
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

fn uplink_entry(addresses: &Addresses) -> Uplink {
    let ipv4 = addresses.ipv4.iter().map(|(own, length)| (Ipv4Be::from_addr(*own), *length));
    let ipv6 =
        addresses.ipv6.iter().map(|(own, length)| (Address::from_addr((*own).into()), *length));
    let (address_count, addresses) = fill(ipv4);
    let (address_count_ipv6, addresses_ipv6) = fill(ipv6);
    Uplink { address_count, address_count_ipv6, addresses, addresses_ipv6 }
}

/// As many as there is room for, and how many these are.
fn fill<A: Copy + Default>(
    found: impl Iterator<Item = (A, u8)>,
) -> (u32, [UplinkAddress<A>; limits::ADDRESSES_PER_UPLINK]) {
    let mut entries = [UplinkAddress::default(); limits::ADDRESSES_PER_UPLINK];
    let mut count = 0;
    for (entry, (address, prefix_length)) in entries.iter_mut().zip(found) {
        *entry = UplinkAddress { address, prefix_length, reserved: [0; 3] };
        count += 1;
    }
    (count, entries)
}

fn subnet_key(subnet: IpNet) -> SubnetPrefix {
    let address = Address::from_addr(subnet.network());
    let offset = match subnet.network() {
        IpAddr::V4(_) => Address::IPV4_PREFIX_BITS,
        IpAddr::V6(_) => 0,
    };
    (offset + u32::from(subnet.prefix_len()), bytemuck::cast(address.to_wire()))
}
