//! After the start: follow the host's changes and other definitions, and end idle flows, until asked to
//! stop.

use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::{
    task::yield_now,
    time::{MissedTickBehavior, interval},
};

use super::{
    follow::{Retry, follow, is_needed},
    narrowing,
    neighbourhood::{self, Call},
    obey,
    ports::leases_changed,
    serving, shortcut,
    signals::{Signal, Signals},
    startup::Running,
    watched::{self, Ignored},
};
use crate::{
    control::{Listener, Received},
    datapath::{DatapathError, KernelLog, Sweep},
    host::NetlinkError,
    notify::{self, Watchdog},
    watch_definitions::DefinitionWatch,
};

/// How often every session is looked at, and every hook. New flows look at a few sessions
/// themselves, so that this decides only how soon an idle host's table is tidy.
const ROUND: Duration = Duration::from_secs(5);

/// What is done beside waiting.
struct Serving<'a> {
    running: &'a mut Running,
    retry: Retry,
    sweep: Sweep,
    /// Changed files that are not in force.
    ignored: Ignored,
    /// What the service manager was told last.
    status: String,
}

pub(super) async fn serve(
    running: &mut Running,
    ignored: Ignored,
    mut listener: Listener,
    mut watch: Option<DefinitionWatch>,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watchdog = Watchdog::of_service_manager();
    let mut serving = Serving::begin(running, ignored);
    if serving.ignored.waits_for_host() {
        // What it waits for may have come before changes of the host were listened for.
        serving.apply_changed(&BTreeSet::new()).await;
    }
    loop {
        let running = &mut *serving.running;
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                Signal::ReadAgain => serving.read_again().await,
            },
            received = listener.next() => serving.obey(received).await,
            changed = definitions_changed(watch.as_mut()) => match changed {
                Ok(files) => serving.apply_changed(&files).await,
                Err(error) => {
                    log::error!("changed definitions are not noticed any more: {error}");
                    watch = None;
                }
            },
            change = running.watch.next() => {
                change.context("cannot follow the host's changes")?;
                serving.follow().await;
            }
            call = running.shortcut.neighbourhood.next() => serving.hear(call).await,
            result = leases_changed(&mut running.leases) => {
                result.context("cannot follow the DHCP leases")?;
                serving.follow().await;
            }
            due = running.services.wait() => {
                let tended = serving::tend(running, due).await;
                // The datapath goes on whatever becomes of a service, or of the file that tells of it.
                serving.retry.note(tended);
            }
            () = serving.retry.due() => serving.follow().await,
            result = drain(running.kernel_log.as_mut()) => {
                if let Err(error) = result {
                    log::error!("cannot read the programs' log any more: {error:#}");
                    running.kernel_log = None;
                }
            }
            () = watchdog.tick() => {}
            _ = round.tick() => {
                if is_needed(running).await {
                    serving.follow().await;
                } else if let Err(error) = shortcut::renew_lease(running) {
                    log::error!("packets take the long way: {error:#}");
                } else if serving.sweep.is_done() {
                    serving.sweep = begin_sweep(running);
                }
            }
            // Everything else has its turn between two slices.
            () = yield_now(), if !serving.sweep.is_done() => serving.sweep_slice(),
        }
    }
}

impl<'a> Serving<'a> {
    fn begin(running: &'a mut Running, mut ignored: Ignored) -> Self {
        let files = running.told.definitions.iter();
        ignored.directories.note(files.filter_map(|file| file.path.parent()));
        let status = status(running, &ignored);
        notify::ready(&status);
        Self { running, retry: Retry::default(), sweep: Sweep::default(), ignored, status }
    }

    async fn read_again(&mut self) {
        notify::reloading("reading the definitions again");
        if obey::read_again(self.running).await {
            self.ignored.clear();
        }
        self.retry.note(self.running.tidiness());
        self.sweep = begin_sweep(self.running);
        self.status = status(self.running, &self.ignored);
        notify::ready(&self.status);
    }

