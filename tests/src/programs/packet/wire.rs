//! Packets as bytes, with the checksums that etherparse computes.

use std::net::IpAddr;

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpFragOffset,
    IpNumber, Ipv4Header, TcpHeader, UdpHeader,
};
use vnet_common::{flow::protocol, tcp::flags};

use super::{Body, Extension, Packet};

/// Destination and source of every frame.
const MAC_ADDRESSES: [u8; 12] = [0x52, 0x54, 0, 0, 0, 0xfe, 0x52, 0x54, 0, 0, 0, 0x01];
/// The IPv6 fragment header's number (RFC 8200, section 4.5).
const FRAGMENT: u8 = 44;

impl Packet {
    /// From the Ethernet header on.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        self.in_ethernet(&self.ip())
    }

    /// From the IP header on.
    #[must_use]
    pub fn ip(&self) -> Vec<u8> {
        match self.source {
            IpAddr::V4(_) => self.ipv4_around(&self.l4(), 0, false),
            IpAddr::V6(_) => self.ipv6_around(&self.l4(), None),
        }
    }

    /// The frames of the packet's fragments, each with at most `size` bytes behind its IP header;
    /// `size` is a multiple of 8. In IPv6 the extension headers are in each of them.
    #[must_use]
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let l4 = self.l4();
        let count = l4.len().div_ceil(size);
        let fragment = |(place, part): (usize, &[u8])| {
            let (offset, more) = ((place * size / 8) as u16, place + 1 < count);
            self.in_ethernet(&match self.source {
                IpAddr::V4(_) => self.ipv4_around(part, offset, more),
                IpAddr::V6(_) => self.ipv6_around(part, Some((offset, more))),
            })
        };
        l4.chunks(size).enumerate().map(fragment).collect()
    }

    fn in_ethernet(&self, ip: &[u8]) -> Vec<u8> {
        let ethertype: [u8; 2] = if self.source.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0x00] };
        [MAC_ADDRESSES.as_slice(), &ethertype, ip].concat()
    }

    fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp { .. } => IpNumber::TCP.0,
            Body::Udp { .. } => IpNumber::UDP.0,
            Body::Echo { .. } | Body::Icmp { .. } if self.source.is_ipv6() => IpNumber::IPV6_ICMP.0,
            Body::Echo { .. } | Body::Icmp { .. } => IpNumber::ICMP.0,
            Body::UdpLite { .. } => protocol::UDP_LITE,
            Body::Dccp { .. } => protocol::DCCP,
            Body::Sctp { .. } => protocol::SCTP,
            Body::Raw { protocol } => protocol,
        }
    }

    fn ipv4_around(&self, l4: &[u8], offset: u16, more_fragments: bool) -> Vec<u8> {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (self.source, self.destination) else {
            panic!("two families: {self:?}");
        };
        let protocol = IpNumber(self.protocol());
        let mut header = Ipv4Header::new(0, self.ttl, protocol, from.octets(), to.octets())
            .expect("a header without payload has a valid length");
        header.options = self.options.as_slice().try_into().expect("options of a valid length");
        header.set_payload_len(l4.len()).expect("a payload of a valid length");
        header.identification = self.identification;
        header.dscp = IpDscp::try_new(self.dscp).expect("a code point of six bits");
        header.dont_fragment = self.dont_fragment;
        header.more_fragments = more_fragments;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("an offset of 13 bits");
        header.header_checksum = header.calc_header_checksum();
        [header.to_bytes().as_slice(), l4].concat()
    }

    fn ipv6_around(&self, l4: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (self.source, self.destination) else {
            panic!("two families: {self:?}");
        };
        let mut extensions = self.extensions.clone();
        if let Some((offset, more)) = fragment {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            let [id_high, id_low] = self.identification.to_be_bytes();
            let rest = vec![0, high, low, 0xca, 0xfe, id_high, id_low];
            extensions.push(Extension { kind: FRAGMENT, rest });
        }
        let mut behind = l4.to_vec();
        let mut next_header = self.protocol();
        for extension in extensions.iter().rev() {
            behind = [&[next_header], extension.rest.as_slice(), &behind].concat();
            next_header = extension.kind;
        }
        let first_word = 6 << 28 | u32::from(self.dscp) << 22 | self.flow_label;
        // What does not fit the field is a segmentation-offload packet's, which says 0.
        let length = u16::try_from(behind.len()).unwrap_or(0);
        [
            first_word.to_be_bytes().as_slice(),
            &length.to_be_bytes(),
            &[next_header, self.ttl],
            &from.octets(),
            &to.octets(),
            &behind,
        ]
        .concat()
    }

    fn l4(&self) -> Vec<u8> {
        let header = match self.body {
            Body::Tcp { source, destination, flags } => self.tcp(source, destination, flags),
            Body::Udp { source, destination, has_checksum } => {
                self.udp(source, destination, has_checksum)
            }
            Body::Echo { request, identifier } => self.echo(request, identifier),
            Body::Icmp { kind, code, rest } => self.icmp(kind, code, rest),
            Body::UdpLite { source, destination } => self.udp_lite(source, destination),
            Body::Dccp { source, destination } => self.dccp(source, destination),
            Body::Sctp { source, destination } => self.sctp(source, destination),
            Body::Raw { .. } => Vec::new(),
        };
        [header.as_slice(), &self.payload].concat()
    }

    fn tcp(&self, source: u16, destination: u16, bits: u8) -> Vec<u8> {
        let mut header = tcp_header(source, destination, bits);
        let checksum = match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.calc_checksum_ipv6_raw(from.octets(), to.octets(), &self.payload)
            }
            _ => panic!("two families: {self:?}"),
        };
        header.checksum = checksum.expect("a segment of a valid length");
        header.to_bytes().to_vec()
    }

    fn udp(&self, source: u16, destination: u16, has_checksum: bool) -> Vec<u8> {
        let mut header = UdpHeader::without_ipv4_checksum(source, destination, self.payload.len())
            .expect("a datagram of a valid length");
        if has_checksum {
            let checksum = match (self.source, self.destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &self.payload)
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), &self.payload)
                }
                _ => panic!("two families: {self:?}"),
            };
            header.checksum = checksum.expect("a datagram of a valid length");
        }
        header.to_bytes().to_vec()
    }

    fn echo(&self, request: bool, identifier: u16) -> Vec<u8> {
        let echo = IcmpEchoHeader { id: identifier, seq: 1 };
        match (self.source.is_ipv6(), request) {
            (false, true) => self.icmpv4(Icmpv4Type::EchoRequest(echo)),
            (false, false) => self.icmpv4(Icmpv4Type::EchoReply(echo)),
            (true, true) => self.icmpv6(Icmpv6Type::EchoRequest(echo)),
            (true, false) => self.icmpv6(Icmpv6Type::EchoReply(echo)),
        }
    }

    fn icmp(&self, kind: u8, code: u8, rest: [u8; 4]) -> Vec<u8> {
        if self.source.is_ipv6() {
            self.icmpv6(Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: rest })
        } else {
            self.icmpv4(Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: rest })
        }
    }

    fn icmpv4(&self, kind: Icmpv4Type) -> Vec<u8> {
        Icmpv4Header::with_checksum(kind, &self.payload).to_bytes().to_vec()
    }

    fn icmpv6(&self, kind: Icmpv6Type) -> Vec<u8> {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (self.source, self.destination) else {
            panic!("two families: {self:?}");
        };
        Icmpv6Header::with_checksum(kind, from.octets(), to.octets(), &self.payload)
            .expect("a message of a valid length")
            .to_bytes()
            .to_vec()
    }
}

fn tcp_header(source: u16, destination: u16, bits: u8) -> TcpHeader {
    let mut header = TcpHeader::new(source, destination, 1000, 64240);
    header.fin = bits & flags::FIN != 0;
    header.syn = bits & flags::SYN != 0;
    header.rst = bits & flags::RST != 0;
    header.ack = bits & flags::ACK != 0;
    header.psh = bits & 0x08 != 0;
    header.urg = bits & 0x20 != 0;
    if header.ack {
        header.acknowledgment_number = 2000;
    }
    header
}
