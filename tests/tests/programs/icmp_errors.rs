//! ICMP errors: the packet that they quote is translated with them (RFC 5508).

use anyhow::{Context as _, Result};
use vnet_common::{
    flow::Direction::*,
    names::INBOUND_MARK,
    reason::{DropReason, Handover},
    tcp::{State, flags::*},
};
use vnet_tests::programs::*;

const ROUTER: &str = "198.51.100.254";
/// Unreachable, fragmentation needed, time exceeded, parameter problem.
const KINDS: [(u8, u8); 6] = [(3, 1), (3, 3), (3, 4), (4, 0), (11, 0), (12, 0)];

/// Packets of a guest whose external port is not its own.
fn packets() -> [Packet; 4] {
    [
        tcp("192.168.122.10:40000", "192.0.2.10:80", SYN),
        udp("192.168.122.10:40000", "192.0.2.10:53"),
        udp("192.168.122.10:40001", "192.0.2.10:53").without_checksum(),
        echo_request("192.168.122.10:77", REMOTE),
    ]
}

/// The external endpoint of the only live flow, after another guest has taken identifier 77.
fn open(rig: &mut Rig, packet: &Packet) -> Result<(Packet, String)> {
    rig.from_guest(packet)?;
    let tables = rig.tables()?;
    let (_, session) =
        tables.live().find(|(_, s)| s.inside == address(GUEST)).context("no flow of the guest")?;
    let endpoint = format!("{EXTERNAL}:{}", session.external_port.to_host());
    Ok((packet.clone().from(&endpoint).ttl(60), endpoint))
}

