//! The janitor: a small process that takes a half-finished start back when the daemon dies in it.
//!
//! The daemon takes its own changes back when it fails or is asked to stop. Against SIGKILL only
//! another process helps. It waits for the end of a pipe that the daemon holds, and is sent away
//! once everything is in place, because from then on the datapath outlives the daemon.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::signals::Signals;
use crate::instance::{self, Lock, LockError, Name, Outcome, ProcessId, Whose};

/// How long the kernel may take to let go of a dead daemon's lock.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(2);

const DISMISSED: &[u8] = b"dismissed";

/// The hidden subcommand that runs it.
pub const SUBCOMMAND: &str = "janitor";

pub(super) struct Janitor {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Janitor {
    pub(super) fn start(instance: &Name) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut command = Command::new(program);
        command
            .args([SUBCOMMAND, "--instance", &instance.to_string()])
            .args(["--daemon", &ProcessId::current().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A signal to the daemon's process group is the daemon's alone.
            .process_group(0);
        let mut child = command.spawn().context("cannot start the janitor process")?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Sends it away; whatever is in place is now somebody else's to take down.
    pub(super) fn dismiss(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(DISMISSED);
            drop(pipe);
            let _ = self.child.wait();
        }
    }
}

/// The janitor's process: waits for its dismissal, or takes down what the dead daemon left.
pub async fn keep_watch(instance: &Name, daemon: ProcessId) -> anyhow::Result<Outcome> {
    // Whoever ends the daemon and all of its children wants to leave nothing behind.
    let _signals = Signals::listen()?;
    let mut said = Vec::new();
    if io::stdin().read_to_end(&mut said).is_ok() && said == DISMISSED {
        return Ok(Outcome::default());
    }
    let Some(lock) = inherit(instance, daemon).await? else { return Ok(Outcome::default()) };
    let outcome = instance::undo(&lock, Whose::Process(daemon)).await;
    lock.release();
    Ok(outcome)
}

/// The lock of the dead daemon, whose files the kernel closes one after the other. `None` if it is
/// another process's by now: a new start, which takes the leftovers down itself.
async fn inherit(instance: &Name, daemon: ProcessId) -> Result<Option<Lock>, LockError> {
    let deadline = Instant::now() + LOCK_DEADLINE;
    loop {
        match Lock::take(instance) {
            Ok(lock) => return Ok(Some(lock)),
            Err(LockError::Running { holder, .. })
                if holder.is_empty() || holder == daemon.number.to_string() =>
            {
                if Instant::now() >= deadline {
                    return Ok(None);
                }
                sleep(LOCK_RETRY).await;
            }
            Err(LockError::Running { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
