//! IPv6 headers that contradict themselves, and the chain of extension headers (RFC 8200).

use anyhow::Result;
use vnet_common::{
    flow::Direction::{self, *},
    names::{FORWARDED_MARK, program},
    reason::{DropReason, Handover},
    tcp::flags::*,
};
use vnet_tests::programs::{modes::*, *};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Eight bytes of padding (RFC 8200, section 4.2) without the first.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
/// A fragment header of a packet that is none (RFC 6946) without the first byte.
const ATOMIC: [u8; 7] = [0, 0, 0, 0, 0, 0, 7];
const ETHERNET: usize = 14;
const FROM: &str = "[fd00:122::10]:20000";
const TO: &str = "[2001:db8:86dd::10]:80";

fn packets() -> [Packet; 4] {
    [
        tcp(FROM, TO, SYN),
        udp(FROM, TO),
        echo_request(FROM, REMOTE_6),
        tcp(FROM, TO, SYN).extension(DESTINATION, &PADDING),
    ]
}

/// The frame with another payload length.
fn with_length(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(length as u16).to_be_bytes());
    frame
}

fn traffic(direction: Direction, bytes: usize) -> Counted {
    let word = if direction == Outbound { "outbound" } else { "inbound" };
    counted(&[(&format!("1 {word} packets"), 1), (&format!("1 {word} bytes"), bytes as u64)])
}

