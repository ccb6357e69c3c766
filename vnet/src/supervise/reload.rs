//! Other definitions while the datapath runs.

use anyhow::Context as _;

use super::{
    RunError,
    change::{OnFailure, change_to},
    forwarding, ports,
    prepare::{Request, fitting_plan, watch_leases},
    startup::Running,
    state,
};
use crate::{
    definition::{self, Difference},
    host,
    instance::Told,
};

/// Makes the running datapath what other definitions say: all of it or, with an error, nothing.
pub(super) async fn reload(running: &mut Running, told: Told) -> Result<Vec<Difference>, RunError> {
    let Request { told, definitions } = Request::examine(told)?;
    let differences = definition::differences(&running.definitions, &definitions);
    if differences.is_empty() && told.settings == running.told.settings {
        // Only what files are called may have changed.
        running.told = told;
        state::write_told(running)?;
        return Ok(differences);
    }
    let snapshot = host::snapshot().await.context("cannot read the host's network")?;
    if running.leases.is_none() {
        running.leases = watch_leases(&definitions, &running.lease_directory)?;
    }
    let mut options = running.plan_options();
    options.uplinks.clone_from(&told.settings.uplinks);
    let leases = running.leases.as_ref();
    let (mut plan, warnings) =
        fitting_plan(&definitions, &snapshot, leases, &options, &running.instance)?;
    let mut seen = ports::seen_leases(leases, &plan);
    seen.learned = running.datapath.learned_macs().map_err(anyhow::Error::from)?;
    plan.add_ports(&definitions, &snapshot, &seen);

    change_to(running, plan, &snapshot, OnFailure::RollBack).await?;
    running.definitions = definitions;
    running.told = told;
    running.warnings = warnings;
    running.problems = Vec::new();
    forwarding::enable(&mut running.journal, &running.plan)?;
    state::write_told(running)?;
    Ok(differences)
}
