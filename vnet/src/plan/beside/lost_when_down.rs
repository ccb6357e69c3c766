//! What the kernel takes from an interface that is set down, as commands that give it back once it is up again.

use std::{fmt::Write as _, net::IpAddr};

use crate::host::{
    Hop, InterfaceAddress, Link, LinkKind, Route, Snapshot,
    address::{AddressFlags, AddressScope},
    route::{RouteProtocol, RouteType, TABLE_MAIN},
};

/// The metric of IPv6 routes that were given none (`IP6_RT_PRIO_USER` in `include/net/ipv6_route.h`).
const METRIC_IPV6: u32 = 1024;

/// Of an interface and of the VLANs on it, which go down and come up with it.
///
/// IPv6 addresses (`addrconf_ifdown` in `net/ipv6/addrconf.c`), then routes, those on the link first because
/// gateways are looked up in them. What comes back by itself is left out: IPv4 addresses, the kernel's own
/// routes, what router advertisements tell, and the routes of routing daemons.
pub(super) fn commands(link: &Link, host: &Snapshot) -> Vec<String> {
    let is_affected = |index: u32| {
        let is_vlan =
            |other: &Link| other.kind == LinkKind::Vlan && other.parent == Some(link.index);
        index == link.index || host.link(index).is_some_and(is_vlan)
    };
    let addresses = host.addresses.iter().filter(|one| is_affected(one.interface) && is_lost(one));
    let mut commands: Vec<_> = addresses.filter_map(|one| address_command(one, host)).collect();
    let is_by_it = |hop: &Hop| hop.interface.is_some_and(is_affected);
    let mut routes: Vec<&Route> = host
        .routes
        .iter()
        .filter(|route| is_somebodys(route) && !route.hops.is_empty())
        // Multipath routes that lead elsewhere as well stay (`fib_sync_down_dev`).
        .filter(|route| route.hops.iter().all(is_by_it))
        .collect();
    routes.sort_by_key(|route| route.hops.iter().any(|hop| hop.gateway.is_some()));
    commands.extend(routes.into_iter().filter_map(|route| route_command(route, host)));
    commands
}

fn is_lost(address: &InterfaceAddress) -> bool {
    address.address.is_ipv6()
        && address.flags.contains(AddressFlags::Permanent)
        // The kernel makes a new one.
        && address.scope != AddressScope::Link
}

/// Without duplicate address detection: it was this host's a moment ago, and a route may need it as its source
/// at once.
fn address_command(address: &InterfaceAddress, host: &Snapshot) -> Option<String> {
    let name = &host.link(address.interface)?.name;
    let peer = address.peer.map_or_else(String::new, |peer| format!(" peer {peer}"));
    let no_route =
        if address.flags.contains(AddressFlags::Noprefixroute) { " noprefixroute" } else { "" };
    let (own, length) = (address.address, address.prefix_len);
    Some(format!("ip address replace {own}{peer}/{length} dev {name} nodad{no_route}"))
}

/// Made by hand, by a network's configuration or by DHCP.
fn is_somebodys(route: &Route) -> bool {
    use RouteProtocol::{Boot, Dhcp, Static};
    route.kind == RouteType::Unicast && matches!(route.protocol, Boot | Static | Dhcp)
}

fn route_command(route: &Route, host: &Snapshot) -> Option<String> {
    let (family, usual_metric) = match route.destination.addr() {
        IpAddr::V4(_) => ("-4", 0),
        IpAddr::V6(_) => ("-6", METRIC_IPV6),
    };
    let destination =
        if route.is_default() { "default".to_owned() } else { route.destination.to_string() };
    let mut command = format!("ip {family} route replace {destination}");
    match route.protocol {
        RouteProtocol::Static => command += " proto static",
        RouteProtocol::Dhcp => command += " proto dhcp",
        _ => {}
    }
    if route.table != TABLE_MAIN {
        let _ = write!(command, " table {}", route.table);
    }
    if route.priority != usual_metric {
        let _ = write!(command, " metric {}", route.priority);
    }
    if let Some(source) = route.preferred_source {
        let _ = write!(command, " src {source}");
    }
    let next_hop = if route.hops.len() == 1 { "" } else { " nexthop" };
    for hop in &route.hops {
        command += next_hop;
        command += &hop_words(hop, route, host)?;
    }
    Some(command)
}

fn hop_words(hop: &Hop, route: &Route, host: &Snapshot) -> Option<String> {
    let name = &host.link(hop.interface?)?.name;
    let Some(gateway) = hop.gateway else { return Some(format!(" dev {name}")) };
    let family =
        if gateway.is_ipv6() && route.destination.addr().is_ipv4() { "inet6 " } else { "" };
    let is_reached_by = |other: &Route| {
        let is_on_link = |one: &Hop| one.interface == hop.interface && one.gateway.is_none();
        !other.is_default()
            && other.destination.contains(&gateway)
            && other.hops.iter().any(is_on_link)
    };
    let on_link = if host.routes.iter().any(is_reached_by) { "" } else { " onlink" };
    Some(format!(" via {family}{gateway} dev {name}{on_link}"))
}
