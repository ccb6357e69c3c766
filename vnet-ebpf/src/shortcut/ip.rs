//! The headers of a frame that XDP takes: whole packets without options, with constant offsets.

use network_types::ip::Ipv4Hdr;
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    checksum,
    family::Family,
    flow::{self, Direction, FlowKey, protocol},
    icmp,
    path::PathKey,
};

use super::frame::Frame;
use crate::{
    ip::Ip,
    ipv4::{self, Ipv4},
    ipv6::Ipv6,
};

/// Bytes of the Ethernet header.
pub const L3: usize = 14;
/// More fragments, and the fragment's offset (RFC 791, section 3.1).
const FRAGMENT: u16 = 0x3fff_u16.to_be();
/// The fragment's offset alone, in host byte order.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Offset of the address pair in the header of IPv6, and what is in front of it (RFC 8200, section 3).
const IPV6_ADDRESSES: usize = L3 + 8;
const IPV6_HOP_LIMIT: usize = L3 + 7;

/// What the header of IP says.
pub struct Header<V: Ip> {
    pub source: V::Address,
    pub destination: V::Address,
    pub protocol: u8,
    pub ttl: u8,
    /// Length in bytes from the IP header on.
    pub total_len: u16,
}

/// What the header of the transport says.
pub struct Transport {
    pub source_port: PortBe,
    pub destination_port: PortBe,
    pub tcp_flags: u8,
    /// Whether anything follows the header.
    pub has_payload: bool,
    /// Whether it is a request of ICMP, whose source port the identifier is.
    pub is_request: bool,
}

/// A version of IP as XDP reads and writes it.
pub trait FrameIp: Ip {
    /// Offset of the transport header.
    const L4: usize = L3 + Self::HEADER_LEN;

    /// Whether the headers are none that the long way reads. What has extension headers is for that to say.
    fn is_malformed(frame: Frame) -> bool;
    /// A header without options, of a whole packet that is all in the frame.
    fn header(frame: Frame) -> Option<Header<Self>>;
    /// As `Packet::traffic_class`.
    fn traffic_class(frame: Frame) -> Option<u32>;
    /// Counts down the time to live.
    fn count_down(frame: Frame) -> Option<()>;
    /// Counts down the time to live and writes the destination.
    fn write(frame: Frame, destination: Self::Address) -> Option<()>;
    /// A checksum that covers the address, after that has changed.
    fn replace(sum: u16, from: Self::Address, to: Self::Address) -> u16;
}

impl FrameIp for Ipv4 {
    #[inline(always)]
    fn is_malformed(frame: Frame) -> bool {
        let Some(header) = frame.read::<[u8; Ipv4::HEADER_LEN]>(L3) else { return true };
        let header_len = u32::from(header[0] & 0xf) * 4;
        let total_len = u32::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4
            || header_len < Self::HEADER_LEN as u32
            || total_len < header_len
            || total_len + L3 as u32 > frame.len()
        {
            return true;
        }
        let is_later = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET != 0;
        !is_later && total_len - header_len < transport_len::<Self>(header[9])
    }

    #[inline(always)]
    fn header(frame: Frame) -> Option<Header<Self>> {
        const VERSION_WITHOUT_OPTIONS: u8 = 0x45;
        let [version, _]: [u8; 2] = frame.read(L3)?;
        let total_len = u16::from_be(frame.read(L3 + 2)?);
        let fragment: u16 = frame.read(L3 + 6)?;
        let [ttl, protocol]: [u8; 2] = frame.read(L3 + 8)?;
        let [source, destination]: [Ipv4Be; 2] = frame.read(L3 + 12)?;
        let fits = version == VERSION_WITHOUT_OPTIONS
            && fragment & FRAGMENT == 0
            && u32::from(total_len) + L3 as u32 <= frame.len();
        fits.then_some(Header { source, destination, protocol, ttl, total_len })
    }

    #[inline(always)]
    fn traffic_class(frame: Frame) -> Option<u32> {
        Some(frame.read::<u8>(L3 + 1)?.into())
    }

    #[inline(always)]
    fn count_down(frame: Frame) -> Option<()> {
        ipv4::count_down(frame.header_mut::<Ipv4Hdr>(L3)?);
        Some(())
    }

