//! Which interfaces lead outside, and which addresses masquerading may use there.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    InterfaceAddress, Link, LinkKind, LinkLayer, Port, Route, Snapshot,
    address::AddressScope,
    route::{RouteType, TABLE_LOCAL},
};

/// An interface that the host's routes use towards outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkCandidate {
    /// Index of the interface.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// What its frames start with.
    pub layer: LinkLayer,
    /// How much of IPv4 is routed to it.
    pub ipv4: Reach,
    /// How much of IPv6 is routed to it.
    pub ipv6: Reach,
    /// What masquerading chooses from, in the kernel's order; see
    /// [`UplinkCandidate::masquerade_address`]. Empty when the host has no suitable address at
    /// all: then nothing can be masqueraded there.
    pub masquerade: Vec<MasqueradeAddress>,
    /// As `masquerade`: own IPv6 addresses with the length of their prefixes, the preferred one
    /// first; see [`own_ipv6`].
    pub masquerade_ipv6: Vec<Ipv6Net>,
}

/// How much of a family is routed to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nothing.
    Nothing,
    /// Some destinations.
    Partial,
    /// A default route leads there.
    Default,
}

/// An address that masquerading may give to packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MasqueradeAddress {
    /// The source address to use.
    pub address: Ipv4Addr,
    /// The subnet that it is in on its link: for next hops in there it is preferred.
    pub subnet: Ipv4Net,
    /// Index of the interface that has the address: another one when the uplink is unnumbered.
    pub interface: u32,
}

/// Finds every interface that the host could forward a packet of a guest to.
///
/// These are the interfaces with a unicast route in any table but `local`, because rules may choose
/// any table. Left out are loopback devices, the definitions' own `bridges`, and bridge ports and
/// slaves of bonds and the like, whose traffic passes through their master. Routes to link-local
/// IPv6 (RFC 4291 section 2.5.6) and to multicast destinations do not count: the first is never
/// forwarded, the second not by these routes.
///
/// Interfaces that only lead to something local, such as Docker's bridge, are uplinks in this sense:
/// a guest that talks to a container is masqueraded like one that talks to the world.
#[must_use]
pub fn uplinks(snapshot: &Snapshot, bridges: &[u32]) -> Vec<UplinkCandidate> {
    let reaches = reaches(&snapshot.routes);
    let lead_outside = snapshot.links.iter().filter(|link| {
        link.kind != LinkKind::Loopback && !bridges.contains(&link.index) && !is_inside_master(link)
    });
    lead_outside
        .filter_map(|link| {
            let (ipv4, ipv6) = *reaches.get(&link.index)?;
            Some(UplinkCandidate {
                interface: link.index,
                name: link.name.clone(),
                layer: link.layer,
                ipv4,
                ipv6,
                masquerade: own_or_borrowed(snapshot, link, |interface| {
                    own_ipv4(snapshot, interface).collect()
                }),
                masquerade_ipv6: if ipv6 == Reach::Nothing {
                    own_ipv6(snapshot, link.index)
                } else {
                    own_or_borrowed(snapshot, link, |other| own_ipv6(snapshot, other))
                },
            })
        })
        .collect()
}

impl UplinkCandidate {
    /// The source address that the kernel's masquerading would use for a packet to `next_hop`: the
    /// gateway, or the destination when it is on the link.
    ///
    /// `nf_nat_masquerade_ipv4` asks `inet_select_addr(out, next_hop, RT_SCOPE_UNIVERSE)` of
    /// net/ipv4/devinet.c. That goes through the addresses of the interface in their order, passes
    /// over secondary ones and those of a scope narrower than universe, and takes the first whose
    /// subnet has the next hop, or else the first of all.
    ///
    /// When there is none it takes the first such address of another interface, whatever its
    /// subnet: of the VRF device, if the interface is in a VRF, else of the interfaces in the same
    /// VRF or in none, in the order in which they were made, of which loopback is the first.
    #[must_use]
    pub fn masquerade_address(&self, next_hop: Ipv4Addr) -> Option<Ipv4Addr> {
        let on_link = self.masquerade.iter().find(|address| address.subnet.contains(&next_hop));
        on_link.or(self.masquerade.first()).map(|address| address.address)
    }
}

/// A VRF leaves its slaves their routes; any other master takes all traffic.
fn is_inside_master(link: &Link) -> bool {
    match &link.port {
        Some(Port::Bridge { .. } | Port::Bond) => true,
        Some(Port::Other(kind)) => kind != "vrf",
        // The kernel names no kind for slaves of some masters, such as Open vSwitch.
        None => link.master.is_some(),
    }
}

