//! Rejected packets of IPv6: an `ICMPv6` destination-unreachable, unless it must not be (RFC 4443,
//! section 2.4).

use anyhow::Result;
use vnet_common::{names::program, port::PortRange, reason::DropReason, tcp::flags::*};
use vnet_tests::programs::{modes::*, *};

/// Policy refuses what goes there.
const FORBIDDEN: &str = "[fd00:123::10]:80";
const FROM: &str = "[fd00:122::10]:20000";

fn about() -> [Packet; 7] {
    [
        tcp(FROM, FORBIDDEN, SYN),
        tcp(FROM, FORBIDDEN, ACK).payload(&[7; 1400]),
        udp(FROM, FORBIDDEN),
        udp(FROM, FORBIDDEN).payload(b""),
        echo_request(FROM, "fd00:123::10"),
        raw("fd00:122::10", "fd00:123::10", 47),
        udp("[fd00:a1::5]:20000", FORBIDDEN),
    ]
}

#[test]
fn rejected_packets_of_every_protocol_are_answered_by_the_gateway() -> Result<()> {
    with_modes(|rig| {
        for packet in about() {
            let answer = unreachable(GATEWAY_6, 4, &packet);
            let outcome = rig.from_guest(&packet)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        Ok(())
    })
}

#[test]
fn answer_is_this_frame_byte_by_byte() -> Result<()> {
    with_modes(|rig| {
        let packet = udp(FROM, FORBIDDEN).payload(b"");
        let outcome = rig.from_guest(&packet)?;
        // The checksum by hand: the pseudo-header, the message, the quote.
        let expected = "\
            52 54 00 00 00 01 52 54 00 00 00 fe 86 dd 60 00\n\
            00 00 00 38 3a 40 fd 00 01 22 00 00 00 00 00 00\n\
            00 00 00 00 00 01 fd 00 01 22 00 00 00 00 00 00\n\
            00 00 00 00 00 10 01 04 ";
        let found = hex(&outcome.frame);
        assert!(found.starts_with(expected), "{found}");
        assert_eq!(outcome.frame.len(), 14 + 40 + 8 + 40 + 8);
        let sum = |bytes: &[u8]| -> u32 {
            bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum()
        };
        let mut total = sum(&outcome.frame[22..]) + 0x38 + 58;
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        assert_eq!(total, 0xffff);
        assert_eq!(outcome.frame[62..], packet.ip()[..48]);
        Ok(())
    })
}

#[test]
fn outside_hosts_are_answered_by_the_uplink() -> Result<()> {
    with_modes(|rig| {
        for packet in about() {
            let packet = packet.from(REMOTE_6).to(GUEST_6);
            let answer = unreachable(EXTERNAL_6, 4, &packet);
            let outcome = rig.from_outside(&packet)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        Ok(())
    })
}

/// `BPF_PROG_TEST_RUN` takes bytes 12 and 13 for the protocol: an IPv6 header whose source has 86dd in
/// its third place looks like IPv6 to it.
#[test]
fn uplink_without_link_layer_headers_answers_without_them() -> Result<()> {
    with_modes(|rig| {
        let eth0 = Origin::Interface("eth0");
        for packet in about() {
            let mut packet = packet.from(REMOTE_6).to(GUEST_6);
            // It also takes the first bytes for a MAC address, which shall not be another host's.
            packet.dscp = 4;
            // And what is left it wants to be a whole IPv6 header.
            packet.payload.extend([0; 16]);
            let answer = unreachable_packet(EXTERNAL_6, 4, &packet).ip();
            let outcome = rig.at(program::UPLINK_INGRESS_RAW, "eth0", eth0, &packet.ip())?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        Ok(())
    })
}

#[test]
fn who_is_forwarded_to_guests_by_the_stack_is_answered_where_it_came_from() -> Result<()> {
    with_modes(|rig| {
        for (interface, from, gateways) in [
            ("eth0", REMOTE_6, [EXTERNAL_6, EXTERNAL_6]),
            ("eth1", "2001:db8:1803::9", ["2001:db8:113::1", "2001:db8:113::1"]),
            // No uplink of ours: the address that the host would take, or the network's.
            ("vpn0", "2001:db8:1804::9", ["2001:db8:99::1", GATEWAY_6]),
            ("virbr1", "fd00:123::10", ["fd00:123::1", GATEWAY_6]),
        ] {
            for packet in about() {
                let packet = packet.from(from).to(GUEST_6);
                let outcome = rig.to_bridge(Origin::Interface(interface), &packet)?;
                let answers = gateways.map(|gateway| unreachable(gateway, 4, &packet));
                let answer = answers.iter().find(|answer| **answer == outcome.frame);
                let answer = answer.unwrap_or(&answers[0]);
                outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, answer);
            }
        }
        // Who cannot be reached there is not answered.
        let lost = udp("[2001:db8:7777::1]:5", "[fd00:122::10]:53");
        let outcome = rig.to_bridge(Origin::Interface("vpn0"), &lost)?;
        outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn exhaustion_is_told_as_prohibited() -> Result<()> {
    with_modes(|rig| {
        let packet = udp(FROM, "[2001:db8:86dd::10]:53");
        let answer = unreachable(GATEWAY_6, 1, &packet);

        rig.set_network(NETWORK, |network| network.flows_per_guest = 0)?;
        let outcome = rig.from_guest(&packet)?;
        outcome.assert_rejected(NETWORK, DropReason::GuestFlowLimit, &answer);

        rig.set_network(NETWORK, |network| network.flows_per_guest = 64)?;
        rig.configure(|config| config.session_limit = 0)?;
        let outcome = rig.from_guest(&packet)?;
        outcome.assert_rejected(NETWORK, DropReason::FlowTableFull, &answer);

        rig.configure(|config| config.session_limit = 64)?;
        rig.set_network(NETWORK, |network| network.ports = PortRange::EMPTY)?;
        let outcome = rig.from_guest(&packet)?;
        outcome.assert_rejected(NETWORK, DropReason::PortsExhausted, &answer);
        Ok(())
    })
}

#[test]
fn way_that_is_no_uplink_is_told_as_port_unreachable() -> Result<()> {
    with_modes(|rig| {
        let packet = udp(FROM, "[2001:db8:1804::9]:53");
        let answer = unreachable(GATEWAY_6, 4, &packet);
        let outcome = rig.from_guest(&packet)?;
        outcome.assert_rejected(NETWORK, DropReason::NotAnUplink, &answer);
        Ok(())
    })
}

#[test]
fn segmentation_offload_packet_is_answered_once() -> Result<()> {
    with_modes(|rig| {
        let bulk = tcp(FROM, FORBIDDEN, ACK).payload(&[7; 2880]);
        let outcome = rig.run(Arrival {
            program: program::BRIDGE_INGRESS,
            frame: &bulk.frame(),
            interface: "virbr0",
            origin: Origin::Interface("virbr0"),
            mark: 0,
            gso_size: 1440,
        })?;
        let answer = unreachable(GATEWAY_6, 4, &bulk);
        outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        Ok(())
    })
}

#[test]
fn icmp_errors_and_redirects_are_not_answered() -> Result<()> {
    with_modes(|rig| {
        let quoted = udp("[fd00:123::10]:53", FROM);
        for kind in [1, 2, 3, 4, 100, 127] {
            let error = icmp_error(GUEST_6, "fd00:123::10", (kind, 0), &quoted, 48);
            rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
            let error = icmp_error(REMOTE_6, GUEST_6, (kind, 0), &quoted, 48);
            rig.from_outside(&error)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        for kind in [128, 129, 139] {
            let query = icmp_error(GUEST_6, "fd00:123::10", (kind, 0), &quoted, 0);
            let answer = unreachable(GATEWAY_6, 4, &query);
            let outcome = rig.from_guest(&query)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        Ok(())
    })
}

#[test]
fn frame_to_all_of_the_link_is_not_answered() -> Result<()> {
    with_modes(|rig| {
        let mut frame = udp(FROM, FORBIDDEN).frame();
        for destination in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            frame[..6].copy_from_slice(&destination);
            let outcome = rig.frame_from_guest(&frame)?;
            outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        Ok(())
    })
}

#[test]
fn source_that_is_no_single_host_is_not_answered() -> Result<()> {
    with_modes(|rig| {
        for source in ["ff02::1", "ff0e::1", "::1"] {
            let packet = raw(source, GUEST_6, 47);
            rig.from_outside(&packet)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
            let outcome = rig.to_bridge(Origin::Interface("eth0"), &packet)?;
            outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        let packet = raw("::", GUEST_6, 47);
        let outcome = rig.to_bridge(Origin::Interface("eth0"), &packet)?;
        outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn packet_with_extension_headers_is_not_answered() -> Result<()> {
    with_modes(|rig| {
        for kind in [0, 43, 44, 60] {
            let packet = udp(FROM, FORBIDDEN).extension(kind, &[0; 7]);
            rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        for fragment in udp(FROM, FORBIDDEN).payload(&[7; 2000]).fragments(1448) {
            let outcome = rig.frame_from_guest(&fragment)?;
            outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        Ok(())
    })
}

#[test]
fn network_without_an_address_of_its_own_drops_silently() -> Result<()> {
    with_modes(|rig| {
        rig.set_network(NETWORK, |network| network.gateway_ipv6 = address("::"))?;
        let packet = udp(FROM, FORBIDDEN);
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        rig.set_uplink("eth0", &["198.51.100.1/24"])?;
        let packet = udp("[2001:db8:86dd::10]:20000", "[fd00:122::10]:53");
        rig.from_outside(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn answers_are_limited_and_drops_are_still_counted() -> Result<()> {
    with_modes(|rig| {
        let packet = udp(FROM, FORBIDDEN);
        rig.set_icmp_tokens(0)?;
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        rig.set_icmp_tokens(1)?;
        let answer = unreachable(GATEWAY_6, 4, &packet);
        let outcome = rig.from_guest(&packet)?;
        outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        Ok(())
    })
}

#[test]
fn answer_leaves_through_our_own_hooks() -> Result<()> {
    with_modes(|rig| {
        let rejected = rig.from_guest(&udp(FROM, FORBIDDEN))?;
        let mut arrival = Arrival {
            program: program::BRIDGE_EGRESS,
            frame: &rejected.frame,
            interface: "virbr0",
            origin: Origin::Interface("virbr0"),
            mark: rejected.mark,
            gso_size: 0,
        };
        let outcome = rig.run(arrival)?;
        outcome.assert(Verdict::Pass, &rejected.frame, 0, &Counted::new());
        let rejected = rig.from_outside(&udp("[2001:db8:86dd::10]:20000", "[fd00:122::10]:53"))?;
        arrival.program = program::UPLINK_EGRESS;
        arrival.frame = &rejected.frame;
        (arrival.interface, arrival.origin) = ("eth0", Origin::Interface("eth0"));
        let outcome = rig.run(arrival)?;
        outcome.assert(Verdict::Pass, &rejected.frame, 0, &Counted::new());
        Ok(())
    })
}
