//! Rejected packets: the sender is told by an ICMP destination-unreachable, unless it must not be.

use anyhow::Result;
use vnet_common::{names::program, port::PortRange, reason::DropReason, tcp::flags::*};
use vnet_tests::programs::*;

/// Policy refuses what goes there.
const FORBIDDEN: &str = "192.168.123.10:80";

#[test]
fn rejected_packets_of_every_protocol_are_answered() -> Result<()> {
    with_rig(|rig| {
        for packet in [
            tcp("192.168.122.10:20000", FORBIDDEN, SYN),
            tcp("192.168.122.10:20000", FORBIDDEN, ACK).payload(&[7; 1400]),
            udp("192.168.122.10:20000", FORBIDDEN),
            udp("192.168.122.10:20000", FORBIDDEN).payload(b""),
            udp("192.168.122.10:20000", FORBIDDEN).without_checksum(),
            echo_request("192.168.122.10:7", "192.168.123.10"),
            raw(GUEST, "192.168.123.10", 47),
            udp("10.1.0.5:20000", FORBIDDEN),
        ] {
            let answer = unreachable(GATEWAY, 3, &packet);
            let outcome = rig.from_guest(&packet)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        Ok(())
    })
}

#[test]
fn segmentation_offload_packet_is_answered_once() -> Result<()> {
    with_rig(|rig| {
        let bulk = tcp("192.168.122.10:20000", FORBIDDEN, ACK).payload(&[7; 2920]);
        let outcome = rig.run(Arrival {
            program: program::BRIDGE_INGRESS,
            frame: &bulk.frame(),
            interface: "virbr0",
            origin: Origin::Interface("virbr0"),
            mark: 0,
            gso_size: 1460,
        })?;
        let answer = unreachable(GATEWAY, 3, &bulk);
        outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        Ok(())
    })
}

#[test]
fn first_fragment_is_answered_and_the_later_ones_are_not() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", FORBIDDEN).payload(&[7; 2000]);
        let fragments = packet.fragments(1480);
        let outcome = rig.frame_from_guest(&fragments[0])?;
        assert_eq!((outcome.verdict, outcome.frame.len()), (Verdict::Redirect, 70));
        let outcome = rig.frame_from_guest(&fragments[1])?;
        outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn exhaustion_is_told_as_prohibited() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        let answer = unreachable(GATEWAY, 13, &packet);

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
fn icmp_errors_and_redirects_are_not_answered() -> Result<()> {
    with_rig(|rig| {
        let about = udp("192.168.123.10:53", "192.168.122.10:20000");
        for kind in [3, 4, 5, 11, 12, 40] {
            let error = icmp_error(GUEST, "192.168.123.10", (kind, 0), &about, 28);
            rig.from_guest(&error)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        Ok(())
    })
}

#[test]
fn frame_to_all_of_the_link_is_not_answered() -> Result<()> {
    with_rig(|rig| {
        let mut frame = udp("192.168.122.10:20000", FORBIDDEN).frame();
        for destination in [[0xff; 6], [0x01, 0x00, 0x5e, 0, 0, 1]] {
            frame[..6].copy_from_slice(&destination);
            let outcome = rig.frame_from_guest(&frame)?;
            outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        Ok(())
    })
}

#[test]
fn source_that_is_no_single_host_is_not_answered() -> Result<()> {
    with_rig(|rig| {
        for source in ["0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            let packet = raw(source, GUEST, 47);
            rig.from_outside(&packet)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
            let outcome = rig.to_bridge(Origin::Interface("eth0"), &packet)?;
            outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        let nobody = raw("0.0.0.0", GUEST, 47);
        rig.from_outside(&nobody)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        Ok(())
    })
}

#[test]
fn packet_with_options_is_not_answered() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", FORBIDDEN).options(&[1, 1, 1, 1]);
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn other_drops_are_silent() -> Result<()> {
    with_rig(|rig| {
        let spoofed = udp("192.0.2.99:5", FORBIDDEN);
        rig.from_guest(&spoofed)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        let spoofed = udp("192.0.2.99:5", "198.18.4.9:53");
        rig.from_guest(&spoofed)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        let reset = tcp("192.168.122.10:20000", "192.0.2.10:80", RST);
        rig.from_guest(&reset)?.assert_dropped(NETWORK, DropReason::NoFlow);
        Ok(())
    })
}

#[test]
fn network_without_an_address_of_its_own_drops_silently() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.gateway = ipv4("0.0.0.0"))?;
        let packet = udp("192.168.122.10:20000", FORBIDDEN);
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        rig.set_uplink("eth0", &[])?;
        let packet = udp("192.0.2.10:20000", "192.168.122.10:53");
        rig.from_outside(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn answers_are_limited_and_drops_are_still_counted() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", FORBIDDEN);
        rig.set_icmp_tokens(0)?;
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        rig.set_icmp_tokens(1)?;
        let answer = unreachable(GATEWAY, 3, &packet);
        let outcome = rig.from_guest(&packet)?;
        outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        Ok(())
    })
}

#[test]
fn answer_leaves_through_our_own_hooks() -> Result<()> {
    with_rig(|rig| {
        let rejected = rig.from_guest(&udp("192.168.122.10:20000", FORBIDDEN))?;
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

        let rejected = rig.from_outside(&udp("192.0.2.10:20000", "192.168.122.10:53"))?;
        arrival.program = program::UPLINK_EGRESS;
        arrival.frame = &rejected.frame;
        (arrival.interface, arrival.origin) = ("eth0", Origin::Interface("eth0"));
        let outcome = rig.run(arrival)?;
        outcome.assert(Verdict::Pass, &rejected.frame, 0, &Counted::new());
        Ok(())
    })
}
