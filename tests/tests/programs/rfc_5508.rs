//! RFC 5508 (ICMP), where no other test shows what `docs/nat.md` says.

use anyhow::Result;
use vnet_common::flow::Direction::*;
use vnet_tests::programs::*;

const ROUTER: &str = "198.51.100.254";
/// Where the ICMP header of a frame starts.
const ICMP: usize = 14 + 20;

#[test]
fn identifier_is_the_same_for_every_remote() -> Result<()> {
    with_rig(|rig| {
        // Another guest has taken it, so that it cannot be kept.
        rig.from_guest(&echo_request("192.168.122.11:77", REMOTE))?;
        let mut identifiers = Vec::new();
        for remote in [REMOTE, "192.0.2.11", "192.0.2.12"] {
            let ping = echo_request("192.168.122.10:77", remote);
            let outcome = rig.from_guest(&ping)?;
            let tables = rig.tables()?;
            let mut of_guest = tables.live().filter(|(_, s)| s.inside == address(GUEST));
            let identifier = of_guest.next().unwrap().1.external_port.to_host();
            let translated = ping.from(&format!("{EXTERNAL}:{identifier}")).ttl(63);
            outcome.assert_redirected(NETWORK, Outbound, &translated);
            identifiers.push(identifier);
        }
        assert!(identifiers.iter().all(|one| *one == identifiers[0]), "{identifiers:?}");
        assert_ne!(identifiers[0], 77);
        Ok(())
    })
}

#[test]
fn timestamps_information_and_address_masks_are_queries_as_pings_are() -> Result<()> {
    with_rig(|rig| {
        let message = |from: &str, to: &str, kind: u8| {
            let about = udp("192.0.2.1:1", "192.0.2.2:2");
            // Identifier 77, sequence number 1, then as much as three timestamps.
            icmp_error(from, to, (kind, 0), &about, 0).icmp_rest([0, 77, 0, 1]).payload(&[7; 12])
        };
        for (query, reply) in [(13, 14), (15, 16), (17, 18)] {
            let asked = message(GUEST, REMOTE, query);
            let translated = message(EXTERNAL, REMOTE, query).ttl(63);
            rig.from_guest(&asked)?.assert_redirected(NETWORK, Outbound, &translated);
            let answer = message(REMOTE, EXTERNAL, reply);
            let back = message(REMOTE, GUEST, reply).ttl(63);
            rig.from_outside(&answer)?.assert_redirected(NETWORK, Inbound, &back);
        }
        Ok(())
    })
}

/// Whether the ICMP checksum of a frame is right (RFC 1071).
fn icmp_checksum_is_right(frame: &[u8]) -> bool {
    let words = frame[ICMP..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[test]
fn wrong_checksum_of_an_error_stays_wrong() -> Result<()> {
    with_rig(|rig| {
        let query = udp("192.168.122.10:40000", "192.0.2.10:53");
        rig.from_guest(&query)?;
        let port = rig.tables()?.only().external_port.to_host();
        let on_the_wire = query.from(&format!("{EXTERNAL}:{port}")).ttl(60);
        let mut error = icmp_error(ROUTER, EXTERNAL, (3, 3), &on_the_wire, 28).frame();
        let outcome = rig.frame_from_outside(&error)?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert!(icmp_checksum_is_right(&outcome.frame), "{}", hex(&outcome.frame));
        error[ICMP + 2] ^= 0x10;
        let outcome = rig.frame_from_outside(&error)?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert!(!icmp_checksum_is_right(&outcome.frame), "{}", hex(&outcome.frame));
        Ok(())
    })
}

#[test]
fn checksums_of_the_quoted_headers_are_not_verified() -> Result<()> {
    /// Offsets in a frame of the quoted IP header's checksum and of the quoted UDP header's.
    const QUOTED: [usize; 2] = [ICMP + 8 + 10, ICMP + 8 + 20 + 6];
    with_rig(|rig| {
        let query = udp("192.168.122.10:40000", "192.0.2.10:53");
        rig.from_guest(&query)?;
        let port = rig.tables()?.only().external_port.to_host();
        let on_the_wire = query.from(&format!("{EXTERNAL}:{port}")).ttl(60);
        let error = icmp_error(ROUTER, EXTERNAL, (3, 3), &on_the_wire, 28).frame();
        let translated = rig.frame_from_outside(&error)?;
        for offset in QUOTED {
            let mut wrong = error.clone();
            wrong[offset] ^= 0x10;
            let outcome = rig.frame_from_outside(&wrong)?;
            assert_eq!(outcome.verdict, Verdict::Redirect);
            // It follows what is rewritten, so that it is as wrong as before.
            let differing: Vec<usize> = (0..outcome.frame.len())
                .filter(|index| outcome.frame[*index] != translated.frame[*index])
                .collect();
            assert!(differing.contains(&offset), "{differing:?}");
            assert!(differing.iter().all(|at| (offset..offset + 2).contains(at)), "{differing:?}");
        }
        Ok(())
    })
}

#[test]
fn extensions_behind_the_quote_stay_as_they_are() -> Result<()> {
    /// RFC 4884: a quote of 128 bytes, then version 2 and an object of an MPLS label (RFC 4950).
    const EXTENSION: [u8; 12] = [0x20, 0, 0xb9, 0xf2, 0, 8, 1, 1, 0x01, 0xf4, 0x01, 0x40];
    with_rig(|rig| {
        let query = udp("192.168.122.10:40000", "192.0.2.10:53").payload(&[9; 300]);
        rig.from_guest(&query)?;
        let port = rig.tables()?.only().external_port.to_host();
        let on_the_wire = query.clone().from(&format!("{EXTERNAL}:{port}")).ttl(1);
        let with_extension = |from: &str, to: &str, about: &Packet| {
            let mut error = icmp_error(from, to, (11, 0), about, 128);
            error.payload.extend(EXTENSION);
            // The quote's length in words of 32 bits.
            error.icmp_rest([0, 32, 0, 0])
        };
        let error = with_extension(ROUTER, EXTERNAL, &on_the_wire);
        let expected = with_extension(ROUTER, GUEST, &query.ttl(1)).ttl(63);
        rig.from_outside(&error)?.assert_redirected(NETWORK, Inbound, &expected);
        Ok(())
    })
}
