//! After the start: follow the host's changes and end idle flows, until asked to stop.

use std::time::Duration;

use anyhow::Context as _;
use tokio::{
    task::yield_now,
    time::{MissedTickBehavior, interval},
};

use super::{
    follow::{Retry, follow, is_needed},
    obey,
    ports::leases_changed,
    signals::{Signal, Signals},
    startup::Running,
};
use crate::{
    control::Listener,
    datapath::{DatapathError, KernelLog, Sweep},
};

/// How often every session is looked at, and every hook. New flows look at a few sessions
/// themselves, so that this decides only how soon an idle host's table is tidy.
const ROUND: Duration = Duration::from_secs(5);

pub(super) async fn serve(
    running: &mut Running,
    mut listener: Listener,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry = Retry::default();
    let mut sweep = Sweep::default();
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => return Ok(()),
                Signal::ReadAgain => {
                    obey::read_again(running).await;
                    retry.note(running.tidiness());
                    sweep = begin_sweep(running);
                }
            },
            received = listener.next() => {
                let answer = obey::obey(running, received.order.clone()).await;
                received.answer(&answer).await;
                retry.note(running.tidiness());
                sweep = begin_sweep(running);
            }
            change = running.watch.next() => {
                change.context("cannot follow the host's changes")?;
                sweep = follow_and_sweep(running, &mut retry).await;
            }
            result = leases_changed(running.leases.as_mut()) => {
                result.context("cannot follow the DHCP leases")?;
                sweep = follow_and_sweep(running, &mut retry).await;
            }
            () = retry.due() => sweep = follow_and_sweep(running, &mut retry).await,
            result = drain(running.kernel_log.as_mut()) => {
                if let Err(error) = result {
                    log::error!("cannot read the programs' log any more: {error:#}");
                    running.kernel_log = None;
                }
            }
            _ = round.tick() => {
                if is_needed(running).await {
                    sweep = follow_and_sweep(running, &mut retry).await;
                } else if sweep.is_done() {
                    sweep = begin_sweep(running);
                }
            }
            // Everything else has its turn between two slices.
            () = yield_now(), if !sweep.is_done() => {
                if let Err(error) = running.datapath.sweep_slice(&mut sweep) {
                    sweep = unswept(&error);
                } else if sweep.is_done()
                    && let Err(error) = running.datapath.forget_departures()
                {
                    log::error!("cannot forget guests that have gone: {error}");
                }
            }
        }
    }
}

/// A sweep follows each change: what may not live on ends without a packet.
async fn follow_and_sweep(running: &mut Running, retry: &mut Retry) -> Sweep {
    retry.note(follow(running).await);
    begin_sweep(running)
}

fn begin_sweep(running: &mut Running) -> Sweep {
    running.datapath.begin_sweep().unwrap_or_else(|error| unswept(&error))
}

/// The next round tries again.
fn unswept(error: &DatapathError) -> Sweep {
    log::error!("cannot end idle flows: {error}");
    Sweep::default()
}

/// Passes on what the programs log; for ever silent if they do not.
async fn drain(kernel_log: Option<&mut KernelLog>) -> anyhow::Result<()> {
    match kernel_log {
        Some(kernel_log) => kernel_log.drain().await,
        None => std::future::pending().await,
    }
}
