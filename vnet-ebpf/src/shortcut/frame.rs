//! The only place that touches the buffer of an XDP program: checked accessors over its context.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use bytemuck::Pod;
use vnet_common::family::Family;

use crate::skb::context_word;

/// `ETH_P_IP` and `ETH_P_IPV6` in network byte order.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
const ETHERTYPE_OFFSET: usize = 12;

/// A frame in the buffer of a driver, from the Ethernet header on. VLAN tags are in it.
#[derive(Clone, Copy)]
pub struct Frame {
    raw: *mut xdp_md,
}

impl Frame {
    #[inline(always)]
    pub const fn new(ctx: &XdpContext) -> Self {
        Self { raw: ctx.ctx }
    }

    /// The interface at which it came in: of a bond the slave.
    #[inline(always)]
    pub fn ingress_ifindex(self) -> u32 {
        context_word::<{ offset_of!(xdp_md, ingress_ifindex) }, _>(self.raw.cast_const())
    }

    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.raw).data as usize }
    }

    #[inline(always)]
    fn data_end(self) -> usize {
        // SAFETY: the context is valid while the program runs.
        unsafe { (*self.raw).data_end as usize }
    }

    /// Length in bytes with the Ethernet header.
    #[inline(always)]
    pub fn len(self) -> u32 {
        (self.data_end() - self.data()) as u32
    }

    /// The version of IP that follows the Ethernet header; `None` for other protocols and tagged frames.
    #[inline(always)]
    pub fn family(self) -> Option<Family> {
        match self.read::<u16>(ETHERTYPE_OFFSET)? {
            ETHERTYPE_IPV4 => Some(Family::Ipv4),
            ETHERTYPE_IPV6 => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// Reads plain bytes in place, unaligned. The offset has to be a constant.
    #[inline(always)]
    pub fn read<T: Pod>(self, offset: usize) -> Option<T> {
        let pointer = self.pointer::<T>(offset)?;
        // SAFETY: `pointer` was checked against the frame's end and `T` is valid for any bytes.
        Some(unsafe { pointer.read_unaligned() })
    }

    /// Writes plain bytes in place, unaligned. The offset has to be a constant.
    #[inline(always)]
    pub fn write<T: Pod>(self, offset: usize, value: T) -> Option<()> {
        let pointer = self.pointer::<T>(offset)?;
        // SAFETY: `pointer` was checked against the frame's end; the frame is this program's alone.
        unsafe { pointer.write_unaligned(value) }
        Some(())
    }

    /// Changes a header in place, which has alignment 1 and is valid for any bytes.
    #[inline(always)]
    pub fn header_mut<T>(self, offset: usize) -> Option<&'static mut T> {
        const { assert!(align_of::<T>() == 1) };
        let pointer = self.pointer::<T>(offset)?;
        // SAFETY: `pointer` was checked against the frame's end, alignment is 1, and no helper that moves
        // the frame is called here.
        Some(unsafe { &mut *pointer })
    }

    #[inline(always)]
    fn pointer<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.data() + offset;
        (start + size_of::<T>() <= self.data_end()).then_some(start as *mut T)
    }
}
