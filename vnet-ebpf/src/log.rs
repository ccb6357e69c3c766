//! What the programs say through aya-log. With logging off the verifier removes the bodies.

use aya_ebpf::{
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET, helpers::bpf_skb_load_bytes_relative,
    programs::TcContext,
};
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

// Functions of their own, so that the records do not take the programs' stack. Userspace puts the
// words for the numbers.

#[inline(never)]
fn drop_record(ctx: &TcContext, ifindex: u32, network: u32, reason: u32) {
    let packet = Ends::read(ctx);
    debug!(
        ctx,
        "drop ifindex={} network={} drop={} protocol={} {:i} -> {:i}",
        ifindex,
        network,
        reason,
        packet.protocol(),
        packet.source(),
        packet.destination()
    );
}

#[inline(never)]
fn handover_record(ctx: &TcContext, ifindex: u32, network: u32, handover: u32) {
    let packet = Ends::read(ctx);
    trace!(
        ctx,
        "to stack ifindex={} network={} handover={} protocol={} {:i} -> {:i}",
        ifindex,
        network,
        handover,
        packet.protocol(),
        packet.source(),
        packet.destination()
    );
}

/// Bytes 8 to 20 of the IPv4 header: time to live, protocol, checksum, source, destination.
struct Ends([u8; 12]);

impl Ends {
    const OFFSET: u32 = 8;

    #[inline(always)]
    fn read(ctx: &TcContext) -> Self {
        let mut bytes = [0; 12];
        // SAFETY: the context is valid and the buffer is as long as told. Where the packet is no
        // IPv4 packet the zeroes stay or other bytes come, and the record says no more than that.
        unsafe {
            bpf_skb_load_bytes_relative(
                ctx.skb.skb.cast(),
                Self::OFFSET,
                bytes.as_mut_ptr().cast(),
                bytes.len() as u32,
                BPF_HDR_START_NET,
            );
        }
        Self(bytes)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.0[1]
    }

    #[inline(always)]
    fn source(&self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    #[inline(always)]
    fn destination(&self) -> u32 {
        u32::from_be_bytes([self.0[8], self.0[9], self.0[10], self.0[11]])
    }
}
