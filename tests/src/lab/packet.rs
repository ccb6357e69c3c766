//! One captured packet: its addresses, its checksums and what the kernel knew of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::libc;

/// State of the L4 checksum when the packet was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// `CHECKSUM_PARTIAL`: the field holds the sum of the pseudo header only; a NIC would finish it.
    Partial,
    /// The receiver's stack has verified it already, or was told to trust it.
    Trusted,
    /// The field has to be right.
    Complete,
}

/// What kind of segments a packet is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, cut by the kernel into datagrams.
    Udp,
    /// Something newer; the number of `virtio_net_hdr`.
    Other(u8),
}

/// A packet that stands for several: it was not cut yet, or was merged on arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Kind of the segments.
    pub kind: SegmentKind,
    /// Bytes of L4 payload in each segment but the last.
    pub size: u16,
}

impl Segmentation {
    /// Reads `gso_type` and `gso_size` of a `struct virtio_net_hdr` (host byte order).
    pub(crate) fn read(header: &[u8]) -> Option<Self> {
        let size = u16::from_ne_bytes([*header.get(4)?, *header.get(5)?]);
        // Bit 7 of the type says that ECN is in use (VIRTIO_NET_HDR_GSO_ECN).
        let kind = match header.get(1)? & 0x7f {
            0 => return None,
            1 => SegmentKind::Tcp4,
            4 => SegmentKind::Tcp6,
            3 | 5 => SegmentKind::Udp,
            other => SegmentKind::Other(other),
        };
        Some(Self { kind, size })
    }
}

/// A packet as an `AF_PACKET` socket delivers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedPacket {
    /// Since the Unix epoch.
    pub time: Duration,
    /// From the destination MAC on; shorter than `length` if only headers are captured.
    pub data: Vec<u8>,
    /// Bytes of the whole frame, without any out-of-band VLAN tag.
    pub length: usize,
    /// True if it was leaving through the interface.
    pub outgoing: bool,
    /// State of the L4 checksum.
    pub checksum: Checksum,
    /// Set if the packet stands for several.
    pub segmentation: Option<Segmentation>,
    /// The 802.1Q tag control information that travels beside the data.
    pub vlan: Option<u16>,
}

impl CapturedPacket {
    /// Bits of `tp_status`, `include/uapi/linux/if_packet.h`.
    pub(crate) fn apply_status(&mut self, status: u32) {
        if status & libc::TP_STATUS_CSUMNOTREADY != 0 {
            self.checksum = Checksum::Partial;
        } else if status & libc::TP_STATUS_CSUM_VALID != 0 {
            self.checksum = Checksum::Trusted;
        }
    }

