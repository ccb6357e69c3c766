//! Transport headers that etherparse does not know.

use std::net::IpAddr;

use vnet_common::{checksum, flow::protocol};

use super::Packet;

impl Packet {
    /// RFC 3828, section 3.1: as much of the datagram as the coverage says, here the header, and the
    /// pseudo header with the length of the whole.
    pub(super) fn udp_lite(&self, source: u16, destination: u16) -> Vec<u8> {
        const COVERAGE: u16 = 8;
        let mut header = words(&[source, destination, COVERAGE, 0]);
        let pseudo = self.pseudo_header(protocol::UDP_LITE, 8 + self.payload.len());
        let sum = match checksum::compute(&[pseudo, header.clone()].concat()) {
            0 => u16::MAX,
            sum => sum,
        };
        header[6..8].copy_from_slice(&sum.to_ne_bytes());
        header
    }

    /// RFC 4340, sections 5.1 and 5.2: a request with 48-bit sequence numbers and no options, all of
    /// it covered.
    pub(super) fn dccp(&self, source: u16, destination: u16) -> Vec<u8> {
        const DATA_OFFSET: u16 = 5 << 8;
        // Extended sequence numbers, type request, sequence number 7.
        const TYPE: u16 = 0x0100;
        let mut header = words(&[source, destination, DATA_OFFSET, 0, TYPE, 0, 0, 7, 0, 42]);
        let pseudo = self.pseudo_header(protocol::DCCP, header.len() + self.payload.len());
        let sum = checksum::compute(&[&pseudo, &header, &self.payload[..]].concat());
        header[6..8].copy_from_slice(&sum.to_ne_bytes());
        header
    }

    /// RFC 9260, section 3.1, with the `CRC32c` of its appendix A.
    pub(super) fn sctp(&self, source: u16, destination: u16) -> Vec<u8> {
        let mut header = words(&[source, destination, 0xfeed, 0xbeef, 0, 0]);
        let sum = crc32c(&[header.as_slice(), &self.payload].concat());
        header[8..12].copy_from_slice(&sum.to_le_bytes());
        header
    }

    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let address = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let rest = words(&[length as u16, u16::from(protocol)]);
        [address(self.source), address(self.destination), rest].concat()
    }
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |rest: u32, _| if rest & 1 == 1 { rest >> 1 ^ 0x82f6_3b78 } else { rest >> 1 };
    !bytes.iter().fold(u32::MAX, |rest, byte| (0..8).fold(rest ^ u32::from(*byte), bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_digits_is_the_published_check_value() {
        // RFC 3720, appendix B.4, and the catalogue of parametrised CRC algorithms: CRC-32/ISCSI.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
