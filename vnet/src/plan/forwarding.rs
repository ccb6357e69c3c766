//! Whether the host has to forward, and whether it can without losing its own way.

use vnet_common::family::Family;

use super::{Plan, Problem};
use crate::host::{Snapshot, route::RouteProtocol, sysctl};

impl Plan {
    /// Whether the host has to forward packets of a family.
    #[must_use]
    pub fn forwards(&self, family: Family) -> bool {
        self.networks.iter().any(|network| network.forwards(family))
    }
}

/// What turning IPv6 forwarding on would take from the host.
///
/// A host that forwards takes no router advertisements on interfaces whose `accept_ra` is 1, and
/// drops the routes that it has from them (`rt6_purge_dflt_routers` in `net/ipv6/route.c`). libvirt
/// refuses it, too (`virNetDevIPCheckIPv6Forwarding`). Interfaces whose routes are kept up by a
/// program, such as `NetworkManager`, have 0 there and lose nothing.
#[must_use]
pub fn routes_lost_by_forwarding(plan: &Plan, host: &Snapshot) -> Vec<Problem> {
    let Some(network) = plan.networks.iter().find(|network| network.forwards(Family::Ipv6)) else {
        return Vec::new();
    };
    let advertised = |interface: u32| {
        host.routes.iter().any(|route| {
            route.protocol == RouteProtocol::Ra
                && route.destination.addr().is_ipv6()
                && route.hops.iter().any(|hop| hop.interface == Some(interface))
        })
    };
    let takes_advertisements_as_a_host = |settings: crate::host::Ipv6Settings| {
        settings.accept_ra == 1 && settings.forwarding == 0 && !settings.disabled
    };
    host.links
        .iter()
        .filter(|link| link.ipv6.is_some_and(takes_advertisements_as_a_host))
        .filter(|link| advertised(link.index))
        .map(|link| Problem::LosesRoutes {
            network: network.name.clone(),
            interface: link.name.clone(),
            parameter: sysctl::of_interface(Family::Ipv6, &link.name, "accept_ra"),
        })
        .collect()
}
