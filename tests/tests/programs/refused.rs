//! Guests' packets that are dropped at the bridge, each for its reason.

use anyhow::Result;
use vnet_common::{
    names::program, network::SUBNET_NO_STATION, policy::Mode, reason::DropReason, tcp::flags::*,
};
use vnet_tests::programs::*;

#[test]
fn source_of_another_network_is_spoofed() -> Result<()> {
    with_rig(|rig| {
        for source in ["192.0.2.99:5", "192.168.123.10:5", "127.0.0.1:5", "198.51.100.1:5"] {
            let packet = udp(source, "192.0.2.10:53");
            rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        }
        Ok(())
    })
}

#[test]
fn network_and_broadcast_addresses_of_a_subnet_are_nobodys_source() -> Result<()> {
    with_rig(|rig| {
        for address in ["192.168.122.0", "192.168.122.255"] {
            rig.add_subnet(NETWORK, &format!("{address}/32"), SUBNET_NO_STATION)?;
            let packet = udp(&format!("{address}:5"), "192.0.2.10:53");
            rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
            let packet = udp(&format!("{address}:5"), "198.51.100.1:53");
            rig.from_outside(&packet)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        }
        Ok(())
    })
}

#[test]
fn flow_of_another_bridge_cannot_be_used() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&packet)?;
        let virbr1 = Origin::Interface("virbr1");
        let outcome = rig.at(program::BRIDGE_INGRESS, "virbr1", virbr1, &packet.frame())?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
        assert_eq!(rig.tables()?.only().outbound.packets, 1);
        Ok(())
    })
}

#[test]
fn guest_cannot_reach_the_guests_of_another_nat_network() -> Result<()> {
    with_rig(|rig| {
        for packet in [
            tcp("192.168.122.10:20000", "192.168.123.10:80", SYN),
            udp("192.168.122.10:20000", "192.168.123.10:53"),
            echo_request("192.168.122.10:7", "192.168.123.10"),
        ] {
            let answer = unreachable(GATEWAY, 3, &packet);
            let outcome = rig.from_guest(&packet)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn isolated_network_reaches_nothing_outside() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.mode = Mode::Isolated as u8)?;
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::PolicyRejected);
        Ok(())
    })
}

#[test]
fn network_bound_to_an_uplink_uses_no_other() -> Result<()> {
    with_rig(|rig| {
        let eth1 = rig.ifindex("eth1")?;
        rig.set_network(NETWORK, |network| network.forward_ifindex = eth1)?;
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::PolicyRejected);
        let outcome = rig.from_guest(&udp("192.168.122.10:20000", "198.18.3.9:53"))?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn interface_that_is_no_uplink_is_not_used() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", "198.18.4.9:53");
        let answer = unreachable(GATEWAY, 3, &packet);
        rig.from_guest(&packet)?.assert_rejected(NETWORK, DropReason::NotAnUplink, &answer);
        Ok(())
    })
}

#[test]
fn uplink_without_an_address_masquerades_nothing() -> Result<()> {
    with_rig(|rig| {
        rig.set_uplink("eth0", &[])?;
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::NoExternalAddress);
        Ok(())
    })
}

#[test]
fn bridge_of_no_network_forwards_nothing() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        let vpn = Origin::Interface("vpn0");
        let outcome = rig.at(program::BRIDGE_INGRESS, "vpn0", vpn, &packet.frame())?;
        outcome.assert_dropped(0, DropReason::NoNetwork);
        Ok(())
    })
}

#[test]
fn end_of_an_unknown_connection_opens_nothing() -> Result<()> {
    with_rig(|rig| {
        // Nor do flags that no TCP sends: PSH and URG alone, SYN with FIN or RST, none.
        for bits in [RST, RST | ACK, FIN | ACK, FIN, SYN | FIN, SYN | RST, 0x28, 0] {
            let segment = tcp("192.168.122.10:20000", "192.0.2.10:80", bits);
            rig.from_guest(&segment)?.assert_dropped(NETWORK, DropReason::NoFlow);
        }
        let tables = rig.tables()?;
        assert_eq!((tables.live().count(), tables.mappings.len()), (0, 0));
        Ok(())
    })
}

#[test]
fn protocols_that_cannot_be_translated_are_dropped() -> Result<()> {
    with_rig(|rig| {
        // ICMP of IPv6.
        let packet = raw(GUEST, REMOTE, 58);
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::UnsupportedProtocol);
        Ok(())
    })
}

#[test]
fn icmp_messages_that_are_neither_queries_nor_errors_are_dropped() -> Result<()> {
    with_rig(|rig| {
        let about = udp("192.0.2.10:53", "192.168.122.10:20000");
        let redirect = icmp_error(GUEST, REMOTE, (5, 1), &about, 28);
        rig.from_guest(&redirect)?.assert_dropped(NETWORK, DropReason::UnsupportedIcmp);
        let unasked = echo_reply(GUEST, "192.0.2.10:9");
        rig.from_guest(&unasked)?.assert_dropped(NETWORK, DropReason::UnsupportedIcmp);
        Ok(())
    })
}
