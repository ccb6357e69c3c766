//! Strangers: who sends from outside to where a guest is, and what they can take from it.

use anyhow::{Context as _, Result};
use vnet_common::{
    flow::{Direction::*, Phase, protocol},
    network::NETWORK_ENDPOINT_INDEPENDENT,
    port::PortRange,
    reason::{DropReason, Handover},
    tcp::flags::*,
    timeout::NANOSECONDS,
};
use vnet_tests::programs::{modes::*, *};

const INSIDE: &str = "192.168.122.10:20000";
const OUTSIDE: &str = "198.51.100.1:20000";
const PORTS: PortRange = PortRange { first: 8080, last: 8089 };

fn with_open_ports(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flags |= NETWORK_ENDPOINT_INDEPENDENT)?;
        work(rig)
    })
}

/// TCP and UDP of 198.51.100.1:8080-8089 lead to 192.168.122.10:80-89.
fn forward(rig: &mut Rig) -> Result<()> {
    for ip_protocol in [protocol::TCP, protocol::UDP] {
        rig.forward(ip_protocol, (EXTERNAL, PORTS), (GUEST, 80), "eth0", NETWORK)?;
    }
    Ok(())
}

fn stranger(number: u8) -> Packet {
    udp(&format!("198.18.0.{number}:7"), OUTSIDE)
}

fn assert_let_in(rig: &mut Rig, packet: &Packet) -> Result<()> {
    let inside = packet.clone().to(INSIDE).ttl(63);
    rig.from_outside(packet)?.assert_redirected(NETWORK, Inbound, &inside);
    Ok(())
}

/// The flow of a remote becomes so old that the sweep ends it.
fn expire(rig: &mut Rig, remote: &str) -> Result<()> {
    let tables = rig.tables()?;
    let mut of_remote = tables.live().filter(|(_, one)| one.remote == address(remote));
    let (index, _) = of_remote.next().context("no flow of that remote")?;
    rig.set_session(index, |session| session.last_outbound = 1)?;
    rig.sweep()
}

#[test]
fn strangers_alone_do_not_keep_a_mapping_open() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp(INSIDE, "192.0.2.10:53"))?;
        assert_let_in(rig, &stranger(1))?;
        expire(rig, REMOTE)?;
        // Who was let in goes on until its time is over, and nobody follows.
        assert_let_in(rig, &stranger(1))?;
        rig.from_outside(&stranger(2))?.assert_handed_over(0, Handover::NoFlow, &stranger(2));
        let tables = rig.tables()?;
        assert_eq!((tables.mappings[0].1.references, tables.mappings[0].1.own), (1, 0));
        expire(rig, "198.18.0.1")?;
        assert_eq!(rig.tables()?.sessions[&1].phase, Phase::HoldDown as u32);
        Ok(())
    })
}

#[test]
fn stranger_that_the_guest_answers_keeps_the_mapping_open() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp(INSIDE, "192.0.2.10:53"))?;
        assert_let_in(rig, &stranger(1))?;
        for _ in 0..2 {
            rig.from_guest(&udp(INSIDE, "198.18.0.1:7"))?;
        }
        expire(rig, REMOTE)?;
        assert_let_in(rig, &stranger(2))?;
        let tables = rig.tables()?;
        assert_eq!((tables.mappings[0].1.references, tables.mappings[0].1.own), (2, 1));
        expire(rig, "198.18.0.1")?;
        rig.from_outside(&stranger(3))?.assert_handed_over(0, Handover::NoFlow, &stranger(3));
        Ok(())
    })
}

#[test]
fn mapping_opens_again_when_the_guest_sends_to_anybody() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp(INSIDE, "192.0.2.10:53"))?;
        assert_let_in(rig, &stranger(1))?;
        expire(rig, REMOTE)?;
        rig.from_guest(&udp(INSIDE, "192.0.2.11:53"))?;
        assert_let_in(rig, &stranger(2))
    })
}