#[test]
fn packet_that_is_shorter_than_it_says_is_dropped_at_every_length() -> Result<()> {
    with_modes(|rig| {
        // `BPF_PROG_TEST_RUN` of newer kernels refuses to run what has no whole IPv6 header.
        let shortest = ETHERNET + 40;
        for packet in packets() {
            let frame = packet.frame();
            for length in shortest..frame.len() {
                let outcome = rig.frame_from_guest(&frame[..length])?;
                outcome.assert_dropped(0, DropReason::Malformed);
            }
            let arriving = packet.clone().from(REMOTE_6).to(EXTERNAL_6).frame();
            for length in shortest..arriving.len() {
                let outcome = rig.frame_from_outside(&arriving[..length])?;
                outcome.assert_dropped(0, DropReason::Malformed);
            }
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn packet_that_ends_within_its_transport_header_is_dropped() -> Result<()> {
    with_modes(|rig| {
        for packet in packets() {
            let frame = packet.frame();
            let extensions = packet.extensions.len() * 8;
            let header = extensions + if matches!(packet.body, Body::Tcp { .. }) { 20 } else { 8 };
            for length in 0..header {
                // With what is missing there as padding behind the packet, too.
                let short = with_length(frame.clone(), length);
                let cut = &short[..ETHERNET + 40 + length];
                for frame in [&short[..], cut] {
                    let outcome = rig.frame_from_guest(frame)?;
                    outcome.assert_dropped(0, DropReason::Malformed);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn padding_behind_the_packet_stays_there() -> Result<()> {
    with_modes(|rig| {
        for packet in packets() {
            let padded = |packet: &Packet| [packet.frame(), vec![0xee; 9]].concat();
            let translated = padded(&packet.clone().from(EXTERNAL_6).ttl(63));
            let outcome = rig.frame_from_guest(&padded(&packet))?;
            let moved = traffic(Outbound, translated.len());
            outcome.assert(Verdict::Redirect, &translated, FORWARDED_MARK, &moved);
        }
        Ok(())
    })
}

#[test]
fn other_version_is_dropped() -> Result<()> {
    with_modes(|rig| {
        let mut frame = packets()[0].frame();
        for version in (0..16).filter(|version| *version != 6) {
            frame[ETHERNET] = version << 4;
            rig.frame_from_guest(&frame)?.assert_dropped(0, DropReason::Malformed);
            rig.frame_from_outside(&frame)?.assert_dropped(0, DropReason::Malformed);
        }
        Ok(())
    })
}

#[test]
fn length_of_the_payload_is_at_most_what_is_there() -> Result<()> {
    with_modes(|rig| {
        let frame = packets()[1].frame();
        let length = frame.len() - ETHERNET - 40;
        for longer in [length + 1, length + 1000, 65495, 65496, 65535] {
            let outcome = rig.frame_from_guest(&with_length(frame.clone(), longer))?;
            outcome.assert_dropped(0, DropReason::Malformed);
        }
        Ok(())
    })
}

#[test]
fn length_of_a_segmentation_offload_packet_may_not_fit_its_field() -> Result<()> {
    with_modes(|rig| {
        let bulk = tcp(FROM, TO, ACK).payload(&[7; 2880]);
        let translated = bulk.clone().from(EXTERNAL_6).ttl(63);
        // RFC 2675, section 3 is for packets on the wire; the kernel's own have 0.
        let frame = with_length(bulk.frame(), 0);
        let mut arrival = Arrival {
            program: program::BRIDGE_INGRESS,
            frame: &frame,
            interface: "virbr0",
            origin: Origin::Interface("virbr0"),
            mark: 0,
            gso_size: 1440,
        };
        let expected = with_length(translated.frame(), 0);
        let moved = traffic(Outbound, frame.len());
        rig.run(arrival)?.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &moved);
        arrival.gso_size = 0;
        rig.run(arrival)?.assert_dropped(0, DropReason::Malformed);
        Ok(())
    })
}

#[test]
fn options_for_each_hop_and_routing_headers_are_the_stacks() -> Result<()> {
    with_modes(|rig| {
        for known in [false, true] {
            for kind in [HOP_BY_HOP, ROUTING] {
                for before in [None, Some(DESTINATION)] {
                    if kind == HOP_BY_HOP && before.is_some() {
                        continue;
                    }
                    let mut packet = udp(FROM, TO);
                    for kind in before.into_iter().chain([kind]) {
                        packet = packet.extension(kind, &PADDING);
                    }
                    let outcome = rig.from_guest(&packet)?;
                    outcome.assert_handed_over(NETWORK, Handover::IpOptions, &packet);
                    // What the stack then sends is translated.
                    let forwarded = packet.clone().ttl(63);
                    if known {
                        let translated = forwarded.clone().from(EXTERNAL_6);
                        let outcome = rig.to_outside(Origin::Interface("virbr0"), &forwarded)?;
                        outcome.assert_translated(NETWORK, Outbound, &translated);
                    }
                }
            }
            if !known {
                let translated = udp(FROM, TO).from(EXTERNAL_6).ttl(63);
                rig.from_guest(&udp(FROM, TO))?.assert_redirected(NETWORK, Outbound, &translated);
            }
        }
        Ok(())
    })
}

#[test]
fn packets_behind_destination_options_are_translated_in_both_directions() -> Result<()> {
    for packet in &packets()[..3] {
        with_modes(|rig| {
            for headers in 1..=7 {
                let extend = |packet: &Packet| {
                    let mut packet = packet.clone();
                    for header in 0..headers {
                        let long = [&[1, 1, 12], [0; 12].as_slice()].concat();
                        let rest = if header % 2 == 0 { &PADDING[..] } else { &long };
                        packet = packet.extension(DESTINATION, rest);
                    }
                    packet
                };
                let sent = extend(packet);
                let translated = sent.clone().from(EXTERNAL_6).ttl(63);
                rig.from_guest(&sent)?.assert_redirected(NETWORK, Outbound, &translated);
                let reply = match packet.body {
                    Body::Tcp { .. } => tcp(TO, "[2001:db8:100::1]:20000", ACK),
                    Body::Udp { .. } => udp(TO, "[2001:db8:100::1]:20000"),
                    _ => echo_reply(REMOTE_6, "[2001:db8:100::1]:20000"),
                };
                let reply = extend(&reply);
                let back = reply.clone().to(GUEST_6).ttl(63);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            }
            assert_eq!(rig.tables()?.live().count(), 1);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn atomic_fragments_are_translated_as_whole_packets() -> Result<()> {
    with_modes(|rig| {
        for packet in &packets()[..3] {
            let sent = packet.clone().extension(FRAGMENT, &ATOMIC);
            let translated = sent.clone().from(EXTERNAL_6).ttl(63);
            rig.from_guest(&sent)?.assert_redirected(NETWORK, Outbound, &translated);
        }
        Ok(())
    })
}

#[test]
fn chain_that_is_too_long_is_dropped_from_guests_and_the_stacks_from_outside() -> Result<()> {
    with_modes(|rig| {
        let mut many = udp(FROM, TO);
        for _ in 0..9 {
            many = many.extension(DESTINATION, &PADDING);
        }
        // Beyond 1280 bytes.
        let mut far = udp(FROM, TO);
        let long = [&[83_u8], [0; 670].as_slice()].concat();
        for _ in 0..2 {
            far = far.extension(DESTINATION, &long);
        }
        let far = far.extension(DESTINATION, &PADDING);
        for packet in [many, far] {
            rig.from_guest(&packet)?.assert_dropped(0, DropReason::HeaderChain);
            let outcome = rig.to_outside(Origin::Interface("virbr0"), &packet)?;
            outcome.assert_dropped(NETWORK, DropReason::HeaderChain);
            let arriving = packet.from(REMOTE_6).to(GUEST_6);
            let outcome = rig.from_outside(&arriving)?;
            outcome.assert_handed_over(0, Handover::IpOptions, &arriving);
            // The bridge judges it without looking for what is behind the chain.
            let outcome = rig.to_bridge(Origin::Interface("eth0"), &arriving)?;
            outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        }
        Ok(())
    })
}

#[test]
fn options_for_each_hop_that_are_not_first_are_malformed() -> Result<()> {
    with_modes(|rig| {
        for first in [DESTINATION, ROUTING, HOP_BY_HOP] {
            let packet = udp(FROM, TO).extension(first, &PADDING).extension(HOP_BY_HOP, &PADDING);
            rig.from_guest(&packet)?.assert_dropped(0, DropReason::Malformed);
            let arriving = packet.from(REMOTE_6).to(EXTERNAL_6);
            rig.from_outside(&arriving)?.assert_dropped(0, DropReason::Malformed);
        }
        Ok(())
    })
}

#[test]
fn extension_header_that_reaches_behind_the_packet_is_malformed() -> Result<()> {
    with_modes(|rig| {
        for packet in &packets()[..3] {
            for length in [4, 20, 255] {
                let packet = packet.clone().extension(DESTINATION, &[length, 1, 4, 0, 0, 0, 0]);
                rig.from_guest(&packet)?.assert_dropped(0, DropReason::Malformed);
            }
        }
        Ok(())
    })
}

fn big(from: &str, to: &str) -> Packet {
    let payload: Vec<u8> = (0..2500_u32).map(|byte| byte as u8).collect();
    udp(from, to).payload(&payload)
}

#[test]
fn fragments_follow_their_first_in_both_directions() -> Result<()> {
    with_modes(|rig| {
        // From the ephemeral range, so that the port is a random one.
        let query = big("[fd00:122::10]:40000", TO);
        let mut port = 0;
        for (place, fragment) in query.fragments(800).iter().enumerate() {
            let outcome = rig.frame_from_guest(fragment)?;
            port = rig.tables()?.only().external_port.to_host();
            let translated = query.clone().from(&format!("[{EXTERNAL_6}]:{port}")).ttl(63);
            let expected = &translated.fragments(800)[place];
            let moved = traffic(Outbound, fragment.len());
            outcome.assert(Verdict::Redirect, expected, FORWARDED_MARK, &moved);
        }
        let reply = big(TO, &format!("[{EXTERNAL_6}]:{port}")).identification(9);
        let back = reply.clone().to("[fd00:122::10]:40000").ttl(63);
        for (fragment, expected) in reply.fragments(800).iter().zip(back.fragments(800)) {
            let outcome = rig.frame_from_outside(fragment)?;
            let moved = traffic(Inbound, fragment.len());
            outcome.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &moved);
        }
        assert_eq!(rig.tables()?.only().outbound.packets, 4);
        Ok(())
    })
}

#[test]
fn fragments_of_a_ping_behind_options_follow_their_first() -> Result<()> {
    with_modes(|rig| {
        let ping = echo_request("[fd00:122::10]:77", REMOTE_6).payload(&[5; 2500]);
        let ping = ping.extension(DESTINATION, &PADDING);
        let translated = ping.clone().from(EXTERNAL_6).ttl(63);
        for (fragment, expected) in ping.fragments(1440).iter().zip(translated.fragments(1440)) {
            let outcome = rig.frame_from_guest(fragment)?;
            let moved = traffic(Outbound, fragment.len());
            outcome.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &moved);
        }
        Ok(())
    })
}

#[test]
fn first_fragment_without_a_whole_transport_header_is_malformed() -> Result<()> {
    with_modes(|rig| {
        // 16 of 20 bytes (RFC 7112 demands all of the first fragment).
        let first = &tcp(FROM, TO, SYN).payload(&[7; 20]).fragments(16)[0];
        rig.frame_from_guest(first)?.assert_dropped(0, DropReason::Malformed);
        Ok(())
    })
}

#[test]
fn packets_to_groups_and_on_the_link_are_the_stacks() -> Result<()> {
    with_modes(|rig| {
        for group in ["ff02::1", "ff02::fb", "ff05::2", "ff0e::101"] {
            for source in [GUEST_6, "fe80::1", "::"] {
                let packet = udp(&format!("[{source}]:5353"), &format!("[{group}]:5353"));
                let outcome = rig.from_guest(&packet)?;
                outcome.assert_handed_over(NETWORK, Handover::Multicast, &packet);
                let outcome = rig.from_outside(&packet)?;
                outcome.assert_handed_over(0, Handover::NoFlow, &packet);
            }
        }
        for source in [GUEST_6, "fe80::5"] {
            let packet = udp(&format!("[{source}]:546"), "[fe80::1]:547");
            let outcome = rig.from_guest(&packet)?;
            outcome.assert_handed_over(NETWORK, Handover::LinkLocal, &packet);
        }
        Ok(())
    })
}

#[test]
fn source_on_the_link_reaches_the_host_and_nobody_else() -> Result<()> {
    with_modes(|rig| {
        for source in ["fe80::5", "::"] {
            let to_host = udp(&format!("[{source}]:546"), "[fd00:122::1]:547");
            let outcome = rig.from_guest(&to_host)?;
            if source == "::" {
                outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
            } else {
                outcome.assert_handed_over(NETWORK, Handover::ToHost, &to_host);
            }
            for destination in [REMOTE_6, "fd00:a1::5", "fd00:123::10", "2001:db8:5::10"] {
                let packet = udp(&format!("[{source}]:546"), &format!("[{destination}]:547"));
                let outcome = rig.from_guest(&packet)?;
                if source == "::" {
                    outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
                } else {
                    // The stack answers that it is beyond the source's scope (RFC 4443, section 3.1).
                    outcome.assert_handed_over(NETWORK, Handover::ToHost, &packet);
                }
                // Nor does the stack get it out.
                let virbr0 = Origin::Interface("virbr0");
                let outcome = rig.to_outside(virbr0, &packet)?;
                outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
                let outcome = rig.at(program::BRIDGE_EGRESS, "virbr4", virbr0, &packet.frame())?;
                outcome.assert_dropped(ROUTED, DropReason::SpoofedSource);
            }
            let packet = udp(&format!("[{source}]:546"), "[2001:db8:5::10]:547");
            rig.from_outside(&packet)?.assert_dropped(ROUTED, DropReason::SpoofedSource);
        }
        Ok(())
    })
}

#[test]
fn packets_to_groups_of_the_link_do_not_leave_with_a_guests_address() -> Result<()> {
    with_modes(|rig| {
        for group in ["ff02::fb", "ff12::1", "ff01::1"] {
            let packet = udp(FROM, &format!("[{group}]:5353"));
            for origin in [Origin::Interface("virbr0"), Origin::Host] {
                let outcome = rig.to_outside(origin, &packet)?;
                outcome.assert_dropped(NETWORK, DropReason::MulticastLeak);
            }
        }
        Ok(())
    })
}
