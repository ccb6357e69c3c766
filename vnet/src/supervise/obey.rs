//! Orders that come by the control socket or by a signal.

use super::{RunError, prepare::Request, reload::reload, startup::Running};
use crate::{
    control::{Answer, Order},
    plan::beside::Surroundings,
};

/// Does what an order says, and says how it went.
pub(super) async fn obey(running: &mut Running, order: Order) -> Answer {
    let Order::Apply(mut told) = order;
    // The lease directory is what the daemon was started with, which also says what it does in any case.
    told.settings.leases.clone_from(&running.told.settings.leases);
    told.settings.create_bridges |= running.create_bridges;
    told.settings.no_services |= running.no_services;
    let around = Surroundings::read(&running.instance);
    match reload(running, told, &around).await {
        Ok(differences) => {
            for difference in &differences {
                log::info!("{difference}");
            }
            Answer::Applied(differences)
        }
        Err(RunError::Refused(refusal)) => Answer::Refused(refusal.to_string()),
        Err(RunError::Failed(error)) => Answer::Failed(format!("{error:#}")),
    }
}

/// Reads the files again that the daemon was started with. Returns whether they are in force.
pub(super) async fn read_again(running: &mut Running) -> bool {
    let paths = running.paths.clone();
    let settings = running.told.settings.clone();
    let request = match Request::read(&paths, settings) {
        Ok(request) => request,
        Err(refusal) => {
            log::error!("the definitions are left as they were:\n{refusal}");
            return false;
        }
    };
    match obey(running, Order::Apply(request.told)).await {
        Answer::Applied(differences) => {
            if differences.is_empty() {
                log::info!("no changes");
            }
            true
        }
        Answer::Refused(reason) | Answer::Failed(reason) => {
            log::error!("the definitions are left as they were: {reason}");
            false
        }
    }
}
