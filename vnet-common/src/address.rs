//! Addresses and ports in wire byte order.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// A port (or an ICMP query identifier) in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct PortBe(u16);

impl PortBe {
    /// The absent port: protocols without ports, and the remote side of an ICMP query.
    pub const NONE: Self = Self(0);

    /// Takes a port in host byte order.
    #[inline]
    #[must_use]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// Takes the two bytes as they lie in the packet.
    #[inline]
    #[must_use]
    pub const fn from_wire(bits: u16) -> Self {
        Self(bits)
    }

    /// The port in host byte order.
    #[inline]
    #[must_use]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The two bytes as they lie in the packet.
    #[inline]
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self.0
    }
}

/// An IPv4 address in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Ipv4Be(u32);

impl Ipv4Be {
    /// 0.0.0.0
    pub const UNSPECIFIED: Self = Self(0);

    /// Takes the four bytes as they lie in the packet.
    #[inline]
    #[must_use]
    pub const fn from_wire(bits: u32) -> Self {
        Self(bits)
    }

    /// The four bytes as they lie in the packet.
    #[inline]
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        self.0
    }

    /// Takes the address as the standard library writes it.
    #[must_use]
    pub const fn from_addr(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }

    /// The address as the standard library writes it.
    #[must_use]
    pub const fn to_addr(self) -> Ipv4Addr {
        let [a, b, c, d] = self.0.to_ne_bytes();
        Ipv4Addr::new(a, b, c, d)
    }

    /// 224.0.0.0/4 (RFC 5771) or the limited broadcast 255.255.255.255 (RFC 919).
    #[inline]
    #[must_use]
    pub const fn is_multicast_or_broadcast(self) -> bool {
        let host_order = u32::from_be(self.0);
        host_order >> 28 == 0xe || host_order == u32::MAX
    }

    /// Whether both addresses share their first `prefix_length` bits.
    #[inline]
    #[must_use]
    pub const fn shares_prefix(self, other: Self, prefix_length: u8) -> bool {
        if prefix_length == 0 {
            return true;
        }
        let difference = u32::from_be(self.0 ^ other.0);
        prefix_length <= 32 && difference >> (32 - prefix_length as u32) == 0
    }
}

/// An address of either family in network byte order; IPv4 as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address([u32; 4]);

impl Address {
    /// Bits in front of an IPv4 address in its mapped form.
    pub const IPV4_PREFIX_BITS: u32 = 96;
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// The IPv4-mapped form of an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn from_ipv4(address: Ipv4Be) -> Self {
        Self([0, 0, Self::MAPPED, address.0])
    }

    /// Takes the four words of an IPv6 address as they lie in the packet.
    #[inline]
    #[must_use]
    pub const fn from_wire(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four words as they lie in the packet.
    #[inline]
    #[must_use]
    pub const fn to_wire(self) -> [u32; 4] {
        self.0
    }

    /// The last four bytes: the IPv4 address, if this is one.
    #[inline]
    #[must_use]
    pub const fn ipv4_part(self) -> Ipv4Be {
        Ipv4Be(self.0[3])
    }

    /// Whether this is the IPv4-mapped form.
    #[inline]
    #[must_use]
    pub const fn is_ipv4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    /// Whether this is ::, the address of who has none yet (RFC 4291, 2.5.2).
    #[inline]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 0
    }

    /// `fe80::/10` (RFC 4291, 2.5.6).
    #[inline]
    #[must_use]
    pub const fn is_link_local_ipv6(self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0x3fa
    }

    /// `ff00::/8` (RFC 4291, 2.7).
    #[inline]
    #[must_use]
    pub const fn is_multicast_ipv6(self) -> bool {
        u32::from_be(self.0[0]) >> 24 == 0xff
    }

    /// `ff02::/16`, multicast that no router forwards (RFC 4291, 2.7), and `ff01::/16`, which never
    /// leaves a host.
    #[inline]
    #[must_use]
    pub const fn is_link_local_multicast_ipv6(self) -> bool {
        let first = u32::from_be(self.0[0]) >> 16;
        first & 0xff0f == 0xff02 || first & 0xff0f == 0xff01
    }

    /// Whether both addresses share their first `prefix_length` bits of 128.
    #[inline]
    #[must_use]
    pub const fn shares_prefix(self, other: Self, prefix_length: u8) -> bool {
        if prefix_length > 128 {
            return false;
        }
        let mut left = prefix_length as u32;
        let mut word = 0;
        while word < 4 {
            let bits = if left > 32 { 32 } else { left };
            let difference = u32::from_be(self.0[word] ^ other.0[word]);
            if bits != 0 && difference >> (32 - bits) != 0 {
                return false;
            }
            left -= bits;
            word += 1;
        }
        true
    }

    /// Takes the address as the standard library writes it.
    #[must_use]
    pub const fn from_addr(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_ipv4(Ipv4Be::from_addr(v4)),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                Self([
                    u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                    u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                    u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                    u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
                ])
            }
        }
    }

    /// The address as the standard library writes it; an IPv4-mapped one as IPv4.
    #[must_use]
    pub fn to_addr(self) -> IpAddr {
        if self.is_ipv4() {
            return IpAddr::V4(self.ipv4_part().to_addr());
        }
        let mut octets = [0_u8; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(octets))
    }
}

