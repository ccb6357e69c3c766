//! Small packets through a host: what forwarding one costs, and how many go through.
//!
//! A host's port and uplink are veth pairs whose NAPI threads are bound to one CPU; the generator, and what
//! takes the packets at the other end, have another one. The time of a packet is what the kernel's accounting
//! says of the thread that has forwarded it, gross, and net of what the same thread needs where the packet is
//! dropped by the first program that sees it.

mod site;
mod threads;
mod wire;

use anyhow::{Result, ensure};

use super::report::{Figure, Unit, median};
use site::{Forwarding, Site};

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Out, Self::In];

    const fn name(self) -> &'static str {
        match self {
            Self::Out => "guest to outside",
            Self::In => "outside to guest",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    /// Nanoseconds of the forwarding thread for each packet that it got.
    gross: f64,
    /// Packets that came out in a second.
    rate: f64,
}

pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus >= 2, "one CPU forwards and another one generates: this machine has {cpus}");
    let mut sites = Vec::new();
    for forwarding in Forwarding::ALL {
        sites.push(Site::new(forwarding)?);
    }
    let mut figures = Vec::new();
    for way in Way::BOTH {
        let mut samples = vec![Vec::new(); sites.len()];
        for _ in 0..rounds {
            for (site, samples) in sites.iter_mut().zip(&mut samples) {
                samples.push(site.measure(way)?);
            }
        }
        figures.extend(figures_of(way, &samples));
    }
    sites.into_iter().try_for_each(Site::finish)?;
    Ok(figures)
}

fn figures_of(way: Way, samples: &[Vec<Sample>]) -> Vec<Figure> {
    let of = |forwarding: Forwarding| -> &[Sample] {
        let place = Forwarding::ALL.iter().position(|other| *other == forwarding);
        place.and_then(|place| samples.get(place)).map_or(&[], Vec::as_slice)
    };
    let baseline = Forwarding::Masquerade;
    let mut figures = Vec::new();
    let mut add =
        |what: &str, unit, value: &dyn Fn(Forwarding) -> Vec<f64>, kinds: &[Forwarding]| {
            let reference = median(&value(baseline));
            for forwarding in kinds {
                let values = value(*forwarding);
                figures.push(Figure {
                    name: format!("{what}, {}, {}", way.name(), forwarding.name()),
                    unit,
                    ratio: median(&values) / reference,
                    values,
                    baseline: format!("of {}", baseline.name()),
                });
            }
        };
    let gross = |forwarding| of(forwarding).iter().map(|sample| sample.gross).collect();
    add("CPU gross", Unit::Nanoseconds, &gross, &Forwarding::ALL);
    // Each beside the floor of its own round.
    let net = |forwarding: Forwarding| {
        let floor = of(forwarding.floor(way));
        of(forwarding).iter().zip(floor).map(|(sample, floor)| sample.gross - floor.gross).collect()
    };
    add("CPU net", Unit::Nanoseconds, &net, &Forwarding::FORWARDS);
    let rate = |forwarding| of(forwarding).iter().map(|sample| sample.rate).collect();
    add("rate", Unit::PacketsPerSecond, &rate, &Forwarding::FORWARDS);
    figures
}
