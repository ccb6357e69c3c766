//! Mappings: the external endpoint of an inside one, whoever the remote is (RFC 4787, REQ-1).

use std::net::IpAddr;

use vnet_common::{
    network::{Network, Uplink},
    port::PortRange,
    reason::DropReason,
};

use super::{
    Endpoint, Flow, Flows, Model, Packet, Run,
    flow::{Bound, Way},
    outcome::Step,
    rewrite::source_port_offset,
    world::Prefix,
};

/// A mapping.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub protocol: u8,
    pub inside: Endpoint,
    pub external: Endpoint,
    pub network: u16,
    /// Where its first flow went out.
    pub uplink: u32,
    /// When the latest of its flows to end ended, and while it has none since when.
    pub last_used: u64,
    /// As `last_used`; `None` while it has flows.
    pub idle_since: Option<u64>,
}

impl Flows {
    /// Takes a flow off a mapping; whether it was the last one.
    pub(super) fn leave_mapping(
        &mut self,
        (protocol, inside, external): Bound,
        ended: u64,
    ) -> bool {
        let is_used = self.iter().any(|(_, flow)| {
            flow.is_mapped
                && (flow.protocol, flow.inside, flow.external) == (protocol, inside, external)
        });
        let mapping = self.mappings.iter_mut().find(|mapping| {
            mapping.protocol == protocol && mapping.inside == inside && mapping.external == external
        });
        let Some(mapping) = mapping else { return false };
        mapping.last_used = mapping.last_used.max(ended);
        if !is_used {
            mapping.idle_since = Some(mapping.last_used);
        }
        !is_used
    }

    /// Every mapping, also those that are held down: protocol, inside, external.
    #[must_use]
    pub fn mapped(&self) -> Vec<(u8, Endpoint, Endpoint)> {
        self.mappings.iter().map(|one| (one.protocol, one.inside, one.external)).collect()
    }

    fn is_held(&self, protocol: u8, external: Endpoint) -> bool {
        self.mappings.iter().any(|one| one.protocol == protocol && one.external == external)
    }
}

impl Model {
    /// The address that a guest is masqueraded to at an uplink.
    pub(super) fn external_address(&self, inside: IpAddr, slot: u16, way: &Way) -> Option<IpAddr> {
        let network = self.world.network(slot)?;
        if let Some(address) = self.pool_address(network, inside, way.ifindex) {
            return Some(address);
        }
        let addresses = addresses(self.world.uplinks.get(&way.ifindex)?, inside.is_ipv4());
        // As the kernel's own masquerade: one that the next hop has on its link, else the first.
        let near = addresses.iter().find(|prefix| prefix.contains(way.next_hop));
        near.or_else(|| addresses.first()).map(|prefix| prefix.address)
    }

    /// The address of a pool; networks of this host see an address of their bridge instead.
    fn pool_address(&self, network: &Network, inside: IpAddr, uplink: u32) -> Option<IpAddr> {
        let IpAddr::V4(inside) = inside else { return None };
        if self.world.network_of_bridge(uplink) != 0 || !network.pool().is_some() {
            return None;
        }
        let inside = vnet_common::address::Ipv4Be::from_addr(inside);
        Some(network.pool().pick(inside).to_addr().into())
    }

    /// Whether a flow's external address is still there to be masqueraded to.
    pub(super) fn keeps_external(&self, flow: &Flow) -> bool {
        let external = flow.external.0;
        if flow.is_forwarded {
            let forward = self.world.forward_of(flow.protocol, flow.external);
            return forward.is_some_and(|forward| {
                forward.inside == flow.inside && forward.network == flow.network
            });
        }
        let Some(network) = self.world.network(flow.network) else { return false };
        if let (IpAddr::V4(address), true, 0) =
            (external, network.pool().is_some(), self.world.network_of_bridge(flow.uplink))
        {
            return network.pool().contains(vnet_common::address::Ipv4Be::from_addr(address));
        }
        let Some(uplink) = self.world.uplinks.get(&flow.uplink) else { return false };
        addresses(uplink, external.is_ipv4()).iter().any(|prefix| prefix.address == external)
    }

