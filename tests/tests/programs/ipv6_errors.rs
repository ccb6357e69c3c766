//! `ICMPv6` errors: the packet that they quote is translated with them, and their own checksum covers the
//! addresses of both (RFC 4443, section 2.3; RFC 5508).

use anyhow::{Context as _, Result};
use vnet_common::{
    flow::Direction::*,
    names::{INBOUND_MARK, program},
    reason::{DropReason, Handover},
    tcp::{State, flags::*},
};
use vnet_tests::programs::{modes::*, *};

/// No route, port unreachable, packet too big, time exceeded, parameter problem.
const KINDS: [(u8, u8); 5] = [(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)];
/// The MTU of a packet-too-big, the pointer of a parameter problem.
const REST: [u8; 4] = [0, 0, 0x05, 0x00];

/// Packets of a guest whose external port is not its own.
fn packets() -> [Packet; 3] {
    [
        tcp("[fd00:122::10]:40000", "[2001:db8:86dd::10]:80", SYN).payload(&[9; 31]),
        udp("[fd00:122::10]:40000", "[2001:db8:86dd::10]:53"),
        echo_request("[fd00:122::10]:77", REMOTE_6),
    ]
}

/// What the outside sees of a packet of a new flow, after another guest has taken identifier 77.
fn open(rig: &mut Rig, packet: &Packet) -> Result<Packet> {
    rig.from_guest(&echo_request("[fd00:122::11]:77", REMOTE_6))?;
    rig.from_guest(packet)?;
    let tables = rig.tables()?;
    let (_, session) = tables
        .live()
        .find(|(_, session)| session.inside == address(GUEST_6))
        .context("no flow of the guest")?;
    let port = session.external_port.to_host();
    assert_ne!(port, session.inside_port.to_host());
    Ok(packet.clone().from(&format!("[{EXTERNAL_6}]:{port}")).ttl(60))
}

/// The answer to what the outside has seen, and as the guest sees it.
fn answers(seen: &Packet, sent: &Packet) -> (Packet, Packet) {
    let end = |packet: &Packet| match packet.body {
        Body::Tcp { source, .. } | Body::Udp { source, .. } => {
            format!("[{}]:{source}", packet.source)
        }
        Body::Echo { identifier, .. } => format!("[{}]:{identifier}", packet.source),
        _ => panic!("no port: {packet:?}"),
    };
    let (external, inside) = (end(seen), end(sent));
    let reply = match seen.body {
        Body::Tcp { .. } => tcp("[2001:db8:86dd::10]:80", &external, SYN | ACK),
        Body::Udp { .. } => udp("[2001:db8:86dd::10]:53", &external),
        _ => echo_reply(REMOTE_6, &external),
    };
    (reply.clone(), reply.to(&inside))
}