#[test]
fn stranger_does_not_keep_its_own_unanswered_connection_alive() -> Result<()> {
    with_open_ports(|rig| {
        forward(rig)?;
        rig.from_guest(&tcp(INSIDE, "192.0.2.10:80", SYN))?;
        for to in [OUTSIDE, "198.51.100.1:8080"] {
            rig.from_outside(&tcp("198.18.0.1:7", to, SYN))?;
        }
        let old = rig.clock()? - 5 * NANOSECONDS;
        for index in [1, 2] {
            rig.set_session(index, |session| session.last_outbound = old)?;
        }
        for to in [OUTSIDE, "198.51.100.1:8080"] {
            let outcome = rig.from_outside(&tcp("198.18.0.1:7", to, SYN))?;
            assert_eq!(outcome.verdict, Verdict::Redirect);
        }
        rig.sweep()?;
        assert_eq!(rig.tables()?.only().remote, address(REMOTE));
        Ok(())
    })
}

#[test]
fn stranger_by_another_uplink_does_not_move_the_mapping_there() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp(INSIDE, "192.0.2.10:53"))?;
        let eth1 = Origin::Interface("eth1");
        let inside = stranger(1).to(INSIDE).ttl(63);
        let program = vnet_common::names::program::UPLINK_INGRESS;
        let outcome = rig.at(program, "eth1", eth1, &stranger(1).frame())?;
        outcome.assert_redirected(NETWORK, Inbound, &inside);
        let eth0 = rig.ifindex("eth0")?;
        assert!(rig.tables()?.live().all(|(_, session)| session.uplink_ifindex == eth0));
        // The answer has the mapping's address, and a change that does not concern the flow leaves it.
        rig.bump_epoch()?;
        let answer = udp(INSIDE, "198.18.0.1:7");
        let outside = answer.clone().from(OUTSIDE).ttl(63);
        rig.from_guest(&answer)?.assert_redirected(NETWORK, Outbound, &outside);
        let outcome = rig.at(program, "eth1", eth1, &stranger(1).frame())?;
        outcome.assert_redirected(NETWORK, Inbound, &inside);
        assert_eq!(rig.tables()?.live().count(), 2);
        Ok(())
    })
}

#[test]
fn mapping_of_a_network_that_is_bound_to_its_uplink_is_closed_at_others() -> Result<()> {
    with_open_ports(|rig| {
        let eth0 = rig.ifindex("eth0")?;
        rig.set_network(NETWORK, |network| network.forward_ifindex = eth0)?;
        rig.from_guest(&udp(INSIDE, "192.0.2.10:53"))?;
        let eth1 = Origin::Interface("eth1");
        let program = vnet_common::names::program::UPLINK_INGRESS;
        let outcome = rig.at(program, "eth1", eth1, &stranger(1).frame())?;
        outcome.assert_handed_over(0, Handover::NoFlow, &stranger(1));
        assert_let_in(rig, &stranger(1))
    })
}

#[test]
fn mapping_at_a_bridge_of_guests_is_closed_outside() -> Result<()> {
    with_modes(|rig| {
        rig.set_network(NETWORK, |network| network.flags |= NETWORK_ENDPOINT_INDEPENDENT)?;
        rig.from_guest(&udp(INSIDE, "172.16.5.10:53"))?;
        let external = rig.tables()?.only().external;
        assert_eq!(external, address("172.16.5.1"));
        let packet = udp("198.18.0.1:7", "172.16.5.1:20000");
        rig.from_outside(&packet)?.assert_handed_over(ROUTED, Handover::ToHost, &packet);
        assert_eq!(rig.tables()?.live().count(), 1);
        Ok(())
    })
}

