//! The `vnet run` that is demonstrated.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};

use crate::lab::{Namespace, Output, Running, wait_until};

/// What `virsh net-dumpxml default` prints after libvirt's installation.
const DEFAULT_DEFINITION: &str = include_str!("default.xml");

const START: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(20);

/// `vnet run` of one instance, which only this process uses. It is in one place for the thread
/// that demonstrates and the one that waits for signals.
#[derive(Debug)]
pub(super) struct Daemon {
    vnet: PathBuf,
    instance: String,
    running: Mutex<Option<Running>>,
}

impl Daemon {
    pub(super) fn new(vnet: &Path) -> Self {
        let instance = format!("demo-{}", process::id());
        Self { vnet: vnet.to_owned(), instance, running: Mutex::default() }
    }

    /// What a user would type to serve `definition`.
    pub(super) fn command_line(&self, definition: &str) -> String {
        format!("vnet run {definition} --instance {}", self.instance)
    }

    /// Serves the default network on a host of the lab; returns when it is ready, with the time
    /// that took.
    pub(super) fn start(&self, host: &Namespace) -> Result<Duration> {
        let mut command = host.command(&self.vnet);
        // No file is left behind whatever happens.
        command.args(["run", "/dev/stdin", "--instance", &self.instance]);
        // SAFETY: the closure only makes a system call; between fork and exec nothing else runs
        // in the child.
        unsafe {
            // If this process is killed, vnet still takes back what it did.
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGTERM)?));
        }
        let started = Instant::now();
        let definition = DEFAULT_DEFINITION.as_bytes().to_vec();
        *self.lock() = Some(Running::start_with_input(host, command, definition)?);
        wait_until("`vnet run` prints `ready`", START, || self.is_ready())??;
        Ok(started.elapsed())
    }

    /// Asks it to end and waits until it has; nothing if it does not run.
    pub(super) fn stop(&self) -> Result<Option<Output>> {
        let running = self.lock().take();
        running
            .map(|mut running| running.terminate(END))
            .transpose()
            .context("vnet does not end; what it left, `vnet detach` takes down")
    }

    /// What another command of vnet says of the instance, on the lab's host.
    pub(super) fn ask(&self, host: &Namespace, verb: &[&str]) -> Result<String> {
        let vnet = self.vnet.to_str().context("the path of vnet is not UTF-8")?;
        let command = [&[vnet], verb, &["--instance", &self.instance]].concat();
        Ok(host.run(&command)?)
    }

    /// What must not be there after its end, wherever it still is.
    pub(super) fn leftovers(&self) -> Vec<PathBuf> {
        ["/run/vnet", "/sys/fs/bpf/vnet", "/var/lib/vnet"]
            .map(|root| Path::new(root).join(&self.instance))
            .into_iter()
            .filter(|path| path.symlink_metadata().is_ok())
            .collect()
    }

    /// `Err` of the outer result: not yet.
    fn is_ready(&self) -> Result<Result<()>, String> {
        let mut running = self.lock();
        let Some(running) = running.as_mut() else { return Ok(Ok(())) };
        if running.stdout().lines().any(|line| line == "ready") {
            return Ok(Ok(()));
        }
        if running.is_running() { Err(running.stderr()) } else { Ok(ended(running)) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(running: &mut Running) -> Result<()> {
    let output = running.wait(END)?;
    let last = output.stderr.lines().next_back().unwrap_or("it says nothing");
    bail!("vnet was never ready, {}: {last}\nAll it said:\n{}", output.status, output.stderr)
}
