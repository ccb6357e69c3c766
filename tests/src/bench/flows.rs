//! New flows: what the first packet of one costs, and how many connections with one request there are in a second.

mod tcp;

use anyhow::Result;

use super::{
    progress,
    rate::{Samples, compared},
    report::{Figure, Unit},
    site::{Base, Beyond, Flows, Forwarding, Layout, Load, Way, cpus_suffice},
};

/// New flows of UDP in a round: each of another port of one of two guests, so that each needs an external port.
const NEW: Flows = Flows { count: 1 << 15, beyond: Beyond::Guest };
/// As many in a second, so that the slowest keeps up.
const PACE: u32 = 200_000;
const OF_UDP: [Forwarding; 4] =
    [Forwarding::Floor, Forwarding::Masquerade, Forwarding::Vnet, Forwarding::ShortWays];
const OF_TCP: [Forwarding; 4] =
    [Forwarding::Plain, Forwarding::Masquerade, Forwarding::Vnet, Forwarding::ShortWays];

pub(super) fn measure(rounds: usize) -> Result<(Vec<Figure>, Vec<String>)> {
    cpus_suffice()?;
    let mut figures = udp(rounds)?;
    figures.extend(of_tcp(rounds)?);
    Ok((figures, Vec::new()))
}

fn udp(rounds: usize) -> Result<Vec<Figure>> {
    let mut net = vec![Vec::new(); OF_UDP.len()];
    let mut per_second = net.clone();
    for round in 0..rounds {
        progress(&format!("flows, UDP: round {}", round + 1));
        // Each time from empty tables.
        let mut samples = Samples::new(&OF_UDP, Layout::of)?;
        samples.take(Way::Out, |site| site.measure_opening(NEW, Load::paced(NEW.count, PACE)))?;
        for (place, of) in OF_UDP.into_iter().enumerate() {
            net[place].extend(samples.net(of, Way::Out));
            per_second[place].extend(samples.gross(of).into_iter().map(|gross| 1e9 / gross));
        }
        samples.finish()?;
    }
    let values = |of: &[Vec<f64>], forwarding| -> Vec<f64> {
        let place = OF_UDP.iter().position(|other| *other == forwarding);
        place.map_or_else(Vec::new, |place| of[place].clone())
    };
    let all = &OF_UDP[1..];
    let mut figures = compared(
        "CPU time of a new flow, net, first packets of UDP",
        Unit::Nanoseconds,
        all,
        |of| values(&net, of),
    );
    figures.extend(compared(
        "new flows that one CPU has time for, first packets of UDP",
        Unit::ConnectionsPerSecond,
        all,
        |of| values(&per_second, of),
    ));
    Ok(figures)
}

fn of_tcp(rounds: usize) -> Result<Vec<Figure>> {
    let mut taken = vec![Vec::new(); OF_TCP.len()];
    for round in 0..rounds {
        progress(&format!("flows, TCP: round {}", round + 1));
        for (of, taken) in OF_TCP.into_iter().zip(&mut taken) {
            let base = Base::with_threads(&Layout::of(of))?;
            taken.push(tcp::connect(&base)?);
            base.finish()?;
        }
    }
    let values = |forwarding, value: fn(&tcp::Connections) -> f64| -> Vec<f64> {
        let place = OF_TCP.iter().position(|other| *other == forwarding);
        place.map_or_else(Vec::new, |place| taken[place].iter().map(value).collect())
    };
    let mut figures =
        compared("TCP connections with one request", Unit::ConnectionsPerSecond, &OF_TCP, |of| {
            values(of, |taken| taken.per_second)
        });
    figures.extend(compared(
        "CPU time of forwarding a TCP connection, gross",
        Unit::Nanoseconds,
        &OF_TCP,
        |of| values(of, |taken| taken.nanoseconds),
    ));
    Ok(figures)
}
