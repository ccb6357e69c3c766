//! The headers of a packet.

use network_types::{icmp::Icmpv4Hdr, tcp::TcpHdr};
use vnet_common::{
    address::{Ipv4Be, PortBe},
    family::Family,
    flow::{Direction, FlowKey, FragmentKey, Translation, has_ports, protocol},
    icmp,
    reason::DropReason,
};

use crate::{extension, hook::Link, ip::Ip, skb::Skb};

/// Where a packet stands in its datagram (RFC 791, section 3.2; RFC 8200, section 4.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First,
    Later,
}

impl Fragment {
    #[inline(always)]
    pub const fn of(has_offset: bool, more_follow: bool) -> Self {
        match (has_offset, more_follow) {
            (false, false) => Self::Whole,
            (false, true) => Self::First,
            (true, _) => Self::Later,
        }
    }
}

/// A packet's headers. Lives in a per-CPU map: the stack is small, and what the verifier knows of
/// each header would otherwise multiply with everything that follows.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Packet<V: Ip> {
    /// Length in bytes of the IP header with its options or extensions.
    pub header_len: u16,
    /// Offset of the transport header.
    pub transport_offset: u16,
    pub source: V::Address,
    pub destination: V::Address,
    /// Of a request of ICMP: its identifier. None of protocols without ports.
    pub source_port: PortBe,
    /// Of a reply of ICMP: its identifier.
    pub destination_port: PortBe,
    /// Length in bytes from the IP header on.
    pub total_len: u16,
    /// In network byte order; IPv4's in the first half.
    pub identification: [u16; 2],
    /// What the transport header is.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// What routing may ask for: IPv4's type of service, IPv6's class and flow label in network order.
    pub traffic_class: u32,
    pub tcp_flags: u8,
    pub fragment: Fragment,
    /// Of an ICMP message.
    pub icmp: icmp::Kind,
    /// Options that each hop has to look at, or a routing header.
    pub has_options: bool,
    /// The flow that a first step has found for the next one: its slot and one; 0 for none.
    pub known: u32,
    /// Of one that goes on as it is: one more than the slot of the network that it goes to, which is 0 outside. Else 0.
    pub accepted: u32,
}

// What `Ip::parse` says.
const PARSED: u32 = 0;
const MALFORMED: u32 = 1;
const CHAIN_TOO_LONG: u32 = 2;

/// Offset of the data offset and of the flags in the TCP header (RFC 9293, section 3.1).
const TCP_DATA_OFFSET: usize = 12;
const TCP_FLAGS_OFFSET: usize = 13;
/// UDP and UDP-Lite.
const UDP_HEADER_LEN: usize = 8;
/// DCCP's shortest header (RFC 4340, section 5.1), and SCTP's before its chunks (RFC 9260, section 3.1).
const DCCP_HEADER_LEN: usize = 12;

/// No header begins behind this offset; a mask that the verifier understands.
const OFFSET_MASK: u16 = 0xfff;

