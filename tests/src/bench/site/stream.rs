//! The frames that go through a site.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use vnet_common::{
    family::Family,
    generator::{FRAME_BYTES, Field, SHORT_FRAME_BYTES, Stream},
};

use super::Way;
use crate::programs::{modes::port_of, udp};

const LINK: u32 = 14;
/// Offset of the identification in the header of IPv4: a word that nobody reads.
const IDENTIFICATION: u32 = LINK + 4;
const FIRST_PORT: u16 = 16384;
const REMOTE_PORT: u16 = 9;
/// Ports of a guest's address at most, all of which may be external ports, too.
const PORTS: u32 = 1 << 14;
const PORT_BITS: u32 = PORTS.trailing_zeros();

/// Which endpoints there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) struct Flows {
    /// How many, a power of two.
    pub count: u32,
    /// What differs where the ports of one address do not suffice.
    pub beyond: Beyond,
}

/// What differs besides the guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Beyond {
    /// The remote's address.
    Remote,
    /// The guest's address.
    Guest,
    /// The guest's address from flow to flow, not only where ports do not suffice.
    EachGuest,
}

impl Flows {
    /// Flows of one guest.
    pub const fn of_one_guest(count: u32) -> Self {
        Self { count, beyond: Beyond::Remote }
    }
}

/// Both ends of a wire.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub mac: &'a [u8; 6],
    pub address: &'a str,
}

/// Bytes of a frame of a family.
pub(super) const fn frame_bytes(family: Family) -> usize {
    match family {
        Family::Ipv4 => SHORT_FRAME_BYTES,
        Family::Ipv6 => FRAME_BYTES,
    }
}

/// Datagrams of all flows: of the guest's end the port differs, and whatever else is told.
pub(super) fn stream(way: Way, guest: End<'_>, remote: End<'_>, flows: Flows) -> Result<Stream> {
    let is_out = way == Way::Out;
    let (from, to) = if is_out { (guest, remote) } else { (remote, guest) };
    let (from_port, to_port) =
        if is_out { (FIRST_PORT, REMOTE_PORT) } else { (REMOTE_PORT, FIRST_PORT) };
    let is_ipv4 = matches!(from.address.parse()?, IpAddr::V4(_));
    // What changes in IPv6 has its complement in the payload, so that the checksum stays; that of IPv4 is left out.
    let payload: &[u8] = if is_ipv4 { &[0; 18] } else { &[0; 2] };
    let guest_port = LINK + if is_ipv4 { 20 } else { 40 } + if is_out { 0 } else { 2 };
    let port = Field {
        offset: guest_port,
        complement: if is_ipv4 { 0 } else { FRAME_BYTES as u32 - 2 },
        first: FIRST_PORT.into(),
        mask: flows.count.min(PORTS) - 1,
        shift: 0,
        step: 1,
    };
    let mut fields = [port, Field::default()];
    let beyond = flows.count / PORTS;
    let each_guest = flows.beyond == Beyond::EachGuest;
    if beyond > 1 || each_guest {
        anyhow::ensure!(is_ipv4, "only IPv4 has so many flows");
        let of_source = (flows.beyond == Beyond::Remote) != is_out;
        let address: IpAddr = if of_source { from.address } else { to.address }.parse()?;
        let IpAddr::V4(address) = address else { anyhow::bail!("not IPv4") };
        let [.., high, low] = address.octets();
        let count = if each_guest { flows.count } else { beyond };
        fields[1] = Field {
            offset: LINK + if of_source { 14 } else { 18 },
            complement: IDENTIFICATION,
            first: u16::from_be_bytes([high, low]).into(),
            mask: count - 1,
            shift: if each_guest { 0 } else { PORT_BITS },
            step: 1,
        };
    }
    if each_guest {
        fields[0].mask = 0;
    }
    let mut packet =
        udp(&port_of(from.address, from_port), &port_of(to.address, to_port)).payload(payload);
    packet = if is_ipv4 { packet.without_checksum() } else { packet };
    let mut bytes = packet.frame();
    bytes[..6].copy_from_slice(to.mac);
    bytes[6..12].copy_from_slice(from.mac);
    let mut frame = [0; FRAME_BYTES];
    frame.get_mut(..bytes.len()).context("a longer frame")?.copy_from_slice(&bytes);
    if is_ipv4 {
        let changing = fields[1];
        prepare_header(&mut frame, changing);
    } else {
        let value = port.first as u16;
        // The word is zero so far: the checksum has to know what will be there, besides the port, which it knows.
        let checksum = &mut frame[(LINK + 40 + 6) as usize..][..2];
        let old = u16::from_be_bytes([checksum[0], checksum[1]]);
        let new = subtract(old, !value);
        checksum.copy_from_slice(&new.to_be_bytes());
    }
    Ok(Stream { frame, fields })
}