#[test]
fn errors_from_outside_reach_the_guest_with_the_quote_as_it_sent_it() -> Result<()> {
    for packet in packets() {
        with_rig(|rig| {
            rig.from_guest(&echo_request("192.168.122.11:77", REMOTE))?;
            let (on_the_wire, _) = open(rig, &packet)?;
            let sent = packet.clone().ttl(60);
            for kind in KINDS {
                for quoted in [28, 40, 576] {
                    let mtu = [0, 0, 0x05, 0x78];
                    let error = icmp_error(ROUTER, EXTERNAL, kind, &on_the_wire, quoted);
                    let error = error.icmp_rest(mtu);
                    let expected = icmp_error(ROUTER, GUEST, kind, &sent, quoted);
                    let expected = expected.icmp_rest(mtu).ttl(63);
                    rig.from_outside(&error)?.assert_redirected(NETWORK, Inbound, &expected);
                }
            }
            // RFC 5508, REQ-6: errors neither refresh nor end a flow.
            let tables = rig.tables()?;
            let (_, session) = tables.live().find(|(_, s)| s.inside == address(GUEST)).unwrap();
            assert_eq!((session.state, session.last_inbound), (State::Opening as u8, 0));
            assert_eq!(session.inbound.packets, 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn errors_from_a_guest_leave_with_the_quote_as_the_outside_sent_it() -> Result<()> {
    for packet in packets() {
        with_rig(|rig| {
            rig.from_guest(&echo_request("192.168.122.11:77", REMOTE))?;
            let (_, external) = open(rig, &packet)?;
            let (reply, inside) = match &packet.body {
                Body::Tcp { .. } => {
                    (tcp("192.0.2.10:80", &external, SYN | ACK), "192.168.122.10:40000")
                }
                Body::Udp { source: 40000, .. } => {
                    (udp("192.0.2.10:53", &external), "192.168.122.10:40000")
                }
                Body::Udp { .. } => {
                    (udp("192.0.2.10:53", &external).without_checksum(), "192.168.122.10:40001")
                }
                _ => (echo_reply(REMOTE, &external), "192.168.122.10:77"),
            };
            let received = reply.clone().to(inside).ttl(63);
            for kind in KINDS {
                for quoted in [28, 40, 576] {
                    let error = icmp_error(GUEST, REMOTE, kind, &received, quoted);
                    let expected =
                        icmp_error(EXTERNAL, REMOTE, kind, &reply.clone().ttl(63), quoted);
                    let at_bridge = rig.from_guest(&error)?;
                    let decremented = expected.clone().ttl(63);
                    at_bridge.assert_redirected(NETWORK, Outbound, &decremented);
                    let at_uplink = rig.to_outside(Origin::Interface("virbr0"), &error)?;
                    at_uplink.assert_translated(NETWORK, Outbound, &expected);

                    // The same from the host itself, which was bringing the packet to the guest.
                    let own = icmp_error(EXTERNAL, REMOTE, kind, &received, quoted);
                    rig.to_outside(Origin::Host, &own)?.assert_passed_as(&expected);
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn errors_of_the_host_about_its_own_packets_pass() -> Result<()> {
    with_rig(|rig| {
        let about = udp("192.0.2.10:40000", "198.51.100.1:53");
        let error = icmp_error(EXTERNAL, REMOTE, (3, 3), &about, 28);
        rig.to_outside(Origin::Host, &error)?.assert_passed(&error);
        let ping = echo_request("198.51.100.1:7", REMOTE);
        rig.to_outside(Origin::Host, &ping)?.assert_passed(&ping);
        Ok(())
    })
}

#[test]
fn error_of_the_host_that_would_show_a_guests_address_is_dropped() -> Result<()> {
    with_rig(|rig| {
        // Of no flow any more, and with options, which no translated quote has.
        let received = udp("192.0.2.10:53", "192.168.122.10:20000");
        for about in [received.clone(), received.options(&[1, 1, 1, 0])] {
            let error = icmp_error(EXTERNAL, REMOTE, (11, 0), &about, 28);
            let outcome = rig.to_outside(Origin::Host, &error)?;
            outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        }
        Ok(())
    })
}

#[test]
fn error_about_no_flow_is_dropped_from_a_guest_and_the_hosts_own_from_outside() -> Result<()> {
    with_rig(|rig| {
        let received = udp("192.0.2.10:53", "192.168.122.10:20000");
        let error = icmp_error(GUEST, REMOTE, (3, 3), &received, 28);
        rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        let outcome = rig.to_outside(Origin::Interface("virbr0"), &error)?;
        outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);

        let about = udp("198.51.100.1:20000", "192.0.2.10:53");
        let error = icmp_error(ROUTER, EXTERNAL, (3, 3), &about, 28);
        rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
        Ok(())
    })
}

#[test]
fn error_with_a_quote_too_short_to_tell_its_flow_is_not_translated() -> Result<()> {
    with_rig(|rig| {
        let (on_the_wire, _) = open(rig, &udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        for quoted in [0, 8, 20, 23] {
            let error = icmp_error(ROUTER, EXTERNAL, (3, 3), &on_the_wire, quoted);
            rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
            let received = udp("192.0.2.10:53", "192.168.122.10:20000");
            let error = icmp_error(GUEST, REMOTE, (3, 3), &received, quoted);
            rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        }
        Ok(())
    })
}

#[test]
fn guest_cannot_send_an_error_about_the_flow_of_another_network() -> Result<()> {
    with_rig(|rig| {
        let virbr1 = Origin::Interface("virbr1");
        let victim = udp("192.168.123.10:20000", "192.0.2.10:53");
        rig.at(vnet_common::names::program::BRIDGE_INGRESS, "virbr1", virbr1, &victim.frame())?;
        let received = udp("192.0.2.10:53", "192.168.123.10:20000");
        let error = icmp_error(GUEST, REMOTE, (3, 3), &received, 28);
        rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        let outcome = rig.to_outside(Origin::Interface("virbr0"), &error)?;
        outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        Ok(())
    })
}

#[test]
fn error_about_an_error_is_not_translated() -> Result<()> {
    with_rig(|rig| {
        let (on_the_wire, _) = open(rig, &udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let error = icmp_error(EXTERNAL, REMOTE, (3, 3), &on_the_wire, 28);
        let about_error = icmp_error(ROUTER, EXTERNAL, (11, 0), &error, 576);
        let outcome = rig.from_outside(&about_error)?;
        outcome.assert_handed_over(0, Handover::NoFlow, &about_error);
        Ok(())
    })
}

#[test]
fn error_on_its_last_hop_goes_translated_through_the_stack() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        let (on_the_wire, _) = open(rig, &packet)?;
        let error = icmp_error(ROUTER, EXTERNAL, (3, 3), &on_the_wire, 28).ttl(1);
        let expected = icmp_error(ROUTER, GUEST, (3, 3), &packet.ttl(60), 28).ttl(1);
        let length = error.frame().len() as u64;
        let counted = counted(&[("1 inbound packets", 1), ("1 inbound bytes", length)]);
        let outcome = rig.from_outside(&error)?;
        outcome.assert(Verdict::Pass, &expected.frame(), INBOUND_MARK, &counted);
        Ok(())
    })
}

#[test]
fn error_about_a_packet_of_the_hosts_bridge_address_goes_up_translated() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.1:40000", "192.0.2.10:53");
        rig.to_outside(Origin::Host, &packet)?;
        let port = rig.tables()?.only().external_port.to_host();
        let on_the_wire = packet.clone().from(&format!("{EXTERNAL}:{port}")).ttl(60);
        let error = icmp_error(ROUTER, EXTERNAL, (3, 3), &on_the_wire, 28);
        let expected = icmp_error(ROUTER, GATEWAY, (3, 3), &packet.ttl(60), 28);
        rig.from_outside(&error)?.assert_translated(NETWORK, Inbound, &expected);
        Ok(())
    })
}
