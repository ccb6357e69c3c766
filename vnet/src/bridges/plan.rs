//! What is missing: definitions and host in, steps out.

use ipnet::IpNet;

use super::Owner;
use crate::{
    definition::{self, Network},
    host::{Link, LinkKind, Snapshot, SpanningTree, bridge::Settings},
};

/// The kernel's limits while the protocol runs (`BR_MIN_FORWARD_DELAY` and `BR_MAX_FORWARD_DELAY` in
/// `net/bridge/br_private.h`), in hundredths of a second.
const FORWARD_DELAYS: (u32, u32) = (200, 3000);

/// A bridge as a definition wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its MTU in bytes; that of its ports if there is none.
    pub mtu: Option<u32>,
    /// Spanning tree protocol.
    pub spanning_tree: SpanningTree,
    /// Whether it filters by VLAN.
    pub vlan_filtering: bool,
    /// The host's addresses, with the length of their subnets' prefix.
    pub addresses: Vec<IpNet>,
    /// Says that we have made it.
    pub alias: String,
}

/// One change of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a bridge with its addresses, and bring it up.
    Make(Bridge),
    /// Change a bridge that we have made.
    Configure {
        /// Its name.
        bridge: String,
        /// Its index.
        index: u32,
        /// What it has of what changes.
        from: Settings,
        /// What it gets.
        to: Settings,
    },
    /// Bring a bridge up that we have made.
    BringUp {
        /// Its name.
        bridge: String,
        /// Its index.
        index: u32,
    },
    /// Give a bridge that we have made an address.
    AddAddress {
        /// Its name.
        bridge: String,
        /// Its index.
        index: u32,
        /// The address.
        address: IpNet,
    },
    /// Take an address off a bridge that we have made.
    DeleteAddress {
        /// Its name.
        bridge: String,
        /// Its index.
        index: u32,
        /// The address.
        address: IpNet,
    },
    /// Delete a bridge that we have made and nobody is on.
    Remove {
        /// Its name.
        bridge: String,
        /// Its index.
        index: u32,
    },
}

/// What makes the bridges of definitions that the host lacks, and those that we have made what
/// their definitions say by now. Bridges of mode `bridge`, and what others have made, are left as
/// they are.
#[must_use]
pub fn plan(definitions: &[Network], host: &Snapshot, owner: &Owner) -> Vec<Step> {
    let mut steps = Vec::new();
    for network in definitions {
        let Some(bridge) = wanted(network, owner) else { continue };
        match host.link_named(&bridge.name) {
            None => steps.push(Step::Make(bridge)),
            Some(link) if is_bridge(link) && link.alias.as_ref() == Some(&bridge.alias) => {
                correct(&bridge, link, host, &mut steps);
            }
            Some(_) => {}
        }
    }
    steps
}

pub(super) fn is_bridge(link: &Link) -> bool {
    link.kind == LinkKind::Bridge
}

/// The bridge that a network needs and may have made; `None` if it is not vnet's to make.
pub(super) fn wanted(network: &Network, owner: &Owner) -> Option<Bridge> {
    if !network.forward.mode.value.has_own_bridge() {
        return None;
    }
    let name = network.bridge.name.as_ref()?.value.clone();
    let on = network.bridge.stp.as_ref().is_none_or(|stp| stp.value);
    let seconds = network.bridge.delay.as_ref().map_or(0, |delay| delay.value);
    let delay = u32::try_from(seconds.saturating_mul(100)).unwrap_or(u32::MAX);
    let (shortest, longest) = FORWARD_DELAYS;
    Some(Bridge {
        name,
        mac: network.mac.as_ref().map_or_else(|| owner.mac(&network.name.value), |mac| mac.value.0),
        mtu: network.mtu.as_ref().map(|mtu| mtu.value),
        spanning_tree: SpanningTree {
            on,
            // `delay='0'`, which is what most definitions have, turns into the shortest.
            forward_delay: if on { delay.clamp(shortest, longest) } else { delay.min(longest) },
        },
        vlan_filtering: network.guest_vlan().is_some(),
        addresses: network.ips.iter().filter_map(address).collect(),
        alias: owner.alias(&network.name.value),
    })
}

fn address(ip: &definition::Ip) -> Option<IpNet> {
    IpNet::new(ip.address.value, ip.prefix).ok()
}

fn correct(wanted: &Bridge, link: &Link, host: &Snapshot, steps: &mut Vec<Step>) {
    let (bridge, index) = (wanted.name.clone(), link.index);
    let (mut from, mut to) = (Settings::default(), Settings::default());
    if link.mac != Some(wanted.mac) {
        (from.mac, to.mac) = (link.mac, Some(wanted.mac));
    }
    if wanted.mtu.is_some_and(|mtu| mtu != link.mtu) {
        (from.mtu, to.mtu) = (Some(link.mtu), wanted.mtu);
    }
    if link.spanning_tree != Some(wanted.spanning_tree) {
        (from.spanning_tree, to.spanning_tree) = (link.spanning_tree, Some(wanted.spanning_tree));
    }
    if link.vlan_filtering != Some(wanted.vlan_filtering) {
        (from.vlan_filtering, to.vlan_filtering) =
            (link.vlan_filtering, Some(wanted.vlan_filtering));
    }
    if to != Settings::default() {
        steps.push(Step::Configure { bridge: bridge.clone(), index, from, to });
    }
    let present: Vec<IpNet> = host
        .addresses_of(index)
        // The kernel's own of the link come and go with IPv6.
        .filter(|own| !is_link_local(own.address))
        .filter_map(|own| IpNet::new(own.address, own.prefix_len).ok())
        .collect();
    for address in wanted.addresses.iter().filter(|address| !present.contains(address)) {
        steps.push(Step::AddAddress { bridge: bridge.clone(), index, address: *address });
    }
    for address in present.iter().filter(|address| !wanted.addresses.contains(address)) {
        steps.push(Step::DeleteAddress { bridge: bridge.clone(), index, address: *address });
    }
    if !link.is_up() {
        steps.push(Step::BringUp { bridge, index });
    }
}

fn is_link_local(address: std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V6(address) if address.is_unicast_link_local())
}
