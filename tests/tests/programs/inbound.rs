//! Packets from outside, at the uplink.

use anyhow::Result;
use vnet_common::{
    flow::Direction::Inbound,
    names::{INBOUND_MARK, program},
    reason::{DropReason, Handover},
    tcp::{State, flags::*},
};
use vnet_tests::programs::*;

#[test]
fn reply_is_translated_back_to_the_guest() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
        let reply = tcp("192.0.2.10:80", "198.51.100.1:20000", SYN | ACK);
        let back = reply.clone().to("192.168.122.10:20000").ttl(63);
        rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
        let session = rig.tables()?.only();
        assert_eq!((session.outbound.packets, session.inbound.packets), (1, 1));
        assert_eq!(session.inbound.bytes, reply.frame().len() as u64);
        assert!(session.last_inbound >= session.since);
        Ok(())
    })
}

#[test]
fn reply_gets_the_guests_own_port_back() -> Result<()> {
    with_rig(|rig| {
        for checksum in [true, false] {
            rig.from_guest(&udp("192.168.122.10:40000", "192.0.2.10:53"))?;
            let port = rig.tables()?.only().external_port.to_host();
            let mut reply = udp("192.0.2.10:53", &format!("{EXTERNAL}:{port}"));
            if !checksum {
                reply = reply.without_checksum();
            }
            let back = reply.clone().to("192.168.122.10:40000").ttl(63);
            rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
        }
        assert_eq!(rig.tables()?.only().state, State::Established as u8);
        Ok(())
    })
}

#[test]
fn only_the_remote_endpoint_of_a_flow_gets_in() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        for other in ["192.0.2.10:54", "192.0.2.11:53"] {
            let packet = udp(other, "198.51.100.1:20000");
            rig.from_outside(&packet)?.assert_handed_over(0, Handover::NoFlow, &packet);
        }
        let other_protocol = tcp("192.0.2.10:53", "198.51.100.1:20000", SYN);
        let outcome = rig.from_outside(&other_protocol)?;
        outcome.assert_handed_over(0, Handover::NoFlow, &other_protocol);
        Ok(())
    })
}

#[test]
fn unsolicited_packets_are_the_hosts_own() -> Result<()> {
    with_rig(|rig| {
        for packet in [
            tcp("192.0.2.10:40000", "198.51.100.1:22", SYN),
            tcp("192.0.2.10:40000", "198.51.100.1:22", RST),
            udp("192.0.2.10:40000", "198.51.100.1:53"),
            echo_request("192.0.2.10:5", EXTERNAL),
            echo_reply(REMOTE, "198.51.100.1:5"),
            raw(REMOTE, EXTERNAL, 47),
            udp("192.0.2.10:40000", "224.0.0.251:5353"),
        ] {
            rig.from_outside(&packet)?.assert_handed_over(0, Handover::NoFlow, &packet);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn arp_from_outside_passes_uncounted() -> Result<()> {
    with_rig(|rig| {
        let mut frame = udp("192.0.2.10:1", "198.51.100.1:2").frame();
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        let outcome = rig.frame_from_outside(&frame)?;
        outcome.assert(Verdict::Pass, &frame, 0, &Counted::new());
        Ok(())
    })
}

#[test]
fn guest_cannot_be_addressed_from_outside() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
        for packet in [
            tcp("192.0.2.10:80", "192.168.122.10:20000", SYN | ACK),
            udp("192.0.2.10:80", "192.168.122.11:53"),
            echo_request("192.0.2.10:5", GUEST),
            raw(REMOTE, "10.1.0.5", 47),
        ] {
            // From the uplink's address: no guest's address is ever a source outside.
            let answer = unreachable(EXTERNAL, 3, &packet);
            let outcome = rig.from_outside(&packet)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        let packet = udp("192.0.2.10:80", "192.168.123.10:53");
        rig.from_outside(&packet)?.assert_refused(OTHER_NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn reply_on_its_last_hop_goes_translated_through_the_stack() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let reply = udp("192.0.2.10:53", "198.51.100.1:20000").ttl(1);
        let back = reply.clone().to(GUEST);
        let length = reply.frame().len() as u64;
        let expected = counted(&[
            ("1 handover ttl-expiring", 1),
            ("1 inbound packets", 1),
            ("1 inbound bytes", length),
        ]);
        let outcome = rig.from_outside(&reply)?;
        outcome.assert(Verdict::Pass, &back.frame(), INBOUND_MARK, &expected);
        Ok(())
    })
}

#[test]
fn reply_over_the_bridges_mtu_goes_translated_through_the_stack() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.mtu = 1400)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let fits = udp("192.0.2.10:53", "198.51.100.1:20000").payload(&[7; 1400 - 28]);
        let back = fits.clone().to(GUEST).ttl(63);
        rig.from_outside(&fits)?.assert_redirected(NETWORK, Inbound, &back);
        let over = udp("192.0.2.10:53", "198.51.100.1:20000").payload(&[7; 1401 - 28]);
        let expected = counted(&[
            ("1 handover over-mtu", 1),
            ("1 inbound packets", 1),
            ("1 inbound bytes", 1415),
        ]);
        let outcome = rig.from_outside(&over)?;
        outcome.assert(Verdict::Pass, &over.to(GUEST).frame(), INBOUND_MARK, &expected);
        Ok(())
    })
}

#[test]
fn received_segments_that_were_merged_are_measured_by_their_size() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
        let bulk = tcp("192.0.2.10:80", "198.51.100.1:20000", ACK).payload(&[7; 2920]);
        let frame = bulk.frame();
        let arrival = Arrival {
            program: program::UPLINK_INGRESS,
            frame: &frame,
            interface: "eth0",
            origin: Origin::Interface("eth0"),
            mark: 0,
            gso_size: 1460,
        };
        let back = bulk.clone().to(GUEST).ttl(63);
        rig.run(arrival)?.assert_redirected(NETWORK, Inbound, &back);
        Ok(())
    })
}

/// `BPF_PROG_TEST_RUN` takes bytes 12 and 13 for the protocol: an IPv4 header whose source starts
/// with 8.0 looks like IPv4 to it.
#[test]
fn uplinks_without_link_layer_headers_translate_too() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "8.0.9.9:53"))?;
        let reply = udp("8.0.9.9:53", "198.51.100.1:20000");
        // Through the stack, which counts down the time to live.
        let back = reply.clone().to(GUEST);
        let expected =
            counted(&[("1 inbound packets", 1), ("1 inbound bytes", reply.ip().len() as u64)]);
        let eth0 = Origin::Interface("eth0");
        let outcome = rig.at(program::UPLINK_INGRESS_RAW, "eth0", eth0, &reply.ip())?;
        outcome.assert(Verdict::Pass, &back.ip(), INBOUND_MARK, &expected);

        let unknown = udp("8.0.9.9:54", "198.51.100.1:20000");
        let outcome = rig.at(program::UPLINK_INGRESS_RAW, "eth0", eth0, &unknown.ip())?;
        let expected = counted(&[("0 handover no-flow", 1)]);
        outcome.assert(Verdict::Pass, &unknown.ip(), 0, &expected);

        let to_guest = udp("8.0.9.9:54", "192.168.122.10:20000");
        let outcome = rig.at(program::UPLINK_INGRESS_RAW, "eth0", eth0, &to_guest.ip())?;
        outcome.assert_refused(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}
