//! Other definitions while the datapath runs.

use anyhow::Context as _;

use super::{
    RunError, bridging,
    change::change_to,
    forwarding,
    in_force::InForce,
    ports,
    prepare::{Fitting, Request, fitting_plan, say, watch_leases},
    serving,
    startup::Running,
    state,
};
use crate::{
    bridges,
    definition::{self, Difference, Network},
    host::{self, Snapshot},
    instance::Told,
    plan::{Plan, beside::Surroundings},
};

/// Makes the running datapath what other definitions say: all of it or, with an error, nothing.
pub(super) async fn reload(
    running: &mut Running,
    told: Told,
    around: &Surroundings,
) -> Result<Vec<Difference>, RunError> {
    let Request { told, definitions } = Request::examine(told)?;
    let mut differences = definition::differences(&running.definitions, &definitions);
    differences.extend(running.told.settings.difference(&told.settings));
    let is_same = differences.is_empty() && running.told.settings == told.settings;
    if is_same && !running.is_untidy {
        // Only what files are called may have changed.
        running.told = told;
        state::write_told(running)?;
        return Ok(differences);
    }
    let snapshot = host::snapshot().await.context("cannot read the host's network")?;
    if running.leases.is_empty() {
        let directories = [&running.lease_directory, running.services.leases()];
        running.leases = watch_leases(&definitions, directories)?;
    }
    let mut options = running.plan_options();
    options.uplinks.clone_from(&told.settings.uplinks);
    let steps = bridging::missing(&running.instance, &told.settings, &definitions, &snapshot);
    let later = bridges::outlook(&steps, &snapshot);
    let in_force = InForce::of_running(running);
    let Fitting { plan, warnings, problems } =
        fitting_plan(&definitions, &later, &running.leases, &options, Some(&in_force), around)?;
    say(&warnings);
    for problem in problems.iter().filter(|problem| !running.problems.contains(problem)) {
        log::warn!("{problem} (what runs goes on as it is)");
    }
    // Bridges that are made have other numbers than those that were expected.
    let plan = steps.is_empty().then_some(plan);

    let journal = &mut running.journal;
    let snapshot = bridging::make(&running.instance, &steps, snapshot, journal).await?;
    let plan = match plan {
        Some(plan) => Ok(plan),
        None => fitting_plan(
            &definitions,
            &snapshot,
            &running.leases,
            &options,
            Some(&in_force),
            around,
        )
        .map(|fitting| fitting.plan),
    };
    let shown = match plan {
        Ok(plan) => show(running, plan, &definitions, &told, &snapshot).await,
        Err(refusal) => Err(refusal.into()),
    };
    let mut failures = match shown {
        Ok(failures) => failures,
        Err(error) => {
            bridging::take_back(&steps).await;
            return Err(error);
        }
    };
    running.definitions = definitions;
    running.told = told;
    running.warnings = warnings;
    running.problems = problems;
    let enabled = forwarding::enable(&mut running.journal, &running.plan);
    failures.extend(enabled.err().map(|error| format!("{error:#}")));
    let served = serving::serve_guests(running).await;
    failures.extend(served.err().map(|error| format!("{error:#}")));
    failures.extend(bridging::remove_unwanted(running).await);
    running.leave_for_later(&failures);
    Ok(differences)
}

/// Makes packets see other definitions on the host as it is. Returns what failed of the rest.
async fn show(
    running: &mut Running,
    mut plan: Plan,
    definitions: &[Network],
    told: &Told,
    host: &Snapshot,
) -> Result<Vec<String>, RunError> {
    let mut seen = ports::seen_leases(&running.leases, &plan);
    seen.learned = running.datapath.learned_macs().map_err(anyhow::Error::from)?;
    plan.add_ports(definitions, host, &seen);
    Ok(change_to(running, plan, Some(told), host).await?)
}
