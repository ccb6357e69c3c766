//! Packets that lie, end early, or are random: nothing of a guest ever leaves untranslated.

use anyhow::Result;
use vnet_common::{names::program, reason::DropReason, tcp::flags::*};
use vnet_tests::programs::*;

const ETHERNET: usize = 14;
/// Newer kernels refuse to run anything shorter that calls itself IPv4 (`net/bpf/test_run.c`).
const SHORTEST: usize = ETHERNET + 20;

fn of_each_protocol() -> [Packet; 5] {
    let about = udp("192.0.2.10:53", "192.168.122.10:20000");
    [
        tcp("192.168.122.10:20000", "192.0.2.10:80", SYN).payload(&[1; 20]),
        udp("192.168.122.10:20000", "192.0.2.10:53").payload(&[1; 40]),
        echo_request("192.168.122.10:77", REMOTE).payload(&[1; 40]),
        icmp_error(GUEST, REMOTE, (3, 3), &about, 28),
        raw(GUEST, REMOTE, 47),
    ]
}

/// Writes the IPv4 header checksum anew after its bytes were changed.
fn seal(frame: &mut [u8]) {
    let header = &mut frame[ETHERNET..ETHERNET + 20];
    header[10..12].fill(0);
    let sum = vnet_common::checksum::compute(header);
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
}

#[test]
fn truncated_frames_are_dropped_at_every_length() -> Result<()> {
    with_rig(|rig| {
        for packet in of_each_protocol() {
            let whole = packet.frame();
            for length in SHORTEST..whole.len().min(61) {
                let frame = &whole[..length];
                let outcome = rig.frame_from_guest(frame)?;
                outcome.assert_dropped(0, DropReason::Malformed);
                let virbr0 = Origin::Interface("virbr0");
                let outcome = rig.at(program::UPLINK_EGRESS, "eth0", virbr0, frame)?;
                assert_eq!(outcome.verdict, Verdict::Drop, "{length} bytes of {packet:?}");
                let outcome = rig.frame_from_outside(frame)?;
                outcome.assert_dropped(0, DropReason::Malformed);
            }
        }
        assert!(rig.tables()?.sessions.is_empty());
        Ok(())
    })
}

#[test]
fn packets_too_short_for_their_l4_header_are_dropped() -> Result<()> {
    with_rig(|rig| {
        for packet in &of_each_protocol()[..4] {
            let l4_header = if matches!(packet.body, Body::Tcp { .. }) { 20 } else { 8 };
            for l4_length in 0..l4_header {
                let mut frame = packet.frame();
                frame.truncate(ETHERNET + 20 + l4_length);
                frame[16..18].copy_from_slice(&(20 + l4_length as u16).to_be_bytes());
                seal(&mut frame);
                rig.frame_from_guest(&frame)?.assert_dropped(0, DropReason::Malformed);
                // The same with the bytes there, behind the end that the header tells.
                frame.resize(ETHERNET + 60, 0);
                rig.frame_from_guest(&frame)?.assert_dropped(0, DropReason::Malformed);
            }
        }
        Ok(())
    })
}

#[test]
fn header_lengths_that_cannot_be_are_dropped() -> Result<()> {
    with_rig(|rig| {
        for version_and_length in [0x00, 0x40, 0x41, 0x44, 0x55, 0x65, 0x05] {
            let mut frame = udp("192.168.122.10:20000", "192.0.2.10:53").frame();
            frame[ETHERNET] = version_and_length;
            seal(&mut frame);
            rig.frame_from_guest(&frame)?.assert_dropped(0, DropReason::Malformed);
            let virbr0 = Origin::Interface("virbr0");
            let outcome = rig.at(program::UPLINK_EGRESS, "eth0", virbr0, &frame)?;
            outcome.assert_dropped(NETWORK, DropReason::Malformed);
        }
        // A header longer than the packet.
        let mut frame = udp("192.168.122.10:20000", "192.0.2.10:53").frame();
        frame[ETHERNET] = 0x4f;
        seal(&mut frame);
        rig.frame_from_guest(&frame)?.assert_dropped(0, DropReason::Malformed);
        Ok(())
    })
}