    #[inline(always)]
    fn write(frame: Frame, destination: Ipv4Be) -> Option<()> {
        let header = frame.header_mut::<Ipv4Hdr>(L3)?;
        ipv4::redirect_header(header, destination);
        Some(())
    }

    #[inline(always)]
    fn replace(sum: u16, from: Ipv4Be, to: Ipv4Be) -> u16 {
        checksum::replace_long(sum, from.to_wire(), to.to_wire())
    }
}

impl FrameIp for Ipv6 {
    #[inline(always)]
    fn is_malformed(frame: Frame) -> bool {
        let Some(words) = frame.read::<[u8; 8]>(L3) else { return true };
        let Some([source, destination]) = frame.read::<[Address; 2]>(IPV6_ADDRESSES) else {
            return true;
        };
        let payload_len = u32::from(u16::from_be_bytes([words[4], words[5]]));
        words[0] >> 4 != 6
            || source.is_ipv4()
            || destination.is_ipv4()
            || payload_len + (Self::HEADER_LEN + L3) as u32 > frame.len()
            || payload_len < transport_len::<Self>(words[6])
    }

    #[inline(always)]
    fn header(frame: Frame) -> Option<Header<Self>> {
        let version: u8 = frame.read(L3)?;
        let payload_len = u16::from_be(frame.read(L3 + 4)?);
        let [protocol, ttl]: [u8; 2] = frame.read(L3 + 6)?;
        let [source, destination]: [Address; 2] = frame.read(IPV6_ADDRESSES)?;
        let total_len = payload_len.checked_add(Self::HEADER_LEN as u16)?;
        let fits = version >> 4 == 6
            && !source.is_ipv4()
            && !destination.is_ipv4()
            && u32::from(total_len) + L3 as u32 <= frame.len();
        fits.then_some(Header { source, destination, protocol, ttl, total_len })
    }

    #[inline(always)]
    fn traffic_class(frame: Frame) -> Option<u32> {
        /// All but the version.
        const MASK: u32 = 0x0fff_ffff_u32.to_be();
        Some(frame.read::<u32>(L3)? & MASK)
    }

    #[inline(always)]
    fn count_down(frame: Frame) -> Option<()> {
        let hop_limit: u8 = frame.read(IPV6_HOP_LIMIT)?;
        frame.write(IPV6_HOP_LIMIT, hop_limit.wrapping_sub(1))
    }

    #[inline(always)]
    fn write(frame: Frame, destination: Address) -> Option<()> {
        Self::count_down(frame)?;
        frame.write(IPV6_ADDRESSES + size_of::<Address>(), destination)
    }

    #[inline(always)]
    fn replace(sum: u16, from: Address, to: Address) -> u16 {
        let (from, to) = (from.to_wire(), to.to_wire());
        let sum = checksum::replace_long(sum, from[0], to[0]);
        let sum = checksum::replace_long(sum, from[1], to[1]);
        let sum = checksum::replace_long(sum, from[2], to[2]);
        checksum::replace_long(sum, from[3], to[3])
    }
}

/// The bytes that the header of a transport has at least, as `Packet::parse` asks for them.
#[inline(always)]
fn transport_len<V: Ip>(protocol: u8) -> u32 {
    match protocol {
        protocol::TCP => 20,
        protocol::UDP | protocol::UDP_LITE => 8,
        other if flow::has_ports(other) => 12,
        other if other == V::ICMP => 8,
        _ => 0,
    }
}

