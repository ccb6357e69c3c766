//! Bulk TCP with all offloads, by iperf3: how much goes through, and the CPU time of the whole machine for it.

use std::fs;

use anyhow::{Context as _, Result};

use super::{
    progress,
    report::{Figure, Unit},
    site::{Base, Forwarding, Layout, Way, cpus_suffice, number},
    turns::Turns,
};
use crate::lab::{Error, services::IperfServer};

const SERVER: ([u8; 4], u16) = ([203, 0, 113, 1], 5201);
const SECONDS: &str = "1";
const STREAMS: [&str; 2] = ["1", "8"];
const WANTED: [Forwarding; 5] = [
    Forwarding::Plain,
    Forwarding::Masquerade,
    Forwarding::Flowtable,
    Forwarding::LongWays,
    Forwarding::Vnet,
];

/// One transfer.
#[derive(Debug, Clone, Copy)]
struct Transfer {
    bits_per_second: f64,
    /// CPU time of everybody.
    nanoseconds_per_kibibyte: f64,
}

pub(super) fn measure(rounds: usize) -> Result<(Vec<Figure>, Vec<String>)> {
    cpus_suffice()?;
    let (forwardings, notes) = Forwarding::available(&WANTED)?;
    let mut sites = Vec::new();
    for forwarding in &forwardings {
        let base = Base::with_stacks(&Layout::of(*forwarding))?;
        let server = IperfServer::start(&base.outside, SERVER.into())?;
        sites.push((*forwarding, base, server));
    }
    let mut figures = Vec::new();
    for way in Way::BOTH {
        for streams in STREAMS {
            let mut transfers = Turns::new(&forwardings);
            for round in 0..rounds {
                progress(&format!("bulk, {}, {streams} streams: round {}", way.name(), round + 1));
                for (of, base, server) in &sites {
                    transfers.push(*of, transfer(base, server, way, streams)?);
                }
            }
            let plural = if streams == "1" { "" } else { "s" };
            let what = format!("{streams} TCP stream{plural}, {}", way.name());
            let topic = format!("throughput, {what}");
            figures.extend(transfers.compared(
                &topic,
                Unit::BitsPerSecond,
                |transfer: &Transfer| transfer.bits_per_second,
            ));
            let topic = format!("CPU time of the machine, {what}");
            figures.extend(transfers.compared(&topic, Unit::NanosecondsPerKibibyte, |transfer| {
                transfer.nanoseconds_per_kibibyte
            }));
        }
    }
    for (_, base, server) in sites {
        drop(server);
        base.finish()?;
    }
    Ok((figures, notes))
}

fn transfer(base: &Base, server: &IperfServer, way: Way, streams: &str) -> Result<Transfer> {
    let mut arguments = vec!["-t", SECONDS, "-P", streams];
    if way == Way::In {
        arguments.push("-R");
    }
    let before = busy()?;
    let report = attempt(|| Ok(server.measure(base.guest()?, &arguments)?))?;
    let busy = busy()? - before;
    Ok(Transfer {
        bits_per_second: report.bits_per_second,
        nanoseconds_per_kibibyte: number(busy) * 1024.0 / number(report.received),
    })
}

/// The server may still be at the end of the last transfer.
fn attempt<T>(mut work: impl FnMut() -> Result<T, anyhow::Error>) -> Result<T> {
    const ATTEMPTS: usize = 5;
    for _ in 1..ATTEMPTS {
        match work() {
            Err(error) if error.is::<Error>() => {}
            result => return result,
        }
    }
    work()
}

/// Nanoseconds that the CPUs were not idle, but for what a hypervisor took: `/proc/stat`, proc(5).
fn busy() -> Result<u64> {
    const NANOSECONDS_OF_A_TICK: u64 = 10_000_000;
    // user, nice, system, irq, softirq
    const BUSY: [usize; 5] = [1, 2, 3, 6, 7];
    let text = fs::read_to_string("/proc/stat")?;
    let words: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    let mut ticks = 0;
    for place in BUSY {
        ticks += words.get(place).context("a short line in /proc/stat")?.parse::<u64>()?;
    }
    Ok(ticks * NANOSECONDS_OF_A_TICK)
}
