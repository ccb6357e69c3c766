//! Rejecting: the packet becomes an ICMP destination-unreachable and goes back where it came from.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_store_bytes},
};
use network_types::ip::Ipv4Hdr;
use vnet_common::{
    address::Ipv4Be, checksum, flow::protocol, limits, names::FORWARDED_MARK, reason::DropReason,
};

use crate::{
    flow,
    hook::{Hook, Link, SHOT},
    maps::{self, ICMP_ERRORS, NETWORKS, UPLINKS},
    skb::Skb,
};

/// Codes of ICMP destination-unreachable (RFC 792; RFC 1812, section 5.2.7.1).
const PORT_UNREACHABLE: u32 = 3;
const ADMINISTRATIVELY_PROHIBITED: u32 = 13;

/// Answers a guest from its bridge's own address. Policy says port-unreachable, as libvirt's rules
/// do; what is exhausted says prohibited (RFC 5508, REQ-8).
#[inline(always)]
pub fn guest(hook: &Hook, reason: DropReason) -> Option<i32> {
    let code = match reason {
        DropReason::PolicyRejected | DropReason::NotAnUplink => PORT_UNREACHABLE,
        DropReason::PortsExhausted | DropReason::FlowTableFull | DropReason::GuestFlowLimit => {
            ADMINISTRATIVELY_PROHIBITED
        }
        _ => return None,
    };
    let source = NETWORKS.get(u32::from(hook.network))?.gateway;
    Some(vnet_reject(hook.skb.raw(), source.to_wire(), code))
}

/// Answers an outside host from the uplink's own address, as a router does (RFC 1812, section
/// 4.3.2.4): no address of a guest is ever a source outside.
#[inline(always)]
pub fn outside(hook: &Hook, reason: DropReason) -> Option<i32> {
    if !matches!(reason, DropReason::PolicyRejected) {
        return None;
    }
    // SAFETY: entries are replaced as a whole by userspace.
    let uplink = unsafe { UPLINKS.get(hook.skb.ifindex()) }?;
    if uplink.address_count == 0 {
        return None;
    }
    Some(vnet_reject(hook.skb.raw(), uplink.addresses[0].address.to_wire(), PORT_UNREACHABLE))
}

/// The action for the packet: sent back as an ICMP error, or dropped if it must have none.
///
/// A global function: the verifier checks it once, and it has a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_reject(ctx: *mut __sk_buff, source: u32, code: u32) -> i32 {
    let skb = Skb::from_raw(ctx);
    let source = Ipv4Be::from_wire(source);
    answer(skb, source, code as u8).unwrap_or(SHOT)
}

