//! The guard of a guest's port: whatever bytes a guest sends, nothing passes that is not its own.

use anyhow::Result;
use vnet_common::reason::DropReason;
use vnet_tests::programs::{guard::*, *};

use super::guard::with_guest;

/// A generator of the xorshift family; its seed is in the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn samples() -> Vec<Vec<u8>> {
    let own = link_layer_option(1, GUEST_MAC);
    let advertised = link_layer_option(2, GUEST_MAC);
    vec![
        udp("192.168.122.10:1000", "192.0.2.10:53").frame(),
        udp("192.168.122.10:1000", "192.0.2.10:53").options(&[1; 12]).frame(),
        udp("0.0.0.0:68", "255.255.255.255:67").frame(),
        Arp::new(1, GUEST, GATEWAY).frame(),
        ethernet(
            0x8035,
            &Arp { target_mac: GUEST_MAC, ..Arp::new(3, "0.0.0.0", "0.0.0.0") }.message(),
        ),
        ipv6(GUEST_IPV6, "2001:db8::1", 17, &udp_message(1000, 53)),
        ipv6(GUEST_LINK_LOCAL, "ff02::1", 58, &discovery(135, Some("fe80::1"), &[&own])),
        ipv6(GUEST_LINK_LOCAL, "ff02::1", 58, &discovery(136, Some(GUEST_IPV6), &[&advertised])),
        ipv6(GUEST_IPV6, "ff02::1", 0, &extension(60, &extension(58, &discovery(128, None, &[])))),
        ipv6(GUEST_IPV6, "ff02::1", 44, &fragment(58, 0, true, &discovery(128, None, &[]))),
    ]
}

/// The kernel runs no program with less than an IP header.
fn shortest(frame: &[u8]) -> usize {
    let wanted = match frame[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => 15,
    };
    wanted.min(frame.len())
}

/// What a receiver would take from a frame that has passed is the guest's own.
fn assert_is_own(frame: &[u8]) {
    let all = hex(frame);
    assert_eq!(frame[6..12], GUEST_MAC, "{all}");
    let rest = &frame[14..];
    match u16::from_be_bytes([frame[12], frame[13]]) {
        0x0800 => {
            let source = &rest[12..16];
            assert!(source == [192, 168, 122, 10] || source == [0; 4], "{all}");
        }
        0x0806 | 0x8035 => {
            assert_eq!(rest[8..14], GUEST_MAC, "{all}");
            assert!(rest[14..18] == [192, 168, 122, 10] || rest[14..18] == [0; 4], "{all}");
        }
        0x86dd => {
            let source = &rest[8..24];
            let is = |text: &str| source == bytemuck::bytes_of(&any_address(text).to_wire());
            // A few link-local addresses are learned.
            let is_link_local = source.starts_with(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0]);
            assert!(is(GUEST_IPV6) || is_link_local || is("::"), "{all}");
            assert!(!(rest[6] == 58 && matches!(rest[40], 134 | 137)), "{all}");
        }
        other => panic!("ethertype {other:04x}\n{all}"),
    }
}

#[test]
fn whatever_passes_is_the_guests_own() -> Result<()> {
    with_guest(|rig| {
        let mut random = Random(0x766e_6574_0004);
        let samples = samples();
        let (mut passed, mut dropped) = (0, 0);
        for _ in 0..8000 {
            let mut frame = samples[random.below(samples.len())].clone();
            for _ in 0..random.below(4) {
                let place = random.below(frame.len());
                frame[place] = random.next() as u8;
            }
            if random.below(4) == 0 {
                frame.truncate(shortest(&frame) + random.below(frame.len() - shortest(&frame) + 1));
            }
            let (verdict, out, _) = rig.run_uncounted(Arrival {
                program: vnet_common::names::program::PORT_GUARD,
                frame: &frame,
                interface: "port0",
                origin: Origin::Interface("port0"),
                mark: 0,
                gso_size: 0,
            })?;
            match Verdict::from_action(verdict) {
                Verdict::Pass => {
                    passed += 1;
                    assert_eq!(out, frame);
                    assert_is_own(&frame);
                }
                Verdict::Drop => dropped += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(passed > 500 && dropped > 500, "{passed} passed, {dropped} dropped");
        let learned = rig.learned("port0")?;
        assert!(learned.ipv4 == 0 && learned.ipv6 == 0 && learned.link_local <= 4, "{learned:?}");
        Ok(())
    })
}

#[test]
fn a_full_table_lets_nothing_new_pass() -> Result<()> {
    with_guest(|rig| {
        for host in 0..200 {
            // The table of the rig has 64 slots.
            if rig.give_address(OTHER_MAC, &format!("192.168.122.{host}")).is_err() {
                break;
            }
        }
        let frame = ipv6("fe80::77", "ff02::1", 59, &[]);
        let outcome = rig.at_port(&frame)?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedAddress);
        assert_eq!(rig.learned("port0")?.link_local, 0);
        Ok(())
    })
}
