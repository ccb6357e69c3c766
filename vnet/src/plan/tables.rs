//! A plan as the programs read it: the entries of their maps.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use vnet_common::{
    address::{Address, Ipv4Be},
    limits,
    network::{Network, Subnet, Uplink, UplinkAddress},
    port::PortRange,
};

use super::{ABSENT_INTERFACE, Plan, PlannedNetwork, PlannedUplink};

/// A prefix of the subnet trie: its length in bits and the IPv4-mapped address.
pub type SubnetKey = (u32, [u8; 16]);

/// The entries of the programs' maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Slot to network.
    pub networks: BTreeMap<u32, Network>,
    /// Bridge interface index to slot.
    pub bridges: BTreeMap<u32, u32>,
    /// Prefix to subnet.
    pub subnets: BTreeMap<SubnetKey, Subnet>,
    /// Interface index to uplink.
    pub uplinks: BTreeMap<u32, Uplink>,
    /// The host's ephemeral ports.
    pub host_ports: Option<PortRange>,
}

impl Tables {
    /// The entries for a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut tables = Self {
            host_ports: Some(PortRange {
                first: *plan.host_ports.start(),
                last: *plan.host_ports.end(),
            }),
            ..Self::default()
        };
        for network in &plan.networks {
            let slot = u32::from(network.slot);
            tables.networks.insert(slot, network_entry(network));
            tables.bridges.extend(network.bridge_ifindex.map(|bridge| (bridge, slot)));
            for subnet in &network.subnets {
                let entry = Subnet { network: network.slot, flags: 0 };
                // IPv6 is the host's own stack's in this version.
                if subnet.addr().is_ipv4() {
                    tables.subnets.insert(subnet_key(*subnet), entry);
                }
            }
        }
        for uplink in &plan.uplinks {
            tables.uplinks.insert(uplink.ifindex, uplink_entry(uplink));
        }
        tables
    }

    /// Adds the entries of others, whose values win.
    pub(crate) fn extend(&mut self, others: &Self) {
        self.networks.extend(&others.networks);
        self.bridges.extend(&others.bridges);
        self.subnets.extend(&others.subnets);
        self.uplinks.extend(&others.uplinks);
    }
}

fn network_entry(network: &PlannedNetwork) -> Network {
    Network {
        // No packet comes from there, so that whatever claims to is spoofed.
        bridge_ifindex: network.bridge_ifindex.unwrap_or(ABSENT_INTERFACE),
        forward_ifindex: network.forward_ifindex.unwrap_or(0),
        mode: network.mode as u8,
        mode_ipv6: network.mode as u8,
        mtu: u16::try_from(network.mtu).unwrap_or(u16::MAX),
        ports: PortRange { first: *network.ports.start(), last: *network.ports.end() },
        flows_per_guest: limits::DEFAULT_FLOWS_PER_GUEST,
        flags: 0,
        gateway: network.gateway.map_or(Ipv4Be::UNSPECIFIED, Ipv4Be::from_addr),
        pool_first: Ipv4Be::UNSPECIFIED,
        pool_last: Ipv4Be::UNSPECIFIED,
        gateway_ipv6: Address::default(),
    }
}

fn uplink_entry(uplink: &PlannedUplink) -> Uplink {
    let mut addresses = [UplinkAddress::default(); limits::ADDRESSES_PER_UPLINK];
    for (entry, (address, prefix_length)) in addresses.iter_mut().zip(&uplink.addresses) {
        *entry = UplinkAddress {
            address: Ipv4Be::from_addr(*address),
            prefix_length: *prefix_length,
            reserved: [0; 3],
        };
    }
    let address_count = uplink.addresses.len().min(limits::ADDRESSES_PER_UPLINK) as u32;
    Uplink {
        address_count,
        address_count_ipv6: 0,
        addresses,
        addresses_ipv6: [UplinkAddress::default(); limits::ADDRESSES_PER_UPLINK],
    }
}

fn subnet_key(subnet: IpNet) -> SubnetKey {
    let address = Address::from_addr(subnet.network());
    let offset = match subnet.network() {
        IpAddr::V4(_) => Address::IPV4_PREFIX_BITS,
        IpAddr::V6(_) => 0,
    };
    (offset + u32::from(subnet.prefix_len()), bytemuck::cast(address.to_wire()))
}
