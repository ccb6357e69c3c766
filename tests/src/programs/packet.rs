//! IPv4 packets as values: what goes in, and what is expected to come out.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, TcpHeader,
    UdpHeader,
};
use vnet_common::tcp::flags;

/// Destination, source and type of every frame.
const ETHERNET: [u8; 14] = [0x52, 0x54, 0, 0, 0, 0xfe, 0x52, 0x54, 0, 0, 0, 0x01, 0x08, 0x00];

/// What an IPv4 packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A TCP segment with the flags of [`vnet_common::tcp::flags`].
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags.
        flags: u8,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Whether it has a checksum (RFC 768).
        has_checksum: bool,
    },
    /// An ICMP echo request or reply.
    Echo {
        /// Request rather than reply.
        request: bool,
        /// The query's identifier.
        identifier: u16,
    },
    /// Another ICMP message; the payload follows its eight bytes.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Bytes 4 to 7.
        rest: [u8; 4],
    },
    /// Another IP protocol.
    Raw {
        /// Its number.
        protocol: u8,
    },
}

/// An IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub identification: u16,
    /// IP options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// What follows the IP header.
    pub body: Body,
    /// What follows the L4 header.
    pub payload: Vec<u8>,
}

/// A TCP segment without data between two endpoints as `address:port`.
#[must_use]
pub fn tcp(from: &str, to: &str, flags: u8) -> Packet {
    let (source, from_port) = endpoint(from);
    let (destination, to_port) = endpoint(to);
    Packet::new(source, destination, Body::Tcp { source: from_port, destination: to_port, flags })
}

/// A UDP datagram with a few bytes of data between two endpoints as `address:port`.
#[must_use]
pub fn udp(from: &str, to: &str) -> Packet {
    let (source, from_port) = endpoint(from);
    let (destination, to_port) = endpoint(to);
    let body = Body::Udp { source: from_port, destination: to_port, has_checksum: true };
    Packet::new(source, destination, body).payload(b"datagram")
}

/// An ICMP echo request from `address:identifier` to an address.
#[must_use]
pub fn echo_request(from: &str, to: &str) -> Packet {
    let (source, identifier) = endpoint(from);
    let body = Body::Echo { request: true, identifier };
    Packet::new(source, parse(to), body).payload(b"ping")
}

/// An ICMP echo reply from an address to `address:identifier`.
#[must_use]
pub fn echo_reply(from: &str, to: &str) -> Packet {
    let (destination, identifier) = endpoint(to);
    let body = Body::Echo { request: false, identifier };
    Packet::new(parse(from), destination, body).payload(b"ping")
}

/// An ICMP error from one address to another that quotes a packet's first `quoted` bytes.
#[must_use]
pub fn icmp_error(
    from: &str,
    to: &str,
    (kind, code): (u8, u8),
    about: &Packet,
    quoted: usize,
) -> Packet {
    let quote = about.ip();
    let body = Body::Icmp { kind, code, rest: [0; 4] };
    Packet::new(parse(from), parse(to), body).payload(&quote[..quoted.min(quote.len())])
}

/// A packet of another protocol.
#[must_use]
pub fn raw(from: &str, to: &str, protocol: u8) -> Packet {
    Packet::new(parse(from), parse(to), Body::Raw { protocol }).payload(b"eight-by")
}

impl Packet {
    fn new(source: Ipv4Addr, destination: Ipv4Addr, body: Body) -> Self {
        let (options, payload) = (Vec::new(), Vec::new());
        Self { source, destination, ttl: 64, identification: 0x1234, options, body, payload }
    }

    /// Replaces the source endpoint, as `address:port` or, with the port kept, as `address`.
    #[must_use]
    pub fn from(mut self, source: &str) -> Self {
        let port = self.replace(source, true);
        match (&mut self.body, port) {
            (Body::Tcp { source, .. } | Body::Udp { source, .. }, Some(port)) => *source = port,
            (Body::Echo { identifier, .. }, Some(port)) => *identifier = port,
            _ => {}
        }
        self
    }

    /// Replaces the destination endpoint, as [`Packet::from`].
    #[must_use]
    pub fn to(mut self, destination: &str) -> Self {
        let port = self.replace(destination, false);
        match (&mut self.body, port) {
            (Body::Tcp { destination, .. } | Body::Udp { destination, .. }, Some(port)) => {
                *destination = port;
            }
            (Body::Echo { identifier, .. }, Some(port)) => *identifier = port,
            _ => {}
        }
        self
    }

