//! The signals that the daemon answers to.

use anyhow::Context as _;
use tokio::signal::unix::{self, SignalKind};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// The end: SIGINT or SIGTERM.
    Stop,
    /// To read the definitions again: SIGHUP.
    ReadAgain,
}

pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen to signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// The next one. May be cancelled.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::ReadAgain,
        }
    }

    /// Waits until the end is asked for, while there is nothing to read again. May be cancelled.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Signal::Stop {
            log::warn!("SIGHUP ignored: the definitions are being applied already");
        }
    }
}
