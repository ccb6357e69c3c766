//! The BPF programs of vnet: one entry point per hook, in the order in which a packet meets them.
#![no_std]
#![no_main]
#![allow(
    clippy::inline_always,
    clippy::cast_possible_wrap,
    clippy::needless_pass_by_value,
    reason = "BPF: calls cost stack and verifier work, helpers take and return signed words, and entry \
              points take their context by value"
)]
// The functions that `classifier` writes have none.
#![allow(missing_docs)]
// Atomic instructions: see `atomic`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod account;
mod adopt;
mod atomic;
mod count;
mod dhcp;
mod emit;
mod expire;
mod extension;
mod flow;
mod former;
mod forward;
mod forwarded;
mod fragment;
mod guard;
mod held;
mod hook;
mod host_flow;
mod icmp;
mod inbound;
mod ip;
mod ipv4;
mod ipv6;
mod log;
mod mapping;
mod maps;
mod nat;
mod opening;
mod outbound;
mod outcome;
mod parse;
mod path;
mod policy;
mod port_map;
mod ports;
mod reject;
mod reject_ipv4;
mod reject_ipv6;
mod route;
mod routed;
mod session;
mod shortcut;
mod skb;
mod slots;
mod steps;
mod tables;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use vnet_common::{family::Family, names::program, reason::Handover};

use crate::{
    former::At,
    hook::{Hook, Link},
    ipv4::Ipv4,
    ipv6::Ipv6,
    shortcut::Frame,
    skb::Skb,
};

/// TC ingress of a network's bridge: guests' packets to anything beyond their own link.
#[classifier]
pub fn bridge_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    skb.take_priority_tag();
    former::hand_over(&ctx, program::BRIDGE_INGRESS, At::Bridge);
    match skb.family() {
        Some(Family::Ipv4) => steps::at_bridge::<Ipv4>(skb),
        Some(Family::Ipv6) => steps::at_bridge::<Ipv6>(skb),
        None => Hook::new(skb, Link::Ethernet).finish(Err(Handover::NotIp.into())),
    }
}

/// TC egress of a network's bridge: what the host's stack sends to guests.
#[classifier]
pub fn bridge_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    former::hand_over(&ctx, program::BRIDGE_EGRESS, At::Ethernet);
    dhcp::complete_reply(skb);
    by_family(skb, steps::at_bridge_egress::<Ipv4>, steps::at_bridge_egress::<Ipv6>)
}

/// TC ingress of an uplink with Ethernet headers: packets from outside.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    skb.take_priority_tag();
    former::hand_over(&ctx, program::UPLINK_INGRESS, At::Ethernet);
    by_family(skb, steps::at_uplink::<Ipv4, false>, steps::at_uplink::<Ipv6, false>)
}

/// TC egress of an uplink with Ethernet headers: what the host's stack sends outside.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    former::hand_over(&ctx, program::UPLINK_EGRESS, At::Ethernet);
    by_family(skb, steps::at_uplink_egress::<Ipv4, false>, steps::at_uplink_egress::<Ipv6, false>)
}

/// TC ingress of an uplink without link-layer headers (tun, `WireGuard`, PPP).
#[classifier]
pub fn uplink_ingress_raw(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    former::hand_over(&ctx, program::UPLINK_INGRESS_RAW, At::Raw);
    by_family(skb, steps::at_uplink::<Ipv4, true>, steps::at_uplink::<Ipv6, true>)
}

/// TC egress of an uplink without link-layer headers.
#[classifier]
pub fn uplink_egress_raw(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    former::hand_over(&ctx, program::UPLINK_EGRESS_RAW, At::Raw);
    by_family(skb, steps::at_uplink_egress::<Ipv4, true>, steps::at_uplink_egress::<Ipv6, true>)
}

/// What is neither version of IP passes.
#[inline(always)]
fn by_family(skb: Skb, ipv4: fn(Skb) -> i32, ipv6: fn(Skb) -> i32) -> i32 {
    match skb.family() {
        Some(Family::Ipv4) => ipv4(skb),
        Some(Family::Ipv6) => ipv6(skb),
        None => hook::NEXT,
    }
}

/// TC ingress of a guest's port: what the guest may not send goes no further.
#[classifier]
pub fn port_guard(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(Skb::new(&ctx), Link::Ethernet);
    let verdict = guard::from_guest(&mut hook);
    // No short way: together with the guard it takes more stack than Linux 6.1 has for a program.
    hook.finish(verdict)
}

/// TC ingress of a guest's port without a guard: packets of known flows pass by the bridge.
#[classifier]
pub fn port_shortcut(ctx: TcContext) -> i32 {
    shortcut::from_guest(ctx.skb.skb)
}

/// Native XDP of an uplink: packets of established flows.
#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    shortcut::at_uplink(Frame::new(&ctx))
}

/// Native XDP of a NIC or bond below a bridge: frames for stations that the bridge knows.
#[xdp]
pub fn bridged_xdp(ctx: XdpContext) -> u32 {
    shortcut::at_bridged(Frame::new(&ctx))
}

/// Ends flows that have been idle too long. Userspace runs it over the table in slices.
#[classifier]
pub fn sweep(_ctx: TcContext) -> i32 {
    expire::slice();
    0
}

/// Enters flows of a former datapath. Userspace runs it for some at a time.
#[classifier]
pub fn adopt(_ctx: TcContext) -> i32 {
    adopt::all();
    0
}

// What the helpers used here ask of the kernel: `bpf_fib_lookup` is for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program gets here.
    loop {}
}
