//! Atomic operations on words that CPUs share.
//!
//! The core library offers none for BPF, whose instructions (ISA v3, kernel 5.12) are these.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A word of map memory that several CPUs change.
#[derive(Clone, Copy)]
pub struct SharedWord {
    raw: *mut u64,
}

impl SharedWord {
    /// # Safety
    ///
    /// `raw` must point to an aligned word of map memory, which outlives the program.
    #[inline(always)]
    pub const unsafe fn new(raw: *mut u64) -> Self {
        Self { raw }
    }

    #[inline(always)]
    pub fn load(self) -> u64 {
        // SAFETY: `new` vouches for the word.
        unsafe { self.raw.read_volatile() }
    }

    /// Adds without asking for the old value.
    #[inline(always)]
    pub fn add(self, value: u64) {
        #[cfg(not(target_arch = "bpf"))]
        self.on_host().fetch_add(value, Ordering::Relaxed);
        #[cfg(target_arch = "bpf")]
        // SAFETY: `new` vouches for the word.
        unsafe {
            asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) self.raw, value = in(reg) value);
        }
    }

    /// Adds and returns the old value.
    #[inline(always)]
    pub fn fetch_add(self, value: u64) -> u64 {
        #[cfg(not(target_arch = "bpf"))]
        let old = self.on_host().fetch_add(value, Ordering::Relaxed);
        #[cfg(target_arch = "bpf")]
        let old: u64;
        #[cfg(target_arch = "bpf")]
        // SAFETY: `new` vouches for the word.
        unsafe {
            asm!(
                "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
                word = in(reg) self.raw,
                value = inout(reg) value => old,
            );
        }
        old
    }

    /// Sets bits and returns the old value.
    #[inline(always)]
    pub fn fetch_or(self, bits: u64) -> u64 {
        #[cfg(not(target_arch = "bpf"))]
        let old = self.on_host().fetch_or(bits, Ordering::SeqCst);
        #[cfg(target_arch = "bpf")]
        let old: u64;
        #[cfg(target_arch = "bpf")]
        // SAFETY: `new` vouches for the word.
        unsafe {
            asm!(
                "{value} = atomic_fetch_or((u64 *)({word} + 0), {value})",
                word = in(reg) self.raw,
                value = inout(reg) bits => old,
            );
        }
        old
    }

    /// Keeps only these bits and returns the old value.
    #[inline(always)]
    pub fn fetch_and(self, bits: u64) -> u64 {
        #[cfg(not(target_arch = "bpf"))]
        let old = self.on_host().fetch_and(bits, Ordering::SeqCst);
        #[cfg(target_arch = "bpf")]
        let old: u64;
        #[cfg(target_arch = "bpf")]
        // SAFETY: `new` vouches for the word.
        unsafe {
            asm!(
                "{value} = atomic_fetch_and((u64 *)({word} + 0), {value})",
                word = in(reg) self.raw,
                value = inout(reg) bits => old,
            );
        }
        old
    }

    /// Subtracts one and returns the old value.
    #[inline(always)]
    pub fn fetch_decrement(self) -> u64 {
        self.fetch_add(u64::MAX)
    }

    /// Replaces `from` by `to`; `false` if the word was something else.
    #[inline(always)]
    pub fn replace(self, from: u64, to: u64) -> bool {
        #[cfg(not(target_arch = "bpf"))]
        let old = self
            .on_host()
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .unwrap_or_else(|old| old);
        #[cfg(target_arch = "bpf")]
        let old: u64;
        #[cfg(target_arch = "bpf")]
        // SAFETY: `new` vouches for the word.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {to})",
                word = in(reg) self.raw,
                to = in(reg) to,
                inout("r0") from => old,
            );
        }
        old == from
    }

    /// The lints run for the host, which has no such instructions.
    #[cfg(not(target_arch = "bpf"))]
    fn on_host(self) -> &'static AtomicU64 {
        // SAFETY: `new` vouches for the word.
        unsafe { AtomicU64::from_ptr(self.raw) }
    }
}

/// Adds one to half a word of map memory that several CPUs change.
///
/// # Safety
///
/// `raw` must point to an aligned half word of map memory, which outlives the program.
#[inline(always)]
pub unsafe fn increment_half(raw: *mut u32) {
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller vouches for the half word.
    unsafe { AtomicU32::from_ptr(raw) }.fetch_add(1, Ordering::Relaxed);
    #[cfg(target_arch = "bpf")]
    // SAFETY: as above.
    unsafe {
        asm!("lock *(u32 *)({half} + 0) += {one}", half = in(reg) raw, one = in(reg) 1_u64);
    }
}
