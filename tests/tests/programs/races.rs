//! Several CPUs at the same tables: whatever comes first, they agree with each other afterwards.

use std::time::Duration;

use anyhow::{Result, ensure};
use vnet_common::{
    flow::Phase,
    names::program::{BRIDGE_INGRESS, SWEEP, UPLINK_INGRESS},
    network::NETWORK_ENDPOINT_INDEPENDENT,
    tcp::flags::*,
};
use vnet_tests::programs::*;

const TIME: Duration = Duration::from_millis(1500);
const SLOTS: u32 = 256;
const PROGRAMS: [&str; 3] = [BRIDGE_INGRESS, UPLINK_INGRESS, SWEEP];

fn from_guest(racer: &Racer<'_>, frame: &[u8]) -> Result<()> {
    racer.run(BRIDGE_INGRESS, "virbr0", frame).map(drop)
}

fn from_outside(racer: &Racer<'_>, frame: &[u8]) -> Result<()> {
    racer.run(UPLINK_INGRESS, "eth0", frame).map(drop)
}

fn sweep(racer: &Racer<'_>) -> Result<()> {
    racer.run(SWEEP, "lo", &[0; 64]).map(drop)
}

/// Flows end as soon as the sweep sees them, and their ports are free as soon as their slots have rested.
fn without_patience(rig: &mut Rig) -> Result<()> {
    for slot in [NETWORK, OTHER_NETWORK] {
        rig.set_network(slot, |network| {
            let timeouts = &mut network.timeouts;
            (timeouts.udp, timeouts.tcp_transitory, timeouts.tcp_established) = (0, 0, 0);
            timeouts.port_hold_down = 0;
        })?;
    }
    Ok(())
}

/// Mappings, ports, accounts and slots are those of the flows that live; and nothing is left of them once
/// they have ended.
fn assert_consistent(rig: &mut Rig, rounds: &[u64]) -> Result<()> {
    println!("rounds {rounds:?}, {} flows ended", rig.ended()?);
    ensure!(rounds.iter().all(|&count| count > 100), "hardly anything happened: {rounds:?}");
    rig.tables()?.check()?;
    without_patience(rig)?;
    for _ in 0..3 {
        rig.restart_sweep()?;
        rig.sweep_uncounted(SLOTS)?;
        rig.drain()?;
    }
    let tables = rig.tables()?;
    tables.check()?;
    let busy = tables.sessions.values().filter(|one| one.phase != Phase::Free as u32).count();
    assert_eq!((tables.live().count(), busy), (0, 0));
    assert_eq!((tables.flows.len(), tables.mappings.len(), tables.ports.len()), (0, 0, 0));
    assert!(tables.guests.is_empty(), "{:?}", tables.guests);
    assert!(tables.network_flows.iter().all(|&used| used == 0));
    Ok(())
}

#[test]
fn flows_of_one_endpoint_that_two_cpus_open_and_end_share_one_mapping() -> Result<()> {
    let frames: Vec<_> = (1..=32)
        .map(|host| udp("192.168.122.10:20000", &format!("192.0.2.{host}:53")).frame())
        .collect();
    with_large_rig(SLOTS, |rig| {
        without_patience(rig)?;
        let open =
            |racer: &Racer<'_>, round: u64| from_guest(racer, &frames[(round % 32) as usize]);
        let open_and_end = |racer: &Racer<'_>, round: u64| {
            if round.is_multiple_of(7) {
                sweep(racer)?;
            }
            from_guest(racer, &frames[(round * 5 % 32) as usize])
        };
        let rounds = rig.race(TIME, &PROGRAMS, &[&open, &open_and_end])?;
        assert_consistent(rig, &rounds)
    })
}

#[test]
fn port_that_two_cpus_want_for_two_guests_is_given_to_one() -> Result<()> {
    let of_guest = |guest: u8| -> Vec<_> {
        (20000..20016)
            .map(|port| udp(&format!("192.168.122.{guest}:{port}"), "192.0.2.10:53").frame())
            .collect()
    };
    let frames = [of_guest(10), of_guest(11)];
    with_large_rig(SLOTS, |rig| {
        without_patience(rig)?;
        // As few as that, so that searches meet each other and ports are shared.
        rig.set_network(NETWORK, |network| {
            network.ports = vnet_common::port::PortRange { first: 20000, last: 20019 };
        })?;
        let one = |racer: &Racer<'_>, round: u64| {
            if round.is_multiple_of(16) {
                sweep(racer)?;
            }
            from_guest(racer, &frames[0][(round % 16) as usize])
        };
        let other = |racer: &Racer<'_>, round: u64| {
            if round % 16 == 9 {
                sweep(racer)?;
            }
            from_guest(racer, &frames[1][(round % 16) as usize])
        };
        let rounds = rig.race(TIME, &PROGRAMS, &[&one, &other])?;
        assert_consistent(rig, &rounds)
    })
}

#[test]
fn connection_that_two_cpus_close_and_open_again_is_counted_once() -> Result<()> {
    let segment =
        |port: u16, flags| tcp(&format!("192.168.122.10:{port}"), "192.0.2.10:80", flags).frame();
    let answer = |port: u16, flags| tcp("192.0.2.10:80", &format!("198.51.100.1:{port}"), flags);
    let opening: Vec<_> = (20000..20008).map(|port| segment(port, SYN)).collect();
    let closing: Vec<_> = (20000..20008).map(|port| segment(port, FIN | ACK)).collect();
    let answers: Vec<_> = (20000..20008)
        .flat_map(|port| [SYN | ACK, FIN | ACK, RST].map(|flags| answer(port, flags).frame()))
        .collect();
    with_large_rig(SLOTS, |rig| {
        without_patience(rig)?;
        let inside = |racer: &Racer<'_>, round: u64| {
            let place = (round % 8) as usize;
            from_guest(racer, &opening[place])?;
            from_guest(racer, &closing[place])
        };
        let outside = |racer: &Racer<'_>, round: u64| {
            if round.is_multiple_of(3) {
                sweep(racer)?;
            }
            from_guest(racer, &opening[(round * 3 % 8) as usize])?;
            from_outside(racer, &answers[(round % 24) as usize])
        };
        let rounds = rig.race(TIME, &PROGRAMS, &[&inside, &outside])?;
        assert_consistent(rig, &rounds)
    })
}

#[test]
fn strangers_and_the_guests_answers_on_two_cpus_are_counted_once() -> Result<()> {
    let strangers: Vec<_> = (1..=16)
        .map(|host| udp(&format!("198.18.0.{host}:7"), "198.51.100.1:20000").frame())
        .collect();
    let answers: Vec<_> = (1..=16)
        .map(|host| udp("192.168.122.10:20000", &format!("198.18.0.{host}:7")).frame())
        .collect();
    with_large_rig(SLOTS, |rig| {
        without_patience(rig)?;
        rig.set_network(NETWORK, |network| {
            network.flags |= NETWORK_ENDPOINT_INDEPENDENT;
            network.flows_per_guest = 12;
        })?;
        let inside = |racer: &Racer<'_>, round: u64| {
            if round.is_multiple_of(11) {
                sweep(racer)?;
            }
            from_guest(racer, &answers[(round % 16) as usize])
        };
        let outside = |racer: &Racer<'_>, round: u64| {
            if round.is_multiple_of(13) {
                sweep(racer)?;
            }
            from_outside(racer, &strangers[(round * 7 % 16) as usize])
        };
        let rounds = rig.race(TIME, &PROGRAMS, &[&inside, &outside])?;
        assert_consistent(rig, &rounds)
    })
}
