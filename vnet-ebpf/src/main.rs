//! The BPF programs of vnet: one entry point per hook, in the order in which a packet meets them.
#![no_std]
#![no_main]
#![allow(
    clippy::inline_always,
    clippy::cast_possible_wrap,
    reason = "BPF: calls cost stack and verifier work, and helpers take and return signed words"
)]
// The functions that `classifier` writes have none.
#![allow(missing_docs)]
// Atomic instructions: see `atomic`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod atomic;
mod count;
mod emit;
mod expire;
mod flow;
mod fragment;
mod guard;
mod hook;
mod icmp;
mod inbound;
mod log;
mod mapping;
mod maps;
mod nat;
mod outbound;
mod outcome;
mod parse;
mod policy;
mod reject;
mod route;
mod session;
mod skb;

use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::hook::{Hook, Link};

/// TC ingress of a network's bridge: guests' packets to anything beyond their own link.
#[classifier]
pub fn bridge_ingress(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(ctx);
    let verdict = outbound::from_bridge(&mut hook);
    hook.finish_or_reject(verdict, reject::guest)
}

/// TC egress of a network's bridge: what the host's stack sends to guests.
#[classifier]
pub fn bridge_egress(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(ctx);
    let verdict = inbound::to_bridge(&mut hook);
    hook.finish(verdict)
}

/// TC ingress of an uplink with Ethernet headers: packets from outside.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(ctx);
    let verdict = inbound::from_uplink(&mut hook, Link::Ethernet);
    hook.finish_or_reject(verdict, reject::outside)
}

/// TC egress of an uplink with Ethernet headers: what the host's stack sends outside.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(ctx);
    let verdict = outbound::to_uplink(&mut hook, Link::Ethernet);
    hook.finish(verdict)
}

/// TC ingress of an uplink without link-layer headers (tun, `WireGuard`, PPP).
#[classifier]
pub fn uplink_ingress_raw(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(ctx);
    let verdict = inbound::from_uplink(&mut hook, Link::Raw);
    hook.finish(verdict)
}

/// TC egress of an uplink without link-layer headers.
#[classifier]
pub fn uplink_egress_raw(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(ctx);
    let verdict = outbound::to_uplink(&mut hook, Link::Raw);
    hook.finish(verdict)
}

/// TC ingress of a guest's port: what the guest may not send goes no further.
#[classifier]
pub fn port_guard(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(ctx);
    let verdict = guard::from_guest(&mut hook);
    hook.finish(verdict)
}

/// Ends flows that have been idle too long. Userspace runs it over the table in slices.
#[classifier]
pub fn sweep(_ctx: TcContext) -> i32 {
    expire::slice();
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
