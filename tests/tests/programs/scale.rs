//! A million flows: what they cost in memory, in the sweep, and in look-ups.

use std::time::Duration;

use anyhow::{Context as _, Result};
use vnet_common::{
    address::PortBe,
    flow::Session,
    limits,
    names::{map, program},
};
use vnet_tests::programs::*;

const MILLION: u32 = 1_000_000;

/// How often `vnet run` looks at every slot (`supervise::serve`).
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// As `first`, for an inside endpoint and a remote of its own for each index.
fn session(first: &Session, index: u32) -> Session {
    Session {
        inside_port: PortBe::from_host((index % 60000) as u16 + 1024),
        external_port: PortBe::from_host((index % 60000) as u16 + 1024),
        remote_port: PortBe::from_host((index / 60000) as u16 + 1),
        ..*first
    }
}

/// Nanoseconds that the kernel measured for a known flow's packet, which goes to the stack unchanged
/// because its time to live is over: parsing and one look-up. The mean over many flows.
fn lookup_ns(rig: &mut Rig, flows: u32) -> Result<u64> {
    const SAMPLES: u32 = 4000;
    let mut total = Duration::ZERO;
    for sample in 0..SAMPLES {
        let index = 1 + u64::from(sample) * 7919 % u64::from(flows - 1);
        let (inside, remote) = (index % 60000 + 1024, index / 60000 + 1);
        let packet = udp(&format!("{GUEST}:{inside}"), &format!("{REMOTE}:{remote}")).ttl(1);
        total += rig.measure(program::BRIDGE_INGRESS, "virbr0", &packet.frame(), 1)?;
    }
    Ok(total.as_nanos() as u64 / u64::from(SAMPLES))
}

#[test]
fn million_live_flows_are_swept_with_less_than_five_percent_of_a_core() -> Result<()> {
    if std::env::var_os("VNET_TEST_SCALE").is_none() {
        println!("skipped: a million flows take a while; VNET_TEST_SCALE=1 measures them");
        return Ok(());
    }
    with_large_rig(MILLION, |rig| {
        rig.from_guest(&udp(&format!("{GUEST}:500"), &format!("{REMOTE}:500")))?;
        let first = rig.tables()?.only();
        let (mut filled, mut cost) = (1, Vec::new());
        for flows in [1000, MILLION] {
            rig.enter_sessions(filled, (filled..flows).map(|index| session(&first, index)))?;
            filled = flows;
            cost.push((flows, lookup_ns(rig, flows)?));
        }
        for (flows, ns) in cost {
            println!("{flows} flows: {ns} ns for a known flow's packet, cold");
        }

        rig.set_network(NETWORK, |network| network.timeouts.udp = 3600)?;
        let runs = MILLION.div_ceil(limits::SWEEP_SLICE);
        let of_one = rig.measure(program::SWEEP, "lo", &[0; 64], runs)?;
        let per_slot = of_one.as_secs_f64() / f64::from(limits::SWEEP_SLICE);
        let round = per_slot * f64::from(MILLION);
        let share = round / SWEEP_PERIOD.as_secs_f64();
        println!(
            "sweep: {:.1} ns a slot, {:.1} ms a round, {:.2} % of a core",
            per_slot * 1e9,
            round * 1e3,
            share * 100.0
        );
        assert_eq!(rig.ended()?, 0);
        assert!(share < 0.05, "the sweep takes {:.1} % of a core", share * 100.0);

        let mut total = 0;
        for name in [
            map::SESSIONS,
            map::FREE_SESSIONS,
            map::FLOWS,
            map::FLOWS_IPV6,
            map::MAPPINGS,
            map::EXTERNAL_PORTS,
        ] {
            // The rig has twice as many external ports as `vnet run`.
            let share = if name == map::EXTERNAL_PORTS { 2 } else { 1 };
            let bytes = rig.memory(name)? / share / u64::from(MILLION);
            println!("{name}: {bytes} bytes a flow");
            total += bytes;
        }
        println!("{total} bytes for each flow that there may be");
        assert!(total < 1000, "{total} bytes a flow");

        // Once their time is over, one round ends them all, both legs together.
        rig.set_network(NETWORK, |network| network.timeouts.udp = 0)?;
        rig.measure(program::SWEEP, "lo", &[0; 64], runs).context("the last sweep")?;
        assert_eq!(rig.ended()?, u64::from(MILLION));
        assert_eq!(rig.flow_keys()?, 0);
        Ok(())
    })
}

#[test]
fn short_ways_in_nanoseconds() -> Result<()> {
    const PACKETS: u32 = 4000;
    if std::env::var_os("VNET_TEST_SCALE").is_none() {
        println!(
            "skipped: times mean something on an idle machine; VNET_TEST_SCALE=1 measures them"
        );
        return Ok(());
    }
    with_rig(|rig| {
        let out = udp("192.168.122.10:20000", "192.0.2.10:53");
        let back = udp("192.0.2.10:53", "198.51.100.1:20000").frame();
        rig.shorten(NETWORK, "virbr0", "port0")?;
        rig.look_for_ways(&out)?;
        let out = out.frame();
        let short = [
            (program::PORT_SHORTCUT, "port0", &out),
            (program::UPLINK_INGRESS, "eth0", &back),
            (program::UPLINK_XDP, "eth0", &back),
        ];
        for (name, at, frame) in short {
            let time = rig.measure_with_ways(name, at, frame, PACKETS)?;
            println!("short, {name}: {time:?}");
        }
        let long = rig.measure_with_ways(program::BRIDGE_INGRESS, "virbr0", &out, PACKETS)?;
        println!("long, {}: {long:?}", program::BRIDGE_INGRESS);
        rig.set_live_sessions(|session| session.way_inbound.port = 0)?;
        let long = rig.measure_with_ways(program::UPLINK_INGRESS, "eth0", &back, PACKETS)?;
        println!("long, {}: {long:?}", program::UPLINK_INGRESS);
        let miss = rig.measure_with_ways(program::UPLINK_XDP, "eth0", &back, PACKETS)?;
        println!("passed on, {}: {miss:?}", program::UPLINK_XDP);
        let miss = rig.measure_with_ways(program::PORT_SHORTCUT, "port0", &out, PACKETS)?;
        println!("passed on, {}: {miss:?}", program::PORT_SHORTCUT);
        Ok(())
    })
}
