//! The guard of a guest's port: IPv4.

use anyhow::Result;
use vnet_common::{guard::flags, reason::DropReason};
use vnet_tests::programs::{guard::*, *};

use super::guard::{assert_drops, assert_passes, with_guest};

#[test]
fn packet_with_another_source_address_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for source in [
            "192.168.122.11",
            "192.168.122.1",
            "192.168.122.99",
            "192.168.122.255",
            "8.8.8.8",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            let packet = udp(&format!("{source}:1000"), "192.0.2.10:53");
            assert_drops(rig, &packet.frame(), DropReason::SpoofedAddress);
            let packet = echo_request(&format!("{source}:7"), "192.168.122.11");
            assert_drops(rig, &packet.frame(), DropReason::SpoofedAddress);
        }
        Ok(())
    })
}

#[test]
fn every_fragment_has_its_source_checked() -> Result<()> {
    with_guest(|rig| {
        let own = udp("192.168.122.10:1000", "192.0.2.10:53").payload(&[7; 100]);
        for frame in own.fragments(32) {
            assert_passes(rig, &frame);
        }
        let spoof = udp("192.168.122.11:1000", "192.0.2.10:53").payload(&[7; 100]);
        for frame in spoof.fragments(32) {
            assert_drops(rig, &frame, DropReason::SpoofedAddress);
        }
        Ok(())
    })
}

#[test]
fn source_zero_is_for_dhcp_clients_only() -> Result<()> {
    with_guest(|rig| {
        let discover = udp("0.0.0.0:68", "255.255.255.255:67");
        assert_passes(rig, &discover.frame());
        for packet in [
            udp("0.0.0.0:68", "192.0.2.10:53"),
            udp("0.0.0.0:1000", "255.255.255.255:67"),
            tcp("0.0.0.0:68", "192.168.122.1:67", 2),
            echo_request("0.0.0.0:7", "192.168.122.1"),
            raw("0.0.0.0", "224.0.0.22", 2),
        ] {
            assert_drops(rig, &packet.frame(), DropReason::SpoofedAddress);
        }
        for frame in discover.payload(&[7; 64]).fragments(32) {
            assert_drops(rig, &frame, DropReason::SpoofedAddress);
        }
        Ok(())
    })
}

#[test]
fn dhcp_client_renews_from_its_own_address() -> Result<()> {
    with_guest(|rig| {
        assert_passes(rig, &udp("192.168.122.10:68", "192.168.122.1:67").frame());
        let other = udp("192.168.122.11:68", "192.168.122.1:67").frame();
        assert_drops(rig, &other, DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn dhcp_server_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for to in ["255.255.255.255:68", "192.168.122.11:68", "192.168.122.11:1000"] {
            let offer = udp("192.168.122.10:67", to);
            assert_drops(rig, &offer.frame(), DropReason::RogueDhcpServer);
            let with_options = offer.clone().options(&[1; 8]).frame();
            assert_drops(rig, &with_options, DropReason::RogueDhcpServer);
            let first = &offer.payload(&[7; 64]).fragments(8)[0];
            assert_drops(rig, first, DropReason::RogueDhcpServer);
        }
        rig.guard("port0", |port| port.flags &= !flags::SERVERS)?;
        assert_passes(rig, &udp("192.168.122.10:67", "255.255.255.255:68").frame());
        Ok(())
    })
}

#[test]
fn icmp_redirects_and_router_advertisements_are_dropped() -> Result<()> {
    with_guest(|rig| {
        let about = udp("192.168.122.11:1000", "192.0.2.10:53");
        for kind in [5, 9] {
            let message = icmp_error(GUEST, "192.168.122.11", (kind, 1), &about, 28);
            assert_drops(rig, &message.frame(), DropReason::RogueRouter);
        }
        // Other errors are a guest's to send.
        let unreachable = icmp_error(GUEST, "192.168.122.11", (3, 3), &about, 28);
        assert_passes(rig, &unreachable.frame());
        Ok(())
    })
}

#[test]
fn source_is_free_where_addresses_are_not_checked() -> Result<()> {
    with_guest(|rig| {
        rig.guard("port0", |port| port.flags &= !flags::ADDRESSES)?;
        assert_passes(rig, &udp("8.8.8.8:1000", "192.0.2.10:53").frame());
        let offer = udp("8.8.8.8:67", "255.255.255.255:68").frame();
        assert_drops(rig, &offer, DropReason::RogueDhcpServer);
        Ok(())
    })
}

#[test]
fn prefix_routed_to_a_guest_is_its_own() -> Result<()> {
    with_guest(|rig| {
        rig.route_behind_guest("10.9.0.0", 16, GUEST)?;
        rig.route_behind_guest("10.8.0.0", 16, "192.168.122.11")?;
        rig.route_behind_guest("2001:db8:9::", 48, GUEST_IPV6)?;
        assert_passes(rig, &udp("10.9.1.2:1000", "192.0.2.10:53").frame());
        assert_passes(rig, &ipv6("2001:db8:9::5", "2001:db8::1", 59, &[]));
        let behind_another = udp("10.8.1.2:1000", "192.0.2.10:53").frame();
        assert_drops(rig, &behind_another, DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn malformed_headers_are_dropped() -> Result<()> {
    with_guest(|rig| {
        let good = udp("192.168.122.10:1000", "192.0.2.10:53").frame();
        // The ports have to be there; the rest of the packet is its receiver's to check.
        // The kernel runs no program with less than the header.
        for length in 14 + 20..14 + 20 + 4 {
            assert_drops(rig, &good[..length], DropReason::Malformed);
        }
        for first in [0x44, 0x40, 0x65, 0x05] {
            let mut frame = good.clone();
            frame[14] = first;
            assert_drops(rig, &frame, DropReason::Malformed);
        }
        // The header's length points behind the packet.
        let mut frame = good[..14 + 20 + 8].to_vec();
        frame[14] = 0x4f;
        assert_drops(rig, &frame, DropReason::Malformed);
        Ok(())
    })
}
