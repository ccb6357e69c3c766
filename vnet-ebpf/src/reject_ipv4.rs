//! The ICMP error in IPv4 (RFC 792).

use aya_ebpf::bindings::__sk_buff;
use network_types::ip::Ipv4Hdr;
use vnet_common::{address::Ipv4Be, checksum, flow::protocol};

use crate::{
    hook::{Link, SHOT},
    ip::Ip as _,
    ipv4::Ipv4,
    maps,
    reject::{self, Code, Manner, first_byte, sum},
    skb::Skb,
};

/// Types and codes (RFC 792; RFC 1812, section 5.2.7.1).
const PORT_UNREACHABLE: [u8; 2] = [3, 3];
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const ADMINISTRATIVELY_PROHIBITED: [u8; 2] = [3, 13];
const TIME_EXCEEDED: [u8; 2] = [11, 0];

/// The action for the packet: sent back as an ICMP error, or dropped if it must have none.
#[inline(always)]
pub fn reject(skb: Skb, source: Ipv4Be, manner: Manner) -> i32 {
    vnet_reject_ipv4(skb.raw(), source.to_wire(), manner.word(), manner.towards)
}

/// A global function: the verifier checks it once, and it has a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_reject_ipv4(ctx: *mut __sk_buff, source: u32, word: u32, towards: u32) -> i32 {
    let manner = Manner::from_words(word, towards);
    answer(Skb::from_raw(ctx), Ipv4Be::from_wire(source), manner).unwrap_or(SHOT)
}

#[inline(always)]
fn answer(skb: Skb, source: Ipv4Be, manner: Manner) -> Option<i32> {
    if source == Ipv4Be::UNSPECIFIED {
        return None;
    }
    let frame = maps::rejection_ipv4()?;
    frame.quote(skb, manner.link)?;
    if !frame.may_be_sent(manner) {
        return None;
    }
    let next_hop = reject::way::<Ipv4>(skb, manner, frame.receiver())?;
    reject::take_token(Ipv4::widen(frame.receiver()))?;
    let kind = match manner.code {
        Code::Port => PORT_UNREACHABLE,
        Code::Prohibited => ADMINISTRATIVELY_PROHIBITED,
        Code::Expired => TIME_EXCEEDED,
        Code::TooBig => FRAGMENTATION_NEEDED,
    };
    frame.fill(source, kind, manner.mtu);
    reject::replace(skb, manner.link, core::ptr::from_ref(frame).cast(), FRAME_LEN)?;
    reject::send(skb, manner, next_hop)
}

const ETHERNET_LEN: usize = Link::Ethernet.header_len();
const IPV4_LEN: usize = size_of::<Ipv4Hdr>();
const ICMP_LEN: usize = 8;
/// The header and the first eight bytes behind it (RFC 792).
const QUOTE_LEN: usize = IPV4_LEN + 8;
const FRAME_LEN: usize = ETHERNET_LEN + IPV4_LEN + ICMP_LEN + QUOTE_LEN;

/// An ICMP error in words of 16 bits, as they lie in the packet. Lives in a per-CPU map, because
/// the stack is small.
#[repr(C)]
pub struct Frame {
    ethernet: [u16; ETHERNET_LEN / 2],
    ip: [u16; IPV4_LEN / 2],
    icmp: [u16; ICMP_LEN / 2],
    quote: [u16; QUOTE_LEN / 2],
}

const _: () = assert!(size_of::<Frame>() == FRAME_LEN);

impl Frame {
    /// Copies the packet's headers.
    #[inline(always)]
    fn quote(&mut self, skb: Skb, link: Link) -> Option<()> {
        if link == Link::Ethernet {
            skb.load(0, &mut self.ethernet)?;
        }
        skb.load(link.header_len(), &mut self.quote)
    }

    /// Whether the quoted packet may have an ICMP error (RFC 1122, section 3.2.2).
    #[inline(always)]
    fn may_be_sent(&self, manner: Manner) -> bool {
        const OFFSET_MASK: u16 = 0x1fff_u16.to_be();
        const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
        // A router would cut it in pieces.
        let may_be_cut = manner.code == Code::TooBig && self.quote[3] & DONT_FRAGMENT == 0;
        let to_many = manner.link == Link::Ethernet && first_byte(self.ethernet[0]) & 1 != 0;
        // Eight bytes behind a longer header would not fit the quote.
        let has_options = first_byte(self.quote[0]) != 0x45;
        let is_later_fragment = self.quote[3] & OFFSET_MASK != 0;
        let ip_protocol = self.quote[4].to_ne_bytes()[1];
        let icmp_type = first_byte(self.quote[IPV4_LEN / 2]);
        // Queries and their replies, but neither errors nor redirects.
        let is_query = matches!(icmp_type, 0 | 8 | 13..=18);
        let destination = Ipv4Be::from_wire(long(self.quote[8], self.quote[9]));
        !(may_be_cut
            || to_many
            || has_options
            || is_later_fragment
            || destination.is_multicast_or_broadcast()
            || Ipv4::is_martian(self.receiver())
            || (ip_protocol == protocol::ICMP && !is_query))
    }

    #[inline(always)]
    fn receiver(&self) -> Ipv4Be {
        Ipv4Be::from_wire(long(self.quote[6], self.quote[7]))
    }

    /// Writes the headers in front of the quote.
    #[inline(always)]
    fn fill(&mut self, source: Ipv4Be, kind: [u8; 2], mtu: u16) {
        /// Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
        const TOS: u8 = 0xc0;
        const DONT_FRAGMENT: u16 = 0x4000;
        const TTL: u8 = 64;
        let [d0, d1, d2, s0, s1, s2, ethertype] = self.ethernet;
        self.ethernet = [s0, s1, s2, d0, d1, d2, ethertype];
        let source = source.to_wire();
        self.ip = [
            u16::from_ne_bytes([0x45, TOS]),
            ((IPV4_LEN + ICMP_LEN + QUOTE_LEN) as u16).to_be(),
            0,
            DONT_FRAGMENT.to_be(),
            u16::from_ne_bytes([TTL, protocol::ICMP]),
            0,
            source as u16,
            (source >> 16) as u16,
            self.quote[6],
            self.quote[7],
        ];
        self.ip[5] = !checksum::fold(sum(&self.ip));
        // RFC 1191, section 4.
        self.icmp = [u16::from_ne_bytes(kind), 0, 0, mtu.to_be()];
        self.icmp[1] = !checksum::fold(sum(&self.icmp) + sum(&self.quote));
    }
}

#[inline(always)]
const fn long(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
