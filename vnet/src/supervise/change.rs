//! From what runs to what should run: a transaction for packets, and for the host if it has to be.

use std::collections::HashSet;

use vnet_common::names::program;

use super::{forwarding, hooks, pause::pause, ports, routes, shortcut, startup::Running, state};
use crate::{
    datapath::{Hook, HookSpec},
    host::Snapshot,
    instance::Told,
    plan::{Addresses, GuardTables, Plan, PlannedPort, ShortcutTables, Tables},
};

/// What a failure to set up a hook means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// The rest goes on, and what failed is tried again.
    GoOn,
    /// What ran before goes on.
    RollBack,
}

impl OnFailure {
    /// How loud to say what is done.
    pub const fn level(self) -> log::Level {
        match self {
            Self::GoOn => log::Level::Info,
            Self::RollBack => log::Level::Debug,
        }
    }
}

/// What can be gone back to until packets see something else.
struct Before {
    hooks: Vec<HookSpec>,
    guard: GuardTables,
    tables: Tables,
    shortcut: ShortcutTables,
    allowed: shortcut::Allowed,
}

/// Programs come before the tables send packets there, and go after the tables no longer do. With `told`
/// the instance is told anew; else it follows the host.
///
/// Returns what failed of the rest once packets see the plan; with an error they see what they saw
/// before.
pub(super) async fn change_to(
    running: &mut Running,
    mut plan: Plan,
    told: Option<&Told>,
    host: &Snapshot,
) -> anyhow::Result<Vec<String>> {
    plan.short_ways = told.unwrap_or(&running.told).settings.short_ways;
    let on_failure = if told.is_some() { OnFailure::RollBack } else { OnFailure::GoOn };
    if on_failure == OnFailure::GoOn {
        report(&running.plan, &plan);
    }
    let programs_before = programs(running);
    // Of what a killed process has left, not every program is known; it is at its hook all the same.
    let known = programs_before.iter().filter(|spec| program::ALL.contains(&spec.program));
    let before = Before {
        hooks: known.cloned().collect(),
        guard: running.datapath.guard().clone(),
        tables: running.datapath.shown(),
        shortcut: running.datapath.shown_shortcut().clone(),
        allowed: running.shortcut.allowed.clone(),
    };
    let prepared = prepare(running, &plan, told, host).await;
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

    // Packets see it from here on: nothing is a reason to go back any more.
    failures.extend(state::commit(running).err().map(|error| format!("{error:#}")));
    failures.extend(hooks::detach_unwanted(running, &hooks::wanted(&plan), on_failure).await.err());
    pause("detached").await;
    failures.extend(settle(running, &plan).err().map(|error| error.to_string()));
    failures.extend(ports::set_up(&mut running.journal, &plan, host).await);
    failures.extend(routes::add_missing(&mut running.journal, &plan, host).await);
    running.plan = plan;
    failures.extend(shortcut::settle(running, on_failure.level()).await);
    if on_failure == OnFailure::RollBack {
        failures.extend(forwarding::retract_unwanted(running).await);
        failures.extend(ports::retract_unwanted(running, host).await);
        failures.extend(routes::retract_unwanted(running).await);
        failures.extend(hooks::retract_qdiscs(running).await);
    } else {
        failures.extend(hooks::forget_gone(running, host).err().map(|error| error.to_string()));
    }
    Ok(failures)
}

/// Leaves nothing in the tables that the plan does not have, and both generations alike.
fn settle(running: &mut Running, plan: &Plan) -> anyhow::Result<()> {
    let tables = Tables::of(&served(running, plan));
    if running.datapath.shown() != tables {
        running.datapath.write(&tables)?;
    }
    running.datapath.leave_guard(&plan.guard)?;
    Ok(running.datapath.catch_up()?)
}

