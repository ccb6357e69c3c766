//! What the programs say through aya-log. With logging off the verifier removes the bodies.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::bpf_skb_load_bytes_relative,
    programs::TcContext,
};
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
    trace,
};
use bytemuck::{Pod, Zeroable};
use vnet_common::{
    family::Family,
    reason::{DropReason, Handover},
};

use crate::hook::Hook;

/// Whether drops are logged.
#[inline(always)]
pub fn is_on() -> bool {
    level_enabled(Level::Debug)
}

#[inline(always)]
pub fn drop(hook: &Hook, reason: DropReason) {
    let (ifindex, network) = (hook.skb.ifindex(), u32::from(hook.network));
    if hook.skb.family() == Some(Family::Ipv6) {
        vnet_log_drop_ipv6(hook.skb.raw(), ifindex, network, reason as u32);
    } else {
        vnet_log_drop(hook.skb.raw(), ifindex, network, reason as u32);
    }
}

#[inline(always)]
pub fn handover(hook: &Hook, handover: Handover) {
    let (ifindex, network) = (hook.skb.ifindex(), u32::from(hook.network));
    if hook.skb.family() == Some(Family::Ipv6) {
        vnet_log_handover_ipv6(hook.skb.raw(), ifindex, network, handover as u32);
    } else {
        vnet_log_handover(hook.skb.raw(), ifindex, network, handover as u32);
    }
}

// Global functions, as `vnet_open_flow`: they do not take the programs' stack, and the verifier
// checks them once. Userspace puts the words for the numbers. They have nothing to return but have to.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_log_drop(ctx: *mut __sk_buff, ifindex: u32, network: u32, reason: u32) -> u32 {
    let ctx = &TcContext::new(ctx);
    let packet: Ipv4Ends = header_bytes(ctx, IPV4_ENDS_OFFSET);
    debug!(
        ctx,
        "drop ifindex={} network={} drop={} protocol={} {:i} -> {:i}",
        ifindex,
        network,
        reason,
        packet.protocol,
        u32::from_be(packet.source),
        u32::from_be(packet.destination)
    );
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_log_drop_ipv6(
    ctx: *mut __sk_buff,
    ifindex: u32,
    network: u32,
    reason: u32,
) -> u32 {
    let ctx = &TcContext::new(ctx);
    let packet: Ipv6Ends = header_bytes(ctx, IPV6_ENDS_OFFSET);
    debug!(
        ctx,
        "drop ifindex={} network={} drop={} protocol={} {:i} -> {:i}",
        ifindex,
        network,
        reason,
        packet.next_header,
        packet.source,
        packet.destination
    );
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_log_handover(
    ctx: *mut __sk_buff,
    ifindex: u32,
    network: u32,
    handover: u32,
) -> u32 {
    let ctx = &TcContext::new(ctx);
    let packet: Ipv4Ends = header_bytes(ctx, IPV4_ENDS_OFFSET);
    trace!(
        ctx,
        "to stack ifindex={} network={} handover={} protocol={} {:i} -> {:i}",
        ifindex,
        network,
        handover,
        packet.protocol,
        u32::from_be(packet.source),
        u32::from_be(packet.destination)
    );
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_log_handover_ipv6(
    ctx: *mut __sk_buff,
    ifindex: u32,
    network: u32,
    handover: u32,
) -> u32 {
    let ctx = &TcContext::new(ctx);
    let packet: Ipv6Ends = header_bytes(ctx, IPV6_ENDS_OFFSET);
    trace!(
        ctx,
        "to stack ifindex={} network={} handover={} protocol={} {:i} -> {:i}",
        ifindex,
        network,
        handover,
        packet.next_header,
        packet.source,
        packet.destination
    );
    0
}

const IPV4_ENDS_OFFSET: u32 = 8;

/// The IPv4 header from the time to live on.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ipv4Ends {
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

const IPV6_ENDS_OFFSET: u32 = 6;

/// The IPv6 header from the next header's kind on.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ipv6Ends {
    next_header: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// Bytes of the IP header, wherever the hook's frame begins.
#[inline(always)]
fn header_bytes<T: Pod>(ctx: &TcContext, offset: u32) -> T {
    let mut bytes = T::zeroed();
    // SAFETY: the context is valid and the buffer is as long as told. Where the packet is no
    // packet of that version the zeroes stay or other bytes come, and the record says no more.
    unsafe {
        bpf_skb_load_bytes_relative(
            ctx.skb.skb.cast(),
            offset,
            (&raw mut bytes).cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        );
    }
    bytes
}
