//! Guests' ports: what each may send, and what the bridge does with it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use vnet_common::{
    address::Address,
    guard::{AddressHolder, AddressKey, GuestPort, Mac, MacKey, ROUTE_KEY_BRIDGE_BITS, flags},
    limits,
};

use super::{Plan, PlannedNetwork, ends};
use crate::{
    definition::{AddressSources, Guard, MacAddress, NativeMode, Network, Vlan},
    guests::{Known, Lease},
    host::{Link, LinkKind, Snapshot, bridge_port::PortVlan},
};

/// A guest's port of a network's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPort {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Slot of the network.
    pub network: u16,
    /// The guest's MAC address; none while it is not known.
    pub mac: Option<MacAddress>,
    /// The addresses that its guest is known to have, by the definition or by leases.
    pub addresses: Vec<IpAddr>,
    /// What its guest may send; none if it is not guarded.
    pub guard: Option<GuestPort>,
    /// Whether the bridge keeps it from other ports that it keeps so.
    pub isolated: bool,
    /// The VLANs that it is to have; empty if they are not vnet's business.
    pub vlans: Vec<PortVlan>,
}

/// A prefix behind a guest: its length in bits, the bridge's index, and the IPv4-mapped address.
pub type GuestRouteKey = (u32, u32, [u8; 16]);

/// The entries of the guard's maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardTables {
    /// Interface index to port.
    pub ports: BTreeMap<u32, GuestPort>,
    /// MAC address at a bridge to interface index.
    pub macs: BTreeMap<MacKey, u32>,
    /// IP address at a bridge to its holder.
    pub addresses: BTreeMap<AddressKey, AddressHolder>,
    /// Prefix behind a guest to the guest's address.
    pub routes: BTreeMap<GuestRouteKey, Address>,
}

/// What was seen of guests, beside the definitions.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Leases, by the network's name.
    pub leases: BTreeMap<String, Vec<Lease>>,
    /// MAC addresses that the programs have learned, by the port's index.
    pub learned: BTreeMap<u32, MacAddress>,
}

impl Plan {
    /// Plans the ports that the networks' bridges have on the host.
    pub fn add_ports(&mut self, definitions: &[Network], host: &Snapshot, seen: &Seen) {
        let (mut ports, mut guard) = (Vec::<PlannedPort>::new(), GuardTables::default());
        let by_name: HashMap<&str, &Network> =
            definitions.iter().map(|other| (other.name.value.as_str(), other)).collect();
        let mut networks_at = HashMap::<Option<u32>, usize>::new();
        for network in &self.networks {
            *networks_at.entry(network.bridge_ifindex).or_default() += 1;
        }
        let mut taken = HashSet::new();
        for network in &self.networks {
            let definition = by_name.get(network.name.as_str()).copied();
            let bridge = network.bridge_ifindex.and_then(|bridge| host.link(bridge));
            let (Some(definition), Some(bridge)) = (definition, bridge) else { continue };
            let leases = seen.leases.get(&network.name).map(Vec::as_slice).unwrap_or_default();
            let known = Known::of(definition, leases, sources(definition));
            let is_shared = networks_at.get(&network.bridge_ifindex).is_some_and(|at| *at > 1);
            let planner = Planner { definition, network, bridge, known, is_shared };
            let guests = host.ports_of(bridge.index).filter(|port| is_guests(port));
            // The first of two networks that know the same guest has its port.
            let is_free = |port: &&Link| !taken.contains(&port.index);
            let of_network: Vec<_> =
                guests.filter(is_free).filter_map(|port| planner.port(port, seen)).collect();
            if definition.options.has_guard() {
                guard.add_network(&planner, host);
                guard.add_ports(bridge.index, &of_network);
            }
            taken.extend(of_network.iter().map(|port| port.ifindex));
            ports.extend(of_network);
        }
        ports.sort_by_key(|port| port.ifindex);
        (self.ports, self.guard) = (ports, guard);
    }
}

