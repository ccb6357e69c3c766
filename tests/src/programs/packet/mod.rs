//! IP packets as values: what goes in, and what is expected to come out.

mod transport;
mod wire;

use std::net::{IpAddr, SocketAddr};

/// The flow label of IPv6 packets, unless set.
const FLOW_LABEL: u32 = 0x1_2345;

/// What a packet carries.
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
    /// A UDP-Lite datagram whose checksum covers its header alone.
    UdpLite {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// A DCCP request.
    Dccp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// An SCTP packet; the payload is its chunks.
    Sctp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
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

/// An IP packet; both addresses are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Identification; in IPv6 of fragments alone.
    pub identification: u16,
    /// Differentiated services code point, six bits.
    pub dscp: u8,
    /// Twenty bits, IPv6 alone.
    pub flow_label: u32,
    /// Whether routers must not fragment it, IPv4 alone.
    pub dont_fragment: bool,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers in order.
    pub extensions: Vec<Extension>,
    /// What follows the IP header.
    pub body: Body,
    /// What follows the L4 header.
    pub payload: Vec<u8>,
}

/// An IPv6 extension header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its number.
    pub kind: u8,
    /// All of it but the first byte, which says what follows.
    pub rest: Vec<u8>,
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

/// A UDP-Lite datagram with a few bytes of data between two endpoints as `address:port`.
#[must_use]
pub fn udp_lite(from: &str, to: &str) -> Packet {
    let ((source, from_port), (destination, to_port)) = (endpoint(from), endpoint(to));
    let body = Body::UdpLite { source: from_port, destination: to_port };
    Packet::new(source, destination, body).payload(b"datagram")
}

/// A DCCP request with a few bytes of data between two endpoints as `address:port`.
#[must_use]
pub fn dccp(from: &str, to: &str) -> Packet {
    let ((source, from_port), (destination, to_port)) = (endpoint(from), endpoint(to));
    let body = Body::Dccp { source: from_port, destination: to_port };
    Packet::new(source, destination, body).payload(b"request")
}

/// An SCTP packet with one DATA chunk between two endpoints as `address:port`.
#[must_use]
pub fn sctp(from: &str, to: &str) -> Packet {
    let ((source, from_port), (destination, to_port)) = (endpoint(from), endpoint(to));
    let body = Body::Sctp { source: from_port, destination: to_port };
    let chunk = [0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, b'd', b'a', b't', b'a'];
    Packet::new(source, destination, body).payload(&chunk)
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

/// The frame with which a packet's sender is told that its destination is unreachable: back to where
/// the frame came from.
#[must_use]
pub fn unreachable(from: &str, code: u8, about: &Packet) -> Vec<u8> {
    sent_back(&unreachable_packet(from, code, about))
}

/// A frame that goes back to where one came from.
#[must_use]
pub fn sent_back(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.frame();
    let (destination, source) = frame[..12].split_at_mut(6);
    destination.swap_with_slice(source);
    frame
}

/// The ICMP error by which a packet's sender is told that its destination is unreachable: it quotes the
/// IP header and eight bytes.
#[must_use]
pub fn unreachable_packet(from: &str, code: u8, about: &Packet) -> Packet {
    rejection(from, (if about.source.is_ipv6() { 1 } else { 3 }, code), about)
}

/// As [`unreachable_packet`], of any type and code.
#[must_use]
pub fn rejection(from: &str, (kind, code): (u8, u8), about: &Packet) -> Packet {
    let to = about.source.to_string();
    if about.source.is_ipv6() {
        let mut answer = icmp_error(from, &to, (kind, code), about, 48);
        answer.flow_label = 0;
        return answer;
    }
    let mut answer = icmp_error(from, &to, (kind, code), about, 28);
    // Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
    (answer.dscp, answer.dont_fragment, answer.identification) = (48, true, 0);
    answer
}

/// A packet of another protocol.
#[must_use]
pub fn raw(from: &str, to: &str, protocol: u8) -> Packet {
    Packet::new(parse(from), parse(to), Body::Raw { protocol }).payload(b"eight-by")
}

impl Packet {
    /// A packet without options and data; both addresses are of one family.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        assert_eq!(source.is_ipv6(), destination.is_ipv6(), "two families");
        Self {
            source,
            destination,
            ttl: 64,
            identification: 0x1234,
            dscp: 0,
            flow_label: FLOW_LABEL,
            dont_fragment: false,
            options: Vec::new(),
            extensions: Vec::new(),
            body,
            payload: Vec::new(),
        }
    }

    /// Replaces the source endpoint, as `address:port` or, with the port kept, as `address`.
    #[must_use]
    pub fn from(mut self, source: &str) -> Self {
        let port = self.replace(source, true);
        match (&mut self.body, port) {
            (
                Body::Tcp { source, .. }
                | Body::Udp { source, .. }
                | Body::UdpLite { source, .. }
                | Body::Dccp { source, .. }
                | Body::Sctp { source, .. },
                Some(port),
            ) => *source = port,
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
            (
                Body::Tcp { destination, .. }
                | Body::Udp { destination, .. }
                | Body::UdpLite { destination, .. }
                | Body::Dccp { destination, .. }
                | Body::Sctp { destination, .. },
                Some(port),
            ) => *destination = port,
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

    /// Replaces the IPv4 options.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    /// Adds an IPv6 extension header behind those that are there, without its first byte.
    #[must_use]
    pub fn extension(mut self, kind: u8, rest: &[u8]) -> Self {
        self.extensions.push(Extension { kind, rest: rest.to_vec() });
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

    fn replace(&mut self, text: &str, source: bool) -> Option<u16> {
        let (address, port) = match text.parse::<SocketAddr>() {
            Ok(endpoint) => (endpoint.ip(), Some(endpoint.port())),
            Err(_) => (parse(text), None),
        };
        *(if source { &mut self.source } else { &mut self.destination }) = address;
        port
    }
}

fn endpoint(text: &str) -> (IpAddr, u16) {
    let endpoint: SocketAddr = text.parse().unwrap_or_else(|_| panic!("no endpoint: {text}"));
    (endpoint.ip(), endpoint.port())
}

fn parse(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("no address: {text}"))
}

/// Bytes for a message: sixteen a line.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let byte = |byte: &u8| format!("{byte:02x}");
    let line = |line: &[u8]| line.iter().map(byte).collect::<Vec<_>>().join(" ");
    bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n")
}