#[test]
fn total_length_that_lies_is_dropped() -> Result<()> {
    with_rig(|rig| {
        let whole = udp("192.168.122.10:20000", "192.0.2.10:53").frame();
        let told = (whole.len() - ETHERNET) as u16;
        for lie in [0, 19, 20, 27, told + 1, 1500, 65535] {
            let mut frame = whole.clone();
            frame[16..18].copy_from_slice(&lie.to_be_bytes());
            seal(&mut frame);
            rig.frame_from_guest(&frame)?.assert_dropped(0, DropReason::Malformed);
        }
        Ok(())
    })
}

#[test]
fn ethernet_padding_behind_a_short_packet_is_kept() -> Result<()> {
    with_rig(|rig| {
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53").payload(b"x");
        let mut frame = packet.frame();
        frame.resize(60, 0);
        let outcome = rig.frame_from_guest(&frame)?;
        let mut expected = packet.from(EXTERNAL).ttl(63).frame();
        expected.resize(60, 0);
        assert_eq!((outcome.verdict, hex(&outcome.frame)), (Verdict::Redirect, hex(&expected)));
        Ok(())
    })
}

/// `xorshift64*`: random, and the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// A frame with a guest's source: often a sound packet of some protocol with a few bytes spoilt.
fn random_frame(random: &mut Random) -> Vec<u8> {
    // Few endpoints, so that the tables do not fill up.
    let guest = format!("192.168.122.{}:{}", 10 + random.below(2), 20000 + random.below(3));
    let remote = match random.below(8) {
        0 => format!("198.51.100.{}:53", random.below(256)),
        1 => format!("224.0.{}.{}:9", random.below(2), random.below(256)),
        2 | 3 => "192.0.2.11:80".to_owned(),
        _ => "192.0.2.10:53".to_owned(),
    };
    let (guest_address, remote_address) =
        (guest.split(':').next().unwrap(), remote.split(':').next().unwrap());
    let packet = match random.below(6) {
        0 => tcp(&guest, &remote, random.below(32) as u8),
        1 => echo_request(&guest, remote_address),
        2 => raw(guest_address, remote_address, random.below(256) as u8),
        3 => {
            let about = udp(&remote, &guest);
            let kind = (random.below(20) as u8, random.below(16) as u8);
            icmp_error(guest_address, remote_address, kind, &about, random.below(40) as usize)
        }
        _ => udp(&guest, &remote),
    };
    let payload = packet.payload.len();
    let packet = if payload < 9 && random.below(2) == 0 {
        packet.payload(&vec![0x5a; random.below(100) as usize])
    } else {
        packet
    };
    let options = vec![1; 4 * random.below(11) as usize];
    let mut frame = match random.below(4) {
        0 => packet.options(&options).frame(),
        1 => {
            let fragments = packet.fragments(16);
            fragments
                .get(random.below(fragments.len() as u64) as usize)
                .cloned()
                .unwrap_or_else(|| packet.frame())
        }
        _ => packet.frame(),
    };
    for _ in 0..random.below(4) {
        let place = ETHERNET + random.below((frame.len() - ETHERNET) as u64) as usize;
        // Not the source: it has to stay a guest's.
        if !(ETHERNET + 12..ETHERNET + 16).contains(&place) {
            frame[place] = random.next() as u8;
        }
    }
    if random.below(8) == 0 {
        frame.truncate(SHORTEST + random.below((frame.len() - SHORTEST) as u64) as usize);
    }
    frame
}

/// Source of the IPv4 header behind the Ethernet header.
fn source(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET + 12..ETHERNET + 16]
}

