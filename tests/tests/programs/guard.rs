//! The guard of a guest's port: MAC addresses, VLAN tags, ARP, and what is neither ARP nor IP.

use anyhow::Result;
use vnet_common::{guard::flags, reason::DropReason};
use vnet_tests::programs::{guard::*, *};

/// The guest at `port0` with every check on and one address of each family.
pub fn with_guest(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        rig.guard("port0", |_| {})?;
        rig.give_address(GUEST_MAC, GUEST)?;
        rig.give_address(GUEST_MAC, GUEST_IPV6)?;
        rig.give_address(GUEST_MAC, GUEST_LINK_LOCAL)?;
        rig.give_address(OTHER_MAC, "192.168.122.11")?;
        rig.give_address(OTHER_MAC, "2001:db8:122::11")?;
        work(rig)
    })
}

#[track_caller]
pub fn assert_passes(rig: &mut Rig, frame: &[u8]) {
    let outcome = rig.at_port(frame).unwrap_or_else(|error| panic!("{error:#}"));
    outcome.assert(Verdict::Pass, frame, 0, &counted(&[]));
}

#[track_caller]
pub fn assert_drops(rig: &mut Rig, frame: &[u8], reason: DropReason) {
    let outcome = rig.at_port(frame).unwrap_or_else(|error| panic!("{error:#}"));
    outcome.assert_dropped(NETWORK, reason);
}

#[test]
fn port_without_entry_lets_nothing_pass() -> Result<()> {
    with_rig(|rig| {
        let frame = udp("192.168.122.10:1000", "192.0.2.10:53").frame();
        rig.at_port(&frame)?.assert_dropped(0, DropReason::NoNetwork);
        Ok(())
    })
}

#[test]
fn guests_own_packets_pass_unchanged() -> Result<()> {
    with_guest(|rig| {
        for packet in [
            udp("192.168.122.10:1000", "192.0.2.10:53"),
            tcp("192.168.122.10:1000", "192.168.122.11:80", 2),
            echo_request("192.168.122.10:7", "192.168.122.1"),
            raw("192.168.122.10", "224.0.0.22", 2),
        ] {
            assert_passes(rig, &packet.frame());
        }
        Ok(())
    })
}

#[test]
fn frame_with_another_source_mac_is_dropped() -> Result<()> {
    with_guest(|rig| {
        let frame = udp("192.168.122.10:1000", "192.0.2.10:53").frame();
        for mac in [OTHER_MAC, [0; 6], [0xff; 6], [0x53, 0x54, 0, 0, 0, 1]] {
            assert_drops(rig, &from_mac(frame.clone(), mac), DropReason::SpoofedMac);
        }
        let arp = from_mac(Arp::new(1, GUEST, GATEWAY).frame(), OTHER_MAC);
        assert_drops(rig, &arp, DropReason::SpoofedMac);
        Ok(())
    })
}

