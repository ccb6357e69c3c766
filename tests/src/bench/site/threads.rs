//! The kernel's threads that receive, and the time that they have had.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::lab::{Node, wait_until};

/// The CPU that forwards.
pub(in crate::bench) const FORWARDS: usize = 0;
/// The CPU that generates and takes.
pub(in crate::bench) const GENERATES: usize = 1;

/// Nanoseconds between polls of an end, in which not more frames come than its ring has room for.
const INTERVAL: &str = "50000";
/// How often it finds nothing before it waits for an interrupt again.
const POLLS_BEFORE_REST: &str = "200";

/// The NAPI thread of an interface.
#[derive(Debug)]
pub(in crate::bench) struct Receiver(i32);

impl Receiver {
    /// Lets an interface receive in a thread of its own on a CPU.
    pub fn of(node: &Node, interface: &str, cpu: usize) -> Result<Self> {
        let before = receivers(interface)?;
        node.run(&["ethtool", "-K", interface, "gro", "on"])?;
        let path = format!("/sys/class/net/{interface}/threaded");
        node.enter(|| fs::write(&path, "1"))?.with_context(|| path.clone())?;
        let mut found = None;
        let what = format!("{interface} has a thread");
        wait_until(&what, Duration::from_secs(5), || {
            let now = receivers(interface).map_err(|error| error.to_string())?;
            found = now.difference(&before).next().copied();
            if found.is_some() { Ok(()) } else { Err(format!("{now:?}")) }
        })?;
        let pid = found.context("no thread")?;
        bind(pid, cpu)?;
        Ok(Self(pid))
    }

    /// Lets an end poll at intervals while frames come, as a NIC that coalesces interrupts: who sends there
    /// would have to wake it for each frame otherwise, which costs more than the forwarding.
    pub fn coalescing(node: &Node, interface: &str, cpu: usize) -> Result<Self> {
        let receiver = Self::of(node, interface, cpu)?;
        for (name, value) in
            [("napi_defer_hard_irqs", POLLS_BEFORE_REST), ("gro_flush_timeout", INTERVAL)]
        {
            let path = format!("/sys/class/net/{interface}/{name}");
            node.enter(|| fs::write(&path, value))?.with_context(|| path.clone())?;
        }
        Ok(receiver)
    }

    /// Nanoseconds that it has run.
    pub fn time(&self) -> Result<u64> {
        let path = format!("/proc/{}/schedstat", self.0);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let first = text.split(' ').next().context("an empty file")?;
        first.parse().with_context(|| format!("{path}: {text}"))
    }

    /// Waits until it has nothing left to do.
    pub fn rest(&self) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(2);
        const ATTEMPTS: usize = 5000;
        let mut last = self.time()?;
        for _ in 0..ATTEMPTS {
            thread::sleep(PAUSE);
            let time = self.time()?;
            // One that only waits for its turn has not run either.
            if time == last && self.sleeps()? {
                return Ok(());
            }
            last = time;
        }
        bail!("the thread {} does not come to rest", self.0)
    }

    /// Whether it waits for something to do: the state in `/proc/PID/stat`, proc(5), behind a name that may
    /// have anything in it.
    fn sleeps(&self) -> Result<bool> {
        let path = format!("/proc/{}/stat", self.0);
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let (_, rest) = text.rsplit_once(") ").with_context(|| format!("{path}: {text}"))?;
        Ok(!rest.starts_with('R'))
    }
}

/// Refuses machines on which one CPU would have to do both.
pub(in crate::bench) fn cpus_suffice() -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    ensure!(cpus >= 2, "one CPU forwards and another one generates: this machine has {cpus}");
    Ok(())
}

/// Binds the calling thread, or another one, to a CPU.
pub(in crate::bench) fn bind(thread: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(thread), &set)?)
}

/// Lets the calling thread run before all that have no such priority (`SCHED_FIFO`, sched(7)).
pub(in crate::bench) fn run_first(priority: i32) -> Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the structure is whole, and lives as long as the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    ensure!(result == 0, "sched_setscheduler: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Others may have such threads, too: the names of interfaces are in theirs.
fn receivers(interface: &str) -> Result<BTreeSet<i32>> {
    let prefix = format!("napi/{interface}-");
    let mut receivers = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        // A process may have ended meanwhile.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            receivers.insert(pid);
        }
    }
    Ok(receivers)
}