impl<V: Ip> Packet<V> {
    /// Reads and checks the headers of a packet.
    #[inline(always)]
    pub fn parse(skb: Skb, link: Link) -> Result<&'static Self, DropReason> {
        let Some(packet) = V::packet() else { return Err(DropReason::Malformed) };
        match V::parse(skb, link) {
            PARSED => Ok(packet),
            CHAIN_TOO_LONG => Err(DropReason::HeaderChain),
            _ => Err(DropReason::Malformed),
        }
    }

    /// Reads the headers into this CPU's place for them: a word for [`Packet::parse`].
    #[inline(always)]
    pub fn enter(skb: Skb, l3: usize) -> u32 {
        let Some(packet) = V::packet() else { return MALFORMED };
        match V::headers(skb, l3, packet).and_then(|()| packet.parse_l4(skb)) {
            Ok(()) => PARSED,
            Err(DropReason::HeaderChain) => CHAIN_TOO_LONG,
            Err(_) => MALFORMED,
        }
    }

    #[inline(always)]
    pub fn l4(&self) -> usize {
        usize::from(self.transport_offset & OFFSET_MASK)
    }

    /// Reads what the transport header says of the packet's flow; nothing in a later fragment.
    #[inline(always)]
    fn parse_l4(&mut self, skb: Skb) -> Result<(), DropReason> {
        if self.fragment == Fragment::Later {
            return Ok(());
        }
        if self.protocol == protocol::TCP {
            self.require_l4(size_of::<TcpHdr>())?;
            self.parse_ports(skb)?;
            self.tcp_flags = skb.read_at(self.l4() + TCP_FLAGS_OFFSET)?;
        } else if has_ports(self.protocol) {
            let is_udp = matches!(self.protocol, protocol::UDP | protocol::UDP_LITE);
            self.require_l4(if is_udp { UDP_HEADER_LEN } else { DCCP_HEADER_LEN })?;
            self.parse_ports(skb)?;
        } else if self.is_icmp() {
            self.require_l4(size_of::<Icmpv4Hdr>())?;
            let header: [u8; 8] = skb.read_at(self.l4())?;
            let identifier = PortBe::from_wire(u16::from_ne_bytes([header[4], header[5]]));
            self.icmp = icmp::kind(V::FAMILY, header[0]);
            match self.icmp {
                icmp::Kind::Request => self.source_port = identifier,
                icmp::Kind::Reply => self.destination_port = identifier,
                icmp::Kind::Error | icmp::Kind::Neighbour | icmp::Kind::Other => {}
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn require_l4(&self, length: usize) -> Result<(), DropReason> {
        let has_it = usize::from(self.total_len) >= self.header_len() + length;
        if has_it { Ok(()) } else { Err(DropReason::Malformed) }
    }

    #[inline(always)]
    fn parse_ports(&mut self, skb: Skb) -> Result<(), DropReason> {
        let ports: [PortBe; 2] = skb.read_at(self.l4())?;
        [self.source_port, self.destination_port] = ports;
        Ok(())
    }

    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.header_len)
    }

    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        self.protocol == V::ICMP
    }

    /// An ICMP message about another packet.
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        self.is_icmp() && self.icmp == icmp::Kind::Error && self.fragment != Fragment::Later
    }

    /// Whether the source is the unspecified address, which only asks for one on the link.
    #[inline(always)]
    pub fn is_from_nobody(&self) -> bool {
        let source = V::widen(self.source);
        source.is_unspecified() || (source.is_ipv4() && source.ipv4_part() == Ipv4Be::UNSPECIFIED)
    }

    /// Neighbour discovery and the like (RFC 4861), which no router forwards.
    #[inline(always)]
    pub fn is_of_the_link(&self) -> bool {
        self.is_icmp() && self.icmp == icmp::Kind::Neighbour && self.fragment != Fragment::Later
    }

    /// Whether only the first fragment of its datagram tells the packet's flow: its ports are there.
    #[inline(always)]
    pub fn follows_its_first(&self) -> bool {
        if self.fragment != Fragment::Later {
            return false;
        }
        // What an extension header hides is behind it, in the first fragment.
        let is_hidden =
            V::FAMILY as u8 == Family::Ipv6 as u8 && extension::is_extension(self.protocol);
        is_hidden || !matches!(Translation::of(self.protocol), Translation::Address)
    }

    /// The flow of the packet as it stands; `None` if a NAT knows no flow for it.
    #[inline(always)]
    pub fn flow_key(&self, direction: Direction) -> Option<FlowKey<V::Address>> {
        if self.follows_its_first() {
            return None;
        }
        let has_flow = match self.protocol {
            protocol::ICMP | protocol::ICMPV6 if !self.is_icmp() => false,
            protocol::ICMP | protocol::ICMPV6 => match direction {
                Direction::Outbound => self.icmp == icmp::Kind::Request,
                Direction::Inbound => self.icmp == icmp::Kind::Reply,
            },
            _ => true,
        };
        has_flow.then_some(FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            direction: direction as u8,
            zone: 0,
        })
    }

    #[inline(always)]
    pub fn fragment_key(&self, direction: Direction) -> FragmentKey<V::Address> {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            identification: self.identification,
            // In IPv6 it is no part of a datagram's identity (RFC 8200, section 4.5).
            protocol: if V::FAMILY as u8 == Family::Ipv4 as u8 { self.protocol } else { 0 },
            direction: direction as u8,
            reserved: 0,
        }
    }

    /// Whether the packet, or a segment of it, is larger than an interface takes.
    #[inline(always)]
    pub fn exceeds(&self, skb: Skb, mtu: u16) -> bool {
        let mtu = u32::from(mtu);
        let payload = skb.gso_size();
        if payload == 0 {
            return u32::from(self.total_len) > mtu;
        }
        let l4_header = match self.protocol {
            protocol::TCP => match skb.read_at::<u8>(self.l4() + TCP_DATA_OFFSET) {
                Ok(byte) => u32::from(byte >> 4) * 4,
                Err(_) => return true,
            },
            protocol::UDP => UDP_HEADER_LEN as u32,
            // Segments of SCTP differ in length, and of a tunnel's packets the inner headers count.
            _ => return true,
        };
        self.header_len() as u32 + l4_header + payload > mtu
    }
}
