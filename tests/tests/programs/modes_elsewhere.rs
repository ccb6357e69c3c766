//! Packets that look as if they belonged to a flow, to the host or to IPv4, and come from elsewhere.

use anyhow::Result;
use vnet_common::{
    flow::Direction::*,
    names::{INBOUND_MARK, program},
    reason::{DropReason, Handover},
};
use vnet_tests::programs::{modes::*, *};

#[test]
fn ipv4_in_ipv6_clothes_goes_nowhere() -> Result<()> {
    with_modes(|rig| {
        for (from, to) in [
            ("[::ffff:192.168.122.77]:4000", "[2001:db8:86dd::10]:53"),
            ("[fd00:122::10]:4000", "[::ffff:192.0.2.10]:53"),
        ] {
            rig.from_guest(&udp(from, to))?.assert_dropped(0, DropReason::Malformed);
            rig.from_outside(&udp(from, to))?.assert_dropped(0, DropReason::Malformed);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn hosts_own_masquerade_for_an_open_network_is_left_alone() -> Result<()> {
    with_modes(|rig| {
        let open = Origin::Interface(network_of(OPEN).bridge);
        for (from, to) in [
            ("198.51.100.1:20000", "192.0.2.10:53"),
            ("[2001:db8:100::1]:20000", "[2001:db8:86dd::10]:53"),
        ] {
            let translated = udp(from, to);
            rig.to_outside(open, &translated)?.assert_passed(&translated);
            // Nobody else on the way has the host's addresses.
            let outcome = rig.to_outside(Origin::Interface("vpn0"), &translated)?;
            outcome.assert_dropped(0, DropReason::SpoofedSource);
        }
        Ok(())
    })
}

#[test]
fn reply_of_an_uplinks_flow_is_none_at_the_bridge_of_another_network() -> Result<()> {
    with_modes(|rig| {
        let query = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&query)?.assert_redirected(
            NETWORK,
            Outbound,
            &query.clone().from(EXTERNAL).ttl(63),
        );
        // A guest of an open network may have any source.
        let bridge = network_of(OPEN).bridge;
        let forged = udp("192.0.2.10:53", "198.51.100.1:20000");
        let origin = Origin::Interface(bridge);
        let outcome = rig.at(program::BRIDGE_INGRESS, bridge, origin, &forged.frame())?;
        outcome.assert_handed_over(OPEN, Handover::ToHost, &forged);
        let session = rig.tables()?.only();
        assert_eq!(session.inbound.packets, 0);
        Ok(())
    })
}

#[test]
fn guest_sends_no_errors_about_the_flows_of_another() -> Result<()> {
    with_modes(|rig| {
        let query = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&query)?;
        let reply = udp("192.0.2.10:53", "192.168.122.10:20000");
        let by_another = icmp_error("192.168.122.11", "192.0.2.10", (3, 3), &reply, 28);
        let outcome = rig.from_guest(&by_another)?;
        outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        let by_itself = icmp_error("192.168.122.10", "192.0.2.10", (3, 3), &reply, 28);
        assert_eq!(rig.from_guest(&by_itself)?.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn what_is_on_its_way_to_a_guest_leaves_no_uplink() -> Result<()> {
    with_modes(|rig| {
        let translated = udp("192.0.2.10:53", "192.168.122.10:20000");
        let frame = translated.frame();
        let mut run = |origin, interface, program| {
            rig.run(Arrival {
                program,
                frame: &frame,
                interface,
                origin,
                mark: INBOUND_MARK,
                gso_size: 0,
            })
        };
        let eth0 = Origin::Interface("eth0");
        run(eth0, "eth1", program::UPLINK_EGRESS)?.assert_dropped(0, DropReason::PolicyRejected);
        let outcome = run(eth0, "virbr0", program::BRIDGE_EGRESS)?;
        outcome.assert_passed(&translated);
        // Nor another network's bridge, wherever the host's routes lead.
        let outcome = run(eth0, "virbr1", program::BRIDGE_EGRESS)?;
        outcome.assert_dropped(NETWORK, DropReason::NoFlow);
        Ok(())
    })
}

#[test]
fn hosts_redirects_tell_no_hidden_address() -> Result<()> {
    /// To the destination, by way of a router.
    fn redirect_ipv6(destination: &str) -> Packet {
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let message = [&[137, 0, 0, 0, 0, 0, 0, 0], &octets("fe80::1")[..], &octets(destination)];
        raw("fe80::2", REMOTE_6, 58).payload(&message.concat())
    }
    with_modes(|rig| {
        let redirect = |destination: &str| {
            let about = udp("192.0.2.10:53", &format!("{destination}:20000"));
            icmp_error(EXTERNAL, REMOTE, (5, 1), &about, 28)
        };
        let hidden = [redirect("192.168.122.10"), redirect_ipv6("fd00:122::10")];
        for packet in &hidden {
            let outcome = rig.to_outside(Origin::Host, packet)?;
            outcome.assert_dropped(NETWORK, DropReason::UnrelatedIcmpError);
        }
        for packet in [redirect("192.0.2.77"), redirect_ipv6("2001:db8:77::1")] {
            rig.to_outside(Origin::Host, &packet)?.assert_passed(&packet);
        }
        Ok(())
    })
}

#[test]
fn neighbour_discovery_is_not_routed() -> Result<()> {
    with_modes(|rig| {
        let quoted = udp("[2001:db8:5::10]:53", "[2001:db8:86dd::10]:53");
        let solicitation = icmp_error(REMOTE_6, "2001:db8:5::10", (135, 0), &quoted, 0).ttl(255);
        let outcome = rig.from_outside(&solicitation)?;
        outcome.assert_handed_over(0, Handover::NoFlow, &solicitation);
        Ok(())
    })
}

#[test]
fn own_address_on_a_hidden_network_leaves_only_where_it_is_masqueraded() -> Result<()> {
    with_modes(|rig| {
        // Bound to `eth0`, and the host's routes lead to `eth1`.
        let gateway = network_of(NAT_BOUND).address(vnet_common::family::Family::Ipv4, 1);
        let packet = udp(&format!("{gateway}:20000"), "198.18.3.9:53");
        let outcome = rig.at(program::UPLINK_EGRESS, "eth1", Origin::Host, &packet.frame())?;
        outcome.assert_dropped(NAT_BOUND, DropReason::PolicyRejected);
        Ok(())
    })
}
