//! Following the host: what has changed is planned anew and put in place.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep_until};

use super::{hooks, ports, routes, startup::Running};
use crate::{
    host::{self, Snapshot, sysctl},
    plan::{self, Addresses, Plan, Planned, PlannedPort, Tables},
};

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// When to try again what failed.
#[derive(Debug, Default)]
pub(super) struct Retry {
    due: Option<Instant>,
    pause: Duration,
}

impl Retry {
    /// Notes how a try ended, and says why it failed.
    pub(super) fn note(&mut self, result: anyhow::Result<()>) {
        let Err(error) = result else {
            *self = Self::default();
            return;
        };
        self.pause = (self.pause * 2).clamp(FIRST_RETRY, LAST_RETRY);
        self.due = Some(Instant::now() + self.pause);
        let seconds = self.pause.as_secs();
        log::error!("cannot follow a change of the host, next try in {seconds} s: {error:#}");
    }

    /// Waits until it is time; for ever if nothing failed. May be cancelled.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

/// Plans anew for the host as it now is. What the host lacks goes, everything else goes on.
pub(super) async fn follow(running: &mut Running) -> anyhow::Result<()> {
    let snapshot = host::snapshot().await.context("cannot read the host's network")?;
    let host_ports = sysctl::HostPorts::read()?;
    let options = &running.options.plan;
    let Planned { mut plan, problems, warnings } =
        plan::plan(&running.definitions, &snapshot, host_ports, options);
    let mut seen = ports::seen_leases(running.leases.as_ref(), &plan);
    seen.learned = running.datapath.learned_macs()?;
    plan.add_ports(&running.definitions, &snapshot, &seen);
    if warnings != running.warnings {
        for warning in warnings.iter().filter(|warning| !running.warnings.contains(warning)) {
            log::warn!("{warning}");
        }
        running.warnings = warnings;
    }
    if problems != running.problems {
        for problem in &problems {
            log::warn!("{problem}");
        }
        running.problems = problems;
    }
    change_to(running, plan, &snapshot).await
}

/// Whether something has changed that the kernel sends no notice of.
pub(super) async fn is_needed(running: &mut Running) -> bool {
    // An error shows when it is followed.
    sysctl::HostPorts::read().ok().as_ref() != Some(&running.plan.host_ports)
        || !running.leaving.is_empty()
        || ports::any_is_new(running)
        || hooks::any_is_lost(running).await
}

/// Hooks come before the maps send packets there, and go after the maps no longer do.
async fn change_to(running: &mut Running, plan: Plan, host: &Snapshot) -> anyhow::Result<()> {
    report(&running.plan, &plan);
    let hooks_before = programs(running);
    depart(running, &plan, host)?;
    running.datapath.enter_guard(&plan.guard)?;
    let mut failures = hooks::attach_missing(running, &plan).await;
    let mut served = plan.clone();
    // Nothing is sent to where nothing keeps untranslated packets from leaving.
    served.uplinks.retain(|uplink| hooks::are_attached(running, uplink.ifindex));
    for network in &mut served.networks {
        if !network.bridge_ifindex.is_some_and(|bridge| hooks::are_attached(running, bridge)) {
            network.masquerade = Addresses::default();
        }
    }
    running.datapath.write(&Tables::of(&served))?;
    failures.extend(hooks::detach_unwanted(running, &plan).await.err());
    running.datapath.leave_guard(&plan.guard)?;
    failures.extend(ports::set_up(&mut running.journal, &plan, host).await);
    failures.extend(routes::add_missing(&mut running.journal, &plan, host).await);
    let changed = plan != running.plan || programs(running) != hooks_before;
    running.plan = plan;
    if changed {
        hooks::write_state(running)?;
    }
    if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("; "))) }
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

fn programs(running: &Running) -> Vec<crate::datapath::HookSpec> {
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
