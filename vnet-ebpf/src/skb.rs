//! The only place that touches the socket buffer: checked accessors over the TC context.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        BPF_F_RECOMPUTE_CSUM,
    },
    helpers::{
        bpf_check_mtu, bpf_clone_redirect, bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use bytemuck::Pod;
use vnet_common::{
    address::{Address, Ipv4Be},
    family::Family,
    reason::DropReason,
};

/// `ETH_P_IP` and `ETH_P_IPV6` in network byte order.
const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// The VLAN identifier in a tag (IEEE 802.1Q, section 9.6).
const VLAN_ID: u32 = 0xfff;

/// A socket buffer of the running program.
#[derive(Clone, Copy)]
pub struct Skb {
    raw: *mut __sk_buff,
}

macro_rules! context_fields {
    ($($(#[$meta:meta])* $name:ident = $field:ident;)+) => {
        $($(#[$meta])*
        #[inline(always)]
        pub fn $name(self) -> u32 {
            context_word::<{ offset_of!(__sk_buff, $field) }, _>(self.raw.cast_const())
        })+
    };
}

/// Reads a field of the context in one instruction: the verifier refuses pointers into it, which the
/// compiler would make to share loads.
#[inline(always)]
pub fn context_word<const OFFSET: usize, C>(context: *const C) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u64;
        // SAFETY: the context is valid while the program runs; the verifier checks the field.
        unsafe {
            asm!(
                "{word} = *(u32 *)({context} + {offset})",
                word = out(reg) word,
                context = in(reg) context,
                offset = const OFFSET,
                options(nostack, preserves_flags, readonly)
            );
        }
        word as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: as above.
    unsafe {
        context.byte_add(OFFSET).cast::<u32>().read()
    }
}

/// Hides from the compiler how an address came about, so that it is not computed anew between the
/// check and the access, which the verifier would take for another address.
#[inline(always)]
#[cfg_attr(not(target_arch = "bpf"), expect(unused_mut, reason = "changed by the assembly alone"))]
fn pinned(mut address: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    // SAFETY: moves a register to itself; without an instruction the line information of the next one
    // would stand twice, which the kernel refuses.
    unsafe {
        asm!("{0} = {0}", inout(reg) address, options(nomem, nostack, preserves_flags, pure));
    }
    address
}

/// A length of at least one byte, and at most as many as there is room for. Kernels before 6.4 do not learn
/// from a comparison with zero that a number is not zero (`reg_set_min_max` in `kernel/bpf/verifier.c`).
#[inline(always)]
pub fn within(length: u32, room: usize) -> Option<u32> {
    let last = pinned(length.wrapping_sub(1) as usize);
    (last < room).then_some(last as u32 + 1)
}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self::from_raw(ctx.skb.skb)
    }

    #[inline(always)]
    pub const fn from_raw(raw: *mut __sk_buff) -> Self {
        Self { raw }
    }

    /// Whether there is an interface of this index.
    #[inline(always)]
    pub fn has_device(self, ifindex: u32) -> bool {
        // In: the length of a packet, which fits; out: the MTU, which is not asked for.
        let mut length = 1_u32;
        // SAFETY: the context is valid while the program runs, and so is the word.
        let result = unsafe { bpf_check_mtu(self.raw.cast(), ifindex, &raw mut length, 0, 0) };
        result >= 0
    }

    context_fields! {
        /// Length in bytes with the link-layer header.
        len = len;
        /// The interface at which the program runs.
        ifindex = ifindex;
        /// The interface through which the packet came to this host; 0 if the host made it.
        ingress_ifindex = ingress_ifindex;
        /// Payload bytes per segment; 0 without segmentation offload.
        gso_size = gso_size;
        protocol = protocol;
        vlan_present = vlan_present;
        vlan_tci = vlan_tci;
        pkt_type = pkt_type;
    }

    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.raw
    }

    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: the context is valid while the program runs; the verifier allows this field.
        unsafe { (*self.raw).mark }
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: the context is valid while the program runs; the verifier allows writing the mark.
        unsafe { (*self.raw).mark = mark }
    }

    /// The version of IP that follows the link-layer header; `None` for other protocols and for
    /// frames of a VLAN, which are another interface's.
    #[inline(always)]
    pub fn family(self) -> Option<Family> {
        if self.vlan_present() != 0 && self.vlan_tci() & VLAN_ID != 0 {
            return None;
        }
        match self.protocol() {
            ETHERTYPE_IPV4 => Some(Family::Ipv4),
            ETHERTYPE_IPV6 => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// Takes off a tag that only says a priority (VLAN 0), as the stack does on the way in.
    #[inline(always)]
    pub fn take_priority_tag(self) {
        if self.vlan_present() != 0 && self.vlan_tci() & VLAN_ID == 0 {
            // SAFETY: the context is valid; pointers are derived anew after this call.
            let _ = unsafe { bpf_skb_vlan_pop(self.raw) };
        }
    }

    /// Whether the frame is none of ours: addressed to another host and here only because somebody
    /// listens, so that the stack will drop it; or the host's own copy of what it sends to many, which
    /// has no link-layer header.
    #[inline(always)]
    pub fn is_none_of_ours(self) -> bool {
        const PACKET_OTHERHOST: u32 = 3;
        const PACKET_LOOPBACK: u32 = 5;
        matches!(self.pkt_type(), PACKET_OTHERHOST | PACKET_LOOPBACK)
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

    /// Makes the first `bytes` readable in place, or all of a shorter packet.
    #[inline(always)]
    pub fn pull(self, bytes: u32) {
        let bytes = if self.len() < bytes { self.len() } else { bytes };
        if self.data() + bytes as usize > self.data_end() {
            // SAFETY: the context is valid; pointers are derived anew after this call.
            // A failure leaves the packet as it was: the checked reads that follow fail.
            let _ = unsafe { bpf_skb_pull_data(self.raw, bytes) };
        }
    }

    /// Takes off what follows the first `bytes`, as the stack does with padding.
    #[inline(always)]
    pub fn trim(self, bytes: u32) {
        if self.len() > bytes {
            // SAFETY: the context is valid; pointers are derived anew after this call.
            // A failure leaves the packet as it was, and padding is harmless where headers are whole.
            let _ = unsafe { bpf_skb_change_tail(self.raw, bytes, 0) };
        }
    }

    #[inline(always)]
    fn pointer<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.data() + offset;
        (start + size_of::<T>() <= self.data_end()).then_some(start as *mut T)
    }

    /// Reads a header in place.
    ///
    /// `T` must be valid for any bytes and have alignment 1, as the packet headers have.
    #[inline(always)]
    pub fn header<T>(self, offset: usize) -> Result<&'static T, DropReason> {
        const { assert!(align_of::<T>() == 1) };
        let pointer = self.pointer::<T>(offset).ok_or(DropReason::Malformed)?;
        // SAFETY: `pointer` was checked against the packet's end, alignment is 1, and callers do
        // not keep the reference over a helper that moves the packet (the verifier refuses it).
        Ok(unsafe { &*pointer })
    }

    /// Changes a header in place; as [`Skb::header`].
    #[inline(always)]
    pub fn header_mut<T>(self, offset: usize) -> Result<&'static mut T, DropReason> {
        const { assert!(align_of::<T>() == 1) };
        let pointer = self.pointer::<T>(offset).ok_or(DropReason::Malformed)?;
        // SAFETY: as in `header`; the packet is this program's alone while it runs.
        Ok(unsafe { &mut *pointer })
    }

    /// Reads a value of plain bytes in place, unaligned.
    #[inline(always)]
    pub fn read<T: Pod>(self, offset: usize) -> Result<T, DropReason> {
        let pointer = self.pointer::<T>(offset).ok_or(DropReason::Malformed)?;
        // SAFETY: `pointer` was checked against the packet's end and `T` is valid for any bytes.
        Ok(unsafe { pointer.read_unaligned() })
    }

    /// As [`Skb::read`] at the start of the packet, which is made readable.
    #[inline(always)]
    pub fn read_start<T: Pod>(self) -> Result<T, DropReason> {
        self.pull(size_of::<T>() as u32);
        self.read(0)
    }

    /// As [`Skb::read`] at an offset that is not a constant.
    #[inline(always)]
    pub fn read_at<T: Pod>(self, offset: usize) -> Result<T, DropReason> {
        let pointer = self.pinned_pointer::<T>(offset).ok_or(DropReason::Malformed)?;
        // SAFETY: as in `read`.
        Ok(unsafe { pointer.read_unaligned() })
    }

    /// As [`Skb::write`] at an offset that is not a constant.
    #[inline(always)]
    pub fn write_at<T: Pod>(self, offset: usize, value: T) -> Result<(), DropReason> {
        let pointer = self.pinned_pointer::<T>(offset).ok_or(DropReason::Malformed)?;
        // SAFETY: as in `write`.
        unsafe { pointer.write_unaligned(value) }
        Ok(())
    }

    #[inline(always)]
    fn pinned_pointer<T>(self, offset: usize) -> Option<*mut T> {
        let start = pinned(self.data() + offset);
        (start + size_of::<T>() <= self.data_end()).then_some(start as *mut T)
    }

    /// Writes a value of plain bytes in place, unaligned.
    #[inline(always)]
    pub fn write<T: Pod>(self, offset: usize, value: T) -> Result<(), DropReason> {
        let pointer = self.pointer::<T>(offset).ok_or(DropReason::Malformed)?;
        // SAFETY: `pointer` was checked against the packet's end.
        unsafe { pointer.write_unaligned(value) }
        Ok(())
    }

    /// Copies bytes of the packet, wherever they lie; `None` if it ends before.
    #[inline(always)]
    pub fn load<T: Pod>(self, offset: usize, to: &mut T) -> Option<()> {
        let (pointer, length) = (core::ptr::from_mut(to), size_of::<T>() as u32);
        // SAFETY: the context is valid; the helper fills the whole value, for which any bytes do.
        let result =
            unsafe { bpf_skb_load_bytes(self.raw.cast(), offset as u32, pointer.cast(), length) };
        (result == 0).then_some(())
    }

    /// Copies the packet's first `length` bytes, at most as many as there is room for; `None` if it is
    /// shorter.
    #[inline(always)]
    pub fn load_start<const ROOM: usize>(self, to: &mut [u8; ROOM], length: u32) -> Option<()> {
        let length = within(length, ROOM)?;
        // SAFETY: the context is valid and the array is at least as long as told.
        let result =
            unsafe { bpf_skb_load_bytes(self.raw.cast(), 0, to.as_mut_ptr().cast(), length) };
        (result == 0).then_some(())
    }

    /// Makes the packet another one: the first `length` bytes of `from`, a frame of the same link.
    #[inline(always)]
    pub fn become_frame<const ROOM: usize>(self, from: *const [u8; ROOM], length: u32) -> bool {
        let Some(length) = within(length, ROOM) else { return false };
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
        // SAFETY: the context is valid and `from` is at least as long as told; the helpers check the
        // rest; pointers are derived anew after these calls.
        unsafe {
            bpf_skb_change_tail(self.raw, length, 0) == 0
                && bpf_skb_store_bytes(self.raw.cast(), 0, from.cast(), length, flags) == 0
        }
    }

    /// Lets a copy of the packet come in anew at the interface where it is.
    #[inline(always)]
    pub fn come_again(self) -> bool {
        // SAFETY: the context is valid; pointers are derived anew after this call.
        unsafe { bpf_clone_redirect(self.raw, self.ifindex(), u64::from(BPF_F_INGRESS)) == 0 }
    }

    /// Writes plain bytes and keeps the sum over the whole packet right that a device may have
    /// reported.
    #[inline(always)]
    pub fn store<T: Pod>(self, offset: usize, value: &T) -> Result<(), DropReason> {
        let (pointer, length) = (core::ptr::from_ref(value), size_of::<T>() as u32);
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: the context is valid and the value is as long as told; the helper checks the
        // offset; pointers are derived anew after this call.
        let result = unsafe {
            bpf_skb_store_bytes(self.raw.cast(), offset as u32, pointer.cast(), length, flags)
        };
        if result == 0 { Ok(()) } else { Err(DropReason::TranslationFailed) }
    }

    /// As [`Skb::replace_l4_address`] for an IPv6 address.
    #[inline(always)]
    pub fn replace_l4_address_ipv6(
        self,
        checksum_offset: usize,
        zero_means_none: bool,
        from: Address,
        to: Address,
    ) -> Result<(), DropReason> {
        const LENGTH: u32 = size_of::<Address>() as u32;
        let (mut from, mut to) = (from.to_wire(), to.to_wire());
        // SAFETY: both arrays are as long as told.
        let difference =
            unsafe { bpf_csum_diff(from.as_mut_ptr(), LENGTH, to.as_mut_ptr(), LENGTH, 0) };
        // A size of 0 says that the value is a difference of sums.
        let flags = u64::from(BPF_F_PSEUDO_HDR) | mangled_zero(zero_means_none);
        self.replace_l4(checksum_offset, 0, difference.cast_unsigned() & 0xffff_ffff, flags)
    }

    /// Adjusts an L4 checksum for a changed address of its pseudo-header. The kernel knows whether
    /// the field holds a full or a partial (`CHECKSUM_PARTIAL`) sum.
    #[inline(always)]
    pub fn replace_l4_address(
        self,
        checksum_offset: usize,
        zero_means_none: bool,
        from: Ipv4Be,
        to: Ipv4Be,
    ) -> Result<(), DropReason> {
        let flags = u64::from(BPF_F_PSEUDO_HDR) | mangled_zero(zero_means_none) | 4;
        self.replace_l4(checksum_offset, u64::from(from.to_wire()), u64::from(to.to_wire()), flags)
    }

    /// Adjusts an L4 checksum for a changed 16-bit word that it covers itself.
    #[inline(always)]
    pub fn replace_l4_word(
        self,
        checksum_offset: usize,
        zero_means_none: bool,
        from: u16,
        to: u16,
    ) -> Result<(), DropReason> {
        let flags = mangled_zero(zero_means_none) | 2;
        self.replace_l4(checksum_offset, u64::from(from), u64::from(to), flags)
    }

    #[inline(always)]
    fn replace_l4(self, offset: usize, from: u64, to: u64, flags: u64) -> Result<(), DropReason> {
        // SAFETY: the context is valid; the helper checks the offset; pointers are derived anew.
        let result = unsafe { bpf_l4_csum_replace(self.raw, offset as u32, from, to, flags) };
        if result == 0 { Ok(()) } else { Err(DropReason::TranslationFailed) }
    }
}

#[inline(always)]
const fn mangled_zero(zero_means_none: bool) -> u64 {
    if zero_means_none { BPF_F_MARK_MANGLED_0 as u64 } else { 0 }
}
