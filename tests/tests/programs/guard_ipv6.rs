//! The guard of a guest's port: IPv6 sources, servers, and the chain of extension headers.

use anyhow::Result;
use vnet_common::{guard::flags, reason::DropReason};
use vnet_tests::programs::guard::*;

use super::guard::{assert_drops, assert_passes, with_guest};

const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const NOTHING: u8 = 59;
const DESTINATION: u8 = 60;
const ALL_NODES: &str = "ff02::1";
const REMOTE: &str = "2001:db8::1";

/// The shortest router advertisement (RFC 4861, section 4.2).
fn advertisement() -> Vec<u8> {
    discovery(134, None, &[&[0; 8]])
}

#[test]
fn guests_own_sources_pass() -> Result<()> {
    with_guest(|rig| {
        for source in [GUEST_IPV6, GUEST_LINK_LOCAL] {
            assert_passes(rig, &ipv6(source, REMOTE, UDP, &udp_message(1000, 53)));
            assert_passes(rig, &ipv6(source, REMOTE, ICMPV6, &[128, 0, 0, 0, 0, 1, 0, 1]));
            assert_passes(rig, &ipv6(source, REMOTE, NOTHING, &[]));
        }
        Ok(())
    })
}

#[test]
fn packet_with_another_source_address_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for source in [
            "2001:db8:122::11",
            "2001:db8:122::99",
            "2001:db8::1",
            "::1",
            "::",
            "ff02::1",
            "::ffff:192.168.122.11",
            "fec0::1",
            "fe80:1::1",
        ] {
            let frame = ipv6(source, REMOTE, UDP, &udp_message(1000, 53));
            assert_drops(rig, &frame, DropReason::SpoofedAddress);
            let frame = ipv6(source, REMOTE, ICMPV6, &[128, 0, 0, 0, 0, 1, 0, 1]);
            assert_drops(rig, &frame, DropReason::SpoofedAddress);
            let later = ipv6(source, REMOTE, FRAGMENT, &fragment(ICMPV6, 8, false, &[0; 8]));
            assert_drops(rig, &later, DropReason::SpoofedAddress);
        }
        Ok(())
    })
}

#[test]
fn a_packet_cannot_borrow_the_ipv4_address() -> Result<()> {
    with_guest(|rig| {
        let mapped = ipv6("::ffff:192.168.122.10", REMOTE, UDP, &udp_message(1000, 53));
        assert_drops(rig, &mapped, DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn who_has_no_address_yet_may_ask_and_join_groups() -> Result<()> {
    with_guest(|rig| {
        // Joining the group of an address to be tested (RFC 3810, section 5.2.13), with the router
        // alert in front; MLDv1 likewise (RFC 3590); asking for a router (RFC 4861, section 4.1).
        let report = [&[143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0][..], &[0xff; 16]].concat();
        let join = extension(ICMPV6, &report);
        assert_passes(rig, &ipv6("::", "ff02::16", HOP_BY_HOP, &join));
        for kind in [131, 132] {
            let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &[0xff; 16]].concat();
            let frame = ipv6("::", "ff02::16", HOP_BY_HOP, &extension(ICMPV6, &message));
            assert_passes(rig, &frame);
        }
        assert_passes(rig, &ipv6("::", "ff02::2", ICMPV6, &discovery(133, None, &[])));
        // Nothing else.
        for kind in [1, 128, 129, 130, 141] {
            let frame = ipv6("::", ALL_NODES, ICMPV6, &discovery(kind, None, &[]));
            assert_drops(rig, &frame, DropReason::SpoofedAddress);
        }
        let fragmented = fragment(ICMPV6, 0, true, &report);
        let frame = ipv6("::", "ff02::16", FRAGMENT, &fragmented);
        assert_drops(rig, &frame, DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn router_advertisements_and_redirects_are_dropped() -> Result<()> {
    with_guest(|rig| {
        for message in [advertisement(), discovery(137, Some(GUEST_LINK_LOCAL), &[&[0; 16]])] {
            let kind = message[0];
            for source in [GUEST_LINK_LOCAL, GUEST_IPV6, "::"] {
                let frame = ipv6(source, ALL_NODES, ICMPV6, &message);
                assert_drops(rig, &frame, DropReason::RogueRouter);
            }
            // RFC 7113: behind extension headers and in fragments, too.
            let behind_one = extension(ICMPV6, &message);
            for header in [HOP_BY_HOP, DESTINATION, ROUTING] {
                let frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, header, &behind_one);
                assert_drops(rig, &frame, DropReason::RogueRouter);
            }
            let first = fragment(ICMPV6, 0, true, &message);
            let frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, FRAGMENT, &first);
            assert_drops(rig, &frame, DropReason::RogueRouter);
            let behind = extension(FRAGMENT, &fragment(DESTINATION, 0, true, &behind_one));
            let frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, HOP_BY_HOP, &behind);
            assert_drops(rig, &frame, DropReason::RogueRouter);
            // An authentication header of 16 bytes: its length counts in words, less two.
            let header = [&[ICMPV6, 2, 0, 0][..], &[0; 12]].concat();
            let authenticated = [header, message.clone()].concat();
            let frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, AUTHENTICATION, &authenticated);
            assert_drops(rig, &frame, DropReason::RogueRouter);
            assert!(kind == 134 || kind == 137);
        }
        Ok(())
    })
}

#[test]
fn router_may_advertise_where_servers_are_allowed() -> Result<()> {
    with_guest(|rig| {
        rig.guard("port0", |port| port.flags &= !flags::SERVERS)?;
        assert_passes(rig, &ipv6(GUEST_LINK_LOCAL, ALL_NODES, ICMPV6, &advertisement()));
        assert_passes(rig, &ipv6(GUEST_LINK_LOCAL, REMOTE, UDP, &udp_message(547, 546)));
        Ok(())
    })
}

#[test]
fn dhcp_server_is_dropped() -> Result<()> {
    with_guest(|rig| {
        for port in [546, 547, 1000] {
            let message = udp_message(547, port);
            let frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, UDP, &message);
            assert_drops(rig, &frame, DropReason::RogueDhcpServer);
            let frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, DESTINATION, &extension(UDP, &message));
            assert_drops(rig, &frame, DropReason::RogueDhcpServer);
            let first = fragment(UDP, 0, true, &message);
            let frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, FRAGMENT, &first);
            assert_drops(rig, &frame, DropReason::RogueDhcpServer);
        }
        // A client asks all servers.
        let solicit = ipv6(GUEST_LINK_LOCAL, "ff02::1:2", UDP, &udp_message(546, 547));
        assert_passes(rig, &solicit);
        Ok(())
    })
}

