//! The routes to subnets behind guests.

use super::startup::Running;
use crate::{
    host::{GatewayRoute, Snapshot},
    instance::{self, Journal, Undo},
    plan::Plan,
};

/// Adds what the host does not have of a plan's routes. Returns what failed.
///
/// libvirt adds the routes of its networks itself and fails if one is there, but it does so within a
/// millisecond of bringing the bridge up, before a burst of changes is over (`host::watch`).
pub(super) async fn add_missing(
    journal: &mut Journal,
    plan: &Plan,
    host: &Snapshot,
) -> Vec<String> {
    let mut failures = Vec::new();
    for network in &plan.networks {
        for route in network.missing_routes(host) {
            let what = format!(
                "the route of network `{}` to {} through {}",
                network.name, route.destination, route.gateway
            );
            if let Err(error) = journal.record(Undo::Route(route.clone())) {
                failures.push(error.to_string());
                continue;
            }
            match route.add().await {
                Ok(true) => log::info!("added {what}"),
                // Somebody was faster.
                Ok(false) => {}
                Err(error) => failures.push(format!("cannot add {what}: {error}")),
            }
        }
    }
    failures
}

/// Deletes what was added for routes that the plan does not have. Returns what failed.
pub(super) async fn retract_unwanted(running: &mut Running) -> Vec<String> {
    let is_planned = |added: &GatewayRoute| {
        running.plan.networks.iter().any(|network| {
            network.bridge_ifindex == Some(added.interface)
                && network.routes.iter().any(|route| {
                    (route.destination, route.gateway, route.metric)
                        == (added.destination, added.gateway, added.metric)
                })
        })
    };
    let unwanted: Vec<Undo> = running
        .journal
        .entries()
        .iter()
        .filter(|undo| matches!(undo, Undo::Route(route) if !is_planned(route)))
        .cloned()
        .collect();
    instance::retract(&mut running.journal, &unwanted).await
}
