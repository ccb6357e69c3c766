//! Which ports of an external address are taken, so that a free one is found at the same cost however
//! full the range is.
//!
//! A bit per port in words of 64, and above them a bit per word that is full. The bits are hints for
//! the search: who holds a port is said by the table of holders alone.

use bytemuck::{Pod, Zeroable};

use crate::{flow::protocol, port::PortRange};

/// Ports per word.
const BITS: u32 = 64;
/// Words of a [`PortMap`].
pub const WORDS: usize = 1024;
/// Words of the summary above them.
pub const SUMMARY_WORDS: usize = WORDS / BITS as usize;
/// [`Found::port`] of a search that has found none.
pub const NO_PORT: u32 = 1 << 16;

/// [`Found::port`] of a search that was led to a full word, which is the number above this one: the
/// summary does not say so yet. It has to, and then the search to be repeated.
pub const LAGGING: u32 = 1 << 17;

/// The ports of one external address and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PortMap {
    /// A bit for each port that is taken; the lowest port is the lowest bit of the first word.
    pub taken: [u64; WORDS],
    /// A bit for each word of `taken` that is full.
    pub full: [u64; SUMMARY_WORDS],
}

/// The place, in the array of ports that the host keeps for itself, of those that a protocol's new maps
/// begin with: identifiers of queries are no ports, and none of them is.
#[inline]
#[must_use]
pub const fn reserved_ports_of(ip_protocol: u8) -> u32 {
    match ip_protocol {
        protocol::ICMP | protocol::ICMPV6 => 0,
        _ => RESERVED_PORTS,
    }
}

/// [`reserved_ports_of`] of every protocol with ports.
pub const RESERVED_PORTS: u32 = 1;

impl PortMap {
    /// No port is taken.
    pub const EMPTY: Self = Self { taken: [0; WORDS], full: [0; SUMMARY_WORDS] };

    /// Marks a port as taken.
    pub const fn take(&mut self, port: u16) {
        let place = Place::of_port(port);
        let word = &mut self.taken[place.word as usize];
        *word |= place.bit;
        if *word == u64::MAX {
            let above = Place::of_word(place.word);
            self.full[above.word as usize] |= above.bit;
        }
    }
}

/// Where the bit of a port or of a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the word.
    pub word: u32,
    /// The bit alone.
    pub bit: u64,
}

impl Place {
    /// The bit of a port in [`PortMap::taken`].
    #[inline]
    #[must_use]
    pub const fn of_port(port: u16) -> Self {
        Self::of(port as u32)
    }

    /// The bit of a word of [`PortMap::taken`] in [`PortMap::full`].
    #[inline]
    #[must_use]
    pub const fn of_word(word: u32) -> Self {
        Self::of(word)
    }

    const fn of(index: u32) -> Self {
        Self { word: index / BITS, bit: 1 << (index % BITS) }
    }
}

/// What a search has found, and at what cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The lowest free port of the range, or [`NO_PORT`], or at least [`LAGGING`].
    pub port: u32,
    /// Words looked at.
    pub steps: u32,
}

/// The lowest port of a range whose bit is not set. `taken` and `full` read a word by its index, which
/// is always in bounds; other CPUs may change the words meanwhile.
#[inline]
pub fn next_free(range: PortRange, taken: impl Fn(u32) -> u64, full: impl Fn(u32) -> u64) -> Found {
    if range.is_empty() {
        return Found { port: NO_PORT, steps: 0 };
    }
    let (first, last) = (u32::from(range.first), u32::from(range.last));
    let mut word = first / BITS;
    let mut free = !taken(word) & (u64::MAX << (first % BITS));
    let mut steps = 1;
    if free == 0 {
        let start = word + 1;
        let (mut summary, mut mask) = (start / BITS, u64::MAX << (start % BITS));
        let mut open = 0;
        for _ in 0..SUMMARY_WORDS {
            if summary > last / BITS / BITS {
                break;
            }
            steps += 1;
            open = !full(summary) & mask;
            if open != 0 {
                break;
            }
            summary += 1;
            mask = u64::MAX;
        }
        word = summary * BITS + open.trailing_zeros();
        if open == 0 || word > last / BITS {
            return Found { port: NO_PORT, steps };
        }
        steps += 1;
        free = !taken(word);
        if free == 0 {
            return Found { port: LAGGING + word, steps };
        }
    }
    let port = word * BITS + free.trailing_zeros();
    Found { port: if port <= last { port } else { NO_PORT }, steps }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;

    use proptest::prelude::*;

    use super::*;

    fn search(map: &PortMap, first: u16, last: u16) -> Found {
        let range = PortRange { first, last };
        next_free(range, |word| map.taken[word as usize], |word| map.full[word as usize])
    }

    fn empty() -> Box<PortMap> {
        Box::new(PortMap::EMPTY)
    }

    fn with_free(free: &[u16]) -> Box<PortMap> {
        let mut map = empty();
        for port in (0..=u16::MAX).filter(|port| !free.contains(port)) {
            map.take(port);
        }
        map
    }

    #[test]
    fn size_is_what_the_programs_were_compiled_for() {
        assert_eq!((size_of::<PortMap>(), align_of::<PortMap>()), (8320, 8));
    }

    #[test]
    fn only_free_port_is_found_wherever_it_is() {
        for free in [0, 1, 63, 64, 4095, 4096, 32767, 61000, 65535] {
            let map = with_free(&[free]);
            let found = search(&map, 0, u16::MAX);
            assert_eq!(found.port, u32::from(free));
            assert!(found.steps <= 18, "{found:?}");
            assert_eq!(search(&map, free, free), Found { port: u32::from(free), steps: 1 });
            if let Some(below) = free.checked_sub(1) {
                assert_eq!(search(&map, 0, below).port, NO_PORT);
            }
            if let Some(above) = free.checked_add(1) {
                assert_eq!(search(&map, above, u16::MAX).port, NO_PORT);
            }
        }
    }

    #[test]
    fn full_map_costs_one_look_at_each_summary_word() {
        assert_eq!(search(&with_free(&[]), 0, u16::MAX), Found { port: NO_PORT, steps: 17 });
        assert_eq!(search(&with_free(&[]), 5, 4), Found { port: NO_PORT, steps: 0 });
    }

    #[test]
    fn summary_that_lags_behind_hides_no_port() {
        let mut map = with_free(&[4200]);
        map.full[0] &= !(3 << 7);
        map.full[1] &= !1;
        for word in [7, 8, 64] {
            assert_eq!(search(&map, 0, u16::MAX).port, LAGGING + word);
            let above = Place::of_word(word);
            map.full[above.word as usize] |= above.bit;
        }
        assert_eq!(search(&map, 0, u16::MAX).port, 4200);
    }

    proptest! {
        #[test]
        fn a_free_port_of_the_range_is_found_if_and_only_if_there_is_one(
            free in proptest::collection::vec(any::<u16>(), 0..40), ends: (u16, u16),
        ) {
            let range = PortRange { first: ends.0.min(ends.1), last: ends.0.max(ends.1) };
            let found = search(&with_free(&free), range.first, range.last);
            let lowest = free.iter().copied().filter(|port| range.contains(*port)).min();
            prop_assert_eq!(found.port, lowest.map_or(NO_PORT, u32::from));
            prop_assert!(found.steps <= 18);
        }
    }
}
