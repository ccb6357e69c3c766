//! New flows where most external ports of the only address are taken: by `BPF_PROG_TEST_RUN`, because what is
//! left is too little for a rate.

use anyhow::{Result, ensure};
use aya::{TestRunOptions, programs::TestRun as _};
use vnet_common::{names::program, port::PortRange};

use crate::{
    bench::{
        progress,
        report::{Figure, Unit, median},
    },
    programs::{NETWORK, Rig, context_at, modes::with_modes_and_room, udp},
};

const ROOM: u32 = 1 << 17;
/// In percent; the first is the baseline.
const LEVELS: [u32; 4] = [10, 50, 90, 99];
/// New flows that are measured at each level.
const MEASURED: u32 = 200;
const EPHEMERAL: PortRange = PortRange { first: 32768, last: 60999 };
/// `TC_ACT_REDIRECT`
const REDIRECT: u32 = 7;
/// An hour: nothing ends meanwhile.
const IDLE: u32 = 3600;

pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    let mut times = vec![Vec::new(); LEVELS.len()];
    for round in 0..rounds {
        progress(&format!("scale, ports in use: round {}", round + 1));
        with_modes_and_room(ROOM, |rig| {
            rig.set_network(NETWORK, |network| network.timeouts.udp = IDLE)?;
            fill_and_measure(rig, &mut times)
        })?;
    }
    let reference = median(&times[0]);
    let baseline = format!("at {} %", LEVELS[0]);
    Ok(LEVELS
        .into_iter()
        .zip(times)
        .map(|(level, values)| {
            let name = ("time of a new flow whose port is taken, by external ports in use", "vnet");
            let figure = Figure::new(name, Unit::Nanoseconds, values, (reference, &baseline));
            figure.at(f64::from(level), "% of ports in use")
        })
        .collect())
}

fn fill_and_measure(rig: &mut Rig, times: &mut [Vec<f64>]) -> Result<()> {
    let all = PortRange::MASQUERADE_DEFAULT;
    // Every other one first, so that the free ones are not all in a row.
    let ports =
        (all.first..=all.last).filter(|port| !(EPHEMERAL.first..=EPHEMERAL.last).contains(port));
    let ports: Vec<u16> = ports.collect();
    let mut order = (0..ports.len()).map(|place| ports[place * STRIDE % ports.len()]);
    ensure!(!ports.len().is_multiple_of(STRIDE), "some ports would come twice");
    let mut used = 0;
    let mut asked: Vec<u16> = Vec::new();
    for (level, times) in LEVELS.into_iter().zip(times) {
        let wanted = ports.len() as u32 * level / 100;
        while used < wanted {
            let Some(port) = order.next() else { break };
            // What was asked for by the other guest may have got this one.
            open(rig, "192.168.122.11", port)?;
            asked.push(port);
            used += 1;
        }
        let mut of_level = Vec::new();
        let first = asked.len().saturating_sub(MEASURED as usize);
        for port in &asked[first..] {
            of_level.push(open(rig, "192.168.122.10", *port)?);
            used += 1;
        }
        times.push(median(&of_level));
    }
    Ok(())
}

/// Coprime to how many ports there are.
const STRIDE: usize = 7919;

/// Nanoseconds.
fn open(rig: &mut Rig, guest: &str, port: u16) -> Result<f64> {
    let frame = udp(&format!("{guest}:{port}"), "192.0.2.11:53").frame();
    let context = context_at(rig.ifindex("virbr0")?);
    let result = rig.program(program::BRIDGE_INGRESS)?.test_run(TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        repeat: 1,
        ..TestRunOptions::default()
    })?;
    ensure!(result.return_value == REDIRECT, "{guest}:{port}: {}", result.return_value);
    Ok(result.duration.as_secs_f64() * 1e9)
}
