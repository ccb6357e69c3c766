//! Arrays of sessions in mapped memory, which programs write to at any time.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
};
use vnet_common::flow::{Phase, Session};

const WORDS: usize = size_of::<Session>() / size_of::<u64>();
const _: () = assert!(size_of::<Session>().is_multiple_of(size_of::<u64>()));

/// The bytes of a session, of whatever layout.
pub(super) type Words = [u64; WORDS];

/// The memory of a session map.
pub(super) struct SessionMemory {
    start: NonNull<u64>,
    bytes: NonZeroUsize,
    pub slots: usize,
}

impl SessionMemory {
    /// Maps all slots, to be written as well if `is_written`.
    pub fn new(map: impl AsFd, slots: u32, is_written: bool) -> Result<Self, Errno> {
        let slots = slots as usize;
        let bytes = slots.checked_mul(size_of::<Session>()).and_then(NonZeroUsize::new);
        let bytes = bytes.ok_or(Errno::EOVERFLOW)?;
        let writes = if is_written { ProtFlags::PROT_WRITE } else { ProtFlags::empty() };
        let access = ProtFlags::PROT_READ | writes;
        // SAFETY: the kernel chooses an address that nothing else has.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self { start: start.cast(), bytes, slots })
    }

    /// The words of a slot that is live or held down, and its phase; `None` if it is neither, or its tenant
    /// changed meanwhile. The first word is the phase and the generation in every layout.
    pub fn held(&self, slot: usize) -> Option<(Phase, Words)> {
        let tenant = self.word(slot, 0)?.load(Ordering::Relaxed);
        let [phase, _generation]: [u32; 2] = bytemuck::cast(tenant);
        let phase = Phase::from_word(phase);
        if !matches!(phase, Phase::Live | Phase::HoldDown) {
            return None;
        }
        fence(Ordering::Acquire);
        let mut words = [tenant; WORDS];
        for (index, word) in words.iter_mut().enumerate().skip(1) {
            *word = self.word(slot, index)?.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        let is_same = self.word(slot, 0)?.load(Ordering::Relaxed) == tenant;
        is_same.then_some((phase, words))
    }

    /// The only access to the memory: a word of a slot, or `None` beyond the end of either.
    pub fn word(&self, slot: usize, word: usize) -> Option<&AtomicU64> {
        if slot >= self.slots || word >= WORDS {
            return None;
        }
        // SAFETY: checked to lie within the mapping, which lives as long as `self`, is aligned to a page and
        // is `slots` times `WORDS` long. Other writers are the kernel's programs. Memory that is mapped
        // to be read is only read.
        Some(unsafe { AtomicU64::from_ptr(self.start.add(slot * WORDS + word).as_ptr()) })
    }
}

impl std::fmt::Debug for SessionMemory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SessionMemory").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Drop for SessionMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` at this place and length, and no reference into it is left.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