impl Plan {
    /// The addresses that this plan takes from guests that had ports before: the guest's port is gone and
    /// it has no other, or somebody else has the address.
    #[must_use]
    pub fn departed(&self, before: &[PlannedPort]) -> BTreeSet<IpAddr> {
        let mut departed = BTreeSet::new();
        // One that has not sent anything since its port was found again is known by the port.
        let is_found = |port: &PlannedPort| match port.mac {
            Some(mac) => (port.network, Ok(mac)),
            None => (port.network, Err(port.ifindex)),
        };
        let found: HashSet<_> = self.ports.iter().map(is_found).collect();
        let mut holders = HashMap::<_, Vec<_>>::new();
        for port in &self.ports {
            for address in &port.addresses {
                holders.entry((port.network, *address)).or_default().push(port.mac);
            }
        }
        for port in before {
            let guest = port.mac.map(|mac| (port.network, Ok(mac)));
            let stays = guest.is_some_and(|guest| found.contains(&guest))
                || found.contains(&(port.network, Err(port.ifindex)));
            let is_lost = |address: &&IpAddr| {
                let held_by = holders.get(&(port.network, **address));
                !stays || held_by.is_some_and(|macs| macs.iter().any(|mac| *mac != port.mac))
            };
            departed.extend(port.addresses.iter().filter(is_lost));
        }
        departed
    }
}

/// Where the addresses of a network's guests come from.
fn sources(definition: &Network) -> AddressSources {
    definition.options.guard.as_ref().map_or_else(AddressSources::default, |guard| guard.value.from)
}

/// Taps are guests', and veth pairs that end in another network namespace are containers'. A pair with
/// both ends here leads to something else of the host, as to another bridge.
pub(super) fn is_guests(port: &Link) -> bool {
    port.kind == LinkKind::Tap || port.kind == LinkKind::Veth && port.parent_is_foreign
}

/// What a port's plan is made of.
struct Planner<'a> {
    definition: &'a Network,
    network: &'a PlannedNetwork,
    bridge: &'a Link,
    known: Known,
    /// Whether other networks have guests on the same bridge.
    is_shared: bool,
}

impl Planner<'_> {
    /// The plan of a port; none if it may be another network's.
    fn port(&self, port: &Link, seen: &Seen) -> Option<PlannedPort> {
        let tap = port.mac.map(MacAddress);
        let mac = tap
            .and_then(|tap| self.known.guest_of_port(tap))
            .or_else(|| seen.learned.get(&port.index).copied());
        if self.is_shared && !mac.is_some_and(|mac| self.known.has(mac)) {
            return None;
        }
        Some(PlannedPort {
            ifindex: port.index,
            name: port.name.clone(),
            network: self.network.slot,
            mac,
            addresses: mac.map_or_else(Vec::new, |mac| self.known.addresses(mac).to_vec()),
            guard: self.guard(mac),
            isolated: self.network.isolated_ports,
            vlans: self.vlans(),
        })
    }

    /// A guest that is not known yet is watched without a check where only some are guarded.
    fn guard(&self, mac: Option<MacAddress>) -> Option<GuestPort> {
        let options = &self.definition.options;
        let network = options.guard.as_ref().map(|guard| guard.value);
        let guard = match mac {
            Some(mac) => Some(options.guard_of(mac)?),
            None if network.is_none() && !options.has_guard() => return None,
            None => network,
        };
        Some(self.entry(mac, guard))
    }

    fn entry(&self, mac: Option<MacAddress>, guard: Option<Guard>) -> GuestPort {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let mut entry = GuestPort {
            mac: mac.map_or(Mac::NONE, |mac| Mac::from_bytes(mac.0)),
            bridge: self.bridge.index,
            network: self.network.slot,
            flags: flag(self.network.subnets.is_empty(), flags::ANY_SUBNET),
            learn_ipv4: 0,
            learn_ipv6: 0,
            reserved: 0,
        };
        if let Some(guard) = guard {
            entry.flags |= flag(guard.mac, flags::MAC)
                | flag(guard.addresses, flags::ADDRESSES)
                | flag(guard.servers, flags::SERVERS)
                | flag(guard.tags, flags::TAGS)
                | flag(guard.from.leases, flags::PROBES);
            if guard.from.learn {
                entry.learn_ipv4 = limits::LEARNED_IPV4;
            }
            if guard.from.learn || guard.from.leases && self.has_autoconfiguration() {
                entry.learn_ipv6 = limits::LEARNED_IPV6;
            }
        }
        entry
    }

    /// Whether guests choose addresses in an IPv6 subnet themselves (RFC 4862): where the network
    /// lends none, none will ever be in its leases.
    fn has_autoconfiguration(&self) -> bool {
        let lends =
            |dhcp: &crate::definition::Dhcp| !dhcp.ranges.is_empty() || !dhcp.hosts.is_empty();
        self.definition
            .ips
            .iter()
            .any(|ip| ip.address.value.is_ipv6() && !ip.dhcp.as_ref().is_some_and(lends))
    }

    /// `<vlan>` means something to a bridge that filters by VLAN, and to no other.
    fn vlans(&self) -> Vec<PortVlan> {
        match self.definition.guest_vlan() {
            Some(vlan) if self.bridge.vlan_filtering == Some(true) => port_vlans(vlan),
            _ => Vec::new(),
        }
    }
}

