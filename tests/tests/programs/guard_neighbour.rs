//! The guard of a guest's port: IPv6 neighbour discovery.

use anyhow::Result;
use vnet_common::{guard::flags, reason::DropReason};
use vnet_tests::programs::guard::*;

use super::guard::{assert_drops, assert_passes, with_guest};

const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const GROUP: &str = "ff02::1:ff00:1";
const OTHER: &str = "2001:db8:122::11";

fn message(from: &str, kind: u8, target: Option<&str>, options: &[&[u8]]) -> Vec<u8> {
    ipv6(from, GROUP, ICMPV6, &discovery(kind, target, options))
}

#[test]
fn neighbour_discovery_of_the_guests_own_addresses_passes() -> Result<()> {
    with_guest(|rig| {
        let (source, target) =
            (link_layer_option(SOURCE, GUEST_MAC), link_layer_option(TARGET, GUEST_MAC));
        // A nonce (RFC 3971) beside the address.
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        for frame in [
            message(GUEST_LINK_LOCAL, SOLICITATION, Some(OTHER), &[&source]),
            message(GUEST_IPV6, SOLICITATION, Some("fe80::1"), &[&nonce, &source]),
            message(GUEST_IPV6, ADVERTISEMENT, Some(GUEST_IPV6), &[&target]),
            message(GUEST_LINK_LOCAL, ADVERTISEMENT, Some(GUEST_IPV6), &[]),
            message(GUEST_LINK_LOCAL, ADVERTISEMENT, Some(GUEST_LINK_LOCAL), &[&target]),
            message(GUEST_LINK_LOCAL, ROUTER_SOLICITATION, None, &[&source]),
            message("::", ROUTER_SOLICITATION, None, &[]),
            // Duplicate address detection (RFC 4862, section 5.4.2).
            message("::", SOLICITATION, Some(GUEST_IPV6), &[]),
            message("::", SOLICITATION, Some(GUEST_LINK_LOCAL), &[&nonce]),
        ] {
            assert_passes(rig, &frame);
        }
        Ok(())
    })
}

#[test]
fn advertisement_of_another_address_is_dropped() -> Result<()> {
    with_guest(|rig| {
        let own = link_layer_option(TARGET, GUEST_MAC);
        for target in [OTHER, "2001:db8:122::1", "2001:db8:122::99", "::", "ff02::1"] {
            for source in [GUEST_LINK_LOCAL, GUEST_IPV6] {
                let frame = message(source, ADVERTISEMENT, Some(target), &[&own]);
                assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
            }
        }
        let nobody = message("::", ADVERTISEMENT, Some(GUEST_IPV6), &[&own]);
        assert_drops(rig, &nobody, DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn detection_of_anothers_address_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for target in [OTHER, "2001:db8:122::99"] {
            let frame = message("::", SOLICITATION, Some(target), &[]);
            assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
        }
        Ok(())
    })
}

#[test]
fn options_with_another_mac_are_dropped() -> Result<()> {
    with_guest(|rig| {
        let (own, other) =
            (link_layer_option(SOURCE, GUEST_MAC), link_layer_option(SOURCE, OTHER_MAC));
        let target = link_layer_option(TARGET, OTHER_MAC);
        for frame in [
            message(GUEST_LINK_LOCAL, ADVERTISEMENT, Some("::ffff:192.168.122.10"), &[]),
            message("::", SOLICITATION, Some("::ffff:192.168.122.10"), &[]),
            message(GUEST_LINK_LOCAL, SOLICITATION, Some(OTHER), &[&other]),
            message(GUEST_LINK_LOCAL, SOLICITATION, Some(OTHER), &[&own, &other]),
            message(GUEST_LINK_LOCAL, ROUTER_SOLICITATION, None, &[&other]),
            message(GUEST_LINK_LOCAL, ADVERTISEMENT, Some(GUEST_IPV6), &[&target]),
            // Who has no address gives none (RFC 4861, sections 6.1.1 and 7.1.1).
            message("::", SOLICITATION, Some(GUEST_IPV6), &[&own]),
            message("::", ROUTER_SOLICITATION, None, &[&own]),
            // An address of another length.
            message(GUEST_LINK_LOCAL, SOLICITATION, Some(OTHER), &[&[1, 2], &[0x52; 14]]),
        ] {
            assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
        }
        // Also where addresses are free.
        rig.guard("port0", |port| port.flags &= !flags::ADDRESSES)?;
        let frame = message("2001:db8::7", ADVERTISEMENT, Some("2001:db8::7"), &[&target]);
        assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
        Ok(())
    })
}

#[test]
fn fragmented_neighbour_discovery_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for (kind, target) in [
            (ROUTER_SOLICITATION, None),
            (SOLICITATION, Some(GUEST_IPV6)),
            (ADVERTISEMENT, Some(GUEST_IPV6)),
        ] {
            for more in [false, true] {
                let inside = fragment(ICMPV6, 0, more, &discovery(kind, target, &[]));
                let frame = ipv6(GUEST_LINK_LOCAL, GROUP, FRAGMENT, &inside);
                assert_drops(rig, &frame, DropReason::SpoofedNeighbour);
            }
        }
        Ok(())
    })
}

#[test]
fn malformed_neighbour_discovery_is_dropped() -> Result<()> {
    with_guest(|rig| {
        let own = link_layer_option(SOURCE, GUEST_MAC);
        let full = discovery(SOLICITATION, Some(OTHER), &[&own]);
        for length in 1..full.len() {
            let outcome = rig.at_port(&ipv6(GUEST_LINK_LOCAL, GROUP, ICMPV6, &full[..length]))?;
            if length == 24 {
                // No options at all.
                outcome.assert_passed_unchanged();
            } else {
                outcome.assert_dropped(1, DropReason::Malformed);
            }
        }
        let endless =
            message(GUEST_LINK_LOCAL, SOLICITATION, Some(OTHER), &[&[14, 0, 0, 0, 0, 0, 0, 0]]);
        assert_drops(rig, &endless, DropReason::Malformed);
        let beyond =
            message(GUEST_LINK_LOCAL, SOLICITATION, Some(OTHER), &[&[14, 9, 0, 0, 0, 0, 0, 0]]);
        assert_drops(rig, &beyond, DropReason::Malformed);
        Ok(())
    })
}

#[test]
fn more_options_than_are_read_are_dropped() -> Result<()> {
    with_guest(|rig| {
        let nonce: &[u8] = &[14, 1, 0, 0, 0, 0, 0, 0];
        let of = |count: usize| {
            message(GUEST_LINK_LOCAL, SOLICITATION, Some(OTHER), &vec![nonce; count])
        };
        assert_passes(rig, &of(8));
        assert_drops(rig, &of(9), DropReason::SpoofedNeighbour);
        Ok(())
    })
}
