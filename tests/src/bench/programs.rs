//! What the programs cost: nanoseconds of a run (`BPF_PROG_TEST_RUN`) beside those of the least program that
//! translates and redirects (`vnet-ebpf/src/bin/minimum.rs`), both less those of an empty program.

mod kinds;
mod yardstick;

use anyhow::{Context as _, Result};
use aya::{
    TestRunOptions,
    programs::{SchedClassifier, TestRun},
};

use super::report::{Figure, Unit, median};
use crate::programs::{Rig, context_at, modes::with_modes_and_room};
use kinds::{Kind, Next};
use yardstick::{Yardstick, Yardsticks};

/// Slots for flows: enough for every new one.
const ROOM: u32 = 1 << 17;
/// Runs that one call makes on one packet: its time to live is counted down by each.
const RUNS: u32 = 200;
/// Calls in a round for packets that stay what they are.
const CALLS: usize = 50;
/// Calls in a round for packets that one run changes for good.
const SINGLE_CALLS: usize = 1000;

pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    with_modes_and_room(ROOM, |rig| {
        let yardsticks = Yardsticks::load(rig)?;
        let mut kinds = kinds::all(rig)?;
        let mut times = vec![Vec::new(); kinds.len()];
        let mut baselines = vec![Vec::new(); Yardstick::ALL.len()];
        for _ in 0..rounds {
            for (yardstick, times) in Yardstick::ALL.into_iter().zip(&mut baselines) {
                times.push(yardsticks.time(yardstick, CALLS, RUNS)?);
            }
            let empty = [yardsticks.empty(CALLS, RUNS)?, yardsticks.empty(SINGLE_CALLS, 1)?];
            for (kind, times) in kinds.iter_mut().zip(&mut times) {
                let time = time(rig, kind)?;
                times.push(time - if kind.is_single() { empty[1] } else { empty[0] });
            }
        }
        for (yardstick, values) in Yardstick::ALL.into_iter().zip(&baselines) {
            figures.push(Figure {
                name: yardstick.name().to_owned(),
                unit: Unit::Nanoseconds,
                values: values.clone(),
                baseline: "the yardstick".to_owned(),
                ratio: 1.0,
            });
        }
        for (kind, values) in kinds.iter().zip(times) {
            let place = Yardstick::ALL.iter().position(|yardstick| *yardstick == kind.yardstick);
            let baseline = median(&baselines[place.context("no such yardstick")?]);
            figures.push(Figure {
                name: kind.name.clone(),
                unit: Unit::Nanoseconds,
                ratio: median(&values) / baseline,
                values,
                baseline: format!("of {}", kind.yardstick.name()),
            });
        }
        Ok(())
    })?;
    Ok(figures)
}

/// Nanoseconds of one run, the median of the calls of a round.
fn time(rig: &mut Rig, kind: &mut Kind) -> Result<f64> {
    let context = context_at(rig.ifindex(kind.interface)?);
    let (calls, runs) = if kind.is_single() { (SINGLE_CALLS, 1) } else { (CALLS, RUNS) };
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let frame = match &mut kind.next {
            Next::Same(frame) => frame.clone(),
            Next::Other(next) => next(),
        };
        let program = rig.program(kind.program)?;
        let (action, time) = run(program, &frame, Some(&context), runs)?;
        kind.check(action)?;
        times.push(time);
    }
    Ok(median(&times))
}

/// Runs a program so many times on a packet: what it returned, and nanoseconds of one run.
fn run(
    program: &SchedClassifier,
    frame: &[u8],
    context: Option<&[u8]>,
    repeat: u32,
) -> Result<(u32, f64)> {
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: context,
        repeat,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options)?;
    Ok((result.return_value, result.duration.as_secs_f64() * 1e9))
}
