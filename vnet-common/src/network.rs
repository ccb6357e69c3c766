//! What userspace tells the programs of networks, uplinks and itself.

use core::mem::size_of;

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Ipv4Be},
    limits,
    port::PortRange,
    timeout::Timeouts,
};

/// Which of its two places in a table an entry of an epoch has. Tables that say what the definitions and
/// the host's addresses are have room for two generations: one that packets see, and one to write the
/// next into. A new epoch of the other parity makes it visible, all at once.
#[inline]
#[must_use]
pub const fn generation(epoch: u32) -> u32 {
    epoch & 1
}

/// Settings that every program reads; one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Config {
    /// Counts changes of definitions, routes, addresses and links. A session judged in another
    /// epoch is judged again before it is used; never 0, which no epoch is. Its parity says which
    /// [`generation`] of the tables is the current one.
    pub epoch: u32,
    /// Slots of the session array that may be used. Set when the programs are loaded, to as many as the
    /// array has, and not changed while they run: the sweep looks at no slot behind it.
    pub session_limit: u32,
    /// The host's own ephemeral ports (`net.ipv4.ip_local_port_range`), never masqueraded to.
    pub host_ports: PortRange,
    /// Addresses of guests that have gone, whose flows are still to be ended.
    pub departures: u32,
}

/// A network of a definition, by its slot; slot 0 stands for "no network".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Network {
    /// Interface index of its bridge.
    pub bridge_ifindex: u32,
    /// The uplink that `<forward dev=…>` binds it to; 0 for any.
    pub forward_ifindex: u32,
    /// A [`crate::policy::Mode`]: how IPv4 is connected.
    pub mode: u8,
    /// A [`crate::policy::Mode`]: how IPv6 is connected. A NAT network without `<nat ipv6='yes'>` is
    /// routed there.
    pub mode_ipv6: u8,
    /// The bridge's MTU in bytes.
    pub mtu: u16,
    /// External ports to masquerade to.
    pub ports: PortRange,
    /// Live flows that one guest may have.
    pub flows_per_guest: u32,
    /// External ports of all protocols that the mappings of one guest may hold.
    pub ports_per_guest: u32,
    /// Flows that one guest may open in a second; 0 for any number.
    pub new_flows_per_second: u32,
    /// Slots of the session array that all its guests together may use: live flows, and ended ones whose
    /// port is held down.
    pub flow_limit: u32,
    /// Idle times.
    pub timeouts: Timeouts,
    /// `NETWORK_*`
    pub flags: u32,
    /// The bridge's first IPv4 address, from which guests get their ICMP errors; 0.0.0.0 if it has
    /// none, and then they get none.
    pub gateway: Ipv4Be,
    /// The first address of `<nat><address>`; 0.0.0.0 to masquerade to the uplink's own addresses.
    pub pool_first: Ipv4Be,
    /// The last address of it.
    pub pool_last: Ipv4Be,
    /// As `gateway`: its first global IPv6 address, or `::`.
    pub gateway_ipv6: Address,
}

/// The addresses of `<nat><address>`, first and last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The lowest.
    pub first: Ipv4Be,
    /// The highest.
    pub last: Ipv4Be,
}

impl Pool {
    /// No addresses.
    pub const NONE: Self = Self { first: Ipv4Be::UNSPECIFIED, last: Ipv4Be::UNSPECIFIED };

    /// Whether there are addresses.
    #[inline]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.first.to_wire() != 0
    }

    /// The address for a guest: always the same one (RFC 4787, REQ-2), and guests spread evenly.
    #[inline]
    #[must_use]
    pub const fn pick(self, inside: Ipv4Be) -> Ipv4Be {
        // The golden ratio of 32 bits (Knuth, The Art of Computer Programming 3, section 6.4).
        const MULTIPLIER: u32 = 0x9e37_79b9;
        let first = u32::from_be(self.first.to_wire());
        let count = u32::from_be(self.last.to_wire()).saturating_sub(first) as u64 + 1;
        let hash = u32::from_be(inside.to_wire()).wrapping_mul(MULTIPLIER) as u64;
        Ipv4Be::from_wire((first + ((hash * count) >> 32) as u32).to_be())
    }

    /// Whether the address is one of these.
    #[inline]
    #[must_use]
    pub const fn contains(self, address: Ipv4Be) -> bool {
        let address = u32::from_be(address.to_wire());
        u32::from_be(self.first.to_wire()) <= address
            && address <= u32::from_be(self.last.to_wire())
    }
}

impl Network {
    /// The addresses that its guests are masqueraded to, if it has some of its own.
    #[inline]
    #[must_use]
    pub const fn pool(&self) -> Pool {
        Pool { first: self.pool_first, last: self.pool_last }
    }
}

/// [`Network::flags`]: guests of the network do not reach each other, neither by the bridge nor by
/// way of the host (`<port isolated='yes'/>`).
pub const NETWORK_ISOLATED_PORTS: u32 = 1;
/// [`Network::flags`]: anybody outside may send to the ports of its guests' mappings (RFC 4787, REQ-8:
/// endpoint-independent filtering), not only those to whom they have sent.
pub const NETWORK_ENDPOINT_INDEPENDENT: u32 = 2;

impl Network {
    /// Its index in the network table.
    #[inline]
    #[must_use]
    pub const fn index(slot: u16, generation: u32) -> u32 {
        2 * slot as u32 + generation
    }
}

/// An interface in the tables of bridges and uplinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct InterfaceKey {
    /// Its index.
    pub ifindex: u32,
    /// See [`generation`].
    pub generation: u32,
}

