//! Rejecting: the packet becomes an ICMP destination-unreachable and goes back where it came from.

use aya_ebpf::{
    bindings::{BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::{bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_store_bytes},
};
use vnet_common::{
    address::Address, limits, names::FORWARDED_MARK, network::TokenBucket, reason::DropReason,
    timeout::NANOSECONDS,
};

use crate::{
    emit, flow,
    hook::{Hook, Link, Verdict},
    ip::Ip,
    maps::{self, ICMP_ERRORS},
    route,
    skb::Skb,
    tables,
};

/// What the error says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Port unreachable, also for TCP.
    Port,
    /// Administratively prohibited.
    Prohibited,
    /// The time to live ends here.
    Expired,
    /// Larger than the way takes.
    TooBig,
}

/// The way of the error, and what it says; fits two words, as BPF functions take them.
#[derive(Clone, Copy)]
pub struct Manner {
    pub code: Code,
    /// Of what is too big: how large it may be, in bytes.
    pub mtu: u16,
    pub link: Link,
    /// The interface towards the sender; 0 for the one at which the packet is.
    pub towards: u32,
}

impl Manner {
    #[inline(always)]
    pub fn word(self) -> u32 {
        u32::from(self.mtu) << 16 | u32::from(self.link == Link::Raw) << 2 | self.code as u32
    }

    #[inline(always)]
    pub fn from_words(word: u32, towards: u32) -> Self {
        let code = match word & 3 {
            0 => Code::Port,
            1 => Code::Prohibited,
            2 => Code::Expired,
            _ => Code::TooBig,
        };
        let link = if word & 4 == 0 { Link::Ethernet } else { Link::Raw };
        Self { code, mtu: (word >> 16) as u16, link, towards }
    }
}

/// Answers a guest from its bridge's own address. Policy says port-unreachable, as libvirt's rules
/// do; what is exhausted says prohibited (RFC 5508, REQ-8).
#[inline(always)]
pub fn guest<V: Ip>(hook: &Hook, reason: DropReason) -> Option<i32> {
    let code = match reason {
        DropReason::PolicyRejected | DropReason::NotAnUplink | DropReason::IsolatedPort => {
            Code::Port
        }
        DropReason::PortsExhausted
        | DropReason::FlowTableFull
        | DropReason::GuestFlowLimit
        | DropReason::GuestFlowRate
        | DropReason::NetworkFlowLimit
        | DropReason::FlowConflict => Code::Prohibited,
        DropReason::HairpinException => exception::<V>()?,
        _ => return None,
    };
    let source = V::gateway(tables::network(hook.network)?);
    let mtu = if code == Code::TooBig { maps::new_flow()?.mtu } else { 0 };
    Some(V::reject(hook.skb, source, Manner { code, mtu, link: Link::Ethernet, towards: 0 }))
}

/// What the host's stack would say of this CPU's packet, which it cannot have.
#[inline(always)]
fn exception<V: Ip>() -> Option<Code> {
    let packet = V::packet()?;
    match (packet.ttl, packet.has_options) {
        (0 | 1, _) => Some(Code::Expired),
        (_, true) => None,
        (_, false) => Some(Code::TooBig),
    }
}

/// Answers an outside host from the uplink's own address, as a router does (RFC 1812, section
/// 4.3.2.4): no address of a guest is ever a source outside.
#[inline(always)]
pub fn outside<V: Ip>(hook: &Hook, reason: DropReason) -> Option<i32> {
    if !matches!(reason, DropReason::PolicyRejected) {
        return None;
    }
    let source = uplink_address::<V>(hook.skb.ifindex())?;
    let manner = Manner { code: Code::Port, mtu: 0, link: hook.link, towards: 0 };
    Some(V::reject(hook.skb, source, manner))
}

/// Answers whom the host's stack was forwarding for, at the bridge's egress: through the interface
/// that the packet came from.
#[inline(always)]
pub fn forwarded<V: Ip>(hook: &Hook, reason: DropReason) -> Option<i32> {
    if !matches!(reason, DropReason::PolicyRejected | DropReason::IsolatedPort) {
        return None;
    }
    let towards = hook.skb.ingress_ifindex();
    let source = if let Some(address) = uplink_address::<V>(towards) {
        address
    } else {
        let (sender, _) = V::ends(hook.skb, hook.l3()).ok()?;
        match route::source_towards::<V>(hook.skb, sender, towards) {
            Some(address) => address,
            // The kernel does not tell: any address of the host will do.
            None => V::gateway(tables::network(hook.network)?),
        }
    };
    let manner = Manner { code: Code::Port, mtu: 0, link: Link::Ethernet, towards };
    Some(V::reject(hook.skb, source, manner))
}

