//! A host with its interfaces and routes, and the programs loaded for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{PerCpuArray, PerCpuValues};
use aya::programs::tc::{self, TcAttachType};
use bytemuck::Zeroable as _;
use nix::time::{ClockId, clock_gettime};
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    flow::{
        ExternalPort, FragmentKey, FragmentSlot, GuestUsage, HeldFragment, HeldKey, Mapping,
        MappingKey, Session,
    },
    forward::{self, FORWARD_KEY_BITS, FORWARD_KEY_BYTES, Forward, ForwardKey},
    names::{map, program},
    network::{
        Config, InterfaceKey, Network, SUBNET_KEY_LEADING_BITS, Subnet, SubnetKey, TokenBucket,
        Uplink, UplinkAddress,
    },
    policy::Mode,
    port::PortRange,
    port_map::{self, PortMap},
    timeout::Timeouts,
};

use super::counters::{self, Counted};
use super::load::{self, Plain, SLOTS};
use super::outcome::Outcome;
use super::packet::Packet;
use super::run::{Arrival, Origin};
use super::tables::Tables;
use crate::lab::{Ipv6Noise, Namespace, require_root};

/// Slot of the NAT network 192.168.122.0/24 and 10.1.0.0/24 on `virbr0`.
pub const NETWORK: u16 = 1;
/// Slot of the NAT network 192.168.123.0/24 on `virbr1`.
pub const OTHER_NETWORK: u16 = 2;
/// A guest on `virbr0`; so is 192.168.122.11.
pub const GUEST: &str = "192.168.122.10";
/// The host's address on `virbr0`.
pub const GATEWAY: &str = "192.168.122.1";
/// The host's address on its uplink `eth0`.
pub const EXTERNAL: &str = "198.51.100.1";
/// A host behind the default route.
pub const REMOTE: &str = "192.0.2.10";

/// Idle times of a few seconds, so that a clock that has just started can be wound back by them.
const TIMEOUTS: Timeouts = Timeouts {
    tcp_established: 8,
    tcp_transitory: 4,
    udp: 3,
    icmp_query: 2,
    other: 3,
    port_hold_down: 1,
};

/// `virbr0` and `virbr1` are bridges with a port each, `eth0` and `eth1` uplinks, `vpn0` is none.
const SETUP: &[&str] = &[
    "link add virbr0 address 52:54:00:00:00:fe type bridge forward_delay 0",
    "link add virbr1 address 52:54:00:00:00:fe type bridge forward_delay 0",
    "link add port0 type veth peer name guest0",
    "link add port1 type veth peer name guest1",
    "link add eth0 address 52:54:00:00:00:fe type veth peer name far0",
    "link add eth1 address 52:54:00:00:00:fe type veth peer name far1",
    "link add vpn0 address 52:54:00:00:00:fe type veth peer name far2",
    "link set port0 master virbr0 up",
    "link set port1 master virbr1 up",
    "link set guest0 up",
    "link set guest1 up",
    "link set far0 up",
    "link set far1 up",
    "link set far2 up",
    "link set virbr0 up",
    "link set virbr1 up",
    "link set eth0 up",
    "link set eth1 up",
    "link set vpn0 up",
    "address add 192.168.122.1/24 dev virbr0",
    "address add 10.1.0.1/24 dev virbr0",
    "address add 192.168.123.1/24 dev virbr1",
    "address add 198.51.100.1/24 dev eth0",
    "address add 203.0.113.1/24 dev eth1",
    "address add 10.99.0.1/24 dev vpn0",
    "route add default via 198.51.100.254 dev eth0",
    "route add 198.18.3.0/24 via 203.0.113.254 dev eth1",
    "route add 198.18.4.0/24 via 10.99.0.2 dev vpn0",
    "route add blackhole 198.18.5.0/24",
    "route add unreachable 198.18.6.0/24",
    "route add prohibit 198.18.7.0/24",
    "neighbour add 198.51.100.254 lladdr 02:00:00:00:00:01 nud permanent dev eth0",
    "neighbour add 203.0.113.254 lladdr 02:00:00:00:00:02 nud permanent dev eth1",
    "neighbour add 10.99.0.2 lladdr 02:00:00:00:00:03 nud permanent dev vpn0",
    "neighbour add 192.168.122.10 lladdr 52:54:00:00:00:01 nud permanent dev virbr0",
    "neighbour add 10.1.0.5 lladdr 52:54:00:00:00:02 nud permanent dev virbr0",
    "neighbour add 192.168.123.10 lladdr 52:54:00:00:00:03 nud permanent dev virbr1",
];

