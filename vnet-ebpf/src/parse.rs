//! The headers of an IPv4 packet.

use network_types::{icmp::Icmpv4Hdr, ip::Ipv4Hdr, tcp::TcpHdr};
use vnet_common::{
    address::{Ipv4Be, PortBe},
    flow::{Direction, FlowKey, FragmentKey, protocol},
    reason::DropReason,
};

use crate::{hook::Link, skb::Skb};

/// The longest IPv4 header and a TCP header without options.
const HEADERS_LEN: usize = 60 + 20;
const IPV4_HEADER_LEN: usize = size_of::<Ipv4Hdr>();

/// Where a packet stands in its datagram (RFC 791, section 3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First,
    Later,
}

/// What an ICMP message is to a NAT (RFC 5508).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Icmp {
    None,
    Request,
    Reply,
    Error,
    Other,
}

/// An IPv4 packet's headers.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Offset of the IPv4 header.
    pub l3: usize,
    /// Offset of what follows it.
    pub l4: usize,
    pub source: Ipv4Be,
    pub destination: Ipv4Be,
    pub source_port: PortBe,
    pub destination_port: PortBe,
    pub total_len: u16,
    /// In network byte order.
    pub identification: u16,
    pub protocol: u8,
    pub ttl: u8,
    pub tos: u8,
    pub tcp_flags: u8,
    pub fragment: Fragment,
    pub icmp: Icmp,
}

impl Packet {
    /// Reads and checks the headers.
    #[inline(always)]
    pub fn parse(skb: Skb, link: Link) -> Result<Self, DropReason> {
        let l3 = link.header_len();
        skb.pull((l3 + HEADERS_LEN) as u32);
        let header = skb.header::<Ipv4Hdr>(l3)?;
        let header_len = usize::from(header.ihl());
        let segmented = skb.gso_size() != 0;
        // A segmentation-offload packet may be longer than its length field can say: then it is 0.
        let total_len = match header.tot_len() {
            0 if segmented => u16::MAX,
            length => length,
        };
        if header.version() != 4
            || header_len < IPV4_HEADER_LEN
            || usize::from(total_len) < header_len
            || (usize::from(total_len) + l3 > skb.len() as usize && !segmented)
        {
            return Err(DropReason::Malformed);
        }
        let more_fragments = header.frag_flags() & 1 != 0;
        let fragment = match (header.frag_offset(), more_fragments) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        let mut packet = Self {
            l3,
            l4: l3 + header_len,
            source: Ipv4Be::from_wire(u32::from_ne_bytes(header.src_addr)),
            destination: Ipv4Be::from_wire(u32::from_ne_bytes(header.dst_addr)),
            source_port: PortBe::NONE,
            destination_port: PortBe::NONE,
            total_len,
            identification: u16::from_ne_bytes(header.id),
            protocol: header.proto,
            ttl: header.ttl,
            tos: header.tos,
            tcp_flags: 0,
            fragment,
            icmp: Icmp::None,
        };
        if fragment != Fragment::Later {
            packet.parse_l4(skb)?;
        }
        Ok(packet)
    }

    #[inline(always)]
    fn parse_l4(&mut self, skb: Skb) -> Result<(), DropReason> {
        match self.protocol {
            protocol::TCP => {
                if usize::from(self.total_len) < self.header_len() + size_of::<TcpHdr>() {
                    return Err(DropReason::Malformed);
                }
                self.parse_ports(skb)?;
                self.tcp_flags = skb.read(self.l4 + TCP_FLAGS_OFFSET)?;
            }
            protocol::UDP => {
                if usize::from(self.total_len) < self.header_len() + 8 {
                    return Err(DropReason::Malformed);
                }
                self.parse_ports(skb)?;
            }
            protocol::ICMP => {
                if usize::from(self.total_len) < self.header_len() + size_of::<Icmpv4Hdr>() {
                    return Err(DropReason::Malformed);
                }
                let icmp = skb.header::<Icmpv4Hdr>(self.l4)?;
                let identifier =
                    PortBe::from_wire(u16::from_ne_bytes([icmp.data[0], icmp.data[1]]));
                match icmp.type_ {
                    // Echo, timestamp, information, address mask (RFC 792, RFC 950).
                    8 | 13 | 15 | 17 => {
                        self.icmp = Icmp::Request;
                        self.source_port = identifier;
                    }
                    0 | 14 | 16 | 18 => {
                        self.icmp = Icmp::Reply;
                        self.destination_port = identifier;
                    }
                    // Unreachable, source quench, time exceeded, parameter problem (RFC 792).
                    3 | 4 | 11 | 12 => self.icmp = Icmp::Error,
                    _ => self.icmp = Icmp::Other,
                }
            }
            _ => {}
        }
        Ok(())
    }

    #[inline(always)]
    fn parse_ports(&mut self, skb: Skb) -> Result<(), DropReason> {
        let ports: [PortBe; 2] = skb.read(self.l4)?;
        [self.source_port, self.destination_port] = ports;
        Ok(())
    }

    #[inline(always)]
    pub fn header_len(&self) -> usize {
        self.l4 - self.l3
    }

    #[inline(always)]
    pub fn has_options(&self) -> bool {
        self.header_len() != IPV4_HEADER_LEN
    }

    /// The flow of the packet as it stands; `None` if a NAT knows no flow for it.
    #[inline(always)]
    pub fn flow_key(&self, direction: Direction) -> Option<FlowKey> {
        // Later fragments have no ports.
        if self.fragment == Fragment::Later {
            return None;
        }
        let has_flow = match self.protocol {
            protocol::TCP | protocol::UDP => true,
            protocol::ICMP => match direction {
                Direction::Outbound => self.icmp == Icmp::Request,
                Direction::Inbound => self.icmp == Icmp::Reply,
            },
            _ => false,
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
    pub fn fragment_key(&self, direction: Direction) -> FragmentKey {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            identification: [self.identification, 0],
            protocol: self.protocol,
            direction: direction as u8,
            reserved: 0,
        }
    }
}

/// Offset of the flags in the TCP header (RFC 9293, section 3.1).
const TCP_FLAGS_OFFSET: usize = 13;

impl Packet {
    /// Whether the packet, or a segment of it, is larger than an interface takes.
    #[inline(always)]
    pub fn exceeds(&self, skb: Skb, mtu: u16) -> bool {
        const TCP_DATA_OFFSET: usize = 12;
        let mtu = u32::from(mtu);
        let payload = skb.gso_size();
        if payload == 0 {
            return u32::from(self.total_len) > mtu;
        }
        let l4_header = match self.protocol {
            protocol::TCP => match skb.read::<u8>(self.l4 + TCP_DATA_OFFSET) {
                Ok(byte) => u32::from(byte >> 4) * 4,
                Err(_) => return true,
            },
            _ => 8,
        };
        self.header_len() as u32 + l4_header + payload > mtu
    }
}
