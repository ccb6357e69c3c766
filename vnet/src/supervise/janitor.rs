//! The janitor: a small process that takes a half-finished start back when the daemon dies in it.
//!
//! The daemon takes its own changes back when it fails or is asked to stop. Against SIGKILL only
//! another process helps. It waits for the end of a pipe that the daemon holds, and is sent away
//! once everything is in place, because from then on the datapath outlives the daemon.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::Context as _;

use crate::instance::{Lock, Name, journal};

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
pub async fn keep_watch(instance: &Name) -> Vec<String> {
    let mut said = Vec::new();
    if io::stdin().read_to_end(&mut said).is_ok() && said == DISMISSED {
        return Vec::new();
    }
    // Whoever has the lock by now is a new start, which takes the leftovers down itself.
    match Lock::take(instance) {
        Ok(_lock) => journal::undo_all(instance).await,
        Err(_) => Vec::new(),
    }
}
