//! The maps of bits in which free external ports are found.

#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use vnet_common::{
    flow::ExternalPort,
    port::PortRange,
    port_map::{self, LAGGING, NO_PORT, Place, PortMap, SUMMARY_WORDS, WORDS},
};

use crate::{
    atomic::SharedWord,
    maps::{PORT_MAPS, RESERVED_PORTS},
};

/// The map of an external address and protocol, made if there is none; null if there is no room.
#[inline(always)]
pub fn of(key: &ExternalPort) -> *mut PortMap {
    let found = existing(key);
    if !found.is_null() {
        return found;
    }
    if let Some(reserved) = RESERVED_PORTS.get(port_map::reserved_ports_of(key.protocol)) {
        // Two CPUs may get here together; one insertion wins, both find the entry.
        let _ = PORT_MAPS.insert(key.port_map(), reserved, u64::from(BPF_NOEXIST));
    }
    existing(key)
}

/// The map of an external address and protocol, or null.
#[inline(always)]
pub fn existing(key: &ExternalPort) -> *mut PortMap {
    PORT_MAPS.get_ptr_mut(key.port_map()).unwrap_or(ptr::null_mut())
}

/// Whether a port is the host's own. New maps say so; older ones, and flows without a map, do not.
#[inline(always)]
pub fn is_reserved(protocol: u8, port: u16) -> bool {
    let reserved = RESERVED_PORTS.get_ptr_mut(port_map::reserved_ports_of(protocol));
    let place = Place::of_port(port);
    reserved.is_some_and(|map| taken_word(map, place.word).load() & place.bit != 0)
}

/// The first free port of some ranges, or [`NO_PORT`], or [`LAGGING`] if another look may find one; and in
/// the upper half the steps that it took.
#[inline(always)]
pub fn search(map: *mut PortMap, spans: [PortRange; 3]) -> u64 {
    let mut steps = 0;
    for span in spans {
        let found = vnet_search_port_map(map, u32::from(span.first), u32::from(span.last));
        let port = found as u32;
        steps += found >> 32;
        if port != NO_PORT {
            return u64::from(port) | steps << 32;
        }
    }
    u64::from(NO_PORT) | steps << 32
}

/// As [`search`] from one port to another. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_search_port_map(map: *mut PortMap, first: u32, last: u32) -> u64 {
    if map.is_null() {
        return u64::from(NO_PORT);
    }
    let range = PortRange { first: first as u16, last: last as u16 };
    // SAFETY: the verifier lets callers pass a whole `PortMap` or null only, whose words are aligned,
    // and the indexes are within the arrays.
    let found = port_map::next_free(
        range,
        |word| unsafe {
            (&raw const (*map).taken).cast::<u64>().add(index(word, WORDS)).read_volatile()
        },
        |word| unsafe {
            (&raw const (*map).full).cast::<u64>().add(index(word, SUMMARY_WORDS)).read_volatile()
        },
    );
    let mut port = found.port;
    if port >= LAGGING {
        mark_full(map, port - LAGGING);
        port = LAGGING;
    }
    u64::from(port) | u64::from(found.steps) << 32
}

/// Sets a port's bit; `false` if it was set. `true` where there is no map.
#[inline(always)]
pub fn take(map: *mut PortMap, port: u16) -> bool {
    if map.is_null() {
        return true;
    }
    let place = Place::of_port(port);
    let word = taken_word(map, place.word);
    let before = word.fetch_or(place.bit);
    if before & place.bit != 0 {
        return false;
    }
    if before | place.bit == u64::MAX {
        mark_full(map, place.word);
    }
    true
}

/// Lets the summary say that a word is full, unless it no longer is.
#[inline(always)]
fn mark_full(map: *mut PortMap, word: u32) {
    let above = Place::of_word(word);
    let summary = full_word(map, above.word);
    summary.fetch_or(above.bit);
    // Another CPU may have cleared a bit of the word before the summary said that it is full.
    if taken_word(map, word).load() != u64::MAX {
        summary.fetch_and(!above.bit);
    }
}

/// Clears a port's bit, if there is a map.
#[inline(always)]
pub fn clear(map: *mut PortMap, port: u16) {
    if map.is_null() {
        return;
    }
    let place = Place::of_port(port);
    taken_word(map, place.word).fetch_and(!place.bit);
    let above = Place::of_word(place.word);
    full_word(map, above.word).fetch_and(!above.bit);
}

#[inline(always)]
fn taken_word(map: *mut PortMap, word: u32) -> SharedWord {
    // SAFETY: map memory outlives the program, and the index is within the array.
    unsafe { SharedWord::new((&raw mut (*map).taken).cast::<u64>().add(index(word, WORDS))) }
}

#[inline(always)]
fn full_word(map: *mut PortMap, word: u32) -> SharedWord {
    // SAFETY: as above.
    unsafe { SharedWord::new((&raw mut (*map).full).cast::<u64>().add(index(word, SUMMARY_WORDS))) }
}

/// A word's index, cut to the length of its array, a power of two, where the verifier sees it: the
/// compiler knows that it is within, and would leave that out.
#[inline(always)]
#[cfg_attr(not(target_arch = "bpf"), expect(unused_mut, reason = "changed by the assembly alone"))]
fn index(word: u32, length: usize) -> usize {
    let mut index = word as usize;
    #[cfg(target_arch = "bpf")]
    // SAFETY: moves a register to itself.
    unsafe {
        asm!("{0} = {0}", inout(reg) index, options(nomem, nostack, preserves_flags, pure));
    }
    index & (length - 1)
}
