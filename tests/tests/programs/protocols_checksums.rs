//! UDP's special sums: none is written as 0, and a sum of 0 as 0xffff (RFC 768).

use anyhow::{Context as _, Result};
use vnet_common::flow::Direction::*;
use vnet_tests::programs::{modes::*, *};

/// Where the checksum of a UDP datagram is in its frame.
const fn sum_at(ends: &Ends) -> usize {
    14 + 6 + if matches!(ends.family, vnet_common::family::Family::Ipv4) { 20 } else { 40 }
}

/// The packet with a payload that makes its sum 0, which is written as 0xffff.
fn summing_to_zero(ends: &Ends, packet: &Packet) -> Result<Packet> {
    let payload = (0..=u16::MAX).map(u16::to_be_bytes).find(|payload| {
        let frame = packet.clone().payload(payload).frame();
        frame[sum_at(ends)..][..2] == [0xff, 0xff]
    });
    Ok(packet.clone().payload(&payload.context("none of all words makes the sum zero")?))
}

#[test]
fn datagrams_without_a_checksum_stay_without_in_both_directions() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let (guest, remote) = (port_of(ends.guest, 40000), port_of(ends.remote, 53));
            let query = udp(&guest, &remote).without_checksum();
            let outcome = rig.from_guest(&query)?;
            let external = port_of(ends.external, rig.tables()?.only().external_port.to_host());
            outcome.assert_redirected(NETWORK, Outbound, &query.clone().from(&external).ttl(63));
            let reply = udp(&remote, &external).without_checksum();
            let back = reply.clone().to(&guest).ttl(63);
            assert_eq!(back.frame()[sum_at(&ends)..][..2], [0, 0]);
            rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn sum_that_becomes_zero_is_written_as_all_ones_in_both_directions() -> Result<()> {
    for ends in Ends::BOTH {
        for make in [udp, udp_lite] {
            with_modes(|rig| {
                let (guest, remote) = (port_of(ends.guest, 40000), port_of(ends.remote, 53));
                rig.from_guest(&make(&guest, &remote))?;
                let port = rig.tables()?.only().external_port.to_host();
                let external = port_of(ends.external, port);
                // The coverage of UDP-Lite here leaves out the payload: there the identity holds.
                let is_lite = matches!(make(&guest, &remote).body, Body::UdpLite { .. });
                let choose = |packet: &Packet| {
                    if is_lite { Ok(packet.clone()) } else { summing_to_zero(&ends, packet) }
                };
                let leaving = choose(&make(&external, &remote).ttl(63))?;
                let sent = leaving.clone().from(&guest).ttl(64);
                rig.from_guest(&sent)?.assert_redirected(NETWORK, Outbound, &leaving);
                let delivered = choose(&make(&remote, &guest).ttl(63))?;
                let reply = delivered.clone().to(&external).ttl(64);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &delivered);
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn quoted_sum_stays_none_or_becomes_all_ones() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let (guest, remote) = (port_of(ends.guest, 40000), port_of(ends.remote, 53));
            rig.from_guest(&udp(&guest, &remote))?;
            let external = port_of(ends.external, rig.tables()?.only().external_port.to_host());
            let unreachable = if ends.guest.contains(':') { (1, 4) } else { (3, 3) };
            let none = udp(&guest, &remote).without_checksum();
            let zero = summing_to_zero(&ends, &udp(&guest, &remote))?;
            for sent in [none, zero] {
                let on_the_wire = sent.clone().from(&external);
                let error = icmp_error(ends.remote, ends.external, unreachable, &on_the_wire, 576);
                let told = icmp_error(ends.remote, ends.guest, unreachable, &sent, 576).ttl(63);
                rig.from_outside(&error)?.assert_redirected(NETWORK, Inbound, &told);
            }
            let none = udp(&remote, &external).without_checksum();
            let zero = summing_to_zero(&ends, &udp(&remote, &external))?;
            for on_the_wire in [none, zero] {
                let received = on_the_wire.clone().to(&guest);
                let error = icmp_error(ends.guest, ends.remote, unreachable, &received, 576);
                let told =
                    icmp_error(ends.external, ends.remote, unreachable, &on_the_wire, 576).ttl(63);
                rig.from_guest(&error)?.assert_redirected(NETWORK, Outbound, &told);
            }
            Ok(())
        })?;
    }
    Ok(())
}
