//! The kernel's threads that receive, and the time that they have had.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::lab::{Node, wait_until};

/// The CPU that forwards.
pub(super) const FORWARDS: usize = 0;
/// The CPU that generates and takes.
pub(super) const GENERATES: usize = 1;

/// Nanoseconds between polls of an end, in which not more frames come than its ring has room for.
const INTERVAL: &str = "50000";
/// How often it finds nothing before it waits for an interrupt again.
const POLLS_BEFORE_REST: &str = "200";

/// The NAPI thread of an interface.
#[derive(Debug)]
pub(super) struct Receiver(i32);

impl Receiver {
    /// Lets an interface receive in a thread of its own on a CPU.
    pub fn of(node: &Node, interface: &str, cpu: usize) -> Result<Self> {
        let before = receivers()?;
        node.run(&["ethtool", "-K", interface, "gro", "on"])?;
        let path = format!("/sys/class/net/{interface}/threaded");
        node.enter(|| fs::write(&path, "1"))?.with_context(|| path.clone())?;
        let mut found = None;
        let what = format!("{interface} has a thread");
        wait_until(&what, Duration::from_secs(5), || {
            let now = receivers().map_err(|error| error.to_string())?;
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

    /// The same once it has nothing left to do.
    pub fn time_at_rest(&self) -> Result<u64> {
        const PAUSE: Duration = Duration::from_millis(2);
        const ATTEMPTS: usize = 1000;
        let mut last = self.time()?;
        for _ in 0..ATTEMPTS {
            thread::sleep(PAUSE);
            let time = self.time()?;
            if time == last {
                return Ok(time);
            }
            last = time;
        }
        ensure!(false, "the thread {} does not come to rest", self.0);
        Ok(last)
    }
}

/// Binds the calling thread, or another one, to a CPU.
pub(super) fn bind(thread: i32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(thread), &set)?)
}

fn receivers() -> Result<BTreeSet<i32>> {
    let mut receivers = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        // A process may have ended meanwhile.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with("napi/") {
            receivers.insert(pid);
        }
    }
    Ok(receivers)
}
