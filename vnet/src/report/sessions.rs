//! The session array in mapped memory: a million flows without a system call for each.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
};
use vnet_common::{
    flow::{Phase, Session, SessionCursor},
    names::map,
};

use super::{ReportError, pinned::PinnedMaps};

const WORDS: usize = size_of::<Session>() / size_of::<u64>();

/// The slots of the session array that were ever used.
pub struct Sessions {
    /// `None` if no slot was.
    mapping: Option<Mapping>,
    /// Flows that expiry has ended since load.
    pub expired: u64,
}

impl Sessions {
    /// Maps the used part of the array.
    pub fn open(maps: &PinnedMaps<'_>) -> Result<Self, ReportError> {
        let cursor: SessionCursor = maps.single(map::SESSION_CURSOR)?;
        let data = maps.data(map::SESSIONS)?;
        let info = data
            .info()
            .map_err(|error| maps.refused(map::SESSIONS, std::io::Error::other(error)))?;
        if info.value_size() as usize != size_of::<Session>() {
            let (theirs, ours) = (info.value_size(), size_of::<Session>());
            return Err(
                maps.differs(map::SESSIONS, format!("values of {theirs} bytes, not {ours}"))
            );
        }
        // The cursor may run past the end by a CPU or two.
        let used = cursor.fresh.min(u64::from(info.max_entries())) as usize;
        let mapping = match NonZeroUsize::new(used) {
            Some(used) => Some(Mapping::new(data.fd(), used).map_err(|error| match error {
                // An array that was not made for it, and another kind of map: ENOTSUPP, which is
                // the kernel's own (bpf_map_mmap in kernel/bpf/syscall.c).
                Errno::EINVAL | Errno::UnknownErrno => {
                    maps.differs(map::SESSIONS, "it cannot be mapped".to_owned())
                }
                other => maps.refused(map::SESSIONS, other.into()),
            })?),
            None => None,
        };
        Ok(Self { mapping, expired: cursor.ended })
    }

    /// Every live flow, each as it was at one moment.
    pub fn live(&self) -> impl Iterator<Item = Session> + '_ {
        self.held().filter(|session| Phase::from_word(session.phase) == Phase::Live)
    }

    /// As [`Self::live`], and the ended ones whose ports are held down.
    pub fn held(&self) -> impl Iterator<Item = Session> + '_ {
        self.mapping.iter().flat_map(|mapping| (0..mapping.slots).filter_map(|i| mapping.held(i)))
    }
}

/// Mapped memory that the programs write to at any time.
struct Mapping {
    start: NonNull<u64>,
    bytes: NonZeroUsize,
    slots: usize,
}

impl Mapping {
    fn new(map: &aya::maps::MapFd, slots: NonZeroUsize) -> Result<Self, Errno> {
        let bytes = slots.checked_mul(SESSION_BYTES).ok_or(Errno::EOVERFLOW)?;
        // SAFETY: the kernel chooses an address that nothing else has.
        let start = unsafe {
            mmap(None, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map.as_fd(), 0)
        }?;
        Ok(Self { start: start.cast(), bytes, slots: slots.get() })
    }

    /// The session of a slot; `None` if nobody holds the slot, or its tenant changed meanwhile.
    fn held(&self, slot: usize) -> Option<Session> {
        let tenant = self.word(slot, 0)?;
        let [phase, _generation]: [u32; 2] = bytemuck::cast(tenant);
        if !matches!(Phase::from_word(phase), Phase::Live | Phase::HoldDown) {
            return None;
        }
        fence(Ordering::Acquire);
        let mut words = [tenant; WORDS];
        for (index, word) in words.iter_mut().enumerate().skip(1) {
            *word = self.word(slot, index)?;
        }
        fence(Ordering::Acquire);
        (self.word(slot, 0)? == tenant).then(|| bytemuck::cast(words))
    }

    /// The only access to the memory: a word of a slot, or `None` beyond the end of either.
    fn word(&self, slot: usize, word: usize) -> Option<u64> {
        if slot >= self.slots || word >= WORDS {
            return None;
        }
        // SAFETY: checked to lie within the mapping, which lives as long as `self`, is aligned to a
        // page and is `slots` times `WORDS` long. Other writers are the kernel's programs; a
        // relaxed load of read-only memory is allowed (core::sync::atomic).
        let word = unsafe { AtomicU64::from_ptr(self.start.add(slot * WORDS + word).as_ptr()) };
        Some(word.load(Ordering::Relaxed))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` at this place and length, and no reference into it is left.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}

const SESSION_BYTES: NonZeroUsize = match NonZeroUsize::new(size_of::<Session>()) {
    Some(bytes) => bytes,
    None => panic!("a session has fields"),
};

const _: () = assert!(size_of::<Session>().is_multiple_of(size_of::<u64>()));
