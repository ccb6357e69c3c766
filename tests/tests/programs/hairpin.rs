//! Hairpin: guests that reach each other by an address of the host (RFC 4787, REQ-9).

use anyhow::Result;
use vnet_common::{
    flow::{FLAG_FORWARDED, FLAG_FROM_OUTSIDE, FLAG_HAIRPIN, FLAG_UNMAPPED, protocol},
    names::FORWARDED_MARK,
    network::NETWORK_ENDPOINT_INDEPENDENT,
    port::PortRange,
    reason::{DropReason, Handover},
    tcp::{State, flags::*},
};
use vnet_tests::programs::{modes::*, *};

const PORT: PortRange = PortRange { first: 8080, last: 8080 };
/// The client, and how the other guest sees it.
const CLIENT: &str = "192.168.122.11:20000";
const SEEN: &str = "198.51.100.1:20000";
/// The server, and how the client sees it.
const SERVER: &str = "192.168.122.10:80";
const OUTSIDE: &str = "198.51.100.1:8080";

/// 198.51.100.1:8080 leads to 192.168.122.10:80.
fn with_forward(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        for ip_protocol in [protocol::TCP, protocol::UDP] {
            rig.forward(ip_protocol, (EXTERNAL, PORT), (GUEST, 80), "eth0", NETWORK)?;
        }
        work(rig)
    })
}

/// Went from one guest to another of these networks, and was counted as traffic of both.
#[track_caller]
fn assert_turned(outcome: &Outcome, (from, to): (u16, u16), packet: &Packet) {
    let bytes = packet.frame().len() as u64;
    let names = [
        format!("{from} outbound packets"),
        format!("{from} outbound bytes"),
        format!("{to} inbound packets"),
        format!("{to} inbound bytes"),
    ];
    let [a, b, c, d] = &names;
    let counted = counted(&[(a, 1), (b, bytes), (c, 1), (d, bytes)]);
    outcome.assert(Verdict::Redirect, &packet.frame(), FORWARDED_MARK, &counted);
}

const WITHIN: (u16, u16) = (NETWORK, NETWORK);

#[test]
fn guest_reaches_another_by_a_forwarded_port_and_is_seen_with_its_external_address() -> Result<()> {
    with_forward(|rig| {
        let syn = tcp(CLIENT, OUTSIDE, SYN);
        let outcome = rig.from_guest(&syn)?;
        assert_turned(&outcome, WITHIN, &tcp(SEEN, SERVER, SYN).ttl(63));
        let answer = tcp(SERVER, SEEN, SYN | ACK);
        let outcome = rig.from_guest(&answer)?;
        assert_turned(&outcome, WITHIN, &tcp(OUTSIDE, CLIENT, SYN | ACK).ttl(63));
        for _ in 0..2 {
            let outcome = rig.from_guest(&tcp(CLIENT, OUTSIDE, ACK))?;
            assert_turned(&outcome, WITHIN, &tcp(SEEN, SERVER, ACK).ttl(63));
            let outcome = rig.from_guest(&tcp(SERVER, SEEN, ACK))?;
            assert_turned(&outcome, WITHIN, &tcp(OUTSIDE, CLIENT, ACK).ttl(63));
        }
        let tables = rig.tables()?;
        let flags = |index: u32| tables.sessions[&index].flags;
        let forwarded = FLAG_FORWARDED | FLAG_UNMAPPED | FLAG_FROM_OUTSIDE | FLAG_HAIRPIN;
        assert_eq!((flags(0), flags(1)), (FLAG_HAIRPIN, forwarded));
        assert!(tables.live().all(|(_, session)| session.state == State::Established as u8));
        Ok(())
    })
}

#[test]
fn ipv6_turns_round_too() -> Result<()> {
    with_modes(|rig| {
        rig.forward(protocol::UDP, (EXTERNAL_6, PORT), (GUEST_6, 80), "eth0", NETWORK)?;
        let client = "[fd00:122::11]:20000";
        let (seen, server) = (format!("[{EXTERNAL_6}]:20000"), format!("[{GUEST_6}]:80"));
        let outside = format!("[{EXTERNAL_6}]:8080");
        let outcome = rig.from_guest(&udp(client, &outside))?;
        assert_turned(&outcome, WITHIN, &udp(&seen, &server).ttl(63));
        let outcome = rig.from_guest(&udp(&server, &seen))?;
        assert_turned(&outcome, WITHIN, &udp(&outside, client).ttl(63));
        Ok(())
    })
}

