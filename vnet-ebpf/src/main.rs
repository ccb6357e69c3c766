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
mod extension;
mod flow;
mod forwarded;
mod fragment;
mod guard;
mod hook;
mod icmp;
mod inbound;
mod ip;
mod ipv4;
mod ipv6;
mod log;
mod mapping;
mod maps;
mod nat;
mod outbound;
mod outcome;
mod parse;
mod policy;
mod reject;
mod reject_ipv4;
mod reject_ipv6;
mod route;
mod routed;
mod session;
mod skb;

use aya_ebpf::{macros::classifier, programs::TcContext};
use vnet_common::{family::Family, reason::Handover};

use crate::{
    hook::{ERROR, Hook, KNOWN, Link, POSSIBLE_REPLY, UNJUDGED},
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    skb::Skb,
};

/// TC ingress of a network's bridge: guests' packets to anything beyond their own link.
#[classifier]
pub fn bridge_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    skb.take_priority_tag();
    match skb.family() {
        Some(Family::Ipv4) => at_bridge::<Ipv4>(skb),
        Some(Family::Ipv6) => at_bridge::<Ipv6>(skb),
        None => Hook::new(skb, Link::Ethernet).finish(Err(Handover::NotIp.into())),
    }
}

#[inline(always)]
fn at_bridge<V: Ip>(skb: Skb) -> i32 {
    let mut action = from_guest::<V>(skb);
    if action == UNJUDGED {
        action = from_guest_unjudged::<V>(skb);
    }
    match action {
        KNOWN => from_guest_known::<V>(skb),
        ERROR => from_guest_error::<V>(skb),
        POSSIBLE_REPLY => from_guest_in_reply::<V>(skb),
        action => action,
    }
}

/// TC egress of a network's bridge: what the host's stack sends to guests.
#[classifier]
pub fn bridge_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    by_family(skb, at_bridge_egress::<Ipv4>, at_bridge_egress::<Ipv6>)
}

#[inline(always)]
fn at_bridge_egress<V: Ip>(skb: Skb) -> i32 {
    egress::<V>(skb, to_guest::<V>(skb))
}

/// What follows the first step at an egress with Ethernet headers.
#[inline(always)]
fn egress<V: Ip>(skb: Skb, mut action: i32) -> i32 {
    if action == UNJUDGED {
        action = masquerade::<V>(skb);
    }
    match action {
        KNOWN => translate::<V>(skb),
        ERROR => translate_error::<V>(skb),
        action => action,
    }
}

/// TC ingress of an uplink with Ethernet headers: packets from outside.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    skb.take_priority_tag();
    by_family(skb, from_outside::<Ipv4>, from_outside::<Ipv6>)
}

/// TC egress of an uplink with Ethernet headers: what the host's stack sends outside.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    by_family(skb, at_uplink_egress::<Ipv4>, at_uplink_egress::<Ipv6>)
}

#[inline(always)]
fn at_uplink_egress<V: Ip>(skb: Skb) -> i32 {
    egress::<V>(skb, to_outside::<V>(skb))
}

/// TC ingress of an uplink without link-layer headers (tun, `WireGuard`, PPP).
#[classifier]
pub fn uplink_ingress_raw(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    by_family(skb, from_outside_raw::<Ipv4>, from_outside_raw::<Ipv6>)
}

/// TC egress of an uplink without link-layer headers.
#[classifier]
pub fn uplink_egress_raw(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    by_family(skb, at_uplink_egress_raw::<Ipv4>, at_uplink_egress_raw::<Ipv6>)
}

#[inline(always)]
fn at_uplink_egress_raw<V: Ip>(skb: Skb) -> i32 {
    let mut action = to_outside_raw::<V>(skb);
    if action == UNJUDGED {
        action = masquerade_raw::<V>(skb);
    }
    match action {
        KNOWN => translate_raw::<V>(skb),
        ERROR => translate_error_raw::<V>(skb),
        action => action,
    }
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

// Each step has a stack frame of its own: together they do not fit 512 bytes.

#[inline(never)]
fn from_guest<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::guest::<V>)
}

#[inline(never)]
fn from_guest_unjudged<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge_unjudged::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::guest::<V>)
}

#[inline(never)]
fn from_guest_known<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge_known::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn from_guest_error<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge_error::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn from_guest_in_reply<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = inbound::reply_at_bridge::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn to_guest<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = forwarded::to_bridge::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::forwarded::<V>)
}

#[inline(never)]
fn from_outside<V: Ip>(skb: Skb) -> i32 {
    arrive::<V>(skb, Link::Ethernet)
}

#[inline(never)]
fn from_outside_raw<V: Ip>(skb: Skb) -> i32 {
    arrive::<V>(skb, Link::Raw)
}

#[inline(always)]
fn arrive<V: Ip>(skb: Skb, link: Link) -> i32 {
    let mut hook = Hook::new(skb, link);
    let verdict = inbound::from_uplink::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::outside::<V>)
}

#[inline(never)]
fn to_outside<V: Ip>(skb: Skb) -> i32 {
    leave::<V>(skb, Link::Ethernet)
}

#[inline(never)]
fn to_outside_raw<V: Ip>(skb: Skb) -> i32 {
    leave::<V>(skb, Link::Raw)
}

#[inline(always)]
fn leave<V: Ip>(skb: Skb, link: Link) -> i32 {
    let mut hook = Hook::new(skb, link);
    let verdict = forwarded::to_uplink::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn masquerade<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = forwarded::masquerade::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn masquerade_raw<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Raw);
    let verdict = forwarded::masquerade::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn translate<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = forwarded::translate::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn translate_raw<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Raw);
    let verdict = forwarded::translate::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn translate_error<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = forwarded::translate_error::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn translate_error_raw<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Raw);
    let verdict = forwarded::translate_error::<V>(&mut hook);
    hook.finish(verdict)
}

/// TC ingress of a guest's port: what the guest may not send goes no further.
#[classifier]
pub fn port_guard(ctx: TcContext) -> i32 {
    let mut hook = Hook::new(Skb::new(&ctx), Link::Ethernet);
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
