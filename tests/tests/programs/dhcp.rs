//! The host's own DHCP replies leave with a whole checksum.

use anyhow::Result;
use vnet_common::names::program::BRIDGE_EGRESS;
use vnet_tests::programs::*;

const SERVER: &str = "192.168.122.1:67";
/// Where the checksum of a UDP datagram is in its frame.
const CHECKSUM: usize = 14 + 20 + 6;

/// A reply of this length as the host's stack leaves it to a NIC: with the sum of the pseudo-header.
fn reply(packet: &Packet, length: usize) -> (Vec<u8>, Vec<u8>) {
    let payload: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
    let whole = packet.clone().payload(&payload).frame();
    let mut partial = whole.clone();
    let words = whole[26..34].chunks(2).chain([&[0, 17][..], &whole[38..40]]);
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    partial[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(sum as u16).to_be_bytes());
    (partial, whole)
}

#[test]
fn reply_of_the_host_gets_its_checksum_and_keeps_all_else() -> Result<()> {
    with_rig(|rig| {
        for client in ["192.168.122.10:68", "255.255.255.255:68"] {
            // Every rest of a step, and what an Ethernet has room for.
            for length in (236..304).chain([548, 1471, 1472]) {
                let (partial, whole) = reply(&udp(SERVER, client), length);
                let outcome = rig.at(BRIDGE_EGRESS, "virbr0", Origin::Host, &partial)?;
                assert_eq!(outcome.frame, whole, "{client}, {length}");
                outcome.assert_passed_unchanged();
            }
        }
        Ok(())
    })
}

#[test]
fn other_packets_keep_what_they_have() -> Result<()> {
    with_rig(|rig| {
        // Of other ports, and such as lack nothing.
        let dns = reply(&udp("192.168.122.1:53", "192.168.122.10:68"), 300).0;
        let query = reply(&udp("192.168.122.1:67", "192.168.122.10:67"), 300).0;
        let whole = reply(&udp(SERVER, "192.168.122.10:68"), 300).1;
        let none = udp(SERVER, "192.168.122.10:68").without_checksum().frame();
        for frame in [dns, query, whole, none] {
            let outcome = rig.at(BRIDGE_EGRESS, "virbr0", Origin::Host, &frame)?;
            assert_eq!(outcome.frame, frame);
            outcome.assert_passed_unchanged();
        }
        // Forwarded ones are their sender's.
        let (partial, _) = reply(&udp("192.168.122.11:67", "192.168.122.10:68"), 300);
        let origin = Origin::Interface("virbr0");
        let outcome = rig.at(BRIDGE_EGRESS, "virbr0", origin, &partial)?;
        assert_eq!(outcome.frame, partial);
        Ok(())
    })
}
