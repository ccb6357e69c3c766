//! Port forwards: which port of the host leads to which guest (`<vnet:forward>`).
//!
//! The programs look them up in a trie, so that a range of ports takes a few prefixes of port numbers
//! and not an entry for each port.

use core::mem::{offset_of, size_of};

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, PortBe},
    port::PortRange,
};

/// Bytes of a [`ForwardKey`].
pub const FORWARD_KEY_BYTES: usize = size_of::<ForwardKey>();
/// Bits of a [`ForwardKey`], which a look-up has.
pub const FORWARD_KEY_BITS: u32 = 8 * FORWARD_KEY_BYTES as u32;

/// An external endpoint as the trie orders its bits: prefixes may end in the port alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct ForwardKey {
    /// The address that the outside sees.
    pub external: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// See [`crate::network::generation`].
    pub generation: u8,
    /// The external port, or the first one of a prefix.
    pub port: PortBe,
}

const _: () = assert!(offset_of!(ForwardKey, port) + 2 == FORWARD_KEY_BYTES);

/// Where a forwarded port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Forward {
    /// The guest's address.
    pub inside: Address,
    /// The uplink that has the external address.
    pub uplink_ifindex: u32,
    /// The forward's first external port.
    pub first_port: PortBe,
    /// The guest's port that it leads to; the following ones lead to the following ones.
    pub first_inside_port: PortBe,
    /// The slot of the guest's network.
    pub network: u16,
    /// Zero.
    pub reserved: u16,
}

impl Forward {
    /// The guest's port that an external port of this forward leads to.
    #[inline]
    #[must_use]
    pub const fn inside_port(self, port: PortBe) -> PortBe {
        let offset = port.to_host().wrapping_sub(self.first_port.to_host());
        PortBe::from_host(self.first_inside_port.to_host().wrapping_add(offset))
    }
}

/// The fewest prefixes of port numbers that make up a range, from its first port up: the first port
/// of each and its length in bits, 0 to 16. At most 30.
pub fn prefixes(range: PortRange) -> impl Iterator<Item = (u16, u32)> {
    let mut next = (!range.is_empty()).then_some(u32::from(range.first));
    core::iter::from_fn(move || {
        let first = next?;
        let left = u32::from(range.last) + 1 - first;
        // As large as its first port is aligned, and no larger than what is left.
        let free_bits = first.trailing_zeros().min(16).min(left.ilog2());
        let end = first + (1 << free_bits);
        next = (end <= u32::from(range.last)).then_some(end);
        Some((first as u16, 16 - free_bits))
    })
}

#[cfg(test)]
mod tests {
    use core::mem::align_of;

    use proptest::prelude::*;

    use super::*;

    fn split(first: u16, last: u16) -> ([(u16, u32); 30], usize) {
        let mut found = [(0, 0); 30];
        let mut count = 0;
        for prefix in prefixes(PortRange { first, last }) {
            found[count] = prefix;
            count += 1;
        }
        (found, count)
    }

    proptest! {
        #[test]
        fn prefixes_cover_the_range_once_and_nothing_else(one: u16, other: u16) {
            let (first, last) = (one.min(other), one.max(other));
            let (found, count) = split(first, last);
            let mut next = u32::from(first);
            for (start, length) in &found[..count] {
                prop_assert_eq!(u32::from(*start), next);
                let size = 1_u32 << (16 - length);
                prop_assert_eq!(next % size, 0);
                next += size;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }

    #[test]
    fn ranges_take_few_prefixes() {
        assert_eq!(split(80, 80).0[..1], [(80, 16)]);
        assert_eq!(split(8080, 8089).0[..2], [(8080, 13), (8088, 15)]);
        assert_eq!(split(0, 65535).0[..1], [(0, 0)]);
        assert_eq!(split(1, 65534).1, 30);
        assert_eq!(prefixes(PortRange::EMPTY).count(), 0);
    }

    #[test]
    fn ports_of_a_range_lead_to_ports_in_order() {
        let at = PortBe::from_host;
        let mut forward = Forward::zeroed();
        (forward.first_port, forward.first_inside_port) = (at(8080), at(80));
        assert_eq!(forward.inside_port(at(8080)), at(80));
        assert_eq!(forward.inside_port(at(8089)), at(89));
    }

    #[test]
    fn sizes_and_alignments_are_what_the_programs_were_compiled_for() {
        assert_eq!((size_of::<ForwardKey>(), align_of::<ForwardKey>()), (20, 4));
        assert_eq!((size_of::<Forward>(), align_of::<Forward>()), (28, 4));
    }
}