/// How much of IPv4 and of IPv6 is routed to each interface that has any route.
fn reaches(routes: &[Route]) -> HashMap<u32, (Reach, Reach)> {
    let mut reaches = HashMap::new();
    for route in routes.iter().filter(|route| is_forwarding(route)) {
        let reach = if route.is_default() { Reach::Default } else { Reach::Partial };
        for interface in route.hops.iter().filter_map(|hop| hop.interface) {
            let (ipv4, ipv6) = reaches.entry(interface).or_insert((Reach::Nothing, Reach::Nothing));
            let family = if route.destination.addr().is_ipv4() { ipv4 } else { ipv6 };
            *family = reach.max(*family);
        }
    }
    reaches
}

fn is_forwarding(route: &Route) -> bool {
    let never_forwarded = match route.destination {
        IpNet::V4(net) => net.prefix_len() >= 4 && net.network().is_multicast(),
        IpNet::V6(net) => {
            let first = net.network().segments()[0];
            let link_local = net.prefix_len() >= 10 && first & 0xffc0 == 0xfe80;
            link_local || (net.prefix_len() >= 8 && first >> 8 == 0xff)
        }
    };
    route.kind == RouteType::Unicast && route.table != TABLE_LOCAL && !never_forwarded
}

/// The addresses of an interface, or the first that the kernel would borrow for it; see
/// [`UplinkCandidate::masquerade_address`]. `__ipv6_dev_get_saddr` in net/ipv6/addrconf.c goes
/// through the other interfaces likewise.
fn own_or_borrowed<A>(
    snapshot: &Snapshot,
    link: &Link,
    addresses_of: impl Fn(u32) -> Vec<A>,
) -> Vec<A> {
    let own = addresses_of(link.index);
    if !own.is_empty() {
        return own;
    }
    let vrf = vrf_of(snapshot, link);
    // Indices grow with the order in which devices are made, which the kernel does not tell.
    let same_vrf = snapshot
        .links
        .iter()
        .filter(|other| vrf_of(snapshot, other) == vrf)
        .map(|other| other.index);
    vrf.into_iter()
        .chain(same_vrf)
        .find_map(|interface| addresses_of(interface).into_iter().next())
        .into_iter()
        .collect()
}

/// The IPv4 addresses of an interface that masquerading may use: primary ones of universe scope. A
/// `route_localnet` setting would only let in more for callers that ask for narrower scopes.
pub fn own_ipv4(
    snapshot: &Snapshot,
    interface: u32,
) -> impl Iterator<Item = MasqueradeAddress> + use<'_> {
    snapshot
        .addresses_of(interface)
        .filter(|address| !address.is_secondary() && address.scope == AddressScope::Universe)
        .filter_map(masquerade_address)
}

/// The IPv6 addresses of an interface that masquerading may use, with the length of their prefixes,
/// the preferred one first.
///
/// `nf_nat_masquerade_ipv6` asks `ipv6_dev_get_saddr`, which prefers addresses that are not
/// deprecated (RFC 6724, rule 3) and then public ones to temporary ones (rule 7; the kernel's default
/// for it). Only global ones that duplicate address detection has let through count.
#[must_use]
pub fn own_ipv6(snapshot: &Snapshot, interface: u32) -> Vec<Ipv6Net> {
    let mut usable: Vec<_> = snapshot
        .addresses_of(interface)
        .filter(|address| address.scope == AddressScope::Universe && !address.is_tentative())
        .filter_map(|address| match (address.address, address.prefix_len) {
            (IpAddr::V6(own), length) => Some((address, Ipv6Net::new(own, length).ok()?)),
            (IpAddr::V4(_), _) => None,
        })
        .collect();
    usable.sort_by_key(|(address, _)| (address.is_deprecated(), address.is_temporary()));
    usable.into_iter().map(|(_, net)| net).collect()
}

fn masquerade_address(address: &InterfaceAddress) -> Option<MasqueradeAddress> {
    match (address.address, address.subnet()) {
        (IpAddr::V4(own), IpNet::V4(subnet)) => {
            Some(MasqueradeAddress { address: own, subnet, interface: address.interface })
        }
        _ => None,
    }
}

/// Index of the VRF device that the link is or belongs to (`l3mdev_master_ifindex_rcu`).
fn vrf_of(snapshot: &Snapshot, link: &Link) -> Option<u32> {
    if link.kind == LinkKind::Vrf {
        return Some(link.index);
    }
    let master = snapshot.link(link.master?)?;
    (master.kind == LinkKind::Vrf).then_some(master.index)
}

#[cfg(test)]
mod tests;