#[inline(always)]
fn uplink_address<V: Ip>(ifindex: u32) -> Option<V::Address> {
    let (addresses, count) = V::addresses(tables::uplink(ifindex)?);
    (count != 0).then_some(addresses[0].address)
}

/// Puts a frame of `frame_len` bytes with its Ethernet header in the packet's place.
#[inline(always)]
pub fn replace(skb: Skb, link: Link, frame: *const u8, frame_len: usize) -> Option<()> {
    /// From the start of the frame to behind the start of the L4 header: once that lies before the
    /// data, the kernel forgets that the L4 checksum is partial (`skb_postpull_rcsum` in
    /// `include/linux/skbuff.h`).
    const TAKEN_OUT: usize = 64;
    const LONGEST_IP_HEADER: usize = 40;
    const { assert!(TAKEN_OUT > Link::Ethernet.header_len() + LONGEST_IP_HEADER) };
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
    let skipped = Link::Ethernet.header_len() - link.header_len();
    let length = frame_len - skipped;
    let raw = skb.raw();
    // SAFETY: the context is valid and `frame` is as long as told; the helpers check offsets and
    // lengths. The first also makes one packet of a segmentation-offload packet.
    unsafe {
        if bpf_skb_change_tail(raw, (length + TAKEN_OUT) as u32, 0) != 0
            || bpf_skb_adjust_room(raw, -(TAKEN_OUT as i32), BPF_ADJ_ROOM_MAC, 0) != 0
            || bpf_skb_store_bytes(raw.cast(), 0, frame.add(skipped).cast(), length as u32, flags)
                != 0
        {
            return None;
        }
    }
    Some(())
}

/// The next hop of an error; the unspecified address where it goes back at once. `None` if there is no
/// way.
#[inline(always)]
pub fn way<V: Ip>(skb: Skb, manner: Manner, receiver: V::Address) -> Option<Address> {
    if manner.towards == 0 {
        return Some(Address::default());
    }
    route::next_hop_at::<V>(skb, receiver, manner.towards)
}

/// Sends the error off. Our own hook at the way out lets it pass.
#[inline(always)]
pub fn send(skb: Skb, manner: Manner, next_hop: Address) -> Option<i32> {
    if manner.towards == 0 {
        skb.set_mark(FORWARDED_MARK);
        // SAFETY: the helper has no preconditions.
        return Some(unsafe { bpf_redirect(skb.ifindex(), 0) } as i32);
    }
    match emit::to_neighbour(skb, manner.towards, next_hop) {
        Verdict::Redirect(action) => Some(action),
        _ => None,
    }
}

/// Takes one from this CPU's bucket of ICMP errors and one from the receiver's share of it, so that one
/// guest's errors do not use up those of the others; `None` if either is empty (RFC 1812, section
/// 4.3.2.8; RFC 4443, section 2.4).
#[inline(always)]
pub fn take_token(receiver: Address) -> Option<()> {
    const _: () = assert!(limits::ICMP_RECEIVERS == 1 << 8);
    /// The golden ratio of 32 bits (Knuth, The Art of Computer Programming 3, section 6.4).
    const MULTIPLIER: u32 = 0x9e37_79b9;
    let [a, b, c, d] = receiver.to_wire();
    let group = (a ^ b ^ c ^ d).wrapping_mul(MULTIPLIER) >> 24;
    // SAFETY: the elements are this CPU's own and programs on one CPU do not interleave here.
    let (all, own) =
        unsafe { (&mut *ICMP_ERRORS.get_ptr_mut(0)?, &mut *ICMP_ERRORS.get_ptr_mut(1 + group)?) };
    let now = flow::now();
    refill(own, now, limits::ICMP_ERRORS_PER_RECEIVER, limits::ICMP_RECEIVER_BURST);
    refill(all, now, limits::ICMP_ERRORS_PER_SECOND, limits::ICMP_ERROR_BURST);
    if all.tokens == 0 || own.tokens == 0 {
        return None;
    }
    all.tokens -= 1;
    own.tokens -= 1;
    Some(())
}

#[inline(always)]
fn refill(bucket: &mut TokenBucket, now: u64, per_second: u64, burst: u64) {
    let ns_per_token = NANOSECONDS / per_second;
    let fresh = now.saturating_sub(bucket.filled) / ns_per_token;
    if fresh > 0 {
        let tokens = bucket.tokens + fresh;
        bucket.tokens = if tokens < burst { tokens } else { burst };
        bucket.filled += fresh * ns_per_token;
    }
}

#[inline(always)]
pub const fn first_byte(word: u16) -> u8 {
    word.to_ne_bytes()[0]
}

/// The sum of words, not yet folded.
#[inline(always)]
pub fn sum<const N: usize>(words: &[u16; N]) -> u32 {
    let mut sum = 0;
    for word in words {
        sum += u32::from(*word);
    }
    sum
}
