//! The routes to subnets behind guests (`<route>`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::PlannedNetwork;
use crate::{
    definition,
    host::{
        GatewayRoute, Snapshot,
        route::{RouteType, TABLE_MAIN},
    },
};

/// A route of the host's main table through a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRoute {
    /// The subnet behind the guest.
    pub destination: IpNet,
    /// The guest.
    pub gateway: IpAddr,
    /// The metric; the lower wins.
    pub metric: u32,
}

/// What the host has of a planned route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// The route.
    Present,
    /// Nothing.
    Missing,
    /// Another route of the same destination and metric, beside which the kernel takes none.
    Taken,
}

impl PlannedRoute {
    pub(super) fn of(route: &definition::Route) -> Self {
        Self {
            destination: route.destination.trunc(),
            gateway: route.gateway.value,
            // virNetDevIPRouteGetMetric in src/util/virnetdevip.c
            metric: route.metric.as_ref().map_or(1, |metric| metric.value),
        }
    }

    /// What the host has of the route through a bridge.
    #[must_use]
    pub fn state(&self, bridge: u32, host: &Snapshot) -> RouteState {
        let rivals = host.routes.iter().filter(|route| {
            route.table == TABLE_MAIN
                && route.destination == self.destination
                && route.priority == self.metric
        });
        let is_it = |route: &crate::host::Route| {
            route.kind == RouteType::Unicast
                && matches!(route.hops.as_slice(), [hop]
                    if hop.interface == Some(bridge) && hop.gateway == Some(self.gateway))
        };
        let mut state = RouteState::Missing;
        for rival in rivals {
            if is_it(rival) {
                return RouteState::Present;
            }
            state = RouteState::Taken;
        }
        state
    }
}

impl PlannedNetwork {
    /// The routes that the host does not have and can take: the bridge is up and has an address in
    /// the gateway's subnet.
    #[must_use]
    pub fn missing_routes(&self, host: &Snapshot) -> Vec<GatewayRoute> {
        let link = self.bridge_ifindex.and_then(|bridge| host.link(bridge));
        let Some(bridge) = link.filter(|link| link.is_up()).map(|link| link.index) else {
            return Vec::new();
        };
        let is_reached = |gateway: IpAddr| {
            host.addresses_of(bridge).any(|address| address.subnet().contains(&gateway))
        };
        self.routes
            .iter()
            .filter(|route| route.state(bridge, host) == RouteState::Missing)
            .filter(|route| is_reached(route.gateway))
            .map(|route| GatewayRoute {
                destination: route.destination,
                gateway: route.gateway,
                interface: bridge,
                metric: route.metric,
            })
            .collect()
    }
}
