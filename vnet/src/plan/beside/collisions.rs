//! Subnets and bridges that somebody else has already.

use ipnet::IpNet;

use super::{Advice, Plan};
use crate::{
    host::{
        Route, Snapshot,
        route::{RouteType, TABLE_MAIN},
    },
    instance::State,
};

const CHECK: &str = "subnet";

/// Routes of the main table by other interfaces to a network's subnet, or into it.
///
/// libvirt refuses the first, IPv4 only (`networkCheckRouteCollision` in
/// `src/network/bridge_driver_linux.c`); the kernel would send guests' packets by whichever route is first.
/// A route that is less specific leads to the rest of what it names, and is none of this.
pub(super) fn with_routes(plan: &Plan, host: &Snapshot) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut unicast: Vec<_> = host.routes.iter().filter(|route| is_unicast(route)).collect();
    unicast.sort_by_key(|route| route.destination.network());
    for network in plan.networks.iter().filter(|network| !network.is_bridged()) {
        // Its routes would be by a bridge of another name, which is a problem of its own.
        if network.bridge_ifindex.is_none() {
            continue;
        }
        for subnet in &network.subnets {
            let from =
                unicast.partition_point(|route| route.destination.network() < subnet.network());
            let ends = |route: &&&Route| route.destination.network() <= subnet.broadcast();
            let inside = unicast[from..].iter().take_while(ends).copied().filter(|route| {
                subnet.contains(&route.destination)
                    && is_anothers(route, network.bridge_ifindex)
                    // The definition's own, by the guest that it names.
                    && !network.routes.iter().any(|own| own.destination == route.destination)
            });
            advice.extend(inside.map(|route| collision(&network.name, subnet, route, host)));
        }
    }
    advice
}

/// Whether a route leads to another interface than a network's bridge.
fn is_anothers(route: &Route, bridge: Option<u32>) -> bool {
    let mut interfaces = route.hops.iter().filter_map(|hop| hop.interface);
    interfaces.all(|interface| Some(interface) != bridge)
}

/// Whether the kernel would forward by it.
fn is_unicast(route: &Route) -> bool {
    route.table == TABLE_MAIN
        && route.kind == RouteType::Unicast
        && route.hops.iter().any(|hop| hop.interface.is_some())
}

fn collision(network: &str, subnet: &IpNet, route: &Route, host: &Snapshot) -> Advice {
    let interface = route.hops.iter().find_map(|hop| host.link(hop.interface?));
    let interface = interface.map_or("another interface", |link| link.name.as_str());
    let destination = route.destination;
    if destination == *subnet {
        let message = format!(
            "network `{network}`: the host has a route to its subnet {subnet} by `{interface}` already, so \
             that packets to guests would go there"
        );
        let mend = format!(
            "give the network another subnet in its <ip>, or, if that route is not needed, \
             ip route delete {subnet} dev {interface}"
        );
        return Advice::fatal(CHECK, message, mend).of(network);
    }
    let message = format!(
        "network `{network}`: the host has a route to {destination}, a part of its subnet {subnet}, by \
         `{interface}`: what is for guests with these addresses goes there"
    );
    let mend = format!("ip route delete {destination} dev {interface}");
    Advice::warning(CHECK, message, mend)
}

/// Networks that other instances run on this host.
pub(super) fn with_neighbours(plan: &Plan, neighbours: &[State]) -> Vec<Advice> {
    let mut advice = Vec::new();
    for network in &plan.networks {
        for (other, instance) in neighbours
            .iter()
            .flat_map(|state| state.networks.iter().map(|other| (other, &state.instance)))
        {
            let theirs = format!("network `{}` of instance `{instance}`", other.name);
            let mend = format!(
                "vnet detach --instance {instance}, or take one of the two networks out of its definitions"
            );
            if other.bridge_ifindex != 0 && Some(other.bridge_ifindex) == network.bridge_ifindex {
                // Two networks of mode bridge may share one.
                if !(network.is_bridged() && other.mode == "bridge") {
                    let message = format!(
                        "network `{}`: its bridge `{}` is that of {theirs}: two datapaths would \
                         translate the same packets",
                        network.name, network.bridge
                    );
                    advice.push(Advice::fatal(CHECK, message, mend).of(&network.name));
                }
                continue;
            }
            let overlap = network.subnets.iter().find_map(|own| {
                let overlaps = |other: &&IpNet| own.contains(*other) || other.contains(own);
                Some((own, other.subnets.iter().find(overlaps)?))
            });
            if let Some((own, subnet)) = overlap {
                let message = format!(
                    "network `{}`: its subnet {own} overlaps {subnet} of {theirs}",
                    network.name
                );
                advice.push(Advice::fatal(CHECK, message, mend).of(&network.name));
            }
        }
    }
    advice
}