    /// The external port of a new flow, and whether it is that of a mapping. The inside's mapping, else a
    /// new one: to the inside's own port, else to any free one; and where that cannot be, a port that
    /// the flow shares with flows to other remotes.
    pub(super) fn translated_port(
        &mut self,
        run: &Run<'_>,
        wanted: &Wanted<'_>,
        external: IpAddr,
    ) -> Step<(u16, bool)> {
        let protocol = wanted.packet.protocol;
        let mapped = self.flows.external_of(protocol, wanted.inside, external);
        let port = match mapped {
            Some(port) => Some(port),
            None => self.new_port(run, wanted, external),
        };
        let Some(port) = port.filter(|&port| !self.is_taken(wanted, (external, port))) else {
            return self.shared_port(run, wanted, external).map(|port| (port, false));
        };
        let endpoint = (external, port);
        if mapped.is_none() {
            self.flows.mappings.push(Mapping {
                protocol,
                inside: wanted.inside,
                external: endpoint,
                network: wanted.slot,
                uplink: wanted.uplink,
                last_used: 0,
                idle_since: None,
            });
        }
        let is_it = |one: &&mut Mapping| {
            (one.protocol, one.inside, one.external) == (protocol, wanted.inside, endpoint)
        };
        if let Some(mapping) = self.flows.mappings.iter_mut().find(is_it) {
            mapping.idle_since = None;
        }
        Ok((port, true))
    }

    /// Whether the port of a mapping is no use with a flow's remote.
    fn is_taken(&self, wanted: &Wanted<'_>, endpoint: Endpoint) -> bool {
        let Wanted { packet, slot, remote, .. } = *wanted;
        // A socket of the host's was looked for when the mapping was made.
        let is_the_hosts = !matches!(packet.protocol, 6 | 17)
            && self.is_the_hosts(slot, packet.protocol, remote, endpoint);
        is_the_hosts || self.flows.inbound(packet.protocol, remote, endpoint).is_some()
    }

    /// The port of a new mapping; `None` if there is none.
    fn new_port(&mut self, run: &Run<'_>, wanted: &Wanted<'_>, external: IpAddr) -> Option<u16> {
        let Wanted { packet, slot, inside, remote, .. } = *wanted;
        let limit = self.world.network(slot).map_or(0, |network| network.ports_per_guest) as usize;
        let of_guest = self.flows.mappings.iter().filter(|one| one.inside.0 == inside.0);
        if of_guest.count() >= limit {
            return None;
        }
        let range = self.range(packet, slot);
        let is_free = |port: u16| {
            range.contains(port)
                && !self.flows.is_held(packet.protocol, (external, port))
                && self.world.forward_of(packet.protocol, (external, port)).is_none()
                && !self.is_the_hosts(slot, packet.protocol, remote, (external, port))
        };
        if is_free(inside.1) {
            return Some(inside.1);
        }
        let chosen = (run.seen.mapping)(packet.protocol, inside, external);
        let Some(chosen) = chosen else {
            // A search may meet the host's sockets too often before it meets the last free ports, and one
            // that its remote has a flow at.
            let (free, all) = range.count(is_free);
            let is_taken = |port| is_free(port) && self.is_taken(wanted, (external, port));
            if 4 * free > 3 * all && range.count(is_taken).0 == 0 {
                self.objections.push(format!("no port of {range:?} at {external}"));
            }
            return None;
        };
        if !is_free(chosen) {
            self.objections
                .push(format!("port {chosen} of {external} is not a free one of {range:?}"));
        }
        Some(chosen)
    }

