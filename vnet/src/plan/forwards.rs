//! Port forwards on the addresses that the host has now.

use std::net::IpAddr;

use vnet_common::{
    address::{Address, PortBe},
    flow::protocol,
    forward::{FORWARD_KEY_BYTES, Forward, ForwardKey, prefixes},
    port::PortRange,
};

use super::{PlannedNetwork, PlannedUplink, Warning};
use crate::{
    definition::{self, ForwardProtocol, PortForward},
    host::Snapshot,
};

/// A prefix of the forward trie: its length in bits and a [`ForwardKey`].
pub type ForwardPrefix = (u32, [u8; FORWARD_KEY_BYTES]);

/// Ports of one address of the host that lead to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedForward {
    /// IP protocol number.
    pub protocol: u8,
    /// The address that the outside sees.
    pub external: IpAddr,
    /// The ports there.
    pub ports: PortRange,
    /// The guest's address.
    pub to: IpAddr,
    /// The guest's port that the first of the ports leads to.
    pub to_port: u16,
    /// Slot of the guest's network.
    pub network: u16,
    /// Index of the uplink that has the address.
    pub uplink: u32,
}

/// The forwards of the networks' definitions on the uplinks that each may use.
pub(super) fn plan(
    definitions: &[definition::Network],
    networks: &[PlannedNetwork],
    uplinks: &[PlannedUplink],
    host: &Snapshot,
    warnings: &mut Vec<Warning>,
) -> Vec<PlannedForward> {
    let mut planned = Vec::new();
    for network in networks {
        let definition = definitions.iter().find(|other| other.name.value == network.name);
        let forwards = definition.map_or(&[][..], |definition| &definition.options.forwards);
        let may_use = |uplink: &&PlannedUplink| {
            network.forward_ifindex.is_none_or(|bound| bound == uplink.ifindex)
        };
        let uplinks: Vec<_> = uplinks.iter().filter(may_use).collect();
        for forward in forwards {
            let places = places(forward, &uplinks, host);
            if places.is_empty() {
                let network = network.name.clone();
                warnings.push(Warning::ForwardWithoutUplink { network, what: in_words(forward) });
            }
            planned.extend(places.into_iter().map(|(external, uplink)| PlannedForward {
                protocol: protocol_number(forward.protocol),
                external,
                ports: PortRange {
                    first: forward.ports.value.start,
                    last: forward.ports.value.end,
                },
                to: forward.to.value,
                to_port: forward.to_port,
                network: network.slot,
                uplink,
            }));
        }
    }
    planned
}

/// The addresses that have a forward's ports, and the uplink of each.
fn places(
    forward: &PortForward,
    uplinks: &[&PlannedUplink],
    host: &Snapshot,
) -> Vec<(IpAddr, u32)> {
    let is_ipv6 = forward.to.value.is_ipv6();
    let Some(address) = forward.address.as_ref().map(|address| address.value) else {
        let all = uplinks.iter().flat_map(|uplink| {
            own_addresses(host, uplink.ifindex).map(|address| (address, uplink.ifindex))
        });
        return all.filter(|(address, _)| address.is_ipv6() == is_ipv6).collect();
    };
    let has_it =
        |uplink: &&&PlannedUplink| own_addresses(host, uplink.ifindex).any(|own| own == address);
    // One that is routed to this host comes in wherever it likes; its first packet tells nothing.
    let has_family = |uplink: &&&PlannedUplink| {
        own_addresses(host, uplink.ifindex).any(|own| own.is_ipv6() == is_ipv6)
    };
    let found = uplinks.iter().find(has_it).or_else(|| {
        // An address of another uplink is no business of a network that is bound to this one.
        let is_elsewhere = host.addresses.iter().any(|own| own.address == address);
        uplinks.iter().find(has_family).filter(|_| !is_elsewhere)
    });
    found.map(|uplink| (address, uplink.ifindex)).into_iter().collect()
}

/// The addresses of an interface that mean the same on every link.
fn own_addresses(host: &Snapshot, interface: u32) -> impl Iterator<Item = IpAddr> {
    let is_of_one_link = |address: &IpAddr| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let addresses = host.addresses_of(interface).filter(|own| !own.is_tentative());
    addresses.map(|own| own.address).filter(move |address| !is_of_one_link(address))
}

fn in_words(forward: &PortForward) -> String {
    let (protocol, ports) = (forward.protocol.name(), forward.ports.value);
    let address = forward.address.as_ref().map(|address| format!("address='{}' ", address.value));
    format!(
        "<vnet:forward protocol='{protocol}' {}port='{}' …>",
        address.unwrap_or_default(),
        ports.start
    )
}

fn protocol_number(protocol: ForwardProtocol) -> u8 {
    match protocol {
        ForwardProtocol::Tcp => protocol::TCP,
        ForwardProtocol::Udp => protocol::UDP,
        ForwardProtocol::Sctp => protocol::SCTP,
    }
}

impl PlannedForward {
    /// The entries of the programs' trie.
    pub(super) fn entries(&self) -> impl Iterator<Item = (ForwardPrefix, Forward)> {
        /// What comes before the port.
        const FIXED_BITS: u32 = 8 * FORWARD_KEY_BYTES as u32 - 16;
        let entry = Forward {
            inside: Address::from_addr(self.to),
            uplink_ifindex: self.uplink,
            first_port: PortBe::from_host(self.ports.first),
            first_inside_port: PortBe::from_host(self.to_port),
            network: self.network,
            reserved: 0,
        };
        prefixes(self.ports).map(move |(port, length)| {
            let key = ForwardKey {
                external: Address::from_addr(self.external),
                protocol: self.protocol,
                generation: 0,
                port: PortBe::from_host(port),
            };
            ((FIXED_BITS + length, bytemuck::cast(key)), entry)
        })
    }
}