/// What libvirt 11 makes of `<vlan>` on a Linux bridge (`virNetDevBridgeSetupVlans` in
/// `src/util/virnetdevbridge.c`): one tag is the port's own VLAN, a trunk's are tagged but for the
/// native one.
fn port_vlans(vlan: &Vlan) -> Vec<PortVlan> {
    let is_trunk = vlan.trunk || vlan.tags.len() > 1;
    vlan.tags
        .iter()
        // The kernel has no others (IEEE 802.1Q, table 9-2).
        .filter(|tag| (1..=4094).contains(&tag.id))
        .map(|tag| PortVlan {
            id: tag.id,
            pvid: !is_trunk || tag.native.is_some(),
            untagged: !is_trunk || tag.native == Some(NativeMode::Untagged),
        })
        .collect()
}

impl GuardTables {
    /// What is somebody's whether or not its guest runs.
    fn add_network(&mut self, planner: &Planner<'_>, host: &Snapshot) {
        let bridge = planner.bridge.index;
        let own = planner.bridge.mac.map_or(Mac::BROADCAST, Mac::from_bytes);
        self.macs.insert(MacKey::new(bridge, own), bridge);
        for address in host.addresses_of(bridge) {
            self.hold(bridge, address.address, own);
        }
        for ip in &planner.definition.ips {
            self.hold(bridge, ip.address.value, own);
        }
        for subnet in &planner.network.subnets {
            for address in ends(subnet) {
                self.hold(bridge, address.into(), Mac::BROADCAST);
            }
        }
        for (mac, addresses) in planner.known.iter() {
            let mac = Mac::from_bytes(mac.0);
            self.hold(bridge, mac.link_local().to_addr(), mac);
            for address in addresses {
                self.hold(bridge, *address, mac);
            }
        }
        for route in &planner.network.routes {
            let prefix = &route.destination;
            let address = Address::from_addr(prefix.network());
            let family = if address.is_ipv4() { Address::IPV4_PREFIX_BITS } else { 0 };
            let length = ROUTE_KEY_BRIDGE_BITS + family + u32::from(prefix.prefix_len());
            let key = (length, bridge, bytemuck::cast(address.to_wire()));
            self.routes.insert(key, Address::from_addr(route.gateway));
        }
    }

    fn add_ports(&mut self, bridge: u32, ports: &[PlannedPort]) {
        for port in ports {
            let Some(entry) = port.guard else { continue };
            if entry.mac != Mac::NONE {
                // The first port keeps a MAC address that two claim.
                self.macs.entry(MacKey::new(bridge, entry.mac)).or_insert(port.ifindex);
                self.hold(bridge, entry.mac.link_local().to_addr(), entry.mac);
            }
            self.ports.insert(port.ifindex, entry);
        }
    }

    /// The first holder of an address keeps it.
    fn hold(&mut self, bridge: u32, address: IpAddr, mac: Mac) {
        let key = AddressKey { bridge, address: Address::from_addr(address) };
        let holder = AddressHolder { mac, seen: 0, learned_at: 0, reserved: 0 };
        self.addresses.entry(key).or_insert(holder);
    }
}

#[cfg(test)]
mod tests;
