//! New flows: what the first packet of one costs, and how many connections with one request there are in a second.

mod tcp;

use anyhow::Result;

use super::{
    progress,
    rate::Samples,
    report::{Figure, Unit},
    site::{Base, Beyond, Flows, Forwarding, Layout, Load, Way, cpus_suffice},
    turns::Turns,
};

/// New flows of UDP in a round: each of another port of one of two guests, so that each needs an external port.
const NEW: Flows = Flows { count: 1 << 15, beyond: Beyond::Guest };
/// As many in a second, so that the slowest keeps up.
const PACE: u32 = 200_000;
const OF_UDP: [Forwarding; 4] =
    [Forwarding::Floor, Forwarding::Masquerade, Forwarding::LongWays, Forwarding::Vnet];
const OF_TCP: [Forwarding; 4] =
    [Forwarding::Plain, Forwarding::Masquerade, Forwarding::LongWays, Forwarding::Vnet];

pub(super) fn measure(rounds: usize) -> Result<(Vec<Figure>, Vec<String>)> {
    cpus_suffice()?;
    let mut figures = udp(rounds)?;
    figures.extend(of_tcp(rounds)?);
    Ok((figures, Vec::new()))
}

/// What was taken of first packets, of each a time of the forwarding thread in nanoseconds.
struct Opening {
    net: f64,
    gross: f64,
}

fn udp(rounds: usize) -> Result<Vec<Figure>> {
    let mut taken = Turns::new(&OF_UDP);
    for round in 0..rounds {
        progress(&format!("flows, UDP: round {}", round + 1));
        // Each time from empty tables.
        let mut samples = Samples::new(&OF_UDP, Layout::of)?;
        samples.take(Way::Out, |site| site.measure_opening(NEW, Load::paced(NEW.count, PACE)))?;
        for of in OF_UDP {
            for (net, gross) in samples.net(of, Way::Out).into_iter().zip(samples.gross(of)) {
                taken.push(of, Opening { net, gross });
            }
        }
        samples.finish()?;
    }
    let topic = "CPU time of a new flow, net, first packets of UDP";
    let mut figures = taken.compared(topic, Unit::Nanoseconds, |opening| opening.net);
    let topic = "new flows that one CPU has time for, first packets of UDP";
    let per_second = |opening: &Opening| 1e9 / opening.gross;
    figures.extend(taken.compared(topic, Unit::ConnectionsPerSecond, per_second));
    Ok(figures)
}

fn of_tcp(rounds: usize) -> Result<Vec<Figure>> {
    let mut taken = Turns::new(&OF_TCP);
    for round in 0..rounds {
        progress(&format!("flows, TCP: round {}", round + 1));
        for of in OF_TCP {
            let base = Base::with_threads(&Layout::of(of))?;
            taken.push(of, tcp::connect(&base)?);
            base.finish()?;
        }
    }
    let topic = "TCP connections with one request";
    let mut figures = taken.compared(topic, Unit::ConnectionsPerSecond, |taken| taken.per_second);
    let topic = "CPU time of forwarding a TCP connection, gross";
    figures.extend(taken.compared(topic, Unit::Nanoseconds, |taken| taken.nanoseconds));
    Ok(figures)
}
