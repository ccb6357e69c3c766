//! What the host's stack sends out of an uplink.

use anyhow::Result;
use vnet_common::{
    flow::{Direction::*, FLAG_INSIDE_IS_HOST},
    names::{FORWARDED_MARK, program},
    reason::DropReason,
    tcp::flags::*,
};
use vnet_tests::programs::*;

const FORWARDED: Origin<'static> = Origin::Interface("virbr0");

#[test]
fn forwarded_packet_is_translated_and_its_time_to_live_kept() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN).ttl(63);
        let outcome = rig.to_outside(FORWARDED, &syn)?;
        outcome.assert_translated(NETWORK, Outbound, &syn.clone().from(EXTERNAL));
        let session = rig.tables()?.only();
        assert_eq!((session.bridge_ifindex, session.flags), (rig.ifindex("virbr0")?, 0));

        // The flow is the same at the bridge, and for the reply.
        let ack = tcp("192.168.122.10:20000", "192.0.2.10:80", ACK);
        let translated = ack.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&ack)?.assert_redirected(NETWORK, Outbound, &translated);
        let reply = tcp("192.0.2.10:80", "198.51.100.1:20000", ACK);
        let back = reply.clone().to(GUEST).ttl(63);
        rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
        assert_eq!(rig.tables()?.only().outbound.packets, 2);
        Ok(())
    })
}

#[test]
fn packet_that_the_bridge_left_to_the_stack_is_translated_here() -> Result<()> {
    with_rig(|rig| {
        let router_alert = [0x94, 4, 0, 0];
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53").options(&router_alert).ttl(63);
        let outcome = rig.to_outside(FORWARDED, &packet)?;
        outcome.assert_translated(NETWORK, Outbound, &packet.clone().from(EXTERNAL));
        Ok(())
    })
}

#[test]
fn flow_that_the_stack_opened_takes_the_short_way_afterwards() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("192.168.122.10:20000", "198.51.100.77:80", SYN).ttl(63);
        let outcome = rig.to_outside(FORWARDED, &syn)?;
        outcome.assert_translated(NETWORK, Outbound, &syn.clone().from(EXTERNAL));
        let ack = tcp("192.168.122.10:20000", "198.51.100.77:80", ACK);
        let translated = ack.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&ack)?.assert_redirected(NETWORK, Outbound, &translated);
        let session = rig.tables()?.only();
        assert_eq!((session.outbound.packets, session.mtu_outbound), (2, 1500));
        assert_eq!(session.next_hop, address("198.51.100.77"));
        Ok(())
    })
}

#[test]
fn hosts_own_packets_pass() -> Result<()> {
    with_rig(|rig| {
        for packet in [
            tcp("198.51.100.1:40000", "192.0.2.10:80", SYN),
            udp("198.51.100.1:40000", "192.0.2.10:53"),
            echo_request("198.51.100.1:7", REMOTE),
            udp("10.99.0.1:40000", "224.0.0.251:5353"),
        ] {
            rig.to_outside(Origin::Host, &packet)?.assert_passed(&packet);
        }
        // Forwarded, but not from a network of ours.
        let packet = udp("10.99.0.7:40000", "192.0.2.10:53");
        rig.to_outside(Origin::Interface("vpn0"), &packet)?.assert_passed(&packet);
        Ok(())
    })
}

#[test]
fn packet_from_the_hosts_address_on_a_bridge_is_translated_and_its_reply_goes_up() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("192.168.122.1:20000", "192.0.2.10:80", SYN);
        let outcome = rig.to_outside(Origin::Host, &syn)?;
        outcome.assert_translated(NETWORK, Outbound, &syn.clone().from(EXTERNAL));
        let session = rig.tables()?.only();
        assert_eq!((session.flags, session.bridge_ifindex), (FLAG_INSIDE_IS_HOST, 0));

        let reply = tcp("192.0.2.10:80", "198.51.100.1:20000", SYN | ACK).ttl(1);
        let outcome = rig.from_outside(&reply)?;
        outcome.assert_translated(NETWORK, Inbound, &reply.clone().to(GATEWAY));
        Ok(())
    })
}