    /// Replaces the time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Replaces the payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Replaces the IP options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Replaces the identification.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Leaves the UDP checksum out.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Body::Udp { has_checksum, .. } = &mut self.body {
            *has_checksum = false;
        }
        self
    }

    /// The same with bytes 4 to 7 of the ICMP header, such as the next hop's MTU (RFC 1191).
    #[must_use]
    pub fn icmp_rest(mut self, bytes: [u8; 4]) -> Self {
        if let Body::Icmp { rest, .. } = &mut self.body {
            *rest = bytes;
        }
        self
    }

    /// From the Ethernet header on.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        [ETHERNET.as_slice(), &self.ip()].concat()
    }

    /// From the IPv4 header on.
    #[must_use]
    pub fn ip(&self) -> Vec<u8> {
        let l4 = self.l4();
        self.ip_around(&l4, 0, false)
    }

    /// The frames of the packet's fragments, each with at most `size` bytes behind its IP header;
    /// `size` is a multiple of 8.
    #[must_use]
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let l4 = self.l4();
        let count = l4.len().div_ceil(size);
        l4.chunks(size)
            .enumerate()
            .map(|(place, part)| {
                let ip = self.ip_around(part, (place * size / 8) as u16, place + 1 < count);
                [ETHERNET.as_slice(), &ip].concat()
            })
            .collect()
    }

    fn ip_around(&self, l4: &[u8], offset: u16, more_fragments: bool) -> Vec<u8> {
        let protocol = match self.body {
            Body::Tcp { .. } => IpNumber::TCP,
            Body::Udp { .. } => IpNumber::UDP,
            Body::Echo { .. } | Body::Icmp { .. } => IpNumber::ICMP,
            Body::Raw { protocol } => IpNumber(protocol),
        };
        let (from, to) = (self.source.octets(), self.destination.octets());
        let mut header = Ipv4Header::new(0, self.ttl, protocol, from, to)
            .expect("a header without payload has a valid length");
        header.options = self.options.as_slice().try_into().expect("options of a valid length");
        header.set_payload_len(l4.len()).expect("a payload of a valid length");
        header.identification = self.identification;
        header.dont_fragment = false;
        header.more_fragments = more_fragments;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("an offset of 13 bits");
        header.header_checksum = header.calc_header_checksum();
        [header.to_bytes().as_slice(), l4].concat()
    }

    fn l4(&self) -> Vec<u8> {
        let (from, to) = (self.source.octets(), self.destination.octets());
        let header = match self.body {
            Body::Tcp { source, destination, flags } => {
                let mut header = tcp_header(source, destination, flags);
                header.checksum = header
                    .calc_checksum_ipv4_raw(from, to, &self.payload)
                    .expect("a segment of a valid length");
                header.to_bytes().to_vec()
            }
            Body::Udp { source, destination, has_checksum } => {
                let length = self.payload.len();
                let mut header = UdpHeader::without_ipv4_checksum(source, destination, length)
                    .expect("a datagram of a valid length");
                if has_checksum {
                    header.checksum = header
                        .calc_checksum_ipv4_raw(from, to, &self.payload)
                        .expect("a datagram of a valid length");
                }
                header.to_bytes().to_vec()
            }
            Body::Echo { request, identifier } => {
                let echo = IcmpEchoHeader { id: identifier, seq: 1 };
                let kind = if request {
                    Icmpv4Type::EchoRequest(echo)
                } else {
                    Icmpv4Type::EchoReply(echo)
                };
                Icmpv4Header::with_checksum(kind, &self.payload).to_bytes().to_vec()
            }
            Body::Icmp { kind, code, rest } => {
                let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: rest };
                Icmpv4Header::with_checksum(kind, &self.payload).to_bytes().to_vec()
            }
            Body::Raw { .. } => Vec::new(),
        };
        [header.as_slice(), &self.payload].concat()
    }

    fn replace(&mut self, text: &str, source: bool) -> Option<u16> {
        let (address, port) = match text.parse::<SocketAddrV4>() {
            Ok(endpoint) => (*endpoint.ip(), Some(endpoint.port())),
            Err(_) => (parse(text), None),
        };
        *(if source { &mut self.source } else { &mut self.destination }) = address;
        port
    }
}

fn tcp_header(source: u16, destination: u16, bits: u8) -> TcpHeader {
    let mut header = TcpHeader::new(source, destination, 1000, 64240);
    header.fin = bits & flags::FIN != 0;
    header.syn = bits & flags::SYN != 0;
    header.rst = bits & flags::RST != 0;
    header.ack = bits & flags::ACK != 0;
    if header.ack {
        header.acknowledgment_number = 2000;
    }
    header
}

fn endpoint(text: &str) -> (Ipv4Addr, u16) {
    let endpoint: SocketAddrV4 = text.parse().unwrap_or_else(|_| panic!("no endpoint: {text}"));
    (*endpoint.ip(), endpoint.port())
}

fn parse(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|_| panic!("no address: {text}"))
}

/// Bytes for a message: sixteen a line.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
    bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n")
}