/// Everything up to the moment from which packets see the plan. Returns what failed of it.
async fn prepare(
    running: &mut Running,
    plan: &Plan,
    told: Option<&Told>,
    host: &Snapshot,
) -> anyhow::Result<Vec<String>> {
    let on_failure = if told.is_some() { OnFailure::RollBack } else { OnFailure::GoOn };
    running.datapath.enter_guard(&plan.guard)?;
    pause("guarded").await;
    let slots = plan.slots();
    running.datapath.forget_counters(&running.slots.taken_anew_by(&slots))?;
    let (at_bridges, elsewhere): (Vec<_>, Vec<_>) =
        hooks::wanted(plan).into_iter().partition(hooks::is_at_bridge);
    let mut failures = hooks::attach_missing(running, &elsewhere, on_failure).await;
    // Programs drop what comes from a bridge that the tables do not name.
    if failures.is_empty() || on_failure == OnFailure::GoOn {
        name_new(running, plan)?;
        pause("named").await;
        failures.extend(hooks::attach_missing(running, &at_bridges, on_failure).await);
    }
    if on_failure == OnFailure::RollBack && !failures.is_empty() {
        anyhow::bail!(failures.join("; "));
    }
    pause("attached").await;
    let setting = told.map_or(running.told.settings.xdp, |told| told.settings.xdp);
    failures.extend(shortcut::enter(running, plan, host, setting).await?);
    state::stage(running, plan, told)?;
    pause("staged").await;
    // After what fails on a full file system: their flows do not come back.
    depart(running, plan, host)?;
    let tables = Tables::of(&served(running, plan));
    // Bridges that lose their hooks are named until they have lost them.
    running.datapath.write(&tables.with_networks_of(&running.datapath.shown()))?;
    running.slots = slots;
    Ok(failures)
}

/// Makes the tables name networks whose bridges get hooks.
fn name_new(running: &mut Running, plan: &Plan) -> anyhow::Result<()> {
    let shown = running.datapath.shown();
    let named = shown.with_networks_of(&Tables::of(&served(running, plan)));
    if named != shown {
        running.datapath.write(&named)?;
    }
    Ok(())
}

/// What of a plan can be served with the hooks that there are.
fn served(running: &Running, plan: &Plan) -> Plan {
    let mut served = plan.clone();
    // Nothing is sent to where nothing keeps untranslated packets from leaving.
    let attached = hooks::attached_interfaces(running);
    served.uplinks.retain(|uplink| attached.contains(&uplink.ifindex));
    for network in &mut served.networks {
        if !network.bridge_ifindex.is_some_and(|bridge| attached.contains(&bridge)) {
            network.masquerade = Addresses::default();
        }
    }
    served
}

/// Back to what ran before. Returns what failed.
async fn roll_back(running: &mut Running, before: &Before) -> Vec<String> {
    // As much of it as can be.
    let mut failures = hooks::attach_missing(running, &before.hooks, OnFailure::GoOn).await;
    let unknown = |hook: &Hook| hook.is_inherited && !program::ALL.contains(&hook.spec.program);
    let unknown: Vec<_> =
        running.hooks.iter().filter(|hook| unknown(hook)).map(|hook| hook.spec.clone()).collect();
    let kept: Vec<_> = before.hooks.iter().chain(&unknown).cloned().collect();
    failures.extend(hooks::detach_unwanted(running, &kept, OnFailure::RollBack).await.err());
    running.shortcut.allowed.clone_from(&before.allowed);
    let narrowed = running.datapath.write_shortcut(&before.shortcut);
    let is_narrower = narrowed.as_ref().is_ok_and(|is_narrower| *is_narrower);
    failures.extend(narrowed.err().map(|error| error.to_string()));
    if running.datapath.shown() != before.tables || is_narrower {
        let written = running.datapath.write(&before.tables);
        failures.extend(written.err().map(|error| error.to_string()));
    }
    let guard = running.datapath.enter_guard(&before.guard);
    let guard = guard.and_then(|()| running.datapath.leave_guard(&before.guard));
    failures.extend(guard.err().map(|error| error.to_string()));
    failures.extend(hooks::retract_qdiscs(running).await);
    failures
}

/// Flows of guests that have gone end before others have their addresses.
fn depart(running: &mut Running, plan: &Plan, host: &Snapshot) -> anyhow::Result<()> {
    let present: HashSet<u32> = plan.ports.iter().map(|port| port.ifindex).collect();
    let is_gone = |port: &&PlannedPort| !present.contains(&port.ifindex);
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