type Forwards<'a> = LpmTrie<&'a mut aya::maps::MapData, [u8; FORWARD_KEY_BYTES], Plain<Forward>>;

/// A host with its interfaces and routes, and the programs loaded for it.
pub struct Rig {
    /// Where the host's interfaces are.
    pub namespace: Namespace,
    ebpf: Ebpf,
    ifindexes: HashMap<String, u32>,
    slots: u32,
    /// See [`Rig::keep_ways_young`].
    pub(super) ways_stay_young: bool,
}

/// As [`with_rig`], with room for so many flows, whose tables are not to be read after every packet.
pub fn with_large_rig(slots: u32, work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut rig = Rig::new(slots)?;
    let namespace = rig.namespace.clone();
    namespace.enter(|| work(&mut rig))?
}

/// Runs `work` inside the namespace of a new rig, so that its sockets are the host's; not at all,
/// and says so, without root rights.
pub fn with_rig(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut rig = Rig::new(SLOTS)?;
    let namespace = rig.namespace.clone();
    namespace.enter(|| work(&mut rig))?
}

impl Rig {
    fn new(slots: u32) -> Result<Self> {
        let namespace = Namespace::new("programs", Ipv6Noise::Off)?;
        namespace.ip_batch(&SETUP.iter().map(|&line| line.to_owned()).collect::<Vec<_>>())?;
        namespace.sysctl("net.ipv4.ip_forward", "1")?;
        let mut rig = Self::with_room(&namespace, load::NETWORKS, slots)?;
        rig.add_network(NETWORK, "virbr0", Mode::Nat, &["192.168.122.0/24", "10.1.0.0/24"])?;
        rig.add_network(OTHER_NETWORK, "virbr1", Mode::Nat, &["192.168.123.0/24"])?;
        rig.set_network(NETWORK, |network| network.gateway = ipv4(GATEWAY))?;
        rig.set_network(OTHER_NETWORK, |network| network.gateway = ipv4("192.168.123.1"))?;
        rig.set_uplink("eth0", &["198.51.100.1/24"])?;
        rig.set_uplink("eth1", &["203.0.113.1/24"])?;
        Ok(rig)
    }

    /// The object for the interfaces that a namespace has now, without networks and uplinks.
    pub fn on(namespace: &Namespace) -> Result<Self> {
        Self::with_networks(namespace, load::NETWORKS)
    }

    /// As [`Rig::on`], with room for so many networks, slot 0 included.
    pub(crate) fn with_networks(namespace: &Namespace, networks: u32) -> Result<Self> {
        Self::with_room(namespace, networks, SLOTS)
    }

    /// As [`Rig::with_networks`], with so many slots in the other tables.
    pub(crate) fn with_room(namespace: &Namespace, networks: u32, slots: u32) -> Result<Self> {
        let namespace = namespace.clone();
        let ifindexes = namespace.enter(interfaces)??;
        let ebpf = load::object(0, networks, slots)?;
        let mut rig = Self { namespace, ebpf, ifindexes, slots, ways_stay_young: false };
        rig.configure(|config| {
            config.session_limit = slots;
            config.host_ports = PortRange { first: 32768, last: 60999 };
        })?;
        Ok(rig)
    }

    /// Attaches a program to an interface, as long as the rig lives.
    pub fn attach(&mut self, program: &str, interface: &str, hook: TcAttachType) -> Result<()> {
        let namespace = self.namespace.clone();
        namespace.enter(|| {
            // Only kernels without tcx need it; elsewhere it does no harm, nor if it is there.
            let _ = tc::qdisc_add_clsact(interface);
            let program = self.program(program)?;
            program.attach(interface, hook).with_context(|| format!("{interface} {hook:?}"))?;
            Ok(())
        })?
    }

