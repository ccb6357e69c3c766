//! The routes to subnets behind guests.

use crate::{
    host::Snapshot,
    instance::{Journal, Undo},
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