#[inline(always)]
fn answer(skb: Skb, source: Ipv4Be, code: u8) -> Option<i32> {
    if source == Ipv4Be::UNSPECIFIED {
        return None;
    }
    let frame = maps::rejection()?;
    frame.quote(skb)?;
    if !frame.may_be_sent() {
        return None;
    }
    take_token()?;
    frame.fill(source, code);
    frame.replace(skb)?;
    // Our own hook at the way out lets it pass.
    skb.set_mark(FORWARDED_MARK);
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_redirect(skb.ifindex(), 0) } as i32)
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
    fn quote(&mut self, skb: Skb) -> Option<()> {
        skb.load(0, &mut self.ethernet)?;
        skb.load(ETHERNET_LEN, &mut self.quote)
    }

    /// Whether the quoted packet may have an ICMP error (RFC 1122, section 3.2.2).
    #[inline(always)]
    fn may_be_sent(&self) -> bool {
        const OFFSET_MASK: u16 = 0x1fff_u16.to_be();
        let to_many = first_byte(self.ethernet[0]) & 1 != 0;
        // Eight bytes behind a longer header would not fit the quote.
        let has_options = first_byte(self.quote[0]) != 0x45;
        let is_later_fragment = self.quote[3] & OFFSET_MASK != 0;
        let ip_protocol = self.quote[4].to_ne_bytes()[1];
        let icmp_type = first_byte(self.quote[IPV4_LEN / 2]);
        // Queries and their replies, but neither errors nor redirects.
        let is_query = matches!(icmp_type, 0 | 8 | 13..=18);
        let destination = Ipv4Be::from_wire(long(self.quote[8], self.quote[9]));
        !(to_many
            || has_options
            || is_later_fragment
            || destination.is_multicast_or_broadcast()
            || !is_single_host(first_byte(self.quote[6]))
            || (ip_protocol == protocol::ICMP && !is_query))
    }

    /// Writes the headers in front of the quote.
    #[inline(always)]
    fn fill(&mut self, source: Ipv4Be, code: u8) {
        /// Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
        const TOS: u8 = 0xc0;
        const DONT_FRAGMENT: u16 = 0x4000;
        const TTL: u8 = 64;
        const DESTINATION_UNREACHABLE: u8 = 3;
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
        self.icmp = [u16::from_ne_bytes([DESTINATION_UNREACHABLE, code]), 0, 0, 0];
        self.icmp[1] = !checksum::fold(sum(&self.icmp) + sum(&self.quote));
    }

    /// Puts this frame in the packet's place.
    #[inline(always)]
    fn replace(&self, skb: Skb) -> Option<()> {
        /// From the start of the Ethernet header to behind the start of the L4 header: once that
        /// lies before the data, the kernel forgets that the L4 checksum is partial
        /// (`skb_postpull_rcsum` in `include/linux/skbuff.h`).
        const TAKEN_OUT: usize = 40;
        const { assert!(TAKEN_OUT > ETHERNET_LEN + IPV4_LEN) };
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
        let (raw, long) = (skb.raw(), (FRAME_LEN + TAKEN_OUT) as u32);
        // SAFETY: the context is valid, and the helpers check offsets and lengths. The first also
        // makes one packet of a segmentation-offload packet.
        unsafe {
            if bpf_skb_change_tail(raw, long, 0) != 0
                || bpf_skb_adjust_room(raw, -(TAKEN_OUT as i32), BPF_ADJ_ROOM_MAC, 0) != 0
                || bpf_skb_store_bytes(
                    raw.cast(),
                    0,
                    core::ptr::from_ref(self).cast(),
                    FRAME_LEN as u32,
                    flags,
                ) != 0
            {
                return None;
            }
        }
        Some(())
    }
}

/// Whether an address with this first byte is neither of 0.0.0.0/8, loopback, multicast nor beyond.
#[inline(always)]
const fn is_single_host(first_byte: u8) -> bool {
    first_byte != 0 && first_byte != 127 && first_byte < 224
}

#[inline(always)]
const fn first_byte(word: u16) -> u8 {
    word.to_ne_bytes()[0]
}

#[inline(always)]
const fn long(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn sum<const N: usize>(words: &[u16; N]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum += u32::from(*word);
    }
    sum
}

/// Takes one from this CPU's bucket of ICMP errors; `None` if it is empty (RFC 1812, section
/// 4.3.2.8).
#[inline(always)]
fn take_token() -> Option<()> {
    const NANOSECONDS_PER_TOKEN: u64 = 1_000_000_000 / limits::ICMP_ERRORS_PER_SECOND;
    // SAFETY: the element is this CPU's own and programs on one CPU do not interleave here.
    let bucket = unsafe { &mut *ICMP_ERRORS.get_ptr_mut(0)? };
    let elapsed = flow::now().saturating_sub(bucket.filled);
    let fresh = elapsed / NANOSECONDS_PER_TOKEN;
    if fresh > 0 {
        let tokens = bucket.tokens + fresh;
        bucket.tokens =
            if tokens < limits::ICMP_ERROR_BURST { tokens } else { limits::ICMP_ERROR_BURST };
        bucket.filled += fresh * NANOSECONDS_PER_TOKEN;
    }
    bucket.tokens = bucket.tokens.checked_sub(1)?;
    Some(())
}
