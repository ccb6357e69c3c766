//! Benchmarks: each figure beside a baseline of the same run.

mod control;
mod machine;
mod objects;
mod programs;
mod rate;
mod report;

pub use report::{Figure, Report, Unit};

use anyhow::Result;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Benchmark {
    /// Starting, applying and taking down 10, 100 and 1,000 networks with ten guests' ports each
    Control,
    /// Nanoseconds of a run of each program with packets of each kind, beside the least program
    Programs,
    /// CPU time of a forwarded packet of 64 bytes, beside what the kernel does by itself
    Rate,
}

impl Benchmark {
    /// Measures, as often as told; the repetitions of all figures take turns.
    pub fn run(self, vnet: &str, rounds: usize) -> Result<Vec<Figure>> {
        match self {
            Self::Control => control::measure(vnet, rounds),
            Self::Programs => programs::measure(rounds),
            Self::Rate => rate::measure(rounds),
        }
    }
}
