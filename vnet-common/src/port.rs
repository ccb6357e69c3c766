//! Port-range arithmetic of the masquerade.

use bytemuck::{Pod, Zeroable};

/// An inclusive range of ports in host byte order; empty when `first` is above `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PortRange {
    /// The lowest port of the range.
    pub first: u16,
    /// The highest port of the range.
    pub last: u16,
}

impl PortRange {
    /// What libvirt masquerades to when `<nat>` has no `<port>`.
    pub const MASQUERADE_DEFAULT: Self = Self { first: 1024, last: 65535 };
    /// Every identifier that an ICMP query can have.
    pub const ALL: Self = Self { first: 0, last: 65535 };
    /// No port at all.
    pub const EMPTY: Self = Self { first: 1, last: 0 };

    /// Whether the port is in the range.
    #[inline]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// How many ports the range has.
    #[inline]
    #[must_use]
    pub const fn len(self) -> u32 {
        if self.first > self.last { 0 } else { self.last as u32 - self.first as u32 + 1 }
    }

    /// Whether the range has no port.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.first > self.last
    }

    /// How many ports both ranges share.
    #[inline]
    #[must_use]
    pub const fn overlap(self, other: Self) -> Self {
        Self {
            first: if self.first > other.first { self.first } else { other.first },
            last: if self.last < other.last { self.last } else { other.last },
        }
    }

    /// The port at a random number's place among the ports of `self` that are not in `reserved`,
    /// all equally likely; `None` when there is no such port.
    #[inline]
    #[must_use]
    pub const fn pick(self, reserved: Self, random: u32) -> Option<u16> {
        let shared = self.overlap(reserved);
        let usable = self.len() - shared.len();
        if usable == 0 {
            return None;
        }
        // Multiply-shift instead of a remainder: no division in the datapath.
        let place = ((random as u64 * usable as u64) >> 32) as u32;
        let port = self.first as u32 + place;
        let below_shared = shared.first as u32 - self.first as u32;
        let port =
            if shared.is_empty() || place < below_shared { port } else { port + shared.len() };
        Some(port as u16)
    }

    /// The ports of `self` that are not in `reserved`, each once, in the order of a search that begins
    /// at one of them and turns round at the end. Some of the ranges may be empty.
    #[inline]
    #[must_use]
    pub const fn beginning_at(self, start: u16, reserved: Self) -> [Self; 3] {
        let shared = self.overlap(reserved);
        if shared.is_empty() {
            return [
                Self::of(start as u32, self.last as u32 + 1),
                Self::of(self.first as u32, start as u32),
                Self::EMPTY,
            ];
        }
        let below = Self::of(self.first as u32, shared.first as u32);
        let above = Self::of(shared.last as u32 + 1, self.last as u32 + 1);
        let (own, other) = if start < shared.first { (below, above) } else { (above, below) };
        [
            Self::of(start as u32, own.last as u32 + 1),
            other,
            Self::of(own.first as u32, start as u32),
        ]
    }

    /// From one port up to, but not including, another.
    const fn of(first: u32, end: u32) -> Self {
        if first >= end {
            return Self::EMPTY;
        }
        Self { first: first as u16, last: (end - 1) as u16 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = PortRange> {
        (any::<u16>(), any::<u16>()).prop_map(|(first, last)| PortRange { first, last })
    }

    proptest! {
        #[test]
        fn a_picked_port_is_in_the_range_and_not_reserved(
            range in range(), reserved in range(), random: u32,
        ) {
            if let Some(port) = range.pick(reserved, random) {
                prop_assert!(range.contains(port));
                prop_assert!(!reserved.contains(port));
            } else {
                prop_assert_eq!(range.len(), range.overlap(reserved).len());
            }
        }

        #[test]
        fn a_search_meets_every_usable_port_once_and_begins_at_its_start(
            range in range(), reserved in range(), random: u32,
        ) {
            let Some(start) = range.pick(reserved, random) else { return Ok(()) };
            let spans = range.beginning_at(start, reserved);
            prop_assert_eq!(spans[0].first, start);
            let met: u32 = spans.iter().map(|span| span.len()).sum();
            prop_assert_eq!(met, range.len() - range.overlap(reserved).len());
            for (index, span) in spans.iter().enumerate() {
                prop_assert_eq!(span.overlap(range).len(), span.len());
                prop_assert!(span.overlap(reserved).is_empty() || span.is_empty());
                for other in &spans[index + 1..] {
                    prop_assert!(span.is_empty() || other.is_empty() || span.overlap(*other).is_empty());
                }
            }
        }
    }

    #[test]
    fn every_usable_port_is_picked_by_some_random_number() {
        let range = PortRange { first: 100, last: 109 };
        let reserved = PortRange { first: 103, last: 105 };
        let mut seen = [false; 10];
        for step in 0..700_u64 {
            let random = (step * u64::from(u32::MAX) / 699) as u32;
            seen[usize::from(range.pick(reserved, random).unwrap() - 100)] = true;
        }
        assert_eq!(seen, [true, true, true, false, false, false, true, true, true, true]);
    }

    #[test]
    fn a_range_inside_the_reserved_one_has_no_port() {
        let range = PortRange { first: 40000, last: 40010 };
        assert_eq!(range.pick(PortRange { first: 32768, last: 60999 }, 7), None);
    }

    #[test]
    fn empty_ranges() {
        assert_eq!(PortRange::EMPTY.len(), 0);
        assert_eq!(PortRange::EMPTY.pick(PortRange::EMPTY, 1), None);
        assert_eq!(PortRange::ALL.pick(PortRange::EMPTY, 0), Some(0));
        assert_eq!(PortRange::ALL.pick(PortRange::EMPTY, u32::MAX), Some(65535));
    }
}