#[test]
fn chain_that_is_too_long_is_dropped() -> Result<()> {
    with_guest(|rig| {
        // Seven and the upper layer are followed.
        let chain = |headers: usize| {
            (1..headers).fold(extension(NOTHING, &[]), |rest, _| extension(DESTINATION, &rest))
        };
        assert_passes(rig, &ipv6(GUEST_IPV6, REMOTE, DESTINATION, &chain(7)));
        for headers in [8, 9, 30] {
            let frame = ipv6(GUEST_IPV6, REMOTE, DESTINATION, &chain(headers));
            assert_drops(rig, &frame, DropReason::HeaderChain);
        }
        Ok(())
    })
}

#[test]
fn chain_must_end_in_the_first_fragment() -> Result<()> {
    with_guest(|rig| {
        // The options go on in the next fragment, and what lies behind this one in the frame is not
        // part of the packet (RFC 7112).
        let mut long = extension(ICMPV6, &[]);
        long[1] = 3;
        let inside = fragment(DESTINATION, 0, true, &long);
        let mut frame = ipv6(GUEST_LINK_LOCAL, ALL_NODES, FRAGMENT, &inside);
        assert_drops(rig, &frame, DropReason::Malformed);
        frame.extend([0; 24]);
        frame.extend(udp_message(1000, 53));
        assert_drops(rig, &frame, DropReason::Malformed);
        Ok(())
    })
}

#[test]
fn later_fragments_pass_with_the_guests_source() -> Result<()> {
    with_guest(|rig| {
        for next in [ICMPV6, UDP, DESTINATION] {
            let later = fragment(next, 1, true, &[134; 16]);
            assert_passes(rig, &ipv6(GUEST_IPV6, REMOTE, FRAGMENT, &later));
        }
        Ok(())
    })
}

#[test]
fn malformed_headers_are_dropped() -> Result<()> {
    with_guest(|rig| {
        let good = ipv6(GUEST_IPV6, REMOTE, UDP, &udp_message(1000, 53));
        // The kernel runs no program with less than the header.
        for length in 14 + 40..good.len() {
            assert_drops(rig, &good[..length], DropReason::Malformed);
        }
        let mut version = good.clone();
        version[14] = 0x40;
        assert_drops(rig, &version, DropReason::Malformed);
        let mut longer = good.clone();
        longer[14 + 5] += 1;
        assert_drops(rig, &longer, DropReason::Malformed);
        // Behind the end of the packet, in the frame's padding.
        let mut padded = ipv6(GUEST_IPV6, REMOTE, UDP, &[]);
        padded.extend(udp_message(1000, 53));
        padded[14 + 5] = 1;
        assert_drops(rig, &padded, DropReason::Malformed);
        Ok(())
    })
}
