//! Following the host: what has changed is planned anew and put in place.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep_until};

use super::{bridging, change::change_to, hooks, ports, serving, shortcut, startup::Running};
use crate::{
    host::{self, sysctl},
    plan::{self, Planned},
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
    // Until all of it is done, whatever else ends well meanwhile.
    running.is_untidy = true;
    let mut snapshot = host::snapshot().await.context("cannot read the host's network")?;
    let made_again = bridging::make_again(running, &mut snapshot).await;
    let host_ports = sysctl::HostPorts::read()?;
    let options = running.plan_options();
    let Planned { mut plan, problems, warnings } =
        plan::plan(&running.definitions, &snapshot, host_ports, &options);
    let mut seen = ports::seen_leases(&running.leases, &plan);
    seen.learned = running.datapath.learned_macs()?;
    plan.add_ports(&running.definitions, &snapshot, &seen);
    if warnings != running.warnings {
        for warning in warnings.iter().filter(|warning| !running.warnings.contains(warning)) {
            log::warn!("{warning}");
        }
        running.warnings = warnings;
    }
    if problems != running.problems {
        for problem in problems.iter().filter(|problem| !running.problems.contains(problem)) {
            log::warn!("{problem}");
        }
        running.problems = problems;
    }
    let changed = change_to(running, plan, None, &snapshot).await;
    // A bridge that was made anew needs a new dnsmasq.
    let served = serving::serve_guests(running).await;
    let failures = changed?;
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    made_again.and(served)?;
    running.is_untidy = false;
    Ok(())
}

/// Whether something has changed that the kernel sends no notice of.
pub(super) async fn is_needed(running: &mut Running) -> bool {
    // An error shows when it is followed.
    sysctl::HostPorts::read().ok().as_ref() != Some(&running.plan.host_ports)
        || !running.leaving.is_empty()
        || ports::any_is_new(running)
        || hooks::find_lost(running).await
        || shortcut::is_changed(running).await
}