    /// Gives every CPU's buckets for ICMP errors so many tokens each and no more for now.
    pub fn set_icmp_tokens(&mut self, tokens: u64) -> Result<()> {
        self.set_icmp_shares(tokens, tokens)
    }

    /// As [`Rig::set_icmp_tokens`], so many for all receivers together and so many for each.
    pub fn set_icmp_shares(&mut self, all: u64, each: u64) -> Result<()> {
        let map = load::found_mut(&mut self.ebpf, map::ICMP_ERRORS)?;
        let mut buckets = PerCpuArray::<_, Plain<TokenBucket>>::try_from(map)?;
        let cpus = buckets.get(&0, 0)?.len();
        for index in 0..buckets.len() {
            let tokens = if index == 0 { all } else { each };
            let bucket = Plain(TokenBucket { filled: u64::MAX / 2, tokens });
            buckets.set(index, PerCpuValues::try_from(vec![bucket; cpus])?, 0)?;
        }
        Ok(())
    }

    /// Index of an interface of the host.
    pub fn ifindex(&self, name: &str) -> Result<u32> {
        self.ifindexes.get(name).copied().with_context(|| format!("no interface {name}"))
    }

    pub(crate) fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    pub(crate) fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Replaces the object by one whose programs log; nothing is in its maps.
    pub fn reload_with_logging(&mut self) -> Result<()> {
        self.ebpf = load::object(5, load::NETWORKS, self.slots)?;
        Ok(())
    }

    /// All counters that are not zero.
    pub fn counters(&self) -> Result<Counted> {
        counters::read(&self.ebpf)
    }

    /// All tables as they stand.
    pub fn tables(&self) -> Result<Tables> {
        Tables::read(&self.ebpf)
    }

    /// Runs `ip` with the words of a line.
    pub fn ip(&self, line: &str) -> Result<()> {
        Ok(self.namespace.ip_batch(&[line.to_owned()])?)
    }