#[test]
fn errors_from_outside_reach_the_guest_with_the_quote_as_it_sent_it() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            let seen = open(rig, &packet)?;
            let sent = packet.clone().ttl(60);
            for from in [ROUTER_6, REMOTE_6] {
                for kind in KINDS {
                    for quoted in [48, 60, 1232] {
                        let error = icmp_error(from, EXTERNAL_6, kind, &seen, quoted);
                        let expected = icmp_error(from, GUEST_6, kind, &sent, quoted).ttl(63);
                        let outcome = rig.from_outside(&error.icmp_rest(REST))?;
                        let expected = expected.icmp_rest(REST);
                        outcome.assert_redirected(NETWORK, Inbound, &expected);
                    }
                }
            }
            // RFC 5508, REQ-6: errors neither refresh nor end a flow.
            let tables = rig.tables()?;
            let (_, session) = tables.live().find(|(_, s)| s.inside == address(GUEST_6)).unwrap();
            assert_eq!((session.state, session.last_inbound), (State::Opening as u8, 0));
            assert_eq!(session.inbound.packets, 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn quoted_first_fragment_is_translated_behind_its_fragment_header() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            let seen = open(rig, &packet)?;
            let whole = seen.clone().payload(&[5; 2000]);
            let sent = packet.clone().ttl(60).payload(&[5; 2000]);
            let error = icmp_error(ROUTER_6, EXTERNAL_6, (2, 0), &seen, 0).icmp_rest(REST);
            let told = icmp_error(ROUTER_6, GUEST_6, (2, 0), &seen, 0).icmp_rest(REST).ttl(63);
            for quoted in [56, 76, 1232] {
                let quote = |packet: &Packet| packet.fragments(1448)[0][14..][..quoted].to_vec();
                let outcome = rig.from_outside(&error.clone().payload(&quote(&whole)))?;
                let expected = told.clone().payload(&quote(&sent));
                outcome.assert_redirected(NETWORK, Inbound, &expected);
            }
            // A later fragment does not say whose it is.
            let later = whole.fragments(1448)[1][14..].to_vec();
            let error = error.payload(&later);
            rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn errors_from_a_guest_leave_with_the_quote_as_the_outside_sent_it() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            let seen = open(rig, &packet)?;
            let (reply, received) = answers(&seen, &packet);
            for kind in KINDS {
                for quoted in [48, 60, 1232] {
                    // As the guest got it.
                    let received = received.clone().ttl(63);
                    let reply = reply.clone().ttl(63);
                    let error = icmp_error(GUEST_6, REMOTE_6, kind, &received, quoted);
                    let expected = icmp_error(EXTERNAL_6, REMOTE_6, kind, &reply, quoted);
                    let outcome = rig.from_guest(&error)?;
                    outcome.assert_redirected(NETWORK, Outbound, &expected.clone().ttl(63));
                    let outcome = rig.to_outside(Origin::Interface("virbr0"), &error)?;
                    outcome.assert_translated(NETWORK, Outbound, &expected);

                    // The same from the host itself, which was bringing the packet to the guest.
                    let own = icmp_error(EXTERNAL_6, REMOTE_6, kind, &received, quoted);
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
    with_modes(|rig| {
        let about = udp("[2001:db8:86dd::10]:40000", "[2001:db8:100::1]:53");
        let error = icmp_error(EXTERNAL_6, REMOTE_6, (1, 4), &about, 1232);
        rig.to_outside(Origin::Host, &error)?.assert_passed(&error);
        let ping = echo_request("[2001:db8:100::1]:7", REMOTE_6);
        rig.to_outside(Origin::Host, &ping)?.assert_passed(&ping);
        Ok(())
    })
}

#[test]
fn error_of_the_host_that_would_show_a_guests_address_is_dropped() -> Result<()> {
    with_modes(|rig| {
        // Of no flow any more, and with options, which no translated quote has.
        let received = udp("[2001:db8:86dd::10]:53", "[fd00:122::10]:20000");
        for about in [received.clone(), received.extension(60, &[0, 1, 4, 0, 0, 0, 0])] {
            let error = icmp_error(EXTERNAL_6, REMOTE_6, (3, 0), &about, 1232);
            let outcome = rig.to_outside(Origin::Host, &error)?;
            outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        }
        Ok(())
    })
}

#[test]
fn error_about_no_flow_is_dropped_from_a_guest_and_the_hosts_own_from_outside() -> Result<()> {
    with_modes(|rig| {
        let received = udp("[2001:db8:86dd::10]:53", "[fd00:122::10]:20000");
        let error = icmp_error(GUEST_6, REMOTE_6, (1, 4), &received, 1232);
        rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        let outcome = rig.to_outside(Origin::Interface("virbr0"), &error)?;
        outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);

        let about = udp("[2001:db8:100::1]:20000", "[2001:db8:86dd::10]:53");
        let error = icmp_error(ROUTER_6, EXTERNAL_6, (1, 4), &about, 1232);
        rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
        Ok(())
    })
}

#[test]
fn error_with_a_quote_that_does_not_tell_its_flow_is_not_translated() -> Result<()> {
    with_modes(|rig| {
        let seen = open(rig, &packets()[1])?;
        let (_, received) = answers(&seen, &packets()[1]);
        for quoted in [0, 8, 40, 43] {
            let error = icmp_error(ROUTER_6, EXTERNAL_6, (1, 4), &seen, quoted);
            rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
            let error = icmp_error(GUEST_6, REMOTE_6, (1, 4), &received, quoted);
            rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        }
        // An error about an error, a packet of IPv4, and one with options in front.
        let about_error = icmp_error(EXTERNAL_6, REMOTE_6, (1, 4), &seen, 48);
        let with_options = seen.clone().extension(60, &[0, 1, 4, 0, 0, 0, 0]);
        let ipv4 = udp("198.51.100.1:20000", "192.0.2.10:53").payload(&[0; 40]);
        for about in [about_error, with_options, ipv4] {
            let error = icmp_error(ROUTER_6, EXTERNAL_6, (1, 4), &about, 1232);
            rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
        }
        // An error that has options itself.
        let error = icmp_error(ROUTER_6, EXTERNAL_6, (1, 4), &seen, 48);
        let error = error.extension(60, &[0, 1, 4, 0, 0, 0, 0]);
        rig.from_outside(&error)?.assert_handed_over(0, Handover::NoFlow, &error);
        Ok(())
    })
}

#[test]
fn guest_cannot_send_an_error_about_the_flow_of_another_network() -> Result<()> {
    with_modes(|rig| {
        let virbr1 = Origin::Interface("virbr1");
        let victim = udp("[fd00:123::10]:20000", "[2001:db8:86dd::10]:53");
        rig.at(program::BRIDGE_INGRESS, "virbr1", virbr1, &victim.frame())?;
        let received = udp("[2001:db8:86dd::10]:53", "[fd00:123::10]:20000");
        let error = icmp_error(GUEST_6, REMOTE_6, (1, 4), &received, 1232);
        rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        let outcome = rig.to_outside(Origin::Interface("virbr0"), &error)?;
        outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        Ok(())
    })
}

#[test]
fn error_on_its_last_hop_goes_translated_through_the_stack() -> Result<()> {
    with_modes(|rig| {
        let packet = &packets()[0];
        let seen = open(rig, packet)?;
        let error = icmp_error(ROUTER_6, EXTERNAL_6, (1, 0), &seen, 1232).ttl(1);
        let expected = icmp_error(ROUTER_6, GUEST_6, (1, 0), &packet.clone().ttl(60), 1232).ttl(1);
        let length = error.frame().len() as u64;
        let moved = counted(&[("1 inbound packets", 1), ("1 inbound bytes", length)]);
        let outcome = rig.from_outside(&error)?;
        outcome.assert(Verdict::Pass, &expected.frame(), INBOUND_MARK, &moved);
        Ok(())
    })
}

#[test]
fn error_about_a_packet_of_the_hosts_bridge_address_goes_up_translated() -> Result<()> {
    with_modes(|rig| {
        let packet = udp("[fd00:122::1]:40000", "[2001:db8:86dd::10]:53");
        rig.to_outside(Origin::Host, &packet)?;
        let port = rig.tables()?.only().external_port.to_host();
        let seen = packet.clone().from(&format!("[{EXTERNAL_6}]:{port}")).ttl(60);
        let error = icmp_error(ROUTER_6, EXTERNAL_6, (1, 4), &seen, 1232);
        let expected = icmp_error(ROUTER_6, GATEWAY_6, (1, 4), &packet.ttl(60), 1232);
        rig.from_outside(&error)?.assert_translated(NETWORK, Inbound, &expected);
        Ok(())
    })
}
