//! What the programs say through aya-log. With logging off the verifier removes the bodies.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::{debug, trace};
use vnet_common::reason::{DropReason, Handover};

use crate::hook::Hook;

#[inline(always)]
pub fn drop(hook: &Hook, reason: DropReason) {
    drop_record(&hook.ctx, hook.skb.ifindex(), u32::from(hook.network), reason as u32);
}

#[inline(always)]
pub fn handover(hook: &Hook, handover: Handover) {
    handover_record(&hook.ctx, hook.skb.ifindex(), u32::from(hook.network), handover as u32);
}

// Functions of their own, so that the records do not take the programs' stack.

#[inline(never)]
fn drop_record(ctx: &TcContext, ifindex: u32, network: u32, reason: u32) {
    debug!(ctx, "drop ifindex={} network={} reason={}", ifindex, network, reason);
}

#[inline(never)]
fn handover_record(ctx: &TcContext, ifindex: u32, network: u32, handover: u32) {
    trace!(ctx, "to the host's stack ifindex={} network={} reason={}", ifindex, network, handover);
}
