//! The routes to subnets behind guests (`<route>`).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    definition,
    host::{
        Snapshot,
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
        let mut rivals = host.routes.iter().filter(|route| {
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
        for rival in rivals.by_ref() {
            if is_it(rival) {
                return RouteState::Present;
            }
            state = RouteState::Taken;
        }
        state
    }
}