    /// The port of a flow that has to share one: whichever the datapath takes at which its remote has no
    /// flow.
    fn shared_port(&mut self, run: &Run<'_>, wanted: &Wanted<'_>, external: IpAddr) -> Step<u16> {
        let Wanted { packet, slot, inside, remote, .. } = *wanted;
        let range = self.range(packet, slot);
        let is_legal = |port: u16| {
            let endpoint = (external, port);
            // Late answers to another guest are none of this one's business (RFC 6888, REQ-8).
            let is_held_down = self.flows.mappings.iter().any(|one| {
                one.protocol == packet.protocol
                    && one.external == endpoint
                    && one.inside.0 != inside.0
                    && one.idle_since.is_some()
            });
            range.contains(port)
                && self.flows.inbound(packet.protocol, remote, endpoint).is_none()
                && !is_held_down
                && self.world.forward_of(packet.protocol, endpoint).is_none()
                && !self.is_the_hosts(slot, packet.protocol, remote, endpoint)
        };
        if run.seen.is_refusal_of(run.arrival.frame) {
            let (legal, all) = range.count(is_legal);
            // It looks for one at random, and not for ever.
            if 4 * legal > 3 * all {
                self.objections.push(format!("no port of {range:?} to share at {external}"));
            }
            return Err(DropReason::PortsExhausted.into());
        }
        let chosen = run.seen.word(source_port_offset(packet));
        match chosen {
            Some(port) if is_legal(port) => {
                self.tried.push("(flow that shares its port)");
                Ok(port)
            }
            _ => {
                self.objections.push(format!("port {chosen:?} of {external} may not be shared"));
                Err(DropReason::PortsExhausted.into())
            }
        }
    }

    /// Ports that a packet's flow may be given.
    fn range(&self, packet: &Packet, slot: u16) -> Usable {
        if packet.is_icmp() {
            return Usable { range: PortRange::ALL, reserved: PortRange::EMPTY };
        }
        let range = self.world.network(slot).map_or(PortRange::EMPTY, |network| network.ports);
        Usable { range, reserved: self.world.config.host_ports }
    }

    /// The mapping behind an external endpoint, if there is one that has not been deleted.
    pub(super) fn holder(&self, protocol: u8, external: Endpoint) -> Option<&Mapping> {
        let mut mappings = self.flows.mappings.iter();
        mappings.find(|one| one.protocol == protocol && one.external == external)
    }
}

/// What a flow needs a port for.
pub(super) struct Wanted<'a> {
    pub packet: &'a Packet,
    pub slot: u16,
    pub uplink: u32,
    pub inside: Endpoint,
    pub remote: Endpoint,
}

/// A range without what is reserved in it.
#[derive(Clone, Copy, Debug)]
struct Usable {
    range: PortRange,
    reserved: PortRange,
}

impl Usable {
    fn contains(self, port: u16) -> bool {
        self.range.contains(port) && !self.reserved.contains(port)
    }

    /// How many are so, and how many there are.
    fn count(self, is_so: impl Fn(u16) -> bool) -> (usize, usize) {
        let all = (self.range.first..=self.range.last).filter(|&port| self.contains(port));
        let (mut so, mut count) = (0, 0);
        for port in all {
            count += 1;
            so += usize::from(is_so(port));
        }
        (so, count)
    }
}

fn addresses(uplink: &Uplink, ipv4: bool) -> Vec<Prefix> {
    if ipv4 {
        let count = uplink.address_count as usize;
        let prefix = |one: &vnet_common::network::UplinkAddress| Prefix {
            address: one.address.to_addr().into(),
            length: one.prefix_length,
        };
        uplink.addresses[..count].iter().map(prefix).collect()
    } else {
        let count = uplink.address_count_ipv6 as usize;
        let prefix = |one: &vnet_common::network::UplinkAddress<_>| {
            let address: vnet_common::address::Address = one.address;
            Prefix { address: address.to_addr(), length: one.prefix_length }
        };
        uplink.addresses_ipv6[..count].iter().map(prefix).collect()
    }
}

/// The first address of an uplink.
pub(super) fn first_address(uplink: &Uplink, ipv4: bool) -> Option<IpAddr> {
    addresses(uplink, ipv4).first().map(|prefix| prefix.address)
}

impl Model {
    /// The external endpoint of an inside one at an uplink; the uplink's address and the same port if it
    /// has none.
    #[must_use]
    pub fn external(&self, protocol: u8, inside: Endpoint, uplink: u32) -> Endpoint {
        let own = self.world.uplinks.get(&uplink);
        let own = own.and_then(|uplink| first_address(uplink, inside.0.is_ipv4()));
        let of_inside = |one: &&Mapping| one.protocol == protocol && one.inside == inside;
        let mut mappings = self.flows.mappings.iter().filter(of_inside);
        let best = mappings.clone().find(|one| Some(one.external.0) == own);
        if let Some(mapping) = best.or_else(|| mappings.next()) {
            return mapping.external;
        }
        (own.unwrap_or(inside.0), inside.1)
    }
}