    async fn obey(&mut self, received: Received) {
        let answer = obey::obey(self.running, received.order.clone()).await;
        received.answer(&answer).await;
        self.retry.note(self.running.tidiness());
        self.end_change();
    }

    async fn apply_changed(&mut self, files: &BTreeSet<PathBuf>) {
        watched::apply_changed(self.running, files, &mut self.ignored).await;
        self.retry.note(self.running.tidiness());
        self.end_change();
    }

    /// Does what is to be done for short ways.
    async fn hear(&mut self, call: Result<Call, NetlinkError>) {
        let heard = match call {
            Ok(Call::Changed(batch)) => neighbourhood::note(self.running, &batch),
            Ok(Call::Features(change)) => {
                // Listened to again with the next plan.
                let change = change.unwrap_or_else(|error| {
                    log::warn!("{error}");
                    self.running.shortcut.neighbourhood.features.forget();
                    None
                });
                narrowing::note_features(self.running, change)
            }
            Ok(Call::Due) => neighbourhood::tend(self.running).await,
            Err(error) => neighbourhood::lose(self.running).and(Err(error.into())),
        };
        match heard {
            Ok(true) => self.follow().await,
            Ok(false) => {}
            Err(error) => log::error!("cannot follow what bridges know of stations: {error:#}"),
        }
    }

    /// Follows a change of the host, which may be what ignored definitions wait for.
    async fn follow(&mut self) {
        self.retry.note(follow(self.running).await);
        if self.ignored.waits_for_host() {
            watched::apply_changed(self.running, &BTreeSet::new(), &mut self.ignored).await;
        }
        self.end_change();
    }

    /// A sweep follows each change: what may not live on ends without a packet.
    fn end_change(&mut self) {
        if let Err(error) = shortcut::renew_lease(self.running) {
            log::error!("packets take the long way: {error:#}");
        }
        self.sweep = begin_sweep(self.running);
        let status = status(self.running, &self.ignored);
        if status != self.status {
            notify::status(&status);
            self.status = status;
        }
    }

    fn sweep_slice(&mut self) {
        if let Err(error) = self.running.datapath.sweep_slice(&mut self.sweep) {
            self.sweep = unswept(&error);
        } else if self.sweep.is_done()
            && let Err(error) = self.running.datapath.forget_departures()
        {
            log::error!("cannot forget guests that have gone: {error}");
        }
    }
}

/// A line for `systemctl status`.
fn status(running: &Running, ignored: &Ignored) -> String {
    let count = |number: usize, one: &str, more: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {more}"),
    };
    let networks = &running.plan.networks;
    let mut parts = vec![count(networks.len(), "network", "networks")];
    let waiting = networks.iter().filter(|network| network.bridge_ifindex.is_none()).count();
    if waiting > 0 {
        parts.push(format!("{waiting} without a bridge"));
    }
    if ignored.count() > 0 {
        parts.push(count(ignored.count(), "file ignored", "files ignored"));
    }
    parts.join(", ")
}

fn begin_sweep(running: &mut Running) -> Sweep {
    running.datapath.begin_sweep().unwrap_or_else(|error| unswept(&error))
}

/// The next round tries again.
fn unswept(error: &DatapathError) -> Sweep {
    log::error!("cannot end idle flows: {error}");
    Sweep::default()
}

/// Waits for changed definitions; for ever if they are not watched. May be cancelled.
async fn definitions_changed(watch: Option<&mut DefinitionWatch>) -> io::Result<BTreeSet<PathBuf>> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Passes on what the programs log; for ever silent if they do not.
async fn drain(kernel_log: Option<&mut KernelLog>) -> anyhow::Result<()> {
    match kernel_log {
        Some(kernel_log) => kernel_log.drain().await,
        None => std::future::pending().await,
    }
}