#[test]
fn strangers_leave_a_quarter_of_the_flows_to_the_guest() -> Result<()> {
    with_rig(|rig| {
        forward(rig)?;
        rig.set_network(NETWORK, |network| network.flows_per_guest = 8)?;
        for port in 1..=6 {
            let datagram = udp(&format!("192.0.2.10:{port}"), "198.51.100.1:8080");
            assert_eq!(rig.from_outside(&datagram)?.verdict, Verdict::Redirect);
        }
        for port in 7..20 {
            let datagram = udp(&format!("192.0.2.10:{port}"), "198.51.100.1:8080");
            rig.from_outside(&datagram)?.assert_dropped(NETWORK, DropReason::GuestFlowLimit);
        }
        for port in [20000, 20001] {
            let own = udp(&format!("{GUEST}:{port}"), "192.0.2.10:53");
            assert_eq!(rig.from_guest(&own)?.counted.len(), 2, "traffic alone is counted");
        }
        let own = udp("192.168.122.10:20002", "192.0.2.10:53");
        rig.from_guest(&own)?.assert_refused(NETWORK, DropReason::GuestFlowLimit);
        // What the guest itself has opened takes nothing from the strangers' share but its own.
        rig.set_network(NETWORK, |network| network.flows_per_guest = 9)?;
        let datagram = udp("192.0.2.10:20", "198.51.100.1:8080");
        assert_eq!(rig.from_outside(&datagram)?.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn strangers_leave_a_quarter_of_the_new_flows_to_the_guest() -> Result<()> {
    with_rig(|rig| {
        forward(rig)?;
        rig.set_network(NETWORK, |network| network.new_flows_per_second = 4)?;
        // A second may end meanwhile: then all is tried again in the next one.
        for attempt in 0..10 {
            let second = rig.clock()? / NANOSECONDS;
            let ports = 100 * attempt;
            let mut let_in = 0;
            for port in ports + 1..=ports + 6 {
                let datagram = udp(&format!("192.0.2.10:{port}"), "198.51.100.1:8080");
                let outcome = rig.from_outside(&datagram)?;
                let_in += u32::from(outcome.verdict == Verdict::Redirect);
            }
            let own = udp(&format!("{GUEST}:{}", 20000 + ports), "192.0.2.10:53");
            let is_own_let_out = rig.from_guest(&own)?.counted.len() == 2;
            if rig.clock()? / NANOSECONDS == second {
                assert_eq!((let_in, is_own_let_out), (3, true));
                return Ok(());
            }
            rig.set_guests(|usage| (usage.opened, usage.opened_from_outside) = (0, 0))?;
        }
        panic!("no second was long enough");
    })
}

#[test]
fn martian_sources_reach_no_guest() -> Result<()> {
    with_modes(|rig| {
        let network = |rig: &Rig| rig.tables().map(|tables| tables.live().count());
        rig.forward(protocol::UDP, (EXTERNAL, PORTS), (GUEST, 80), "eth0", NETWORK)?;
        rig.forward(protocol::UDP, (EXTERNAL_6, PORTS), (GUEST_6, 80), "eth0", NETWORK)?;
        for source in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "239.1.2.3",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let routed = udp(&port_of(source, 5), "172.16.5.10:9");
            rig.from_outside(&routed)?.assert_dropped(ROUTED, DropReason::SpoofedSource);
            let forwarded = udp(&port_of(source, 5), "198.51.100.1:8080");
            rig.from_outside(&forwarded)?.assert_handed_over(0, Handover::NoFlow, &forwarded);
        }
        for source in ["::", "::1", "ff02::1", "ff0e::1", "fe80::1"] {
            let routed = udp(&port_of(source, 5), "[2001:db8:5::10]:9");
            rig.from_outside(&routed)?.assert_dropped(ROUTED, DropReason::SpoofedSource);
            let forwarded = udp(&port_of(source, 5), &port_of(EXTERNAL_6, 8080));
            rig.from_outside(&forwarded)?.assert_handed_over(0, Handover::NoFlow, &forwarded);
        }
        assert_eq!(network(rig)?, 0);
        Ok(())
    })
}

#[test]
fn errors_that_cannot_be_sent_spend_no_token() -> Result<()> {
    with_modes(|rig| {
        rig.set_icmp_tokens(1)?;
        let bridge_egress = vnet_common::names::program::BRIDGE_EGRESS;
        // The kernel knows no way back by that interface.
        let lost = udp("[2001:db8:1804::9]:443", "[fd00:122::10]:1025");
        let eth0 = Origin::Interface("eth0");
        for _ in 0..3 {
            let outcome = rig.at(bridge_egress, "virbr0", eth0, &lost.frame())?;
            outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        let packet = udp("192.168.122.10:5", "192.168.123.10:9");
        let answer = unreachable(GATEWAY, 3, &packet);
        rig.from_guest(&packet)?.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        Ok(())
    })
}