    /// Changes the settings.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut array = load::array_mut::<Config>(&mut self.ebpf, map::CONFIG)?;
        let mut config = array.get(&0, 0)?.0;
        if config.epoch == 0 {
            config = Config::default();
        }
        change(&mut config);
        Ok(array.set(0, Plain(config), 0)?)
    }

    /// Sets ports of the host aside, as userspace does; maps of ports that are there already go.
    pub fn reserve_ports(&mut self, ports: impl IntoIterator<Item = u16>) -> Result<()> {
        let mut reserved = Box::new(PortMap::EMPTY);
        ports.into_iter().for_each(|port| reserved.take(port));
        let mut array = load::array_mut::<PortMap>(&mut self.ebpf, map::RESERVED_PORTS)?;
        array.set(port_map::RESERVED_PORTS, Plain(*reserved), 0)?;
        let mut maps = load::hash_mut::<ExternalPort, PortMap>(&mut self.ebpf, map::PORT_MAPS)?;
        let keys = maps.keys().collect::<Result<Vec<_>, _>>()?;
        keys.iter().try_for_each(|key| Ok(maps.remove(key)?))
    }

    /// What userspace does after any change.
    pub fn bump_epoch(&mut self) -> Result<()> {
        self.configure(|config| config.epoch += 1)
    }

    /// Enters a network with its bridge and subnets (`address/length`).
    pub fn add_network(
        &mut self,
        slot: u16,
        bridge: &str,
        mode: Mode,
        subnets: &[&str],
    ) -> Result<()> {
        let (bridge_ifindex, slots) = (self.ifindex(bridge)?, self.slots);
        self.set_network(slot, |network| {
            *network = Network {
                bridge_ifindex,
                forward_ifindex: 0,
                mode: mode as u8,
                mode_ipv6: mode as u8,
                mtu: 1500,
                ports: PortRange::MASQUERADE_DEFAULT,
                flows_per_guest: slots,
                ports_per_guest: slots,
                new_flows_per_second: 0,
                flow_limit: u32::MAX,
                timeouts: TIMEOUTS,
                flags: 0,
                gateway: Ipv4Be::UNSPECIFIED,
                pool_first: Ipv4Be::UNSPECIFIED,
                pool_last: Ipv4Be::UNSPECIFIED,
                gateway_ipv6: Address::default(),
            };
        })?;
        let mut bridges = load::hash_mut::<InterfaceKey, u32>(&mut self.ebpf, map::BRIDGES)?;
        for key in interface_keys(bridge_ifindex) {
            bridges.insert(key, Plain(u32::from(slot)), 0)?;
        }
        for subnet in subnets {
            self.add_subnet(slot, subnet, 0)?;
        }
        Ok(())
    }

    /// Enters a prefix (`address/length`) of a network, with `SUBNET_*` flags.
    pub fn add_subnet(&mut self, slot: u16, subnet: &str, flags: u16) -> Result<()> {
        let value = Plain(Subnet { network: slot, flags });
        let mut subnets = self.subnets()?;
        for key in subnet_keys(subnet) {
            subnets.insert(&key, value, 0)?;
        }
        Ok(())
    }

    /// Forwards ports of an address at an uplink to a guest's address and ports.
    pub fn forward(
        &mut self,
        protocol: u8,
        (external, ports): (&str, PortRange),
        (to, to_port): (&str, u16),
        uplink: &str,
        network: u16,
    ) -> Result<()> {
        let value = Forward {
            inside: address(to),
            uplink_ifindex: self.ifindex(uplink)?,
            first_port: PortBe::from_host(ports.first),
            first_inside_port: PortBe::from_host(to_port),
            network,
            reserved: 0,
        };
        let mut forwards = self.forwards()?;
        for key in forward_keys(protocol, external, ports) {
            forwards.insert(&key, Plain(value), 0)?;
        }
        Ok(())
    }

    /// Takes such a forward out.
    pub fn remove_forward(&mut self, protocol: u8, external: &str, ports: PortRange) -> Result<()> {
        let mut forwards = self.forwards()?;
        for key in forward_keys(protocol, external, ports) {
            forwards.remove(&key)?;
        }
        Ok(())
    }

    /// The programs' clock, in nanoseconds.
    pub fn clock(&self) -> Result<u64> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?);
        Ok(u64::try_from(now.as_nanos())?)
    }

    /// Notes that the guest with an address has gone just now.
    pub fn depart(&mut self, guest: &str) -> Result<()> {
        let now = self.clock()?;
        let mut departures = load::hash_mut::<Address, u64>(&mut self.ebpf, map::DEPARTURES)?;
        departures.insert(Plain(address(guest)), Plain(now), 0)?;
        self.configure(|config| config.departures = 1)
    }

    /// Takes every port forward out.
    pub(crate) fn clear_forwards(&mut self) -> Result<()> {
        let mut forwards = self.forwards()?;
        let keys = forwards.keys().collect::<Result<Vec<_>, _>>()?;
        for key in keys {
            forwards.remove(&key)?;
        }
        Ok(())
    }

    fn forwards(&mut self) -> Result<Forwards<'_>> {
        Ok(LpmTrie::try_from(load::found_mut(&mut self.ebpf, map::FORWARDS)?)?)
    }

    /// Changes a network's settings.
    pub fn set_network(&mut self, slot: u16, change: impl FnOnce(&mut Network)) -> Result<()> {
        let mut networks = load::array_mut::<Network>(&mut self.ebpf, map::NETWORKS)?;
        let mut network = networks.get(&Network::index(slot, 0), 0)?.0;
        change(&mut network);
        for generation in GENERATIONS {
            networks.set(Network::index(slot, generation), Plain(network), 0)?;
        }
        Ok(())
    }

    /// Takes a network's bridge and subnets out.
    pub fn remove_network(&mut self, bridge: &str, subnets: &[&str]) -> Result<()> {
        let ifindex = self.ifindex(bridge)?;
        let mut bridges = load::hash_mut::<InterfaceKey, u32>(&mut self.ebpf, map::BRIDGES)?;
        for key in interface_keys(ifindex) {
            bridges.remove(&key)?;
        }
        for subnet in subnets {
            for key in subnet_keys(subnet) {
                self.subnets()?.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Enters an uplink with its addresses (`address/length`) in the kernel's order.
    pub fn set_uplink(&mut self, name: &str, addresses: &[&str]) -> Result<()> {
        let mut uplink = Uplink::zeroed();
        for text in addresses {
            let (address, prefix_length) = prefix(text);
            let reserved = [0; 3];
            match address {
                IpAddr::V4(address) => {
                    uplink.addresses[uplink.address_count as usize] = UplinkAddress {
                        address: Ipv4Be::from_addr(address),
                        prefix_length,
                        reserved,
                    };
                    uplink.address_count += 1;
                }
                IpAddr::V6(_) => {
                    uplink.addresses_ipv6[uplink.address_count_ipv6 as usize] = UplinkAddress {
                        address: Address::from_addr(address),
                        prefix_length,
                        reserved,
                    };
                    uplink.address_count_ipv6 += 1;
                }
            }
        }
        let ifindex = self.ifindex(name)?;
        let mut uplinks = load::hash_mut::<InterfaceKey, Uplink>(&mut self.ebpf, map::UPLINKS)?;
        for key in interface_keys(ifindex) {
            uplinks.insert(key, Plain(uplink), 0)?;
        }
        Ok(())
    }

    /// Takes an uplink out.
    pub fn remove_uplink(&mut self, name: &str) -> Result<()> {
        let ifindex = self.ifindex(name)?;
        let mut uplinks = load::hash_mut::<InterfaceKey, Uplink>(&mut self.ebpf, map::UPLINKS)?;
        for key in interface_keys(ifindex) {
            uplinks.remove(&key)?;
        }
        Ok(())
    }

    fn subnets(
        &mut self,
    ) -> Result<LpmTrie<&mut aya::maps::MapData, Plain<SubnetKey>, Plain<Subnet>>> {
        Ok(LpmTrie::try_from(load::found_mut(&mut self.ebpf, map::SUBNETS)?)?)
    }

    /// Changes a slot of the session array.
    pub fn set_session(&mut self, index: u32, change: impl FnOnce(&mut Session)) -> Result<()> {
        let mut sessions = load::array_mut::<Session>(&mut self.ebpf, map::SESSIONS)?;
        let mut session = sessions.get(&index, 0)?.0;
        change(&mut session);
        Ok(sessions.set(index, Plain(session), 0)?)
    }

    /// Changes the account of every guest.
    pub fn set_guests(&mut self, change: impl Fn(&mut GuestUsage)) -> Result<()> {
        let all = self.tables()?.guests;
        let mut guests = load::hash_mut::<Address, GuestUsage>(&mut self.ebpf, map::GUESTS)?;
        for (key, mut usage) in all {
            change(&mut usage);
            guests.insert(Plain(key), Plain(usage), 0)?;
        }
        Ok(())
    }

    /// How many searches for an external port took so many steps, by steps.
    pub fn port_searches(&self) -> Result<Vec<u64>> {
        let searches = load::per_cpu::<u64>(&self.ebpf, map::PORT_SEARCH)?;
        let sum = |index| Ok(searches.get(&index, 0)?.iter().map(|count| count.0).sum());
        (0..searches.len()).map(sum).collect()
    }

    /// Changes every mapping.
    pub fn set_mappings(&mut self, change: impl Fn(&mut Mapping)) -> Result<()> {
        let all = self.tables()?.mappings;
        let mut mappings = load::hash_mut::<MappingKey, Mapping>(&mut self.ebpf, map::MAPPINGS)?;
        for (key, mut mapping) in all {
            change(&mut mapping);
            mappings.insert(Plain(key), Plain(mapping), 0)?;
        }
        Ok(())
    }

    /// The fragments that wait for the first of their datagram.
    pub fn held_fragments(&self) -> Result<Vec<(HeldKey, HeldFragment)>> {
        let held = load::hash::<HeldKey, HeldFragment>(&self.ebpf, map::HELD_FRAGMENTS)?;
        held.iter()
            .map(|entry| entry.map(|(key, held)| (key.0, held.0)).map_err(Into::into))
            .collect()
    }

    /// Forgets the first fragments that were seen, as time does.
    pub fn forget_first_fragments(&mut self) -> Result<()> {
        let mut of_ipv4 =
            load::hash_mut::<FragmentKey, FragmentSlot>(&mut self.ebpf, map::FRAGMENTS)?;
        for key in of_ipv4.keys().collect::<Result<Vec<_>, _>>()? {
            of_ipv4.remove(&key)?;
        }
        let mut of_ipv6 = load::hash_mut::<FragmentKey<Address>, FragmentSlot>(
            &mut self.ebpf,
            map::FRAGMENTS_IPV6,
        )?;
        for key in of_ipv6.keys().collect::<Result<Vec<_>, _>>()? {
            of_ipv6.remove(&key)?;
        }
        Ok(())
    }

    /// Makes the first fragments that were seen so much older, in nanoseconds.
    pub fn age_first_fragments(&mut self, by: u64) -> Result<()> {
        let mut of_ipv4 =
            load::hash_mut::<FragmentKey, FragmentSlot>(&mut self.ebpf, map::FRAGMENTS)?;
        for entry in of_ipv4.iter().collect::<Result<Vec<_>, _>>()? {
            let first = FragmentSlot { since: entry.1.0.since.saturating_sub(by), ..entry.1.0 };
            of_ipv4.insert(entry.0, Plain(first), 0)?;
        }
        let mut of_ipv6 = load::hash_mut::<FragmentKey<Address>, FragmentSlot>(
            &mut self.ebpf,
            map::FRAGMENTS_IPV6,
        )?;
        for entry in of_ipv6.iter().collect::<Result<Vec<_>, _>>()? {
            let first = FragmentSlot { since: entry.1.0.since.saturating_sub(by), ..entry.1.0 };
            of_ipv6.insert(entry.0, Plain(first), 0)?;
        }
        Ok(())
    }

    /// Changes all of them.
    pub fn set_held_fragments(&mut self, change: impl Fn(&mut HeldFragment)) -> Result<()> {
        let all = self.held_fragments()?;
        let mut map = load::hash_mut::<HeldKey, HeldFragment>(&mut self.ebpf, map::HELD_FRAGMENTS)?;
        for (key, mut held) in all {
            change(&mut held);
            map.insert(Plain(key), Plain(held), 0)?;
        }
        Ok(())
    }

    /// Changes those of them that have a number.
    pub fn set_held_fragments_at(
        &mut self,
        index: u32,
        change: impl Fn(&mut HeldFragment),
    ) -> Result<()> {
        let all = self.held_fragments()?;
        let mut map = load::hash_mut::<HeldKey, HeldFragment>(&mut self.ebpf, map::HELD_FRAGMENTS)?;
        for (key, mut held) in all.into_iter().filter(|(key, _)| key.index == index) {
            change(&mut held);
            map.insert(Plain(key), Plain(held), 0)?;
        }
        Ok(())
    }

    /// A guest's packet at the ingress of `virbr0`.
    pub fn from_guest(&mut self, packet: &Packet) -> Result<Outcome> {
        self.frame_from_guest(&packet.frame())
    }

    /// A guest's frame at the ingress of `virbr0`.
    pub fn frame_from_guest(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.at(program::BRIDGE_INGRESS, "virbr0", Origin::Interface("virbr0"), frame)
    }

    /// A packet from outside at the ingress of `eth0`.
    pub fn from_outside(&mut self, packet: &Packet) -> Result<Outcome> {
        self.frame_from_outside(&packet.frame())
    }

    /// A frame from outside at the ingress of `eth0`.
    pub fn frame_from_outside(&mut self, frame: &[u8]) -> Result<Outcome> {
        self.at(program::UPLINK_INGRESS, "eth0", Origin::Interface("eth0"), frame)
    }

    /// A packet that the stack sends out of `eth0`.
    pub fn to_outside(&mut self, origin: Origin<'_>, packet: &Packet) -> Result<Outcome> {
        self.at(program::UPLINK_EGRESS, "eth0", origin, &packet.frame())
    }

    /// A packet that the stack sends out of `virbr0`.
    pub fn to_bridge(&mut self, origin: Origin<'_>, packet: &Packet) -> Result<Outcome> {
        self.at(program::BRIDGE_EGRESS, "virbr0", origin, &packet.frame())
    }

    /// An unmarked frame at any hook.
    pub fn at(
        &mut self,
        program: &'static str,
        interface: &str,
        origin: Origin<'_>,
        frame: &[u8],
    ) -> Result<Outcome> {
        self.run(Arrival { program, frame, interface, origin, mark: 0, gso_size: 0 })
    }

    /// As [`Rig::sweep`] over so many slots, without looking at counters and tables.
    pub fn sweep_uncounted(&mut self, slots: u32) -> Result<()> {
        for _ in 0..slots.div_ceil(vnet_common::limits::SWEEP_SLICE) {
            self.run_uncounted(Arrival {
                program: program::SWEEP,
                frame: &[0; 64],
                interface: "lo",
                origin: Origin::Host,
                mark: 0,
                gso_size: 0,
            })?;
        }
        Ok(())
    }

    /// Sweeps over the whole table once.
    pub fn sweep(&mut self) -> Result<()> {
        for _ in 0..self.slots.div_ceil(vnet_common::limits::SWEEP_SLICE) {
            self.at(program::SWEEP, "lo", Origin::Host, &[0; 64])?;
        }
        Ok(())
    }
}

/// An address as the tables hold it.
#[must_use]
pub fn address(text: &str) -> Address {
    Address::from_addr(text.parse().unwrap_or_else(|_| panic!("no address: {text}")))
}

/// An IPv4 address as the tables hold it.
#[must_use]
pub fn ipv4(text: &str) -> Ipv4Be {
    Ipv4Be::from_addr(text.parse().unwrap_or_else(|_| panic!("no address: {text}")))
}

fn prefix(text: &str) -> (IpAddr, u8) {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
    });
    parsed.unwrap_or_else(|| panic!("no prefix: {text}"))
}

