//! Packets that go through the host's stack: every protocol is translated at the uplink, with IP options
//! and without.

use anyhow::Result;
use vnet_common::{
    family::Family,
    flow::{Direction::*, protocol},
    names::INBOUND_MARK,
    reason::Handover,
    tcp::flags::*,
};
use vnet_tests::programs::{modes::*, *};

/// Router alert (RFC 2113), and the hop-by-hop header with the same (RFC 2711).
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];
const HOP_BY_HOP: u8 = 0;
const ROUTER_ALERT_6: [u8; 7] = [0, 5, 2, 0, 0, 1, 0];

/// A packet of each kind and the answer to what the outside sees of it.
fn packets(ends: &Ends) -> Vec<(Packet, Packet)> {
    let [guest, remote, external] =
        [(ends.guest, 20000), (ends.remote, 80), (ends.external, 20000)]
            .map(|(a, p)| port_of(a, p));
    let (guest, remote, external) = (guest.as_str(), remote.as_str(), external.as_str());
    vec![
        (tcp(guest, remote, SYN), tcp(remote, external, SYN | ACK)),
        (udp(guest, remote), udp(remote, external)),
        (udp(guest, remote).without_checksum(), udp(remote, external).without_checksum()),
        (udp_lite(guest, remote), udp_lite(remote, external)),
        (dccp(guest, remote), dccp(remote, external)),
        (sctp(guest, remote), sctp(remote, external)),
        (echo_request(guest, ends.remote), echo_reply(ends.remote, external)),
        (
            raw(ends.guest, ends.remote, protocol::GRE),
            raw(ends.remote, ends.external, protocol::GRE),
        ),
        (
            raw(ends.guest, ends.remote, protocol::ESP),
            raw(ends.remote, ends.external, protocol::ESP),
        ),
    ]
}

fn with_options(ends: &Ends, packet: Packet) -> Packet {
    match ends.family {
        Family::Ipv4 => packet.options(&ROUTER_ALERT),
        Family::Ipv6 => packet.extension(HOP_BY_HOP, &ROUTER_ALERT_6),
    }
}

#[test]
fn what_the_stack_forwards_is_translated_at_the_uplink() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            for (packet, reply) in packets(&ends) {
                let forwarded = packet.ttl(63);
                let translated = forwarded.clone().from(ends.external);
                let outcome = rig.to_outside(Origin::Interface("virbr0"), &forwarded)?;
                outcome.assert_translated(NETWORK, Outbound, &translated);
                let back = reply.clone().to(ends.guest).ttl(63);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn packets_with_options_are_translated_on_their_way_through_the_stack() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            for (packet, reply) in packets(&ends) {
                let packet = with_options(&ends, packet);
                let outcome = rig.from_guest(&packet)?;
                outcome.assert_handed_over(NETWORK, Handover::IpOptions, &packet);
                let forwarded = packet.ttl(63);
                let translated = forwarded.clone().from(ends.external);
                let outcome = rig.to_outside(Origin::Interface("virbr0"), &forwarded)?;
                outcome.assert_translated(NETWORK, Outbound, &translated);

                let reply = with_options(&ends, reply);
                let back = reply.clone().to(ends.guest).frame();
                let outcome = rig.from_outside(&reply)?;
                let length = back.len() as u64;
                let moved = counted(&[
                    ("1 handover ip-options", 1),
                    ("1 inbound packets", 1),
                    ("1 inbound bytes", length),
                ]);
                outcome.assert(Verdict::Pass, &back, INBOUND_MARK, &moved);
            }
            Ok(())
        })?;
    }
    Ok(())
}
