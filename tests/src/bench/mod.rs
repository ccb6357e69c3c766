//! Benchmarks: each figure beside a baseline of the same run.

mod bulk;
mod control;
mod document;
mod flows;
mod latency;
mod machine;
mod objects;
mod plot;
mod programs;
mod rate;
mod report;
mod scale;
mod site;
mod turns;
mod unit;

pub use document::renew;
pub use machine::Machine;
pub use plot::draw;
pub use report::{Figure, Measured, Report, Unit};

use anyhow::Result;
use clap::ValueEnum as _;

/// What can be measured, in the order of a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Benchmark {
    /// Nanoseconds of a run of each program with packets of each kind, beside the least program
    Programs,
    /// CPU time of a forwarded packet of 64 bytes, beside what the kernel does by itself
    Rate,
    /// TCP with all offloads: one stream and eight, both directions
    Bulk,
    /// New flows: first packets of UDP, and TCP connections with one request
    Flows,
    /// CPU time of a packet with up to a million flows, 1,000 networks, 16,384 guests, and ports all but used
    /// up; memory
    Scale,
    /// Starting, applying, changing and taking down up to 1,000 networks with ten guests' ports each
    Control,
    /// Round trips of a small datagram, on a host without other traffic and on a busy one
    Latency,
}

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The program `vnet`.
    pub vnet: &'a str,
    /// How often each figure is taken.
    pub rounds: usize,
    /// Networks at most.
    pub networks: usize,
}

impl Benchmark {
    /// Its name on the command line.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Rate => "rate",
            Self::Bulk => "bulk",
            Self::Flows => "flows",
            Self::Scale => "scale",
            Self::Control => "control",
            Self::Latency => "latency",
        }
    }

    /// How the topics begin that get a picture besides their table.
    const fn drawn(self) -> &'static [&'static str] {
        match self {
            Self::Programs => &["nanoseconds"],
            Self::Rate => &["CPU time of a packet, net"],
            Self::Bulk => &["CPU time of the machine, 8"],
            Self::Flows => &["CPU time of a new flow, net"],
            Self::Scale => &["CPU time of a packet, net", "time of a new flow"],
            Self::Control => &["start", "change of one"],
            Self::Latency => &["round trip, median, beside", "round trip, 99.9 %, beside"],
        }
    }

    /// All of them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Measures, as often as told; the repetitions of figures that are compared take turns.
    pub fn run(self, settings: Settings<'_>) -> Result<Measured> {
        let Settings { vnet, rounds, networks } = settings;
        let (figures, notes) = match self {
            Self::Programs => (programs::measure(rounds)?, Vec::new()),
            Self::Rate => rate::measure(rounds)?,
            Self::Bulk => bulk::measure(rounds)?,
            Self::Flows => flows::measure(rounds)?,
            Self::Scale => scale::measure(rounds, networks)?,
            Self::Control => (control::measure(vnet, rounds, networks)?, Vec::new()),
            Self::Latency => latency::measure(rounds)?,
        };
        let settings = site::Forwarding::settings(&figures);
        Ok(Measured { benchmark: self, settings, figures, notes })
    }
}

/// Says on standard error what is done now.
fn progress(what: &str) {
    eprintln!("vnet-bench: {what}");
}