fn forward_keys(
    protocol: u8,
    external: &str,
    ports: PortRange,
) -> impl Iterator<Item = Key<[u8; FORWARD_KEY_BYTES]>> {
    let external = address(external);
    let keys = move |(port, length)| {
        GENERATIONS.map(|generation| {
            let (generation, port) = (generation as u8, PortBe::from_host(port));
            let key = ForwardKey { external, protocol, generation, port };
            Key::new(FORWARD_KEY_BITS - 16 + length, bytemuck::cast(key))
        })
    };
    forward::prefixes(ports).flat_map(keys)
}

/// A rig's tables say the same in both generations, so that any epoch shows it.
const GENERATIONS: [u32; 2] = [0, 1];

fn interface_keys(ifindex: u32) -> [Plain<InterfaceKey>; 2] {
    GENERATIONS.map(|generation| Plain(InterfaceKey { ifindex, generation }))
}

/// The keys of a prefix (`address/length`).
pub(crate) fn subnet_keys(text: &str) -> [Key<Plain<SubnetKey>>; 2] {
    let (network, length) = prefix(text);
    let leading = if network.is_ipv4() { Address::IPV4_PREFIX_BITS } else { 0 };
    let address = Address::from_addr(network);
    let bits = SUBNET_KEY_LEADING_BITS + leading + u32::from(length);
    GENERATIONS.map(|generation| Key::new(bits, Plain(SubnetKey { generation, address })))
}

fn interfaces() -> Result<HashMap<String, u32>> {
    let mut found = HashMap::new();
    for entry in std::fs::read_dir("/sys/class/net")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let index = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
        found.insert(name, index.trim().parse()?);
    }
    Ok(found)
}
