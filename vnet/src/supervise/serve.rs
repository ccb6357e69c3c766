//! After the start: follow the host's changes and end idle flows, until asked to stop.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use super::{hooks, startup::Running};
use crate::{
    datapath::KernelLog,
    host::{self, sysctl},
    plan::{self, Plan, Problem, Tables},
};

/// How often every session is looked at. New flows look at a few themselves, so that this decides
/// only how soon an idle host's table is tidy.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The signals that ask for the end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

pub(super) async fn serve(running: &mut Running, signals: &mut Signals) -> anyhow::Result<()> {
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.stop() => return Ok(()),
            change = running.watch.next() => {
                change.context("cannot follow the host's changes")?;
                if let Err(error) = follow(running).await {
                    // The datapath goes on as it was; the next change tries again.
                    log::error!("cannot follow a change of the host: {error:#}");
                }
            }
            result = drain(running.kernel_log.as_mut()) => {
                if let Err(error) = result {
                    log::error!("cannot read the programs' log any more: {error:#}");
                    running.kernel_log = None;
                }
            }
            _ = sweep.tick() => {
                if let Err(error) = running.datapath.sweep() {
                    log::error!("cannot end idle flows: {error}");
                }
            }
        }
    }
}

/// Passes on what the programs log; for ever silent if they do not.
async fn drain(kernel_log: Option<&mut KernelLog>) -> anyhow::Result<()> {
    match kernel_log {
        Some(kernel_log) => kernel_log.drain().await,
        None => std::future::pending().await,
    }
}

/// Plans anew for the host as it now is.
async fn follow(running: &mut Running) -> anyhow::Result<()> {
    let snapshot = host::snapshot().await.context("cannot read the host's network")?;
    let host_ports = sysctl::ip_local_port_range()?;
    match plan::plan(&running.definitions, &snapshot, host_ports, &running.options.plan) {
        Ok(plan) => change_to(running, plan).await,
        Err(problems) => degrade(running, &problems),
    }
}

async fn change_to(running: &mut Running, plan: Plan) -> anyhow::Result<()> {
    if plan == running.plan {
        // A route or neighbour has changed, which only the flows' own next hops depend on.
        return Ok(running.datapath.next_epoch()?);
    }
    report(&running.plan, &plan);
    // New uplinks are in the maps before packets may go there, and their hooks before that.
    running.plan = plan;
    hooks::reconcile(running).await?;
    Ok(running.datapath.write(&Tables::of(&running.plan))?)
}

/// A bridge or uplink is missing for now: what is there stays, and flows are judged anew.
fn degrade(running: &mut Running, problems: &[Problem]) -> anyhow::Result<()> {
    for problem in problems {
        log::warn!("{problem}");
    }
    Ok(running.datapath.next_epoch()?)
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
