//! The ICMP error in IPv6 (RFC 4443).

use aya_ebpf::bindings::__sk_buff;
use network_types::ip::Ipv6Hdr;
use vnet_common::{address::Address, checksum, flow::protocol};

use crate::{
    extension,
    hook::{Link, SHOT},
    ip::Ip as _,
    ipv6::Ipv6,
    maps,
    reject::{self, Code, Manner, first_byte, sum},
    skb::Skb,
};

/// Types and codes (RFC 4443, section 3).
const ADMINISTRATIVELY_PROHIBITED: [u8; 2] = [1, 1];
const PORT_UNREACHABLE: [u8; 2] = [1, 4];
const PACKET_TOO_BIG: [u8; 2] = [2, 0];
const TIME_EXCEEDED: [u8; 2] = [3, 0];

/// The action for the packet: sent back as an ICMP error, or dropped if it must have none.
#[inline(always)]
pub fn reject(skb: Skb, source: Address, manner: Manner) -> i32 {
    vnet_reject_ipv6(skb.raw(), &raw const source, manner.word(), manner.towards)
}

/// A global function: the verifier checks it once, and it has a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_reject_ipv6(
    ctx: *mut __sk_buff,
    source: *const Address,
    word: u32,
    towards: u32,
) -> i32 {
    // SAFETY: the verifier lets callers pass a whole address or null only.
    let Some(source) = (unsafe { source.as_ref() }) else { return SHOT };
    let manner = Manner::from_words(word, towards);
    answer(Skb::from_raw(ctx), *source, manner).unwrap_or(SHOT)
}

#[inline(always)]
fn answer(skb: Skb, source: Address, manner: Manner) -> Option<i32> {
    if source.is_unspecified() {
        return None;
    }
    let frame = maps::rejection_ipv6()?;
    frame.quote(skb, manner.link)?;
    if !frame.may_be_sent(manner.link) {
        return None;
    }
    let next_hop = reject::way::<Ipv6>(skb, manner, frame.receiver())?;
    reject::take_token(frame.receiver())?;
    let kind = match manner.code {
        Code::Port => PORT_UNREACHABLE,
        Code::Prohibited => ADMINISTRATIVELY_PROHIBITED,
        Code::Expired => TIME_EXCEEDED,
        Code::TooBig => PACKET_TOO_BIG,
    };
    frame.fill(source, kind, manner.mtu);
    reject::replace(skb, manner.link, core::ptr::from_ref(frame).cast(), FRAME_LEN)?;
    reject::send(skb, manner, next_hop)
}

const ETHERNET_LEN: usize = Link::Ethernet.header_len();
const IPV6_LEN: usize = size_of::<Ipv6Hdr>();
const ICMP_LEN: usize = 8;
/// The header and the first eight bytes behind it, by which every transport finds its connection.
const QUOTE_LEN: usize = IPV6_LEN + 8;
const FRAME_LEN: usize = ETHERNET_LEN + IPV6_LEN + ICMP_LEN + QUOTE_LEN;
/// Where the source begins in the words of a header; the destination follows it.
const SOURCE: usize = 4;
const DESTINATION: usize = SOURCE + ADDRESS_WORDS;
const ADDRESS_WORDS: usize = 8;

/// An ICMP error in words of 16 bits, as they lie in the packet. Lives in a per-CPU map, because
/// the stack is small.
#[repr(C)]
pub struct Frame {
    ethernet: [u16; ETHERNET_LEN / 2],
    ip: [u16; IPV6_LEN / 2],
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

    /// Whether the quoted packet may have an ICMP error (RFC 4443, section 2.4 e).
    #[inline(always)]
    fn may_be_sent(&self, link: Link) -> bool {
        let to_many = link == Link::Ethernet && first_byte(self.ethernet[0]) & 1 != 0;
        let next_header = first_byte(self.quote[3]);
        let icmp_type = first_byte(self.quote[IPV6_LEN / 2]);
        // Informational messages but redirects.
        let may_be_answered = icmp_type >= 128 && icmp_type != 137;
        !(to_many
            // Behind extension headers a partial checksum's place is not known.
            || extension::is_extension(next_header)
            || self.address(DESTINATION).is_multicast_ipv6()
            || Ipv6::is_martian(self.receiver())
            || (next_header == protocol::ICMPV6 && !may_be_answered))
    }

    #[inline(always)]
    fn receiver(&self) -> Address {
        self.address(SOURCE)
    }

    #[inline(always)]
    fn address(&self, at: usize) -> Address {
        let mut words = [0_u16; ADDRESS_WORDS];
        let mut index = 0;
        while index < ADDRESS_WORDS {
            words[index] = self.quote[at + index];
            index += 1;
        }
        Address::from_wire(bytemuck::cast(words))
    }

    /// Writes the headers in front of the quote.
    #[inline(always)]
    fn fill(&mut self, source: Address, kind: [u8; 2], mtu: u16) {
        const HOP_LIMIT: u8 = 64;
        const LENGTH: u16 = (ICMP_LEN + QUOTE_LEN) as u16;
        let [d0, d1, d2, s0, s1, s2, ethertype] = self.ethernet;
        self.ethernet = [s0, s1, s2, d0, d1, d2, ethertype];
        self.ip[0] = u16::from_ne_bytes([0x60, 0]);
        self.ip[1] = 0;
        self.ip[2] = LENGTH.to_be();
        self.ip[3] = u16::from_ne_bytes([protocol::ICMPV6, HOP_LIMIT]);
        let source: [u16; ADDRESS_WORDS] = bytemuck::cast(source.to_wire());
        let mut addresses = 0;
        let mut index = 0;
        while index < ADDRESS_WORDS {
            self.ip[SOURCE + index] = source[index];
            self.ip[DESTINATION + index] = self.quote[SOURCE + index];
            addresses += u32::from(source[index]) + u32::from(self.quote[SOURCE + index]);
            index += 1;
        }
        self.icmp = [u16::from_ne_bytes(kind), 0, 0, mtu.to_be()];
        // The pseudo-header: addresses, length, protocol (RFC 8200, section 8.1).
        let pseudo =
            addresses + u32::from(LENGTH.to_be()) + u32::from(u16::from(protocol::ICMPV6).to_be());
        self.icmp[1] = !checksum::fold(pseudo + sum(&self.icmp) + sum(&self.quote));
    }
}
