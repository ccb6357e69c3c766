//! What the programs cost: nanoseconds of a run (`BPF_PROG_TEST_RUN`) beside those of the least program that
//! translates and redirects (`vnet-ebpf/src/bin/minimum.rs`), both less those of an empty program.

mod kinds;
mod yardstick;

use std::time::{Duration, Instant};

use anyhow::Result;
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
/// Values of each kind that a round takes.
const TURNS: usize = 10;
/// Calls that a value is the median of, for packets that stay what they are.
const CALLS: usize = 75;
/// As `CALLS`, for packets that one run changes for good.
const SINGLE_CALLS: usize = 100;

/// How long a kind stays as it was prepared.
const PREPARED_FOR: Duration = Duration::from_millis(20);

pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    with_modes_and_room(ROOM, |rig| {
        let mut yardsticks = Yardsticks::load(rig)?;
        let mut kinds = kinds::all(rig)?;
        let mut taken = vec![Vec::new(); kinds.len()];
        for round in 0..rounds {
            progress(&format!("programs: round {}", round + 1));
            for _ in 0..TURNS {
                for (kind, pairs) in kinds.iter_mut().zip(&mut taken) {
                    pairs.push(turn(rig, &mut yardsticks, kind)?);
                }
            }
        }
        let all: Vec<_> = kinds.iter().zip(&*taken).collect();
        figures = Hook::BOTH.into_iter().flat_map(|hook| figures_of(hook, &all)).collect();
        Ok(())
    })?;
    Ok(figures)
}

/// Nanoseconds of one run, and those of the yardstick, both less an empty program's: medians of calls that take
/// turns one by one, so that what slows the machine down slows all of them.
fn turn(rig: &mut Rig, yardsticks: &mut Yardsticks, kind: &mut Kind) -> Result<(f64, f64)> {
    let (calls, runs) = kind.runs();
    let mut times = [const { Vec::new() }; 3];
    let mut prepared: Option<Instant> = None;
    for _ in 0..calls {
        // Ways are good for a second, which may be over before the calls are.
        if prepared.is_none_or(|prepared| prepared.elapsed() > PREPARED_FOR) {
            kind.prepare(rig)?;
            prepared = Some(Instant::now());
        }
        times[0].push(yardsticks.empty(kind.yardstick.hook, runs)?);
        times[1].push(yardsticks.time(kind.yardstick, runs)?);
        times[2].push(time(rig, kind, runs)?);
    }
    let [empty, yardstick, kind] = times.map(|times| median(&times));
    Ok((kind - empty, yardstick - empty))
}

/// Nanoseconds of one run.
fn time(rig: &mut Rig, kind: &mut Kind, runs: u32) -> Result<f64> {
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
    Ok(time)
}

/// Those of one hook: first the yardsticks, then what they are for.
fn figures_of(hook: Hook, kinds: &[(&Kind, &Vec<(f64, f64)>)]) -> Vec<Figure> {
    let topic = format!("nanoseconds of a run, {}", hook.name());
    let of_hook = kinds.iter().filter(|(kind, _)| kind.yardstick.hook == hook);
    let mut figures = Vec::new();
    for yardstick in Yardstick::all().into_iter().filter(|yardstick| yardstick.hook == hook) {
        for is_single in [false, true] {
            let name = yardstick.name(is_single);
            let of_yardstick = of_hook
                .clone()
                .filter(|(kind, _)| kind.yardstick == yardstick && kind.is_single() == is_single);
            let values: Vec<f64> =
                of_yardstick.flat_map(|(_, pairs)| pairs.iter().map(|(_, value)| *value)).collect();
            if !values.is_empty() {
                let reference = (median(&values), "the yardstick");
                figures.push(Figure::new((&*topic, name), Unit::Nanoseconds, values, reference));
            }
        }
    }
    for (kind, pairs) in of_hook {
        let baseline = format!("of {}", kind.yardstick.name(kind.is_single()));
        figures.push(Figure::paired((&*topic, kind.name()), Unit::Nanoseconds, pairs, &baseline));
    }
    figures
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
