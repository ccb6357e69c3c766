//! Who sends from outside to where a guest is: by a port forward, or to a mapping that anybody may send to.

use vnet_common::{
    flow::{protocol, share_of_outside},
    network::NETWORK_ENDPOINT_INDEPENDENT,
    reason::DropReason,
    tcp::{State, flags},
};

use super::{
    Endpoint, Flow, Model, Packet, Run, World, flow::Id, outcome::Step, packet::Fragment,
    policy::Verdict,
};

/// What lets a stranger in, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Forward,
    Open,
    Filtered,
}

/// A guest behind an external endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    pub door: Door,
    pub inside: Endpoint,
    pub uplink: u32,
    pub network: u16,
}

/// A port forward.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// IP protocol.
    pub protocol: u8,
    /// Where strangers send to.
    pub external: Endpoint,
    /// Where it leads.
    pub inside: Endpoint,
    /// The uplink that has the external address.
    pub uplink: u32,
    /// The slot of the guest's network.
    pub network: u16,
}

impl World {
    pub(super) fn forward_of(&self, protocol: u8, external: Endpoint) -> Option<&Forward> {
        let is_it = |one: &&Forward| one.protocol == protocol && one.external == external;
        self.forwards.iter().find(is_it)
    }
}

/// Whether a packet from outside may be the first of a flow.
pub(super) fn may_be_first(packet: &Packet) -> bool {
    let is_start = packet.fragment != Fragment::Later;
    match packet.protocol {
        protocol::TCP => {
            let of_interest = flags::SYN | flags::ACK | flags::RST | flags::FIN;
            is_start && packet.tcp_flags & of_interest == flags::SYN
        }
        protocol::UDP | protocol::SCTP => is_start,
        _ => false,
    }
}

impl Model {
    /// The guest behind the endpoint that a packet is for.
    pub(super) fn behind(&self, packet: &Packet) -> Option<Behind> {
        let remote = (packet.source, packet.source_port);
        let external = (packet.destination, packet.destination_port);
        if let Some(forward) = self.world.forward_of(packet.protocol, external) {
            let Forward { inside, uplink, network, .. } = *forward;
            if self.host_talks(network, packet.protocol, remote, external) {
                return None;
            }
            return Some(Behind { door: Door::Forward, inside, uplink, network });
        }
        let holder = self.holder(packet.protocol, external)?;
        // Strangers alone do not keep it open.
        let is_held_open = self.flows.iter().any(|(_, flow)| {
            flow.is_mapped
                && flow.is_answered
                && (flow.protocol, flow.inside, flow.external)
                    == (packet.protocol, holder.inside, external)
        });
        if !is_held_open || self.is_the_hosts(holder.network, packet.protocol, remote, external) {
            return None;
        }
        let flags = self.world.network(holder.network).map_or(0, |network| network.flags);
        let is_open = flags & NETWORK_ENDPOINT_INDEPENDENT != 0;
        Some(Behind {
            door: if is_open { Door::Open } else { Door::Filtered },
            inside: holder.inside,
            uplink: holder.uplink,
            network: holder.network,
        })
    }

    /// On whose account a packet goes that no guest gets.
    pub(super) fn network_behind(&self, packet: &Packet) -> u16 {
        let external = (packet.destination, packet.destination_port);
        if let Some(forward) = self.world.forward_of(packet.protocol, external) {
            return forward.network;
        }
        self.holder(packet.protocol, external).map_or(0, |holder| holder.network)
    }

    /// Opens the flow of a stranger's packet, if the policy lets it in.
    pub(super) fn admit(
        &mut self,
        run: &mut Run<'_>,
        packet: &Packet,
        behind: Behind,
    ) -> Step<Option<Id>> {
        let Behind { door, inside, mut uplink, network } = behind;
        if door == Door::Filtered {
            return Ok(None);
        }
        let world = &self.world;
        let owner = world.owner_of(inside.0);
        let arrived_at = run.arrived_at();
        let from = world.end_of_network(owner.slot);
        let is_masqueraded = |ifindex| {
            let to = world.end_of_interface(ifindex);
            world.verdict(from, to, packet.family) == Verdict::Masquerade
        };
        let is_bridge = |ifindex| world.network_of_bridge(ifindex) != 0;
        if owner.slot != network || network == 0 || owner.is_host || !is_masqueraded(arrived_at) {
            return Ok(None);
        }
        if door == Door::Forward {
            uplink = arrived_at;
        } else if uplink != arrived_at
            && (is_bridge(uplink) || is_bridge(arrived_at) || !is_masqueraded(uplink))
        {
            return Ok(None);
        }
        run.network = network;
        let limit = world.network(network).map_or(0, |network| network.flows_per_guest);
        let strangers =
            self.flows.iter().filter(|(_, flow)| flow.inside.0 == inside.0 && flow.is_from_outside);
        let all = self.flows.of_guest(inside.0);
        if all >= limit as usize || strangers.count() >= share_of_outside(limit) as usize {
            return Err(DropReason::GuestFlowLimit.into());
        }
        self.refuse_over_limits(run, network)?;
        let remote = (packet.source, packet.source_port);
        let external = (packet.destination, packet.destination_port);
        if let Some(id) = self.flows.outbound(packet.protocol, inside, remote) {
            // The guest talks to that remote already.
            let is_it = self.flows.get(id).is_some_and(|flow| flow.external == external);
            return if is_it { Ok(Some(id)) } else { Err(DropReason::FlowConflict.into()) };
        }
        if self.flows.inbound(packet.protocol, remote, external).is_some() {
            let is_forward = door == Door::Forward;
            let reason =
                if is_forward { DropReason::FlowConflict } else { DropReason::PortsExhausted };
            return Err(reason.into());
        }
        self.tried.push(match (door, run.turned_at) {
            (Door::Forward, None) => "(stranger let in by a forward)",
            (Door::Forward, Some(_)) => "(guest let in by a forward)",
            (_, None) => "(stranger let in by an open mapping)",
            (_, Some(_)) => "(guest let in by an open mapping)",
        });
        let id = self.flows.enter(Flow {
            protocol: packet.protocol,
            inside,
            external,
            remote,
            network,
            bridge: self.world.bridge_of(network),
            uplink,
            next_hop: packet.source,
            mtu_outbound: 0,
            mtu_inbound: self.world.network(network).map_or(0, |network| network.mtu.into()),
            // The first answer is judged and routed.
            epoch_outbound: 0,
            epoch_inbound: 0,
            state: State::Opening,
            inside_is_routed: owner.behind_guest,
            is_mapped: door == Door::Open,
            is_hairpin: run.turned_at.is_some(),
            is_from_outside: true,
            is_answered: false,
            is_forwarded: door == Door::Forward,
            last_outbound: self.flows.now,
            last_inbound: None,
            outbound: (0, 0),
            inbound: (0, 0),
        });
        if packet.fragment == Fragment::First {
            self.remember_first(packet, id);
        }
        Ok(Some(id))
    }
}
