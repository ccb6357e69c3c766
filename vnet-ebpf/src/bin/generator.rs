//! The ends of the benchmarks' wires: what sends frames, what takes them, and what stops them half way.
#![no_std]
#![no_main]
#![allow(
    clippy::inline_always,
    clippy::needless_pass_by_value,
    reason = "BPF: as in the programs that are measured"
)]
// The functions that `xdp` and `classifier` write have none.
#![allow(missing_docs)]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, map, xdp},
    maps::{Array, DevMap, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use vnet_common::generator::{FRAME_BYTES, SHORT_FRAME_BYTES, Stream};

/// `TC_ACT_SHOT`
const SHOT: i32 = 2;
const WORDS: usize = SHORT_FRAME_BYTES / size_of::<u32>();

#[map]
static STREAM: Array<Stream> = Array::with_max_entries(1, 0);

#[map]
static SENT: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The interface that frames leave by.
#[map]
static WIRE: DevMap = DevMap::with_max_entries(1, 0);

#[map]
static TAKEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Run by userspace on live frames: writes the whole frame, because who had its memory before may have changed
/// it, and sends it.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    send(&ctx).unwrap_or(xdp_action::XDP_DROP)
}

#[inline(always)]
fn send(ctx: &XdpContext) -> Option<u32> {
    let start = ctx.data();
    let end = ctx.data_end();
    if start + SHORT_FRAME_BYTES > end {
        return None;
    }
    let stream = STREAM.get(0)?;
    // SAFETY: checked against the frame's end; any bytes are words; the kernel aligns frames, and that of the
    // stream is its first field.
    let (to, from) = unsafe {
        (
            &mut *(start as *mut [u32; WORDS]),
            &*core::ptr::from_ref(stream).cast::<[u32; WORDS + 1]>(),
        )
    };
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    if start + FRAME_BYTES <= end {
        // SAFETY: as above, the word behind the others.
        unsafe { *((start + SHORT_FRAME_BYTES) as *mut u32) = from[WORDS] };
    }
    let count = SENT.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's own until the program ends.
    let number = unsafe {
        *count += 1;
        *count as u32
    };
    for field in &stream.fields {
        let value = field.number(number);
        write(start, end, field.offset, value);
        write(start, end, field.complement, !value);
    }
    Some(WIRE.redirect(0, 0).unwrap_or(xdp_action::XDP_ABORTED))
}

#[inline(always)]
fn write(start: usize, end: usize, offset: u32, value: u16) {
    let at = start + (offset as usize & 0x3e);
    if offset != 0 && at + 2 <= end {
        // SAFETY: checked against the frame's end; alignment is 1.
        unsafe { *(at as *mut [u8; 2]) = value.to_be_bytes() };
    }
}

/// Counts what arrives.
#[xdp]
pub fn take(_ctx: XdpContext) -> u32 {
    if let Some(count) = TAKEN.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's own until the program ends.
        unsafe { *count += 1 }
    }
    xdp_action::XDP_DROP
}

/// Lets nothing further than to the first hook of TC.
#[classifier]
pub fn stop(_ctx: TcContext) -> i32 {
    SHOT
}

/// As `stop`, of XDP.
#[xdp]
pub fn stop_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program gets here.
    loop {}
}