/// The checksum of the header where the identification will be the complement of another word in it.
fn prepare_header(frame: &mut [u8; FRAME_BYTES], field: Field) {
    if field.complement == 0 {
        return;
    }
    let at = field.complement as usize;
    let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
    let sum = &mut frame[(LINK + 10) as usize..][..2];
    let mut checksum = u16::from_be_bytes([sum[0], sum[1]]);
    // The other word is the first number now.
    checksum = subtract(checksum, !(field.first as u16));
    checksum = subtract(checksum, !old);
    sum.copy_from_slice(&checksum.to_be_bytes());
}

/// A checksum (RFC 1071) of what has this word, too; with the complement of a word, of what has it no more.
const fn subtract(checksum: u16, word: u16) -> u16 {
    let sum = checksum as u32 + !word as u32;
    (sum as u16) + (sum >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: &Stream, number: u32) -> Vec<u8> {
        let mut frame = stream.frame.to_vec();
        for field in &stream.fields {
            let value = field.number(number);
            for (offset, value) in [(field.offset, value), (field.complement, !value)] {
                if offset != 0 {
                    frame[offset as usize..][..2].copy_from_slice(&value.to_be_bytes());
                }
            }
        }
        frame
    }

    fn sum(words: &[u8]) -> u16 {
        let sum: u32 =
            words.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn headers_of_all_flows_have_true_checksums() {
        let guest = End { mac: &[1; 6], address: "10.64.0.10" };
        let remote = End { mac: &[2; 6], address: "198.18.0.0" };
        for way in Way::BOTH {
            for beyond in [Beyond::Remote, Beyond::Guest, Beyond::EachGuest] {
                let stream = stream(way, guest, remote, Flows { count: 1 << 16, beyond }).unwrap();
                for number in [0, 1, 16_384, 65_535] {
                    let frame = frame(&stream, number);
                    assert_eq!(sum(&frame[14..34]), 0xffff, "{way:?} {beyond:?} {number}");
                }
            }
        }
    }

    #[test]
    fn datagrams_of_ipv6_have_true_checksums() {
        let guest = End { mac: &[1; 6], address: "fd00:64::10" };
        let remote = End { mac: &[2; 6], address: "2001:db8:1::1" };
        for way in Way::BOTH {
            let stream = stream(way, guest, remote, Flows::of_one_guest(256)).unwrap();
            for number in [0, 1, 255] {
                let frame = frame(&stream, number);
                let pseudo = [&frame[22..54], &[0, 10, 0, 17]].concat();
                let all = [&pseudo[..], &frame[54..64]].concat();
                assert_eq!(sum(&all), 0xffff, "{way:?} {number}");
            }
        }
    }

    #[test]
    fn flows_of_one_guest_differ_in_port_and_remote() {
        let guest = End { mac: &[1; 6], address: "10.64.0.10" };
        let remote = End { mac: &[2; 6], address: "198.18.0.0" };
        let stream = stream(Way::Out, guest, remote, Flows::of_one_guest(1 << 20)).unwrap();
        let endpoints = |number| {
            let frame = frame(&stream, number);
            ([frame[34], frame[35]], [frame[30], frame[31], frame[32], frame[33]])
        };
        assert_eq!(endpoints(0), ([0x40, 0], [198, 18, 0, 0]));
        assert_eq!(endpoints(1), ([0x40, 1], [198, 18, 0, 0]));
        assert_eq!(endpoints((1 << 20) - 1), ([0x7f, 0xff], [198, 18, 0, 63]));
        assert_eq!(endpoints(1 << 20), ([0x40, 0], [198, 18, 0, 0]));
    }
}
