//! What the port guard knows of guests' ports, MAC addresses and IP addresses.

use core::cmp::Ordering;

use bytemuck::{Pod, Zeroable};

use crate::{address::Address, limits::LEARNED_IPV6};

/// An Ethernet address: its six bytes in wire order, then two zero bytes, as one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Mac(u64);

impl Mac {
    /// No address: of a port whose guest has not sent anything yet.
    pub const NONE: Self = Self(0);
    /// ff:ff:ff:ff:ff:ff, which no guest has: the holder of what nobody may use.
    pub const BROADCAST: Self = Self::from_bytes([0xff; 6]);

    /// Takes the bytes as they lie in the frame.
    #[inline]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        let [first, second, third, fourth, fifth, sixth] = bytes;
        Self(u64::from_ne_bytes([first, second, third, fourth, fifth, sixth, 0, 0]))
    }

    /// The bytes as they lie in the frame.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 6] {
        let [first, second, third, fourth, fifth, sixth, _, _] = self.0.to_ne_bytes();
        [first, second, third, fourth, fifth, sixth]
    }

    /// Takes the word of map memory.
    #[inline]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The word of map memory.
    #[inline]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// Whether an interface can have it: not zero and not of a group (IEEE 802, clause 8.2).
    #[inline]
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        self.0 != 0 && self.0.to_ne_bytes()[0] & 1 == 0
    }

    /// The link-local IPv6 address that follows from it (RFC 4291, appendix A).
    #[inline]
    #[must_use]
    pub const fn link_local(self) -> Address {
        let mac = self.to_bytes();
        Address::from_wire([
            u32::from_ne_bytes([0xfe, 0x80, 0, 0]),
            0,
            u32::from_ne_bytes([mac[0] ^ 2, mac[1], mac[2], 0xff]),
            u32::from_ne_bytes([0xfe, mac[3], mac[4], mac[5]]),
        ])
    }
}

/// The switches of [`GuestPort::flags`].
pub mod flags {
    /// The source MAC address of Ethernet, ARP and neighbour discovery is the guest's own.
    pub const MAC: u16 = 1;
    /// IP sources, ARP and neighbour discovery claim only the guest's own addresses.
    pub const ADDRESSES: u16 = 2;
    /// No DHCP server's messages, router advertisements and redirects.
    pub const SERVERS: u16 = 4;
    /// No VLAN tags.
    pub const TAGS: u16 = 8;
    /// An address of the network that nobody holds may be probed (RFC 5227, RFC 4862) before it is
    /// known as the guest's: its lease is about to be read.
    pub const PROBES: u16 = 16;
    /// The network has no subnets of its own (`mode='bridge'`): any unicast address may be learned.
    pub const ANY_SUBNET: u16 = 32;
}

/// A guest's port of a bridge, by its interface index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GuestPort {
    /// The guest's MAC address; [`Mac::NONE`] for that of the first frame.
    pub mac: Mac,
    /// Interface index of the bridge: addresses are unique among its ports.
    pub bridge: u32,
    /// Slot of the network, on whose account drops go.
    pub network: u16,
    /// [`flags`]
    pub flags: u16,
    /// IPv4 addresses that may be learned.
    pub learn_ipv4: u16,
    /// Global IPv6 addresses that may be learned.
    pub learn_ipv6: u16,
    /// Zero.
    pub reserved: u32,
}

/// What a port's guest has shown of itself, by the port's interface index. Userspace makes the
/// entry, the program fills it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Learned {
    /// The [`Mac`] of the first frame; only of a port without a given one.
    pub mac: u64,
    /// How many IPv4 addresses.
    pub ipv4: u64,
    /// How many global IPv6 addresses, so far that there is room for.
    pub ipv6: u64,
    /// How many link-local addresses besides the one of the MAC address.
    pub link_local: u64,
    /// The global IPv6 addresses.
    pub addresses: [Address; LEARNED_IPV6 as usize],
}

/// A MAC address at a bridge. The value is the interface index of the port that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct MacKey {
    /// The address.
    pub mac: Mac,
    /// Interface index of the bridge.
    pub bridge: u32,
    /// Zero.
    pub reserved: u32,
}

impl MacKey {
    /// The key of an address at a bridge.
    #[inline]
    #[must_use]
    pub const fn new(bridge: u32, mac: Mac) -> Self {
        Self { mac, bridge, reserved: 0 }
    }
}

/// An IP address at a bridge; in order of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct AddressKey {
    /// Interface index of the bridge.
    pub bridge: u32,
    /// The address.
    pub address: Address,
}

impl Ord for AddressKey {
    fn cmp(&self, other: &Self) -> Ordering {
        bytemuck::bytes_of(self).cmp(bytemuck::bytes_of(other))
    }
}

impl PartialOrd for AddressKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Who may use an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct AddressHolder {
    /// The guest.
    pub mac: Mac,
    /// When it was last used, in nanoseconds of `CLOCK_MONOTONIC_COARSE`, to about a second; only of
    /// a learned one.
    pub seen: u64,
    /// The port at which it was learned; 0 if userspace has given it.
    pub learned_at: u32,
    /// Zero.
    pub reserved: u32,
}

/// A prefix behind a guest (`<route>`) in the trie: bits in front of the address.
pub const ROUTE_KEY_BRIDGE_BITS: u32 = 32;

/// The key of that trie: the bridge's interface index and the address, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RouteKey {
    /// Interface index of the bridge.
    pub bridge: u32,
    /// The address.
    pub address: Address,
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, size_of};
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn sizes_and_alignments_are_what_the_programs_were_compiled_for() {
        assert_eq!((size_of::<Mac>(), align_of::<Mac>()), (8, 8));
        assert_eq!((size_of::<GuestPort>(), align_of::<GuestPort>()), (24, 8));
        assert_eq!((size_of::<Learned>(), align_of::<Learned>()), (160, 8));
        assert_eq!((size_of::<MacKey>(), align_of::<MacKey>()), (16, 8));
        assert_eq!((size_of::<AddressKey>(), align_of::<AddressKey>()), (20, 4));
        assert_eq!((size_of::<AddressHolder>(), align_of::<AddressHolder>()), (24, 8));
        assert_eq!((size_of::<RouteKey>(), align_of::<RouteKey>()), (20, 4));
    }

    #[test]
    fn link_local_address_follows_from_the_mac() {
        let mac = Mac::from_bytes([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);
        let expected: IpAddr = "fe80::5054:ff:fe12:3456".parse().unwrap();
        assert_eq!(mac.link_local().to_addr(), expected);
    }

    #[test]
    fn groups_and_nobody_are_no_guest() {
        assert!(Mac::from_bytes([0x52, 0x54, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac::from_bytes([0x01, 0, 0x5e, 0, 0, 1]).is_unicast());
        assert!(!Mac::BROADCAST.is_unicast());
        assert!(!Mac::NONE.is_unicast());
    }

    #[test]
    fn bytes_round_trip() {
        let bytes = [1, 2, 3, 4, 5, 6];
        assert_eq!(Mac::from_bytes(bytes).to_bytes(), bytes);
        assert_eq!(Mac::from_word(Mac::from_bytes(bytes).to_word()).to_bytes(), bytes);
    }
}
