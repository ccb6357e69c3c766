//! Packets that go on as they are: what was judged and routed of those before them.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Ipv4Be, PortBe},
    shortcut::{InboundWay, OutboundWay},
};

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
    /// Interface index at which the packet came in: a bridge or an uplink.
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
    /// The epoch in which a packet was judged and routed.
    pub epoch: u32,
    /// When, as in [`OutboundWay::found`].
    pub found: u32,
    /// Interface index of the way out: an uplink or a bridge.
    pub ifindex: u32,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Slot of the network that it is counted at as outbound; 0 for none.
    pub from: u16,
    /// Slot of the network that it is counted at as inbound; 0 for none.
    pub to: u16,
    /// Zero.
    pub reserved: u16,
    /// The port and the MAC address of the guest: the one that sends, or the one that packets from outside are for.
    pub inbound: InboundWay,
    /// The next hop's MAC address, for what a guest sends.
    pub outbound: OutboundWay,
    /// [`PathKey::seal`].
    pub seal: u32,
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

/// Words of a [`Path`].
pub const PATH_WORDS: usize = size_of::<Path>() / size_of::<u32>();

impl<A> PathKey<A>
where
    Self: Pod,
{
    /// A sum over a key and its path. Places of the table are written, and given to other keys, while they are read:
    /// a mixture has another one.
    #[inline]
    #[must_use]
    pub fn seal(&self, path: &Path) -> u32 {
        let key: &[u32] = bytemuck::cast_slice(core::slice::from_ref(self));
        let path: &[u32] = bytemuck::cast_slice(core::slice::from_ref(path));
        let words = key.iter().chain(path.iter().take(PATH_WORDS - 1));
        words.fold(0, |sum: u32, word| (sum.rotate_left(5) ^ word).wrapping_mul(PRIME))
    }
}

/// That of FNV-1a.
const PRIME: u32 = 0x0100_0193;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_a_key_and_of_a_path_is_in_the_seal() {
        let (key, path) = (PathKey::<Ipv4Be>::zeroed(), Path::default());
        assert_eq!(key.seal(&path), 0);
        for index in 0..size_of_val(&key) {
            let mut bytes = [0_u8; 24];
            bytes[index] = 1;
            assert_ne!(bytemuck::cast::<_, PathKey<Ipv4Be>>(bytes).seal(&path), 0, "{index}");
        }
        for index in 0..size_of_val(&path) - 4 {
            let mut bytes = [0_u8; size_of::<Path>()];
            bytes[index] = 1;
            assert_ne!(key.seal(&bytemuck::cast::<_, Path>(bytes)), 0, "{index}");
        }
        assert_eq!((size_of::<Path>(), size_of::<PathBudget>()), (72, 8));
    }
}
