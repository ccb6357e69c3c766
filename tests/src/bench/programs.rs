//! What the programs cost: nanoseconds of a run (`BPF_PROG_TEST_RUN`) beside those of the least program that
//! translates and redirects (`vnet-ebpf/src/bin/minimum.rs`), both less those of an empty program.

mod kinds;
mod yardstick;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::{TestRunOptions, TestRunResult, programs::TestRun};

use super::{
    progress,
    report::{Figure, Unit, median},
};
use crate::programs::{Rig, context_at, modes::with_modes_and_room};
use kinds::{Kind, Next};
use yardstick::{Hook, Yardstick, Yardsticks};

/// Slots for flows: enough for every new one.
const ROOM: u32 = 1 << 17;
/// Runs that one call makes on one packet: its time to live is counted down by each.
const RUNS: u32 = 200;
/// Calls in a round for packets that stay what they are.
const CALLS: usize = 50;
/// As `CALLS`, of XDP: the kernel waits for a grace period of RCU in each (`bpf_prog_change_xdp`).
const XDP_CALLS: usize = 10;
/// Calls in a round for packets that one run changes for good.
const SINGLE_CALLS: usize = 1000;

/// How long a kind stays as it was prepared.
const PREPARED_FOR: Duration = Duration::from_millis(20);

pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    with_modes_and_room(ROOM, |rig| {
        let mut yardsticks = Yardsticks::load(rig)?;
        let mut kinds = kinds::all(rig)?;
        let all = Yardstick::all();
        let mut times = vec![Vec::new(); kinds.len()];
        let mut baselines = vec![Vec::new(); all.len()];
        for round in 0..rounds {
            progress(&format!("programs: round {}", round + 1));
            for (yardstick, times) in all.iter().zip(&mut baselines) {
                times.push(yardsticks.time(*yardstick, yardstick.hook.calls(), RUNS)?);
            }
            for (kind, times) in kinds.iter_mut().zip(&mut times) {
                let (calls, runs) = kind.runs();
                let empty = yardsticks.empty(kind.yardstick.hook, calls, runs)?;
                times.push(time(rig, kind)? - empty);
            }
        }
        for hook in Hook::BOTH {
            let topic = format!("nanoseconds of a run, {}", hook.name());
            for (yardstick, values) in all.iter().zip(&baselines).filter(|(y, _)| y.hook == hook) {
                let reference = (median(values), "the yardstick");
                let name = (&*topic, yardstick.name());
                figures.push(Figure::new(name, Unit::Nanoseconds, values.clone(), reference));
            }
            for (kind, values) in kinds.iter().zip(&times).filter(|(k, _)| k.yardstick.hook == hook)
            {
                let place = all.iter().position(|yardstick| *yardstick == kind.yardstick);
                let baseline = median(&baselines[place.context("no such yardstick")?]);
                let reference = (baseline, &*format!("of {}", kind.yardstick.name()));
                let name = (&*topic, kind.name());
                figures.push(Figure::new(name, Unit::Nanoseconds, values.clone(), reference));
            }
        }
        Ok(())
    })?;
    Ok(figures)
}

/// Nanoseconds of one run, the median of the calls of a round.
fn time(rig: &mut Rig, kind: &mut Kind) -> Result<f64> {
    let (calls, runs) = kind.runs();
    let mut times = Vec::with_capacity(calls);
    let mut prepared: Option<Instant> = None;
    for _ in 0..calls {
        // Ways are good for a second, which may be over before the calls are.
        if prepared.is_none_or(|prepared| prepared.elapsed() > PREPARED_FOR) {
            kind.prepare(rig)?;
            prepared = Some(Instant::now());
        }
        let frame = match &mut kind.next {
            Next::Same(frame) => frame.clone(),
            Next::Other(next) => next(),
        };
        let (action, time) = match kind.yardstick.hook {
            Hook::Tc => {
                let context = context_at(rig.ifindex(kind.interface)?);
                run(rig.program(kind.program)?, &frame, Some(&context), runs)?
            }
            Hook::Xdp => {
                let interface = kind.is_told.then_some(kind.interface);
                rig.run_xdp(kind.program, interface, &frame, runs)?
            }
        };
        kind.check(action)?;
        times.push(time);
    }
    Ok(median(&times))
}

/// Runs a program so many times on a packet: what it returned, and nanoseconds of one run.
fn run<P>(program: &P, frame: &[u8], context: Option<&[u8]>, repeat: u32) -> Result<(u32, f64)>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: context,
        repeat,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options)?;
    Ok((result.return_value, result.duration.as_secs_f64() * 1e9))
}
