//! A packet's headers, read with etherparse.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use vnet_common::{family::Family, flow::protocol, icmp, reason::DropReason};

/// Where a packet stands in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is all of it.
    Whole,
    /// It begins the datagram.
    First,
    /// It begins somewhere behind.
    Later,
}

/// The headers of a packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Its family.
    pub family: Family,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port; of an ICMP request its identifier; else 0.
    pub source_port: u16,
    /// Destination port; of an ICMP reply its identifier; else 0.
    pub destination_port: u16,
    /// What follows the IP header.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Of an ICMP message.
    pub icmp: icmp::Kind,
    /// Where it stands in its datagram.
    pub fragment: Fragment,
    /// Identification of its datagram.
    pub identification: u32,
    /// IPv4 options, options for each hop, a routing header.
    pub has_options: bool,
    /// Extension headers, also without options for each hop; or IPv4 options.
    pub has_extensions: bool,
    /// Length in bytes from the IP header on.
    pub total_len: usize,
    /// Offset in the frame of what follows the IP header.
    pub l4: usize,
}

/// Length of the Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Length of an IPv6 header.
const IPV6: usize = 40;

/// Extension headers of RFC 8200 that a NAT looks behind.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// So many are followed,
const CHAIN: usize = 8;
/// unless one begins behind this offset in the frame.
const FARTHEST: usize = 1280;

/// The family of a frame; `None` for other protocols.
pub(super) fn family(frame: &[u8]) -> Option<Family> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(Family::Ipv4),
        [0x86, 0xdd] => Some(Family::Ipv6),
        _ => None,
    }
}

impl Packet {
    /// Reads the headers of a frame of that family.
    pub fn parse(frame: &[u8], family: Family) -> Result<Self, DropReason> {
        let ip = frame.get(ETHERNET..).ok_or(DropReason::Malformed)?;
        let mut packet = match family {
            Family::Ipv4 => ipv4(ip)?,
            Family::Ipv6 => ipv6(ip)?,
        };
        if packet.fragment != Fragment::Later {
            packet.read_l4(frame)?;
        }
        Ok(packet)
    }