#[test]
fn guests_source_from_another_interface_is_spoofed() -> Result<()> {
    with_rig(|rig| {
        for interface in ["vpn0", "virbr1", "eth1"] {
            let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
            let outcome = rig.to_outside(Origin::Interface(interface), &packet)?;
            outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
        }
        Ok(())
    })
}

#[test]
fn link_local_multicast_never_leaves() -> Result<()> {
    with_rig(|rig| {
        for (source, origin) in
            [("192.168.122.1:5353", Origin::Host), ("192.168.122.10:5353", FORWARDED)]
        {
            for to in ["224.0.0.251:5353", "224.0.0.1:9", "255.255.255.255:9"] {
                let outcome = rig.to_outside(origin, &udp(source, to))?;
                outcome.assert_dropped(NETWORK, DropReason::MulticastLeak);
            }
        }
        Ok(())
    })
}

#[test]
fn packet_that_the_bridge_has_judged_passes_without_its_mark() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("198.51.100.1:20000", "192.0.2.10:53");
        let frame = packet.frame();
        let outcome = rig.run(Arrival {
            program: program::UPLINK_EGRESS,
            frame: &frame,
            interface: "eth0",
            origin: FORWARDED,
            mark: FORWARDED_MARK,
            gso_size: 0,
        })?;
        outcome.assert_passed(&packet);
        Ok(())
    })
}

#[test]
fn mark_of_somebody_else_is_kept_and_no_pass() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        let frame = packet.frame();
        let outcome = rig.run(Arrival {
            program: program::UPLINK_EGRESS,
            frame: &frame,
            interface: "eth0",
            origin: FORWARDED,
            mark: 0x1234,
            gso_size: 0,
        })?;
        assert_eq!((outcome.verdict, outcome.mark), (Verdict::Pass, 0x1234));
        assert_eq!(hex(&outcome.frame), hex(&packet.from(EXTERNAL).frame()));
        Ok(())
    })
}

#[test]
fn end_of_an_unknown_connection_does_not_leave() -> Result<()> {
    with_rig(|rig| {
        let reset = tcp("192.168.122.10:20000", "192.0.2.10:80", RST);
        let outcome = rig.to_outside(FORWARDED, &reset)?;
        outcome.assert_dropped(NETWORK, DropReason::NoFlow);
        Ok(())
    })
}

#[test]
fn flow_of_another_uplink_is_ended_when_the_stack_chooses_this_one() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53").ttl(63);
        let outcome = rig.at(program::UPLINK_EGRESS, "eth1", FORWARDED, &packet.frame())?;
        outcome.assert_translated(NETWORK, Outbound, &packet.clone().from("203.0.113.1"));
        let session = rig.tables()?.only();
        assert_eq!(session.uplink_ifindex, rig.ifindex("eth1")?);
        Ok(())
    })
}

/// As the ingress of such uplinks: a source that starts with 8.0.
#[test]
fn uplinks_without_link_layer_headers_translate_too() -> Result<()> {
    with_rig(|rig| {
        rig.add_network(OTHER_NETWORK, "virbr1", vnet_common::policy::Mode::Nat, &["8.0.0.0/24"])?;
        let packet = udp("8.0.0.10:20000", "192.0.2.10:53");
        let virbr1 = Origin::Interface("virbr1");
        let outcome = rig.at(program::UPLINK_EGRESS_RAW, "eth0", virbr1, &packet.ip())?;
        let translated = packet.from(EXTERNAL).ip();
        let length = translated.len() as u64;
        let expected = counted(&[("2 outbound packets", 1), ("2 outbound bytes", length)]);
        outcome.assert(Verdict::Pass, &translated, 0, &expected);

        let own = udp("8.0.1.10:20000", "192.0.2.10:53");
        let outcome = rig.at(program::UPLINK_EGRESS_RAW, "eth0", Origin::Host, &own.ip())?;
        outcome.assert(Verdict::Pass, &own.ip(), 0, &Counted::new());
        Ok(())
    })
}

#[test]
fn packet_of_a_guest_with_a_foreign_source_never_leaves() -> Result<()> {
    with_rig(|rig| {
        let spoofed = udp("203.0.113.77:53", "192.0.2.10:53");
        let outcome = rig.to_outside(FORWARDED, &spoofed)?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
        Ok(())
    })
}