#[test]
fn guests_of_two_networks_reach_each_other_by_forwards_and_not_otherwise() -> Result<()> {
    with_forward(|rig| {
        let virbr1 = Origin::Interface("virbr1");
        let client = "192.168.123.10:20000";
        let at = |rig: &mut Rig, packet: &Packet| {
            rig.at(vnet_common::names::program::BRIDGE_INGRESS, "virbr1", virbr1, &packet.frame())
        };
        let direct = at(rig, &udp(client, SERVER))?;
        direct.assert_refused(OTHER_NETWORK, DropReason::PolicyRejected);
        let outcome = at(rig, &udp(client, OUTSIDE))?;
        assert_turned(&outcome, (OTHER_NETWORK, NETWORK), &udp(SEEN, SERVER).ttl(63));
        let outcome = rig.from_guest(&udp(SERVER, SEEN))?;
        assert_turned(&outcome, (NETWORK, OTHER_NETWORK), &udp(OUTSIDE, client).ttl(63));
        Ok(())
    })
}

#[test]
fn guest_reaches_itself_by_its_own_forward() -> Result<()> {
    with_forward(|rig| {
        let own = "192.168.122.10:20000";
        let outcome = rig.from_guest(&udp(own, OUTSIDE))?;
        assert_turned(&outcome, WITHIN, &udp(SEEN, SERVER).ttl(63));
        let outcome = rig.from_guest(&udp(SERVER, SEEN))?;
        assert_turned(&outcome, WITHIN, &udp(OUTSIDE, own).ttl(63));
        Ok(())
    })
}

#[test]
fn mapping_of_another_guest_is_filtered_until_it_has_sent_to_the_sender() -> Result<()> {
    with_rig(|rig| {
        let (one, other) = ("192.168.122.10:30000", "192.168.122.11:30001");
        rig.from_guest(&udp(one, "192.0.2.10:53"))?;
        rig.from_guest(&udp(other, "192.0.2.10:53"))?;
        let outcome = rig.from_guest(&udp(one, "198.51.100.1:30001"))?;
        let dropped = [
            (format!("{NETWORK} drop filtered"), 1),
            (format!("{NETWORK} outbound packets"), 1),
            (format!("{NETWORK} outbound bytes"), udp(one, other).frame().len() as u64),
        ];
        let dropped: Vec<_> = dropped.iter().map(|(name, n)| (&**name, *n)).collect();
        assert_eq!((outcome.verdict, outcome.counted), (Verdict::Drop, counted(&dropped)));
        // Both have sent to each other then, as those do that learn of each other's addresses (RFC 5128).
        let outcome = rig.from_guest(&udp(other, "198.51.100.1:30000"))?;
        assert_turned(&outcome, WITHIN, &udp("198.51.100.1:30001", one).ttl(63));
        let outcome = rig.from_guest(&udp(one, "198.51.100.1:30001"))?;
        assert_turned(&outcome, WITHIN, &udp("198.51.100.1:30000", other).ttl(63));
        Ok(())
    })
}

#[test]
fn mapping_that_anybody_may_send_to_is_reached_by_guests_too() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flags |= NETWORK_ENDPOINT_INDEPENDENT)?;
        rig.from_guest(&udp("192.168.122.10:30000", "192.0.2.10:53"))?;
        let outcome = rig.from_guest(&udp(CLIENT, "198.51.100.1:30000"))?;
        assert_turned(&outcome, WITHIN, &udp(SEEN, "192.168.122.10:30000").ttl(63));
        let outcome = rig.from_guest(&udp("192.168.122.10:30000", SEEN))?;
        assert_turned(&outcome, WITHIN, &udp("198.51.100.1:30000", CLIENT).ttl(63));
        Ok(())
    })
}

