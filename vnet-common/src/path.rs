//! Packets that go on as they are: what was judged and routed of those before them.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Ipv4Be, PortBe};

/// All that the verdict on a packet and its route depend on, within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct PathKey<A> {
    /// The packet's source.
    pub source: A,
    /// The packet's destination.
    pub destination: A,
    /// The packet's source port, or the identifier of an echo request: rules of the host's routing may ask for it.
    pub source_port: PortBe,
    /// The packet's destination port, or the identifier of an echo reply.
    pub destination_port: PortBe,
    /// IPv4's type of service; IPv6's class and flow label in network byte order.
    pub traffic_class: u32,
    /// Interface index at which the packet came in.
    pub ifindex: u32,
    /// IP protocol number.
    pub protocol: u32,
}

// SAFETY: `repr(C)` of plain data; the sizes asserted below leave no room for padding.
unsafe impl Pod for PathKey<Ipv4Be> {}
// SAFETY: as above.
unsafe impl Pod for PathKey<Address> {}
const _: () = assert!(size_of::<PathKey<Ipv4Be>>() == 2 * 4 + 16);
const _: () = assert!(size_of::<PathKey<Address>>() == 2 * 16 + 16);

/// Where packets of a [`PathKey`] went in an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Path {
    /// The next hop.
    pub next_hop: Address,
    /// [`PathKey::check`] of the key: places of the table change their keys while they are read.
    pub check: u32,
    /// The epoch in which a packet was judged and routed.
    pub epoch: u32,
    /// When, as in [`crate::shortcut::OutboundWay::found`].
    pub found: u32,
    /// Interface index of the way out.
    pub ifindex: u32,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Slot of the network that it is counted at as outbound; 0 for none.
    pub from: u16,
    /// Slot of the network that it is counted at as inbound; 0 for none.
    pub to: u16,
    /// Zero.
    pub reserved: u16,
}

/// What a CPU has entered lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PathBudget {
    /// The time in windows of [`crate::limits::PATH_WINDOW_BITS`].
    pub window: u32,
    /// Entries in it.
    pub entered: u32,
}

impl<A: Pod> PathKey<A> {
    /// A word that tells keys apart.
    #[inline]
    #[must_use]
    pub fn check(&self) -> u32 {
        let ports = u32::from(self.source_port.to_wire()) << 16
            | u32::from(self.destination_port.to_wire());
        let others = [ports, self.traffic_class, self.ifindex, self.protocol];
        let addresses: &[A] = &[self.source, self.destination];
        let words = bytemuck::cast_slice(addresses).iter().chain(&others);
        words.fold(0, |check: u32, word| check.rotate_left(5) ^ word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_key_is_in_its_check() {
        let key = PathKey::<Ipv4Be>::zeroed();
        assert_eq!(key.check(), 0);
        let mut bytes = [0_u8; 24];
        for index in 0..bytes.len() {
            bytes[index] = 1;
            assert_ne!(bytemuck::cast::<_, PathKey<Ipv4Be>>(bytes).check(), 0, "{index}");
            bytes[index] = 0;
        }
        assert_eq!((size_of::<Path>(), size_of::<PathBudget>()), (40, 8));
    }
}
