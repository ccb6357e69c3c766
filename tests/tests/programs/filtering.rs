//! Endpoint-independent filtering (RFC 4787, REQ-8).

use anyhow::Result;
use vnet_common::{
    flow::{Direction::*, FLAG_FROM_OUTSIDE, Phase},
    network::NETWORK_ENDPOINT_INDEPENDENT,
    reason::{DropReason, Handover},
    tcp::{State, flags::*},
};
use vnet_tests::programs::{modes::*, *};

const STRANGER: &str = "198.18.0.5:7";

fn with_open_ports(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flags |= NETWORK_ENDPOINT_INDEPENDENT)?;
        work(rig)
    })
}

#[test]
fn anybody_reaches_a_mapped_port_and_gets_answers_from_it() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let datagram = udp(STRANGER, "198.51.100.1:20000");
        let inside = datagram.clone().to("192.168.122.10:20000").ttl(63);
        rig.from_outside(&datagram)?.assert_redirected(NETWORK, Inbound, &inside);
        let answer = udp("192.168.122.10:20000", STRANGER);
        let outside = answer.clone().from("198.51.100.1:20000").ttl(63);
        rig.from_guest(&answer)?.assert_redirected(NETWORK, Outbound, &outside);
        let tables = rig.tables()?;
        assert_eq!(tables.live().count(), 2);
        assert_eq!(tables.mappings[0].1.references, 2);
        let session = tables.sessions[&1];
        assert_eq!((session.flags, session.state), (FLAG_FROM_OUTSIDE, State::Established as u8));
        Ok(())
    })
}

#[test]
fn ipv6_is_filtered_likewise() -> Result<()> {
    with_modes(|rig| {
        rig.set_network(NETWORK, |network| network.flags |= NETWORK_ENDPOINT_INDEPENDENT)?;
        rig.from_guest(&udp(&format!("[{GUEST_6}]:20000"), &format!("[{REMOTE_6}]:53")))?;
        let datagram = udp("[2001:db8:86dd::77]:7", &format!("[{EXTERNAL_6}]:20000"));
        let inside = datagram.clone().to(&format!("[{GUEST_6}]:20000")).ttl(63);
        rig.from_outside(&datagram)?.assert_redirected(NETWORK, Inbound, &inside);
        Ok(())
    })
}

#[test]
fn a_syn_is_let_in_to_a_mapped_tcp_port_and_nothing_else() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
        for flags in [ACK, SYN | ACK, RST] {
            let segment = tcp(STRANGER, "198.51.100.1:20000", flags);
            rig.from_outside(&segment)?.assert_handed_over(0, Handover::NoFlow, &segment);
        }
        let syn = tcp(STRANGER, "198.51.100.1:20000", SYN);
        let inside = syn.clone().to("192.168.122.10:20000").ttl(63);
        rig.from_outside(&syn)?.assert_redirected(NETWORK, Inbound, &inside);
        Ok(())
    })
}

#[test]
fn ports_and_identifiers_that_are_not_mapped_are_the_hosts() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_guest(&echo_request("192.168.122.10:77", REMOTE))?;
        let others = [
            udp(STRANGER, "198.51.100.1:20001"),
            tcp(STRANGER, "198.51.100.1:20000", SYN),
            echo_request("198.18.0.5:77", EXTERNAL),
            echo_reply("198.18.0.5", "198.51.100.1:77"),
        ];
        for packet in others {
            rig.from_outside(&packet)?.assert_handed_over(0, Handover::NoFlow, &packet);
        }
        Ok(())
    })
}

#[test]
fn mapping_that_is_only_held_down_lets_nobody_in() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.set_session(0, |session| session.last_outbound = 1)?;
        rig.sweep()?;
        assert_eq!(rig.tables()?.sessions[&0].phase, Phase::HoldDown as u32);
        let datagram = udp(STRANGER, "198.51.100.1:20000");
        rig.from_outside(&datagram)?.assert_handed_over(0, Handover::NoFlow, &datagram);
        Ok(())
    })
}

#[test]
fn newer_socket_of_the_host_is_not_robbed() -> Result<()> {
    with_open_ports(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let _socket = std::net::UdpSocket::bind("198.51.100.1:20000")?;
        let datagram = udp(STRANGER, "198.51.100.1:20000");
        rig.from_outside(&datagram)?.assert_handed_over(0, Handover::NoFlow, &datagram);
        Ok(())
    })
}

#[test]
fn strangers_count_as_the_guests_flows() -> Result<()> {
    with_open_ports(|rig| {
        rig.set_network(NETWORK, |network| network.flows_per_guest = 1)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let datagram = udp(STRANGER, "198.51.100.1:20000");
        rig.from_outside(&datagram)?.assert_dropped(NETWORK, DropReason::GuestFlowLimit);
        assert_eq!(rig.tables()?.mappings[0].1.references, 1);
        Ok(())
    })
}