impl From<Ipv4Be> for Address {
    #[inline]
    fn from(address: Ipv4Be) -> Self {
        Self::from_ipv4(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_keeps_wire_and_host_order_apart() {
        assert_eq!(PortBe::from_host(0x1234).to_wire().to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(PortBe::from_wire(u16::from_ne_bytes([0x12, 0x34])).to_host(), 0x1234);
    }

    #[test]
    fn addresses_round_trip_through_the_standard_library() {
        for text in ["192.168.122.7", "0.0.0.0", "2001:db8::1", "fe80::1", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from_addr(address).to_addr(), address);
        }
    }

    #[test]
    fn ipv4_is_stored_mapped() {
        let address = Address::from_addr("10.1.2.3".parse().unwrap());
        assert!(address.is_ipv4());
        assert_eq!(bytemuck::bytes_of(&address)[10..], [0xff, 0xff, 10, 1, 2, 3]);
    }

    #[test]
    fn prefix_comparison_counts_bits_from_the_front() {
        let at = |text: &str| Ipv4Be::from_addr(text.parse().unwrap());
        assert!(at("10.1.2.3").shares_prefix(at("10.1.2.200"), 24));
        assert!(!at("10.1.2.3").shares_prefix(at("10.1.3.3"), 24));
        assert!(at("10.1.2.3").shares_prefix(at("200.1.1.1"), 0));
        assert!(!at("10.1.2.3").shares_prefix(at("10.1.2.2"), 32));
    }

    #[test]
    fn ipv6_kinds_are_recognised() {
        let at = |text: &str| Address::from_addr(text.parse().unwrap());
        assert!(at("::").is_unspecified() && !at("::1").is_unspecified());
        assert!(at("fe80::1").is_link_local_ipv6() && at("febf::1").is_link_local_ipv6());
        assert!(!at("fec0::1").is_link_local_ipv6() && !at("2001:db8::1").is_link_local_ipv6());
        assert!(at("ff05::2").is_multicast_ipv6() && !at("fe80::1").is_multicast_ipv6());
        for yes in ["ff02::1", "ff12::5", "ff01::1"] {
            assert!(at(yes).is_link_local_multicast_ipv6(), "{yes}");
        }
        for no in ["ff05::2", "ff0e::1", "fe02::1", "2001:db8::1"] {
            assert!(!at(no).is_link_local_multicast_ipv6(), "{no}");
        }
    }

    #[test]
    fn ipv6_prefix_comparison_counts_bits_from_the_front() {
        let at = |text: &str| Address::from_addr(text.parse().unwrap());
        assert!(at("2001:db8:1::7").shares_prefix(at("2001:db8:1:0:ffff::"), 64));
        assert!(!at("2001:db8:1::7").shares_prefix(at("2001:db8:1:1::7"), 64));
        assert!(at("2001:db8:1::7").shares_prefix(at("fe80::1"), 0));
        assert!(!at("2001:db8::1").shares_prefix(at("2001:db8::2"), 128));
        assert!(at("2001:db8::1").shares_prefix(at("2001:db8::1"), 128));
        assert!(!at("2001:db8::1").shares_prefix(at("2001:db8::1"), 129));
    }

    #[test]
    fn multicast_and_broadcast_are_recognised() {
        let at = |text: &str| Ipv4Be::from_addr(text.parse().unwrap());
        for yes in ["224.0.0.1", "239.255.255.250", "255.255.255.255"] {
            assert!(at(yes).is_multicast_or_broadcast(), "{yes}");
        }
        for no in ["223.255.255.255", "240.0.0.1", "192.168.122.255", "0.0.0.0"] {
            assert!(!at(no).is_multicast_or_broadcast(), "{no}");
        }
    }
}