#[test]
fn source_mac_is_free_where_it_is_not_checked() -> Result<()> {
    with_guest(|rig| {
        rig.guard("port0", |port| port.flags &= !flags::MAC)?;
        let frame = udp("192.168.122.10:1000", "192.0.2.10:53").frame();
        assert_passes(rig, &from_mac(frame, OTHER_MAC));
        let arp = Arp { sender_mac: OTHER_MAC, ..Arp::new(1, GUEST, GATEWAY) };
        assert_passes(rig, &from_mac(arp.frame(), OTHER_MAC));
        // Whose addresses they are does not change.
        let spoof = udp("192.168.122.11:1000", "192.0.2.10:53").frame();
        assert_drops(rig, &from_mac(spoof, OTHER_MAC), DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn tagged_frames_are_dropped() -> Result<()> {
    with_guest(|rig| {
        let frame = udp("192.168.122.10:1000", "192.0.2.10:53").frame();
        for ethertype in [0x8100, 0x88a8, 0x9100] {
            assert_drops(rig, &tagged(&frame, ethertype, 7), DropReason::TaggedFrame);
            // Priority 7 without a VLAN is no tag to anybody.
            assert_passes(rig, &tagged(&frame, ethertype, 7 << 13));
            let spoof = from_mac(tagged(&frame, ethertype, 7 << 13), OTHER_MAC);
            assert_drops(rig, &spoof, DropReason::SpoofedMac);
        }
        Ok(())
    })
}

#[test]
fn behind_an_allowed_tag_addresses_are_still_checked() -> Result<()> {
    with_guest(|rig| {
        rig.guard("port0", |port| port.flags &= !flags::TAGS)?;
        let own = udp("192.168.122.10:1000", "192.0.2.10:53").frame();
        assert_passes(rig, &tagged(&own, 0x8100, 7));
        let spoof = udp("192.168.122.11:1000", "192.0.2.10:53").frame();
        assert_drops(rig, &tagged(&spoof, 0x8100, 7), DropReason::SpoofedAddress);
        // What the kernel has put out of band is one tag; a third is not followed.
        let third = tagged(&tagged(&own, 0x8100, 7), 0x88a8, 8);
        assert_drops(rig, &third, DropReason::TaggedFrame);
        Ok(())
    })
}

#[test]
fn other_protocols_are_dropped_where_addresses_are_checked() -> Result<()> {
    with_guest(|rig| {
        // 802.3 with a length (spanning tree), IPX, PPPoE, LLDP, an unassigned one.
        let other = [0x0026, 0x8137, 0x8863, 0x88cc, 0xffff];
        for ethertype in other {
            let frame = ethernet(ethertype, &[0; 46]);
            assert_drops(rig, &frame, DropReason::UncheckedProtocol);
        }
        rig.guard("port0", |port| port.flags &= !flags::ADDRESSES)?;
        for ethertype in other {
            assert_passes(rig, &ethernet(ethertype, &[0; 46]));
        }
        Ok(())
    })
}

#[test]
fn arp_of_the_guests_own_address_passes() -> Result<()> {
    with_guest(|rig| {
        for (operation, sender, target) in [
            (1, GUEST, GATEWAY),
            (2, GUEST, GATEWAY),
            // An announcement and a probe (RFC 5227).
            (1, GUEST, GUEST),
            (1, "0.0.0.0", GUEST),
        ] {
            assert_passes(rig, &Arp::new(operation, sender, target).frame());
        }
        Ok(())
    })
}

#[test]
fn arp_that_claims_another_address_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for (operation, sender, target) in [
            (1, "192.168.122.11", GATEWAY),
            (2, GATEWAY, "192.168.122.11"),
            (1, GATEWAY, GATEWAY),
            (1, "192.168.122.99", GATEWAY),
            // A probe of another guest's address would make that guest give it up.
            (1, "0.0.0.0", "192.168.122.11"),
            (1, "0.0.0.0", "192.168.122.99"),
            (2, "0.0.0.0", GUEST),
        ] {
            let frame = Arp::new(operation, sender, target).frame();
            assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
        }
        Ok(())
    })
}

#[test]
fn arp_that_names_another_mac_is_dropped() -> Result<()> {
    with_guest(|rig| {
        let arp = Arp { sender_mac: OTHER_MAC, ..Arp::new(2, GUEST, GATEWAY) };
        assert_drops(rig, &arp.frame(), DropReason::SpoofedNeighbour);
        // Also where addresses are free.
        rig.guard("port0", |port| port.flags &= !flags::ADDRESSES)?;
        assert_drops(rig, &arp.frame(), DropReason::SpoofedNeighbour);
        assert_passes(rig, &Arp::new(2, "192.168.122.99", GATEWAY).frame());
        Ok(())
    })
}

#[test]
fn arp_of_another_kind_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for operation in [0, 3, 4, 8, 9, 0xffff] {
            let frame = Arp::new(operation, GUEST, GATEWAY).frame();
            assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
        }
        let good = Arp::new(1, GUEST, GATEWAY).frame();
        for (place, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16)] {
            let mut frame = good.clone();
            frame[14 + place] = value;
            assert_drops(rig, &frame, DropReason::Malformed);
        }
        for length in 14..good.len() {
            assert_drops(rig, &good[..length], DropReason::Malformed);
        }
        Ok(())
    })
}

#[test]
fn announcement_after_a_migration_passes() -> Result<()> {
    with_guest(|rig| {
        let own = Arp { target_mac: GUEST_MAC, ..Arp::new(3, "0.0.0.0", "0.0.0.0") };
        assert_passes(rig, &ethernet(0x8035, &own.message()));
        for wrong in [
            Arp { sender_mac: OTHER_MAC, ..own },
            Arp { target_mac: OTHER_MAC, ..own },
            Arp { operation: 4, ..own },
            Arp { operation: 1, ..own },
            Arp { sender: [192, 168, 122, 10], ..own },
            Arp { target: [192, 168, 122, 1], ..own },
        ] {
            let frame = ethernet(0x8035, &wrong.message());
            assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
        }
        Ok(())
    })
}
