//! The host as it will be.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Bridge, Step};
use crate::host::{
    InterfaceAddress, Ipv6Settings, Link, LinkKind, LinkLayer, Snapshot,
    address::{AddressFlags, AddressScope},
    bridge_rules::Calls,
    link::LinkFlags,
};

/// The MTU of a bridge that has none of its own, in bytes.
const ETHERNET_MTU: u32 = 1500;

/// The host once the steps are taken, so that definitions can be checked against it before. Bridges
/// that are not there yet have numbers that no interface has, and their subnets no routes.
#[must_use]
pub fn outlook(steps: &[Step], host: &Snapshot) -> Snapshot {
    let mut host = host.clone();
    for step in steps {
        match step {
            Step::Make(bridge) => {
                let last = host.links.iter().map(|link| link.index).max().unwrap_or(0);
                let index = last.saturating_add(1);
                host.links.push(link(bridge, index));
                let addresses = bridge.addresses.iter();
                host.addresses.extend(addresses.map(|address| own(index, *address)));
            }
            Step::Configure { index, to, .. } => {
                let Some(link) = host.links.iter_mut().find(|link| link.index == *index) else {
                    continue;
                };
                link.mac = to.mac.or(link.mac);
                link.mtu = to.mtu.unwrap_or(link.mtu);
                link.spanning_tree = to.spanning_tree.or(link.spanning_tree);
                link.vlan_filtering = to.vlan_filtering.or(link.vlan_filtering);
            }
            Step::BringUp { index, .. } => {
                for link in host.links.iter_mut().filter(|link| link.index == *index) {
                    link.flags |= LinkFlags::Up;
                }
            }
            Step::AddAddress { index, address, .. } => host.addresses.push(own(*index, *address)),
            Step::DeleteAddress { index, address, .. } => host.addresses.retain(|other| {
                let is_it =
                    (other.address, other.prefix_len) == (address.addr(), address.prefix_len());
                other.interface != *index || !is_it
            }),
            Step::Remove { index, .. } => {
                host.links.retain(|link| link.index != *index);
                host.addresses.retain(|address| address.interface != *index);
            }
        }
    }
    host
}

fn link(bridge: &Bridge, index: u32) -> Link {
    let has_ipv6 = bridge.addresses.iter().any(|address| address.addr().is_ipv6());
    Link {
        index,
        name: bridge.name.clone(),
        kind: LinkKind::Bridge,
        layer: LinkLayer::Ethernet,
        flags: LinkFlags::Up,
        mtu: bridge.mtu.unwrap_or(ETHERNET_MTU),
        mac: Some(bridge.mac),
        master: None,
        port: None,
        active_slave: None,
        bridge_port: None,
        parent: None,
        parent_is_foreign: false,
        vlan_id: None,
        bond: None,
        vlan_filtering: Some(bridge.vlan_filtering),
        default_vlan: Some(1),
        ageing_time: None,
        netfilter_calls: Calls::default(),
        spanning_tree: Some(bridge.spanning_tree),
        alias: Some(bridge.alias.clone()),
        promiscuous: false,
        bus: None,
        ipv6: Some(Ipv6Settings { forwarding: 0, accept_ra: 0, disabled: !has_ipv6 }),
    }
}

fn own(interface: u32, address: IpNet) -> InterfaceAddress {
    let scope = match address.addr() {
        IpAddr::V6(address) if address.is_unicast_link_local() => AddressScope::Link,
        _ => AddressScope::Universe,
    };
    InterfaceAddress {
        interface,
        address: address.addr(),
        peer: None,
        prefix_len: address.prefix_len(),
        scope,
        flags: AddressFlags::Permanent,
    }
}