    /// The addresses alone, as whoever forwards needs them.
    pub(super) fn ends(ip: &[u8], family: Family) -> Option<(IpAddr, IpAddr)> {
        match family {
            Family::Ipv4 => {
                let address =
                    |at: usize| Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into());
                ip.get(..20)?;
                Some((address(12)?, address(16)?))
            }
            Family::Ipv6 => {
                let address =
                    |at: usize| Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into());
                Some((address(8)?, address(24)?))
            }
        }
    }

    fn read_l4(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let end = ETHERNET + self.total_len;
        let bytes = frame.get(self.l4..end).unwrap_or_default();
        let needed = match self.protocol {
            protocol::TCP => 20,
            protocol::UDP | protocol::UDP_LITE => 8,
            // The shortest of DCCP; of SCTP what is before its chunks.
            protocol::DCCP | protocol::SCTP => 12,
            number if number == self.icmp_number() => 8,
            _ => 0,
        };
        if bytes.len() < needed {
            return Err(DropReason::Malformed);
        }
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        match self.protocol {
            number if has_ports(number) => {
                (self.source_port, self.destination_port) = (word(0), word(2));
                if self.protocol == protocol::TCP {
                    self.tcp_flags = bytes[13];
                }
            }
            number if number == self.icmp_number() => {
                self.icmp = icmp::kind(self.family, bytes[0]);
                match self.icmp {
                    icmp::Kind::Request => self.source_port = word(4),
                    icmp::Kind::Reply => self.destination_port = word(4),
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn icmp_number(&self) -> u8 {
        icmp_number(self.family)
    }

    pub(super) fn is_icmp(&self) -> bool {
        self.protocol == self.icmp_number()
    }

    /// An ICMP message about another packet.
    pub(super) fn is_icmp_error(&self) -> bool {
        self.is_icmp() && self.fragment != Fragment::Later && self.icmp == icmp::Kind::Error
    }

    /// A later fragment whose flow only the first one tells.
    pub(super) fn follows_its_first(&self) -> bool {
        // What an extension header hides is not known.
        let is_hidden = self.family == Family::Ipv6
            && matches!(self.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS);
        let has_ports = has_ports(self.protocol) || is_port_translated(self.protocol);
        self.fragment == Fragment::Later && (is_hidden || has_ports)
    }

    /// Neighbour discovery and the like.
    pub(super) fn is_of_the_link(&self) -> bool {
        self.is_icmp() && self.fragment != Fragment::Later && self.icmp == icmp::Kind::Neighbour
    }
}

/// Protocols whose header begins with two ports.
pub(super) fn has_ports(number: u8) -> bool {
    use protocol::{DCCP, SCTP, TCP, UDP, UDP_LITE};
    matches!(number, TCP | UDP | UDP_LITE | DCCP | SCTP)
}

/// Protocols whose endpoints get another port, or query identifier. The checksum of SCTP covers its
/// ports, and others have none.
pub(super) fn is_port_translated(number: u8) -> bool {
    (has_ports(number) && number != protocol::SCTP)
        || matches!(number, protocol::ICMP | protocol::ICMPV6)
}

pub(super) fn icmp_number(family: Family) -> u8 {
    match family {
        Family::Ipv4 => protocol::ICMP,
        Family::Ipv6 => protocol::ICMPV6,
    }
}

fn ipv4(ip: &[u8]) -> Result<Packet, DropReason> {
    let header = Ipv4HeaderSlice::from_slice(ip).map_err(|_| DropReason::Malformed)?;
    let (header_len, total_len) = (header.slice().len(), usize::from(header.total_len()));
    if total_len < header_len || total_len > ip.len() {
        return Err(DropReason::Malformed);
    }
    let fragment = match (header.fragments_offset().value(), header.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    Ok(Packet {
        family: Family::Ipv4,
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        source_port: 0,
        destination_port: 0,
        protocol: header.protocol().0,
        ttl: header.ttl(),
        tcp_flags: 0,
        icmp: icmp::Kind::Other,
        fragment,
        identification: u32::from(header.identification()),
        has_options: header_len != 20,
        has_extensions: header_len != 20,
        total_len,
        l4: ETHERNET + header_len,
    })
}

fn ipv6(ip: &[u8]) -> Result<Packet, DropReason> {
    let header = Ipv6HeaderSlice::from_slice(ip).map_err(|_| DropReason::Malformed)?;
    let total_len = IPV6 + usize::from(header.payload_length());
    let (source, destination) = (header.source_addr(), header.destination_addr());
    let is_mapped = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
    if total_len > ip.len() || is_mapped(source) || is_mapped(destination) {
        return Err(DropReason::Malformed);
    }
    let mut packet = Packet {
        family: Family::Ipv6,
        source: source.into(),
        destination: destination.into(),
        source_port: 0,
        destination_port: 0,
        protocol: header.next_header().0,
        ttl: header.hop_limit(),
        tcp_flags: 0,
        icmp: icmp::Kind::Other,
        fragment: Fragment::Whole,
        identification: 0,
        has_options: false,
        has_extensions: false,
        total_len,
        l4: ETHERNET + IPV6,
    };
    packet.follow_extensions(ip)?;
    // What lies behind the payload is the link's padding, no header.
    if packet.l4 > ETHERNET + total_len {
        return Err(DropReason::Malformed);
    }
    Ok(packet)
}

impl Packet {
    fn follow_extensions(&mut self, ip: &[u8]) -> Result<(), DropReason> {
        for place in 0..CHAIN {
            let kind = self.protocol;
            if !matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
                return Ok(());
            }
            self.has_extensions = true;
            if kind == HOP_BY_HOP && place != 0 {
                return Err(DropReason::Malformed);
            }
            if self.l4 > FARTHEST {
                return Err(DropReason::HeaderChain);
            }
            let at = self.l4 - ETHERNET;
            let header = ip.get(at..at + 8).ok_or(DropReason::Malformed)?;
            self.protocol = header[0];
            if kind == FRAGMENT {
                let field = u16::from_be_bytes([header[2], header[3]]);
                self.identification =
                    u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                self.l4 += 8;
                if field >> 3 != 0 {
                    self.fragment = Fragment::Later;
                    return Ok(());
                }
                if field & 1 != 0 {
                    self.fragment = Fragment::First;
                }
            } else {
                self.has_options |= kind != DESTINATION_OPTIONS;
                self.l4 += (usize::from(header[1]) + 1) * 8;
            }
        }
        Err(DropReason::HeaderChain)
    }
}
