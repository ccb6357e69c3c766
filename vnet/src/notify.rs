//! Telling systemd how the daemon is, if it wants to know: `sd_notify(3)`.
//!
//! Nothing happens unless `NOTIFY_SOCKET` is set, and nothing here fails: a service manager that does
//! not listen is no reason to stop serving.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Everything is in place; also ends what [`reloading`] began. `status` is one line for `systemctl
/// status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Only the line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The definitions are being read anew; [`ready`] has to follow, whether they were good or not.
pub fn reloading(status: &str) {
    match NotifyState::monotonic_usec_now() {
        // With `Type=notify-reload` systemd compares it with when it asked.
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status(status)]),
        Err(_) => tell(&[NotifyState::Reloading, NotifyState::Status(status)]),
    }
}

/// The end has begun.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// A step of something long has been made: neither the watchdog nor the limit of a start or an end is to
/// strike while there are such steps. Cheap enough for each step.
pub fn progress() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_some_and(|last| last.elapsed() < PROGRESS) {
        return;
    }
    *last = Some(Instant::now());
    tell(&[NotifyState::Watchdog, NotifyState::ExtendTimeoutUsec(STEP_MICROSECONDS)]);
}

/// How often it is told at most.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long one step may take.
const STEP_MICROSECONDS: u32 = 60_000_000;

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot tell systemd: {error}");
    }
}

/// The service manager's watchdog, which ends a daemon that does not answer (`WatchdogSec=`).
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// The watchdog that this process was started with, if any. Must be called inside a tokio
    /// runtime.
    #[must_use]
    pub fn of_service_manager() -> Self {
        Self(sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| {
            // As `sd_watchdog_enabled(3)` recommends: half of what it may take.
            let mut pings = interval((limit / 2).max(Duration::from_millis(1)));
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pings
        }))
    }

    /// Waits until it is time, and says that the daemon lives; for ever without a watchdog. May be
    /// cancelled. Belongs into the loop that is to be watched, and not into a task of its own.
    pub async fn tick(&mut self) {
        match &mut self.0 {
            Some(pings) => drop(pings.tick().await),
            None => std::future::pending().await,
        }
        tell(&[NotifyState::Watchdog]);
    }
}