#[test]
fn whatever_a_guest_sends_leaves_the_uplink_translated_or_not_at_all() -> Result<()> {
    with_rig(|rig| {
        let mut random = Random(0x766e_6574_0001);
        let mut passed = 0;
        for round in 0..6000 {
            let frame = random_frame(&mut random);
            let arrival = Arrival {
                program: program::UPLINK_EGRESS,
                frame: &frame,
                interface: "eth0",
                origin: Origin::Interface("virbr0"),
                mark: 0,
                gso_size: 0,
            };
            let (action, out, _) = rig.run_uncounted(arrival)?;
            let verdict = Verdict::from_action(action);
            if verdict == Verdict::Drop {
                continue;
            }
            assert_eq!(verdict, Verdict::Pass, "round {round}");
            assert_eq!(source(&out), [198, 51, 100, 1], "round {round}\n{}", hex(&frame));
            passed += 1;
            if round % 100 == 0 {
                rig.tables()?.check()?;
            }
        }
        assert!(passed > 100, "only {passed} packets passed");
        rig.tables()?.check()
    })
}

#[test]
fn whatever_a_guest_sends_is_redirected_translated_or_left_as_it_was() -> Result<()> {
    with_rig(|rig| {
        let mut random = Random(0x766e_6574_0002);
        let (mut redirected, mut passed) = (0, 0);
        for round in 0..6000 {
            let frame = random_frame(&mut random);
            let arrival = Arrival {
                program: program::BRIDGE_INGRESS,
                frame: &frame,
                interface: "virbr0",
                origin: Origin::Interface("virbr0"),
                mark: 0,
                gso_size: 0,
            };
            let (action, out, mark) = rig.run_uncounted(arrival)?;
            match Verdict::from_action(action) {
                Verdict::Redirect => {
                    assert_eq!(source(&out), [198, 51, 100, 1], "round {round}\n{}", hex(&frame));
                    redirected += 1;
                }
                Verdict::Pass => {
                    assert_eq!((hex(&out), mark), (hex(&frame), 0), "round {round}");
                    passed += 1;
                }
                Verdict::Drop => {}
                Verdict::Other(action) => panic!("action {action} in round {round}"),
            }
        }
        assert!(redirected > 100 && passed > 100, "{redirected} redirected, {passed} passed");
        rig.tables()?.check()
    })
}

#[test]
fn whatever_comes_from_outside_is_delivered_or_left_as_it_was() -> Result<()> {
    with_rig(|rig| {
        for port in 20000..20010 {
            rig.from_guest(&udp(&format!("{GUEST}:{port}"), "192.0.2.10:53"))?;
        }
        let mut random = Random(0x766e_6574_0003);
        for round in 0..4000 {
            let port = 20000 + random.below(20);
            let reply = udp("192.0.2.10:53", &format!("{EXTERNAL}:{port}"));
            let sent = udp(&format!("{EXTERNAL}:{port}"), "192.0.2.10:53");
            let error = icmp_error("192.0.2.99", EXTERNAL, (3, random.below(16) as u8), &sent, 36);
            let mut frame = if random.below(2) == 0 { reply.frame() } else { error.frame() };
            for _ in 0..random.below(4) {
                let place = ETHERNET + random.below((frame.len() - ETHERNET) as u64) as usize;
                frame[place] = random.next() as u8;
            }
            let arrival = Arrival {
                program: program::UPLINK_INGRESS,
                frame: &frame,
                interface: "eth0",
                origin: Origin::Interface("eth0"),
                mark: 0,
                gso_size: 0,
            };
            let (action, out, mark) = rig.run_uncounted(arrival)?;
            match Verdict::from_action(action) {
                Verdict::Pass if mark == 0 => {
                    assert_eq!(hex(&out), hex(&frame), "round {round}");
                }
                Verdict::Redirect | Verdict::Pass => {
                    assert_eq!(out[30..34], [192, 168, 122, 10], "round {round}\n{}", hex(&frame));
                }
                Verdict::Drop => {}
                Verdict::Other(action) => panic!("action {action} in round {round}"),
            }
        }
        rig.tables()?.check()
    })
}