impl<V: FrameIp> Header<V> {
    /// The header behind it: TCP's, UDP's, or that of an ICMP query.
    #[inline(always)]
    pub fn transport(&self, frame: Frame) -> Option<Transport> {
        let room = usize::from(self.total_len).checked_sub(V::HEADER_LEN)?;
        match self.protocol {
            protocol::TCP => {
                let [offset, tcp_flags]: [u8; 2] = frame.read(V::L4 + 12)?;
                let length = usize::from(offset >> 4) * 4;
                let has_payload = room != length;
                (room >= 20).then_some(())?;
                Self::ports(frame, tcp_flags, has_payload)
            }
            protocol::UDP => {
                (room >= 8).then_some(())?;
                Self::ports(frame, 0, true)
            }
            protocol if protocol == V::ICMP => {
                let message: [u8; 8] = frame.read(V::L4)?;
                let identifier = PortBe::from_wire(u16::from_ne_bytes([message[4], message[5]]));
                let (source_port, destination_port) = match icmp::kind(V::FAMILY, message[0]) {
                    icmp::Kind::Request => (identifier, PortBe::NONE),
                    icmp::Kind::Reply => (PortBe::NONE, identifier),
                    icmp::Kind::Error | icmp::Kind::Neighbour | icmp::Kind::Other => return None,
                };
                let is_request = icmp::kind(V::FAMILY, message[0]) == icmp::Kind::Request;
                (room >= 8).then_some(Transport {
                    source_port,
                    destination_port,
                    tcp_flags: 0,
                    has_payload: true,
                    is_request,
                })
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn ports(frame: Frame, tcp_flags: u8, has_payload: bool) -> Option<Transport> {
        let [source_port, destination_port]: [PortBe; 2] = frame.read(V::L4)?;
        let is_request = false;
        Some(Transport { source_port, destination_port, tcp_flags, has_payload, is_request })
    }

    #[inline(always)]
    pub fn path_key(
        &self,
        transport: &Transport,
        traffic_class: u32,
        ifindex: u32,
    ) -> PathKey<V::Address> {
        PathKey {
            source: self.source,
            destination: self.destination,
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            traffic_class,
            ifindex,
            protocol: self.protocol.into(),
        }
    }

    #[inline(always)]
    pub fn inbound_key(&self, transport: &Transport) -> FlowKey<V::Address> {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            protocol: self.protocol,
            direction: Direction::Inbound as u8,
            zone: 0,
        }
    }

    /// Writes another destination, and every checksum that covers it, as `nat::rewrite` does.
    #[inline(always)]
    pub fn redirect(
        &self,
        frame: Frame,
        transport: &Transport,
        (to, to_port): (V::Address, PortBe),
    ) -> Option<()> {
        match self.protocol {
            protocol::TCP => self.rewrite_l4::<16, 2>(frame, transport, (to, to_port), true)?,
            protocol::UDP => self.rewrite_l4::<6, 2>(frame, transport, (to, to_port), true)?,
            // The identifier follows type, code and checksum (RFC 792).
            _ => {
                self.rewrite_l4::<2, 4>(frame, transport, (to, to_port), V::ICMP_COVERS_ADDRESSES)?;
            }
        }
        V::write(frame, to)
    }

    #[inline(always)]
    fn rewrite_l4<const SUM: usize, const PORT: usize>(
        &self,
        frame: Frame,
        transport: &Transport,
        (to, to_port): (V::Address, PortBe),
        covers_addresses: bool,
    ) -> Option<()> {
        let zero_means_none = flow::zero_means_no_checksum(self.protocol);
        let mut sum: u16 = frame.read(V::L4 + SUM)?;
        if !(zero_means_none && sum == 0) {
            if covers_addresses && self.destination != to {
                sum = V::replace(sum, self.destination, to);
                sum = if zero_means_none { never_zero(sum) } else { sum };
            }
            if transport.destination_port != to_port {
                let from = transport.destination_port.to_wire();
                sum = checksum::replace_word(sum, from, to_port.to_wire());
                sum = if zero_means_none { never_zero(sum) } else { sum };
            }
            frame.write(V::L4 + SUM, sum)?;
        }
        frame.write(V::L4 + PORT, to_port)
    }
}

/// A sum where 0 says that there is none (RFC 768).
#[inline(always)]
const fn never_zero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// Whether a frame is a TCP segment with data, which the stack would merge with others (GRO).
#[inline(always)]
pub fn is_tcp_with_payload(frame: Frame) -> bool {
    match frame.family() {
        Some(Family::Ipv4) => has_tcp_payload::<Ipv4>(frame),
        Some(Family::Ipv6) => has_tcp_payload::<Ipv6>(frame),
        None => false,
    }
}

#[inline(always)]
fn has_tcp_payload<V: FrameIp>(frame: Frame) -> bool {
    // What has options or extension headers may be such a segment.
    let Some(header) = V::header(frame) else { return true };
    header.protocol == protocol::TCP
        && header.transport(frame).is_none_or(|transport| transport.has_payload)
}
