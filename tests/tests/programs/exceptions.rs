//! Guests' packets that are left to the host's stack as they are.

use anyhow::Result;
use vnet_common::{
    flow::Direction::Outbound,
    names::{FORWARDED_MARK, program},
    reason::Handover,
    tcp::flags::*,
};
use vnet_tests::programs::*;

#[test]
fn last_hop_is_left_to_the_stack() -> Result<()> {
    with_rig(|rig| {
        for ttl in [0, 1] {
            let syn = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN).ttl(ttl);
            rig.from_guest(&syn)?.assert_handed_over(NETWORK, Handover::TtlExpiring, &syn);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        let syn = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN).ttl(2);
        let translated = syn.clone().from(EXTERNAL).ttl(1);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        let ack = tcp("192.168.122.10:20000", "192.0.2.10:80", ACK).ttl(1);
        rig.from_guest(&ack)?.assert_handed_over(NETWORK, Handover::TtlExpiring, &ack);
        assert_eq!(rig.tables()?.only().outbound.packets, 1);
        Ok(())
    })
}

#[test]
fn ip_options_are_left_to_the_stack() -> Result<()> {
    with_rig(|rig| {
        let router_alert = [0x94, 4, 0, 0];
        let syn = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN).options(&router_alert);
        rig.from_guest(&syn)?.assert_handed_over(NETWORK, Handover::IpOptions, &syn);
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn packet_over_the_mtu_is_left_to_the_stack() -> Result<()> {
    with_rig(|rig| {
        let fits = udp("192.168.122.10:20000", "192.0.2.10:53").payload(&[7; 1500 - 28]);
        let translated = fits.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&fits)?.assert_redirected(NETWORK, Outbound, &translated);
        let over = udp("192.168.122.10:20000", "192.0.2.10:53").payload(&[7; 1501 - 28]);
        rig.from_guest(&over)?.assert_handed_over(NETWORK, Handover::OverMtu, &over);
        let new = udp("192.168.122.10:20001", "192.0.2.10:53").payload(&[7; 1501 - 28]);
        rig.from_guest(&new)?.assert_handed_over(NETWORK, Handover::OverMtu, &new);
        Ok(())
    })
}

#[test]
fn segmentation_offload_packet_is_measured_by_its_segments() -> Result<()> {
    with_rig(|rig| {
        let bulk = tcp("192.168.122.10:20000", "192.0.2.10:80", ACK).payload(&[7; 2920]);
        let frame = bulk.frame();
        let mut arrival = Arrival {
            program: program::BRIDGE_INGRESS,
            frame: &frame,
            interface: "virbr0",
            origin: Origin::Interface("virbr0"),
            mark: 0,
            gso_size: 1460,
        };
        let translated = bulk.clone().from(EXTERNAL).ttl(63);
        rig.run(arrival)?.assert_redirected(NETWORK, Outbound, &translated);
        assert_eq!(rig.tables()?.only().outbound.packets, 1);
        arrival.gso_size = 1461;
        rig.run(arrival)?.assert_handed_over(NETWORK, Handover::OverMtu, &bulk);
        Ok(())
    })
}

#[test]
fn unresolved_neighbour_is_resolved_by_the_redirect() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("192.168.122.10:20000", "198.51.100.77:80", SYN);
        let sent = syn.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &sent);
        let session = rig.tables()?.only();
        assert_eq!(session.mtu_outbound, 1500);
        assert_eq!(session.next_hop, address("198.51.100.77"));
        Ok(())
    })
}

#[test]
fn packet_to_the_host_goes_up_its_stack() -> Result<()> {
    with_rig(|rig| {
        for own in [GATEWAY, EXTERNAL, "10.99.0.1", "192.168.122.255"] {
            let query = udp("192.168.122.10:20000", &format!("{own}:53"));
            rig.from_guest(&query)?.assert_handed_over(NETWORK, Handover::ToHost, &query);
        }
        Ok(())
    })
}

#[test]
fn packet_without_a_route_is_left_to_the_stack() -> Result<()> {
    with_rig(|rig| {
        for nowhere in ["198.18.5.1:53", "198.18.6.1:53", "198.18.7.1:53"] {
            let query = udp("192.168.122.10:20000", nowhere);
            rig.from_guest(&query)?.assert_handed_over(NETWORK, Handover::NoRoute, &query);
        }
        rig.ip("route delete default")?;
        let query = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&query)?.assert_handed_over(NETWORK, Handover::ToHost, &query);
        Ok(())
    })
}

#[test]
fn packets_within_the_network_pass_untranslated() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("192.168.122.10:20000", "10.1.0.5:80", SYN);
        let bytes = syn.frame().len() as u64;
        let expected = counted(&[
            ("1 outbound packets", 1),
            ("1 outbound bytes", bytes),
            ("1 inbound packets", 1),
            ("1 inbound bytes", bytes),
        ]);
        let mut sent = syn.clone();
        sent.ttl -= 1;
        let outcome = rig.from_guest(&syn)?;
        outcome.assert(Verdict::Redirect, &sent.frame(), FORWARDED_MARK, &expected);
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn multicast_and_broadcast_stay_on_the_link() -> Result<()> {
    with_rig(|rig| {
        for to in ["224.0.0.251:5353", "239.1.2.3:9", "255.255.255.255:9"] {
            let packet = udp("192.168.122.10:20000", to);
            rig.from_guest(&packet)?.assert_handed_over(NETWORK, Handover::Multicast, &packet);
        }
        let discover = udp("0.0.0.0:68", "255.255.255.255:67");
        rig.from_guest(&discover)?.assert_handed_over(NETWORK, Handover::Multicast, &discover);
        Ok(())
    })
}

#[test]
fn arp_and_the_like_are_left_to_the_stack() -> Result<()> {
    with_rig(|rig| {
        for kind in [0x0806_u16, 0x88cc] {
            let mut frame = udp("192.168.122.10:20000", "192.0.2.10:53").frame();
            frame.resize(60, 0);
            frame[12..14].copy_from_slice(&kind.to_be_bytes());
            let outcome = rig.frame_from_guest(&frame)?;
            outcome.assert(Verdict::Pass, &frame, 0, &counted(&[("0 handover not-ip", 1)]));
        }
        Ok(())
    })
}

/// What a listener in promiscuous mode makes the bridge or the NIC pass up.
#[test]
fn frames_to_other_hosts_are_none_of_ours() -> Result<()> {
    with_rig(|rig| {
        let mut frame = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN).frame();
        frame[5] = 0x77;
        rig.frame_from_guest(&frame)?.assert(Verdict::Pass, &frame, 0, &counted(&[]));
        let eth0 = Origin::Interface("eth0");
        let mut frame = tcp("192.0.2.10:80", "192.168.122.10:20000", SYN).frame();
        frame[5] = 0x77;
        let outcome = rig.at(program::UPLINK_INGRESS, "eth0", eth0, &frame)?;
        outcome.assert(Verdict::Pass, &frame, 0, &counted(&[]));
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}
