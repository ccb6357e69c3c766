//! From what runs to what should run: a transaction for packets, and for the host if it has to be.

use super::{forwarding, hooks, pause::pause, ports, routes, startup::Running, state};
use crate::{
    datapath::HookSpec,
    host::Snapshot,
    plan::{Addresses, GuardTables, Plan, PlannedPort, Tables},
};

/// What a failure to set up a hook means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// The rest goes on, and what failed is tried again.
    GoOn,
    /// What ran before goes on.
    RollBack,
}

/// What can be gone back to until packets see something else.
struct Before {
    hooks: Vec<HookSpec>,
    guard: GuardTables,
}

/// Programs come before the tables send packets there, and go after the tables no longer do.
pub(super) async fn change_to(
    running: &mut Running,
    plan: Plan,
    host: &Snapshot,
    on_failure: OnFailure,
) -> anyhow::Result<()> {
    report(&running.plan, &plan);
    let programs_before = programs(running);
    let before = Before { hooks: programs_before.clone(), guard: running.datapath.guard().clone() };
    let prepared = prepare(running, &plan, host, on_failure).await;
    let mut failures = match prepared {
        Ok(failures) => failures,
        Err(error) if on_failure == OnFailure::RollBack => {
            let failures = roll_back(running, &before).await;
            return Err(if failures.is_empty() {
                error
            } else {
                error.context(format!("not everything is as it was: {}", failures.join("; ")))
            });
        }
        Err(error) => return Err(error),
    };
    pause("shown").await;

    // Packets see it from here on.
    failures.extend(hooks::detach_unwanted(running, &hooks::wanted(&plan)).await.err());
    running.datapath.leave_guard(&plan.guard)?;
    pause("detached").await;
    failures.extend(ports::set_up(&mut running.journal, &plan, host).await);
    failures.extend(routes::add_missing(&mut running.journal, &plan, host).await);
    let changed = plan != running.plan || programs(running) != programs_before;
    running.plan = plan;
    if on_failure == OnFailure::RollBack {
        failures.extend(forwarding::retract_unwanted(running).await);
        failures.extend(ports::retract_unwanted(running, host).await);
        failures.extend(routes::retract_unwanted(running).await);
        failures.extend(hooks::retract_qdiscs(running).await);
    }
    if changed {
        state::write(running)?;
    }
    if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("; "))) }
}

/// Everything up to the moment from which packets see the plan. Returns what failed of it.
async fn prepare(
    running: &mut Running,
    plan: &Plan,
    host: &Snapshot,
    on_failure: OnFailure,
) -> anyhow::Result<Vec<String>> {
    running.datapath.enter_guard(&plan.guard)?;
    pause("guarded").await;
    let failures = hooks::attach_missing(running, &hooks::wanted(plan)).await;
    if on_failure == OnFailure::RollBack && !failures.is_empty() {
        anyhow::bail!(failures.join("; "));
    }
    let mut served = plan.clone();
    // Nothing is sent to where nothing keeps untranslated packets from leaving.
    served.uplinks.retain(|uplink| hooks::are_attached(running, uplink.ifindex));
    for network in &mut served.networks {
        if !network.bridge_ifindex.is_some_and(|bridge| hooks::are_attached(running, bridge)) {
            network.masquerade = Addresses::default();
        }
    }
    pause("attached").await;
    let slots = plan.slots();
    running.datapath.forget_counters(&running.slots.taken_anew_by(&slots))?;
    depart(running, plan, host)?;
    running.datapath.write(&Tables::of(&served))?;
    running.slots = slots;
    Ok(failures)
}

/// Back to what ran before. Returns what failed.
async fn roll_back(running: &mut Running, before: &Before) -> Vec<String> {
    let mut failures = hooks::attach_missing(running, &before.hooks).await;
    failures.extend(hooks::detach_unwanted(running, &before.hooks).await.err());
    let guard = running.datapath.enter_guard(&before.guard);
    let guard = guard.and_then(|()| running.datapath.leave_guard(&before.guard));
    failures.extend(guard.err().map(|error| error.to_string()));
    failures.extend(hooks::retract_qdiscs(running).await);
    failures
}

/// Flows of guests that have gone end before others have their addresses.
fn depart(running: &mut Running, plan: &Plan, host: &Snapshot) -> anyhow::Result<()> {
    let is_gone =
        |port: &&PlannedPort| !plan.ports.iter().any(|other| other.ifindex == port.ifindex);
    let gone = running.plan.ports.iter().filter(is_gone).map(|port| port.ifindex).collect();
    let learned = running.datapath.addresses_learned_at(&gone)?;
    let before = ports::before(&running.leaving, &running.plan.ports, &learned);
    // Ports may be missing that are there: who has gone is judged when all have been read.
    if host.links_interrupted {
        running.leaving = before;
        return Ok(());
    }
    running.datapath.depart(&plan.departed(&before))?;
    running.leaving.clear();
    Ok(())
}

fn programs(running: &Running) -> Vec<HookSpec> {
    running.hooks.iter().map(|hook| hook.spec.clone()).collect()
}

fn report(old: &Plan, new: &Plan) {
    for uplink in &new.uplinks {
        match old.uplinks.iter().find(|other| other.ifindex == uplink.ifindex) {
            None => log::info!("uplink `{}` appeared", uplink.name),
            Some(other) if other.addresses != uplink.addresses => {
                log::info!("uplink `{}` has other addresses", uplink.name);
            }
            Some(_) => {}
        }
    }
    for uplink in &old.uplinks {
        if !new.uplinks.iter().any(|other| other.ifindex == uplink.ifindex) {
            log::info!("uplink `{}` is gone", uplink.name);
        }
    }
}
