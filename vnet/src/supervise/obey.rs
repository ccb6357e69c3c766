//! Orders that come by the control socket or by a signal.

use super::{RunError, prepare::Request, reload::reload, startup::Running, switch::switch};
use crate::{
    control::{Answer, Order},
    definition::Difference,
    instance::Told,
    plan::beside::Surroundings,
};

/// Does what an order says, and says how it went.
pub(super) async fn obey(running: &mut Running, order: Order) -> Answer {
    let result = match order {
        Order::Apply(told) => {
            let around = Surroundings::read(&running.instance);
            apply(running, told, &around).await
        }
        Order::ShortWays { on, xdp } => switch(running, on, xdp).await,
    };
    match result {
        Ok(differences) => Answer::Applied(differences),
        Err(RunError::Refused(refusal)) => Answer::Refused(refusal.to_string()),
        Err(RunError::Failed(error)) => Answer::Failed(format!("{error:#}")),
    }
}

/// Makes the datapath what is told.
pub(super) async fn apply(
    running: &mut Running,
    mut told: Told,
    around: &Surroundings,
) -> Result<Vec<Difference>, RunError> {
    // The lease directory is what the daemon was started with, which also says what it does in any case.
    told.settings.leases.clone_from(&running.told.settings.leases);
    told.settings.create_bridges |= running.create_bridges;
    told.settings.no_services |= running.no_services;
    let differences = reload(running, told, around).await?;
    for difference in &differences {
        log::info!("{difference}");
    }
    Ok(differences)
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
