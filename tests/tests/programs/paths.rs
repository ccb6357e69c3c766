//! Packets that go on as they are take the way of those before them, as long as nothing has changed.

use anyhow::Result;
use vnet_common::{flow::Direction::*, limits, names::program, tcp::flags::*};
use vnet_tests::programs::{modes::*, *};

const INSIDE: &str = "172.16.5.10:20000";
const INSIDE_6: &str = "[2001:db8:5::10]:20000";
const OUTSIDE: &str = "192.0.2.10:80";
const OUTSIDE_6: &str = "[2001:db8:86dd::10]:80";

fn from_guest(rig: &mut Rig, packet: &Packet) -> Result<Outcome> {
    let bridge = network_of(ROUTED).bridge;
    rig.at(program::BRIDGE_INGRESS, bridge, Origin::Interface(bridge), &packet.frame())
}

/// Packets out of and into the routed network, both families.
fn both_ways() -> [Packet; 6] {
    [
        tcp(INSIDE, OUTSIDE, ACK).payload(b"data"),
        udp(INSIDE, OUTSIDE),
        echo_request("172.16.5.10:7", REMOTE),
        udp(INSIDE_6, OUTSIDE_6),
        udp(INSIDE, "172.16.6.10:80"),
        tcp(INSIDE_6, "[2001:db8:6::10]:80", SYN),
    ]
}

fn send(rig: &mut Rig, packet: &Packet, is_outbound: bool) -> Result<Outcome> {
    if is_outbound { from_guest(rig, packet) } else { rig.from_outside(packet) }
}

fn swap(packet: &Packet) -> Packet {
    let mut swapped = packet.clone();
    (swapped.source, swapped.destination) = (packet.destination, packet.source);
    swapped
}

/// Without the host's routes nothing is forwarded but what has a way already.
fn lose_routes(rig: &mut Rig) -> Result<()> {
    rig.namespace.sysctl("net.ipv4.ip_forward", "0")?;
    Ok(rig.namespace.sysctl("net.ipv6.conf.all.forwarding", "0")?)
}

#[test]
fn packet_does_the_same_by_the_way_of_the_one_before_it() -> Result<()> {
    for packet in both_ways() {
        let back = swap(&packet);
        let is_local = packet == both_ways()[4] || packet == both_ways()[5];
        for (packet, is_outbound) in [(packet, true), (back, false)] {
            if is_local && !is_outbound {
                continue;
            }
            with_modes(|rig| {
                rig.keep_ways_young(true);
                let judged = send(rig, &packet, is_outbound)?;
                assert_eq!(judged.verdict, Verdict::Redirect, "{packet:?}");
                assert_eq!(rig.paths()?.len(), 1, "{packet:?}");
                lose_routes(rig)?;
                assert_eq!(send(rig, &packet, is_outbound)?, judged, "{packet:?}");
                // Whatever is another epoch's, or a second old, is judged again.
                rig.age_paths()?;
                assert_ne!(send(rig, &packet, is_outbound)?.verdict, Verdict::Redirect);
                Ok(())
            })?;
            with_modes(|rig| {
                let judged = send(rig, &packet, is_outbound)?;
                rig.bump_epoch()?;
                assert_eq!(send(rig, &packet, is_outbound)?, judged, "{packet:?}");
                rig.bump_epoch()?;
                lose_routes(rig)?;
                assert_ne!(send(rig, &packet, is_outbound)?.verdict, Verdict::Redirect);
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn what_differs_in_anything_that_routing_may_ask_for_is_judged_anew() -> Result<()> {
    with_modes(|rig| {
        rig.keep_ways_young(true);
        let packet = udp(INSIDE, OUTSIDE);
        from_guest(rig, &packet)?;
        lose_routes(rig)?;
        assert_eq!(from_guest(rig, &packet)?.verdict, Verdict::Redirect);
        let others = [
            tcp(INSIDE, OUTSIDE, ACK),
            udp("172.16.5.10:20001", OUTSIDE),
            udp(INSIDE, "192.0.2.10:81"),
            udp("172.16.5.11:20000", OUTSIDE),
            udp(INSIDE, "192.0.2.11:80"),
        ];
        for other in others {
            assert_ne!(from_guest(rig, &other)?.verdict, Verdict::Redirect, "{other:?}");
        }
        // The same endpoints elsewhere: somebody else's packet.
        let elsewhere = network_of(6).bridge;
        let spoofed = rig.at(
            program::BRIDGE_INGRESS,
            elsewhere,
            Origin::Interface(elsewhere),
            &packet.frame(),
        )?;
        assert_eq!(spoofed.verdict, Verdict::Drop);
        assert_eq!(
            spoofed.counted.keys().next().map(String::as_str),
            Some("6 drop spoofed-source")
        );
        Ok(())
    })
}

#[test]
fn exceptions_are_the_same_with_a_way_and_without() -> Result<()> {
    let packet = udp(INSIDE, OUTSIDE);
    let exceptions = [
        packet.clone().ttl(1),
        packet.clone().options(&[1; 4]),
        packet.clone().payload(&[0; 1473]),
    ];
    for exception in exceptions {
        let frame = exception.frame();
        let at_bridge = |rig: &mut Rig| {
            let bridge = network_of(ROUTED).bridge;
            rig.at(program::BRIDGE_INGRESS, bridge, Origin::Interface(bridge), &frame)
        };
        with_modes(|rig| {
            let without = at_bridge(rig)?;
            from_guest(rig, &packet)?;
            assert_eq!(rig.paths()?.len(), 1);
            assert_eq!(at_bridge(rig)?, without, "{exception:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn nat_networks_have_no_such_ways() -> Result<()> {
    with_modes(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", OUTSIDE))?;
        // To another subnet of its own.
        rig.from_guest(&udp("192.168.122.10:20000", "10.1.0.5:80"))?;
        assert_eq!(rig.paths()?, []);
        Ok(())
    })
}

#[test]
fn scanner_makes_no_more_entries_than_a_cpu_may() -> Result<()> {
    with_modes(|rig| {
        let started = std::time::Instant::now();
        for port in 1..=400_u16 {
            let outcome = from_guest(rig, &udp(&format!("172.16.5.10:{port}"), OUTSIDE))?;
            outcome.assert_redirected(
                ROUTED,
                Outbound,
                &udp(&format!("172.16.5.10:{port}"), OUTSIDE).ttl(63),
            );
        }
        let windows = (started.elapsed().as_nanos() >> limits::PATH_WINDOW_BITS) + 2;
        let entered = rig.paths()?.len() as u128;
        assert!(entered <= windows * u128::from(limits::PATHS_PER_WINDOW) * 2, "{entered}");
        Ok(())
    })
}