#[test]
fn ports_behind_which_no_guest_is_are_the_hosts() -> Result<()> {
    with_forward(|rig| {
        for packet in [udp(CLIENT, "198.51.100.1:8081"), echo_request("192.168.122.11:7", EXTERNAL)]
        {
            let outcome = rig.from_guest(&packet)?;
            outcome.assert_handed_over(NETWORK, Handover::ToHost, &packet);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn errors_turn_round_with_the_packet_that_they_quote() -> Result<()> {
    with_forward(|rig| {
        rig.from_guest(&udp(CLIENT, OUTSIDE))?;
        let received = udp(SEEN, SERVER).ttl(63);
        let sent = udp(CLIENT, OUTSIDE).ttl(63);
        let error = icmp_error(GUEST, EXTERNAL, (3, 3), &received, 28);
        let expected = icmp_error(EXTERNAL, "192.168.122.11", (3, 3), &sent, 28).ttl(63);
        assert_turned(&rig.from_guest(&error)?, WITHIN, &expected);
        // RFC 5508, REQ-6: errors do not refresh.
        let tables = rig.tables()?;
        assert_eq!(tables.sessions[&0].last_inbound, 0);
        Ok(())
    })
}

#[test]
fn other_errors_to_the_host_stay_the_hosts() -> Result<()> {
    with_forward(|rig| {
        rig.from_guest(&udp("192.168.122.10:30000", "192.0.2.10:53"))?;
        for quoted in [udp("192.0.2.10:53", "192.168.122.10:30000"), udp(SEEN, SERVER)] {
            let error = icmp_error(GUEST, EXTERNAL, (3, 3), &quoted, 28);
            rig.from_guest(&error)?.assert_handed_over(NETWORK, Handover::ToHost, &error);
        }
        Ok(())
    })
}

#[test]
fn what_only_the_stack_could_handle_is_dropped_and_never_handed_over_translated() -> Result<()> {
    with_forward(|rig| {
        rig.set_network(NETWORK, |network| network.mtu = 1400)?;
        let expired = udp(CLIENT, OUTSIDE).ttl(1);
        let with_options = udp(CLIENT, OUTSIDE).options(&[1, 1, 1, 0]);
        for packet in [&expired, &with_options] {
            rig.from_guest(packet)?.assert_refused(NETWORK, DropReason::HairpinException);
        }
        rig.from_guest(&udp(CLIENT, OUTSIDE))?;
        for packet in [&expired, &with_options] {
            rig.from_guest(packet)?.assert_refused(NETWORK, DropReason::HairpinException);
        }
        let large = udp(CLIENT, OUTSIDE).payload(&[7; 1400]);
        assert_eq!(rig.from_guest(&large)?.verdict, Verdict::Drop);
        Ok(())
    })
}

#[test]
fn flow_ends_when_the_port_is_the_hosts_own_again() -> Result<()> {
    with_forward(|rig| {
        rig.from_guest(&udp(CLIENT, OUTSIDE))?;
        rig.remove_forward(protocol::UDP, EXTERNAL, PORT)?;
        rig.bump_epoch()?;
        // The server's flow ends first, then the client's.
        rig.from_guest(&udp(SERVER, SEEN))?;
        let datagram = udp(CLIENT, OUTSIDE);
        rig.from_guest(&datagram)?.assert_handed_over(NETWORK, Handover::ToHost, &datagram);
        let live = rig.tables()?;
        assert!(live.live().all(|(_, session)| session.inside == address(GUEST)), "{live:#?}");
        Ok(())
    })
}

/// Replies are looked for before sources are judged, and these flows have the host's address for a remote.
#[test]
fn nobody_outside_joins_two_guests_with_the_hosts_address() -> Result<()> {
    with_forward(|rig| {
        rig.from_guest(&tcp(CLIENT, OUTSIDE, SYN))?;
        rig.from_guest(&tcp(SERVER, SEEN, SYN | ACK))?;
        for (from, to) in [(SEEN, OUTSIDE), (OUTSIDE, SEEN)] {
            let spoofed = tcp(from, to, ACK);
            rig.from_outside(&spoofed)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        }
        Ok(())
    })
}