/// An address as the subnet trie orders its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SubnetKey {
    /// See [`generation`]; part of every prefix.
    pub generation: u32,
    /// IPv4 addresses in their mapped form.
    pub address: Address,
}

/// Bytes of a [`SubnetKey`].
pub const SUBNET_KEY_BYTES: usize = size_of::<SubnetKey>();
/// Bits of a [`SubnetKey`] in front of its address.
pub const SUBNET_KEY_LEADING_BITS: u32 = 8 * size_of::<u32>() as u32;
/// Bits of a [`SubnetKey`], which a look-up has.
pub const SUBNET_KEY_BITS: u32 = 8 * SUBNET_KEY_BYTES as u32;

/// The network that a subnet (`<ip>`, or `<route>` behind a guest) belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Subnet {
    /// Slot of the network.
    pub network: u16,
    /// `SUBNET_*`
    pub flags: u16,
}

/// [`Subnet::flags`]: an address of the host itself on the network's bridge, entered with its full
/// length. No guest may use it as its own, and packets to it are for the host.
pub const SUBNET_IS_HOST: u16 = 1;
/// [`Subnet::flags`]: behind a guest that routes (`<route>`), which the host's routes lead to.
pub const SUBNET_BEHIND_GUEST: u16 = 2;
/// [`Subnet::flags`]: an address that no station has, entered with its full length: the network and
/// broadcast addresses of an IPv4 subnet (RFC 1122, section 3.2.1.3). Nobody may send from it.
pub const SUBNET_NO_STATION: u16 = 4;

/// An address of an uplink, [`Ipv4Be`] or [`Address`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct UplinkAddress<A = Ipv4Be> {
    /// The address.
    pub address: A,
    /// Length of its subnet's prefix in bits of its own family.
    pub prefix_length: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

// SAFETY: `repr(C)` of plain data; the sizes asserted below leave no room for padding.
unsafe impl Pod for UplinkAddress<Ipv4Be> {}
// SAFETY: as above.
unsafe impl Pod for UplinkAddress<Address> {}
const _: () = assert!(size_of::<UplinkAddress<Ipv4Be>>() == 4 + 4);
const _: () = assert!(size_of::<UplinkAddress<Address>>() == 16 + 4);

/// An interface that flows are masqueraded at: one towards outside, or the bridge of a routed or
/// open network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Uplink {
    /// How many of `addresses` are filled.
    pub address_count: u32,
    /// How many of `addresses_ipv6` are filled.
    pub address_count_ipv6: u32,
    /// Addresses to masquerade to, in the order in which the kernel prefers them.
    pub addresses: [UplinkAddress; limits::ADDRESSES_PER_UPLINK],
    /// Global IPv6 addresses likewise.
    pub addresses_ipv6: [UplinkAddress<Address>; limits::ADDRESSES_PER_UPLINK],
}

/// Packets and bytes of a network, per CPU; counted as [`crate::flow::Traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NetworkTraffic {
    /// From guests to outside.
    pub outbound: crate::flow::Traffic,
    /// From outside to guests.
    pub inbound: crate::flow::Traffic,
}

/// A token bucket, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TokenBucket {
    /// When tokens were last added, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub filled: u64,
    /// Tokens left.
    pub tokens: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            epoch: 1,
            session_limit: limits::DEFAULT_SESSIONS,
            host_ports: PortRange::EMPTY,
            departures: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::align_of;

    use super::*;

    #[test]
    fn a_guest_always_gets_the_same_address_of_the_pool_and_guests_get_all() {
        let at = |text: &str| Ipv4Be::from_addr(text.parse().unwrap());
        let pool = Pool { first: at("203.0.113.254"), last: at("203.0.114.1") };
        let mut seen = [0_u32; 4];
        for host in 0..=255 {
            let inside = Ipv4Be::from_addr([192, 168, 122, host].into());
            let address = pool.pick(inside);
            assert_eq!(address, pool.pick(inside));
            assert!(pool.contains(address));
            let first = u32::from_be(pool.first.to_wire());
            seen[(u32::from_be(address.to_wire()) - first) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (48..=80).contains(count)), "{seen:?}");
        let one = Pool { first: at("203.0.113.7"), last: at("203.0.113.7") };
        assert_eq!(one.pick(at("192.168.122.9")), at("203.0.113.7"));
        assert!(!one.contains(at("203.0.113.8")) && !one.contains(at("203.0.113.6")));
    }

    #[test]
    fn sizes_and_alignments_are_what_the_programs_were_compiled_for() {
        assert_eq!((size_of::<Config>(), align_of::<Config>()), (16, 4));
        assert_eq!((size_of::<Network>(), align_of::<Network>()), (88, 4));
        assert_eq!((size_of::<InterfaceKey>(), align_of::<InterfaceKey>()), (8, 4));
        assert_eq!((size_of::<SubnetKey>(), align_of::<SubnetKey>()), (20, 4));
        assert_eq!((size_of::<Subnet>(), align_of::<Subnet>()), (4, 2));
        assert_eq!((size_of::<UplinkAddress>(), align_of::<UplinkAddress>()), (8, 4));
        assert_eq!((size_of::<Uplink>(), align_of::<Uplink>()), (232, 4));
        assert_eq!((size_of::<NetworkTraffic>(), align_of::<NetworkTraffic>()), (32, 8));
        assert_eq!((size_of::<TokenBucket>(), align_of::<TokenBucket>()), (16, 8));
    }
}