    /// The layers, as far as they could be parsed.
    #[must_use]
    pub fn layers(&self) -> Option<LaxSlicedPacket<'_>> {
        LaxSlicedPacket::from_ethernet(&self.data).ok()
    }

    /// Source address, if it is an IP packet.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        Some(self.addresses()?.0)
    }

    /// Destination address, if it is an IP packet.
    #[must_use]
    pub fn destination(&self) -> Option<IpAddr> {
        Some(self.addresses()?.1)
    }

    /// Source and destination port, if it is TCP or UDP.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.layers()?.transport? {
            TransportSlice::Tcp(tcp) => Some((tcp.source_port(), tcp.destination_port())),
            TransportSlice::Udp(udp) => Some((udp.source_port(), udp.destination_port())),
            _ => None,
        }
    }

    /// The IP protocol, behind any IPv6 extension headers.
    #[must_use]
    pub fn protocol(&self) -> Option<IpNumber> {
        Some(self.layers()?.ip_payload()?.ip_number)
    }

    /// Type and code, if it is ICMP or `ICMPv6`.
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match self.layers()?.transport? {
            TransportSlice::Icmpv4(icmp) => Some((icmp.type_u8(), icmp.code_u8())),
            TransportSlice::Icmpv6(icmp) => Some((icmp.type_u8(), icmp.code_u8())),
            _ => None,
        }
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn ttl(&self) -> Option<u8> {
        match self.layers()?.net? {
            LaxNetSlice::Ipv4(ip) => Some(ip.header().ttl()),
            LaxNetSlice::Ipv6(ip) => Some(ip.header().hop_limit()),
            LaxNetSlice::Arp(_) => None,
        }
    }

    /// Bytes of the largest IP packet that this packet becomes on a wire, to compare with an MTU.
    #[must_use]
    pub fn largest_ip_packet(&self) -> usize {
        /// Length of the Ethernet header.
        const ETHERNET: usize = 14;
        let Some(Segmentation { size, .. }) = self.segmentation else {
            return self.length.saturating_sub(ETHERNET);
        };
        let payload = match self.layers().and_then(|layers| layers.transport) {
            Some(TransportSlice::Tcp(tcp)) => tcp.payload().as_ptr(),
            Some(TransportSlice::Udp(udp)) => udp.payload().as_ptr(),
            _ => return self.length.saturating_sub(ETHERNET),
        };
        payload.addr() - self.data.as_ptr().addr() - ETHERNET + usize::from(size)
    }

    /// Verifies the IPv4 header checksum and the L4 checksum. A partial L4 checksum has to be the
    /// uncomplemented sum of the pseudo header. The complete L4 checksum is only verified if the
    /// whole payload was captured and is not a fragment.
    ///
    /// # Errors
    /// Says which checksum is wrong.
    pub fn verify_checksums(&self) -> Result<(), String> {
        let Some(layers) = self.layers() else { return Ok(()) };
        if let Some(LaxNetSlice::Ipv4(ip)) = &layers.net {
            let header = ip.header();
            let right = header.to_header().calc_header_checksum();
            compare(self, "IPv4 header", header.header_checksum(), right)?;
        }
        let Some((addresses, payload)) = self.addresses().zip(layers.ip_payload()) else {
            return Ok(());
        };
        let Some(transport) = layers.transport.as_ref().filter(|_| !payload.fragmented) else {
            return Ok(());
        };
        if self.checksum == Checksum::Partial {
            let missing = self.length - self.data.len();
            return self.verify_partial(transport, addresses, payload.payload.len() + missing);
        }
        if self.data.len() < self.length || self.checksum == Checksum::Trusted {
            return Ok(());
        }
        self.verify_complete(transport, addresses)
    }

    fn verify_partial(
        &self,
        transport: &TransportSlice<'_>,
        addresses: (IpAddr, IpAddr),
        length: usize,
    ) -> Result<(), String> {
        let (field, protocol) = match transport {
            TransportSlice::Tcp(tcp) => (tcp.checksum(), IpNumber::TCP),
            TransportSlice::Udp(udp) => (udp.checksum(), IpNumber::UDP),
            _ => return Ok(()),
        };
        let right = pseudo_header_sum(addresses, protocol, length);
        compare(self, "partial L4", field, right)
    }

    fn verify_complete(
        &self,
        transport: &TransportSlice<'_>,
        addresses: (IpAddr, IpAddr),
    ) -> Result<(), String> {
        let (field, right) = match (transport, addresses) {
            (TransportSlice::Tcp(tcp), (IpAddr::V4(from), IpAddr::V4(to))) => {
                (tcp.checksum(), tcp.calc_checksum_ipv4(from.octets(), to.octets()).ok())
            }
            (TransportSlice::Tcp(tcp), (IpAddr::V6(from), IpAddr::V6(to))) => {
                (tcp.checksum(), tcp.calc_checksum_ipv6(from.octets(), to.octets()).ok())
            }
            // RFC 768: a sender over IPv4 may leave the checksum out.
            (TransportSlice::Udp(udp), (IpAddr::V4(_), _)) if udp.checksum() == 0 => return Ok(()),
            (TransportSlice::Udp(udp), (IpAddr::V4(from), IpAddr::V4(to))) => {
                let header = udp.to_header();
                let (from, to) = (from.octets(), to.octets());
                (udp.checksum(), header.calc_checksum_ipv4_raw(from, to, udp.payload()).ok())
            }
            (TransportSlice::Udp(udp), (IpAddr::V6(from), IpAddr::V6(to))) => {
                let header = udp.to_header();
                let (from, to) = (from.octets(), to.octets());
                (udp.checksum(), header.calc_checksum_ipv6_raw(from, to, udp.payload()).ok())
            }
            (TransportSlice::Icmpv4(icmp), _) => {
                let right = icmp.header().icmp_type.calc_checksum(icmp.payload());
                (icmp.checksum(), Some(right))
            }
            (TransportSlice::Icmpv6(icmp), (IpAddr::V6(from), IpAddr::V6(to))) => {
                return if icmp.is_checksum_valid(from.octets(), to.octets()) {
                    Ok(())
                } else {
                    Err(format!("ICMPv6 checksum {:#06x} is wrong: {self}", icmp.checksum()))
                };
            }
            _ => return Ok(()),
        };
        let right = right.ok_or("a length that no checksum covers")?;
        // The other zero, which the kernel writes whatever the protocol (`skb_checksum_help` in `net/core/dev.c`).
        if field == 0xffff && right == 0 {
            return Ok(());
        }
        compare(self, "L4", field, right)
    }

    fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        match self.layers()?.net? {
            LaxNetSlice::Ipv4(ip) => {
                let header = ip.header();
                Some((
                    Ipv4Addr::from(header.source()).into(),
                    Ipv4Addr::from(header.destination()).into(),
                ))
            }
            LaxNetSlice::Ipv6(ip) => {
                let header = ip.header();
                Some((
                    Ipv6Addr::from(header.source()).into(),
                    Ipv6Addr::from(header.destination()).into(),
                ))
            }
            LaxNetSlice::Arp(_) => None,
        }
    }
}

fn compare(packet: &CapturedPacket, name: &str, found: u16, right: u16) -> Result<(), String> {
    if found == right {
        return Ok(());
    }
    Err(format!("{name} checksum is {found:#06x}, {right:#06x} would be right: {packet}"))
}

/// RFC 1071 sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1), not complemented.
fn pseudo_header_sum(addresses: (IpAddr, IpAddr), protocol: IpNumber, length: usize) -> u16 {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut sum = u64::from(protocol.0) + (length as u64 >> 16) + (length as u64 & 0xffff);
    for address in [addresses.0, addresses.1] {
        for pair in bytes(address).chunks_exact(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl fmt::Display for CapturedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.outgoing { "out" } else { "in" };
        write!(f, "{}.{:06} {direction:>3} ", self.time.as_secs(), self.time.subsec_micros())?;
        match (self.addresses(), self.ports()) {
            (Some((from, to)), Some((source, destination))) => {
                write!(f, "{from} {source} > {to} {destination}")?;
            }
            (Some((from, to)), None) => write!(f, "{from} > {to}")?,
            (None, _) => f.write_str("not IP")?,
        }
        if let Some(protocol) = self.protocol() {
            write!(f, " protocol {}", protocol.0)?;
        }
        if let Some((kind, code)) = self.icmp() {
            write!(f, " type {kind} code {code}")?;
        }
        write!(f, " length {}", self.length)?;
        if let Some(Segmentation { kind, size }) = self.segmentation {
            write!(f, " {kind:?} segments of {size}")?;
        }
        write!(f, " checksum {:?}", self.checksum)
    }
}
