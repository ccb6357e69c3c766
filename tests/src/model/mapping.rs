//! Mappings: the external endpoint of an inside one, whoever the remote is (RFC 4787, REQ-1).

use std::net::IpAddr;

use vnet_common::{
    network::{Network, Uplink},
    port::PortRange,
    reason::DropReason,
};

use super::{
    Endpoint, Flow, Flows, Model, Packet, Run, flow::Way, outcome::Step,
    rewrite::source_port_offset, world::Prefix,
};

/// A mapping.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub protocol: u8,
    pub inside: Endpoint,
    pub external: Endpoint,
    pub network: u16,
    /// When its last flow ended; `None` while it has flows.
    pub idle_since: Option<u64>,
}

impl Flows {
    pub(super) fn leave_mapping(&mut self, flow: &Flow) {
        let now = self.now;
        for mapping in &mut self.mappings {
            if mapping.protocol == flow.protocol
                && mapping.inside == flow.inside
                && mapping.external == flow.external
            {
                mapping.idle_since = Some(now);
            }
        }
    }

    pub(super) fn join_mapping(
        &mut self,
        protocol: u8,
        inside: Endpoint,
        external: Endpoint,
        network: u16,
    ) {
        let existing = self.mappings.iter_mut().find(|mapping| {
            mapping.protocol == protocol && mapping.inside == inside && mapping.external == external
        });
        match existing {
            Some(mapping) => mapping.idle_since = None,
            None => self.mappings.push(Mapping {
                protocol,
                inside,
                external,
                network,
                idle_since: None,
            }),
        }
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
        let Some(network) = self.world.network(flow.network) else { return false };
        if let (IpAddr::V4(address), true, 0) =
            (external, network.pool().is_some(), self.world.network_of_bridge(flow.uplink))
        {
            return network.pool().contains(vnet_common::address::Ipv4Be::from_addr(address));
        }
        let Some(uplink) = self.world.uplinks.get(&flow.uplink) else { return false };
        addresses(uplink, external.is_ipv4()).iter().any(|prefix| prefix.address == external)
    }

    /// The external port of a new flow: the mapping's; else the inside's own; else any free one.
    pub(super) fn port_for(
        &self,
        packet: &Packet,
        slot: u16,
        inside: Endpoint,
        external: IpAddr,
    ) -> Step<Port> {
        let protocol = packet.protocol;
        if let Some(port) = self.flows.external_of(protocol, inside, external) {
            return Ok(Port::Known(port));
        }
        let (range, reserved) = if packet.is_icmp() {
            (PortRange::ALL, PortRange::EMPTY)
        } else {
            let ports = self.world.network(slot).map_or(PortRange::EMPTY, |network| network.ports);
            (ports, self.world.config.host_ports)
        };
        let is_free = |port: u16| {
            range.contains(port)
                && !reserved.contains(port)
                && !self.flows.is_held(protocol, (external, port))
                && !self.world.has_socket(protocol, external, port)
        };
        if is_free(inside.1) {
            return Ok(Port::Known(inside.1));
        }
        let usable = (range.len() - range.overlap(reserved).len()) as usize;
        let taken = self.flows.mappings.len() + self.world.sockets.len();
        // Too many to be all taken.
        if usable > 2 * taken {
            return Ok(Port::Any { range, reserved, may_refuse: false });
        }
        if !(range.first..=range.last).any(is_free) {
            return Err(DropReason::PortsExhausted.into());
        }
        Ok(Port::Any { range, reserved, may_refuse: true })
    }

    /// The port that the datapath has chosen.
    pub(super) fn chosen(
        &mut self,
        run: &Run<'_>,
        packet: &Packet,
        external: IpAddr,
        port: Port,
    ) -> Step<u16> {
        let (range, reserved, may_refuse) = match port {
            Port::Known(port) => return Ok(port),
            Port::Any { range, reserved, may_refuse } => (range, reserved, may_refuse),
        };
        if run.seen.is_refusal() && may_refuse {
            return Err(DropReason::PortsExhausted.into());
        }
        let chosen = run.seen.word(source_port_offset(packet));
        let is_legal = |port: u16| {
            range.contains(port)
                && !reserved.contains(port)
                && !self.flows.is_held(packet.protocol, (external, port))
                && !self.world.has_socket(packet.protocol, external, port)
        };
        match chosen {
            Some(port) if is_legal(port) => Ok(port),
            _ => {
                self.objections.push(format!(
                    "external port {chosen:?} of {external} is not a free one of {range:?} without \
                     {reserved:?}"
                ));
                Err(DropReason::PortsExhausted.into())
            }
        }
    }
}

/// The external port of a new flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Port {
    /// This one.
    Known(u16),
    /// A free one of a range, whichever the datapath takes.
    Any {
        range: PortRange,
        reserved: PortRange,
        /// So many are taken that a search may miss the last ones.
        may_refuse: bool,
    },
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
