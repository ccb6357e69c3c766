//! Programs that run on several CPUs at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::programs::{SchedClassifier, TestRun as _};
use aya::{Ebpf, TestRunOptions};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::outcome::Verdict;
use super::rig::Rig;
use super::run;

/// What one of the threads runs packets through.
pub struct Racer<'r> {
    ebpf: &'r Ebpf,
    rig: &'r Rig,
}

impl Racer<'_> {
    /// A frame that comes in at an interface.
    pub fn run(&self, program: &str, interface: &str, frame: &[u8]) -> Result<Verdict> {
        let context = run::context_at(self.rig.ifindex(interface)?);
        let program = self.ebpf.program(program).with_context(|| format!("no {program}"))?;
        let program: &SchedClassifier = program.try_into()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?;
        Ok(Verdict::from_action(result.return_value))
    }
}

/// What a thread does over and over, with the number of the round.
pub type Work<'w> = &'w (dyn Fn(&Racer<'_>, u64) -> Result<()> + Sync);

impl Rig {
    /// Does several things over and over for some time, each on a CPU of its own where there are as many;
    /// the rounds of each.
    pub fn race(
        &mut self,
        time: Duration,
        programs: &[&str],
        work: &[Work<'_>],
    ) -> Result<Vec<u64>> {
        for program in programs {
            self.program(program)?;
        }
        let racer = Racer { ebpf: self.ebpf(), rig: self };
        let cpus = thread::available_parallelism()?.get();
        let started = Instant::now();
        let is_over = AtomicBool::new(false);
        let rounds: Vec<AtomicU64> = work.iter().map(|_| AtomicU64::new(0)).collect();
        let run = |index: usize| -> Result<()> {
            let mut cpu = CpuSet::new();
            cpu.set(index % cpus)?;
            // In a container the first CPUs may be others'.
            let _ = sched_setaffinity(Pid::from_raw(0), &cpu);
            while started.elapsed() < time && !is_over.load(Ordering::Relaxed) {
                let round = rounds[index].fetch_add(1, Ordering::Relaxed);
                if let Err(error) = work[index](&racer, round) {
                    is_over.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..work.len()).map(|index| scope.spawn(move || run(index))).collect();
            for thread in threads {
                match thread.join() {
                    Ok(done) => done?,
                    Err(_) => bail!("a thread panicked"),
                }
            }
            anyhow::Ok(())
        })?;
        Ok(rounds.into_iter().map(AtomicU64::into_inner).collect())
    }
}
