//! Flows: who talks to whom, and under which name.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use vnet_common::{flow::protocol, reason::DropReason, tcp::State};

use super::{
    Model, Packet, Run,
    mapping::{Mapping, Wanted},
    outcome::Step,
    packet::{Fragment, is_port_translated},
    policy::Owner,
    tcp,
};

/// An address and a port.
pub type Endpoint = (IpAddr, u16);
/// A packet's protocol, source and destination.
pub(super) type Key = (u8, Endpoint, Endpoint);
/// A mapping: protocol, inside, external.
pub(super) type Bound = (u8, Endpoint, Endpoint);
/// A flow's number; no two ever have the same.
pub type Id = u64;

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "none of them says anything of another")]
pub struct Flow {
    /// IP protocol.
    pub protocol: u8,
    /// The guest's endpoint.
    pub inside: Endpoint,
    /// What the outside sees.
    pub external: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// The slot of the guest's network.
    pub network: u16,
    /// Its bridge; 0 if the inside is the host.
    pub bridge: u32,
    /// The way out.
    pub uplink: u32,
    /// The next hop there.
    pub next_hop: IpAddr,
    /// What the way out takes.
    pub mtu_outbound: usize,
    /// What the bridge takes.
    pub mtu_inbound: usize,
    /// When the outbound direction was last judged.
    pub epoch_outbound: u32,
    /// When the inbound direction was last judged.
    pub epoch_inbound: u32,
    /// The connection's state.
    pub state: State,
    /// Behind a guest that routes.
    pub inside_is_routed: bool,
    /// Whether its external port is that of its inside endpoint's mapping; else it is its own.
    pub is_mapped: bool,
    /// Whether it leads to another guest, by way of an external endpoint.
    pub is_hairpin: bool,
    /// Whether the remote has opened it.
    pub is_from_outside: bool,
    /// Whether the inside has sent.
    pub is_answered: bool,
    /// Whether a port forward has let it in.
    pub is_forwarded: bool,
    /// When it last carried a packet of the inside's, in the model's seconds.
    pub last_outbound: u64,
    /// When it last carried a packet of the remote's; `None` if never.
    pub last_inbound: Option<u64>,
    /// Packets and bytes of the inside's.
    pub outbound: (u64, u64),
    /// Packets and bytes of the remote's.
    pub inbound: (u64, u64),
}

/// All flows and mappings.
pub struct Flows {
    /// Seconds that have passed.
    pub now: u64,
    all: BTreeMap<Id, Flow>,
    by_outbound: HashMap<Key, Id>,
    by_inbound: HashMap<Key, Id>,
    pub(super) mappings: Vec<Mapping>,
    next: Id,
    /// Slots of ended flows, with their network and what they wait for: the mapping of its last flow, or
    /// nothing but that time passes.
    pub(super) resting: Vec<(u16, Option<Bound>)>,
}

/// A new flow before it has an external endpoint.
pub(super) struct Opening<'a> {
    pub packet: &'a Packet,
    pub owner: Owner,
    pub way: &'a Way,
    pub inside_is_host: bool,
    pub is_hairpin: bool,
}

/// The way out of a masqueraded packet.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub ifindex: u32,
    pub next_hop: IpAddr,
    pub mtu: usize,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            // Later than anything that has never been used.
            now: 1 << 32,
            all: BTreeMap::new(),
            by_outbound: HashMap::new(),
            by_inbound: HashMap::new(),
            mappings: Vec::new(),
            next: 0,
            resting: Vec::new(),
        }
    }
}

impl Flow {
    fn outbound_key(&self) -> Key {
        (self.protocol, self.inside, self.remote)
    }

    fn inbound_key(&self) -> Key {
        (self.protocol, self.remote, self.external)
    }

    pub(super) fn inside_is_host(&self) -> bool {
        self.bridge == 0
    }

    /// Takes a packet into the account and the state.
    pub(super) fn touch(&mut self, packet: &Packet, outbound: bool, bytes: usize, now: u64) {
        let account = if outbound { &mut self.outbound } else { &mut self.inbound };
        account.0 += 1;
        account.1 += bytes as u64;
        if outbound {
            self.last_outbound = now;
            self.is_answered = true;
        } else {
            self.last_inbound = Some(now);
        }
        if self.protocol == protocol::TCP {
            let after = if self.is_from_outside { tcp::after_from_outside } else { tcp::after };
            self.state = after(self.state, packet.tcp_flags, outbound);
        } else if outbound == self.is_from_outside {
            self.state = State::Established;
        }
    }
}

impl Flows {
    /// A flow by its number.
    #[must_use]
    pub fn get(&self, id: Id) -> Option<&Flow> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Flow> {
        self.all.get_mut(&id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Flow)> {
        self.all.iter().map(|(&id, flow)| (id, flow))
    }

    pub(super) fn outbound(
        &self,
        protocol: u8,
        source: Endpoint,
        destination: Endpoint,
    ) -> Option<Id> {
        self.by_outbound.get(&(protocol, source, destination)).copied()
    }

    pub(super) fn inbound(
        &self,
        protocol: u8,
        source: Endpoint,
        destination: Endpoint,
    ) -> Option<Id> {
        self.by_inbound.get(&(protocol, source, destination)).copied()
    }

    /// Flows of a guest.
    pub(super) fn of_guest(&self, inside: IpAddr) -> usize {
        self.all.values().filter(|flow| flow.inside.0 == inside).count()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn enter(&mut self, flow: Flow) -> Id {
        let id = self.next;
        self.next += 1;
        self.by_outbound.insert(flow.outbound_key(), id);
        self.by_inbound.insert(flow.inbound_key(), id);
        self.all.insert(id, flow);
        id
    }

    /// Ends a flow now.
    pub(super) fn end(&mut self, id: Id) {
        self.end_at(id, self.now);
    }

    /// Ends a flow that should have ended at a time: both keys, and the last one of a mapping leaves that
    /// idle.
    pub(super) fn end_at(&mut self, id: Id, ended: u64) {
        let Some(flow) = self.all.remove(&id) else { return };
        self.by_outbound.remove(&flow.outbound_key());
        self.by_inbound.remove(&flow.inbound_key());
        let mapping = (flow.protocol, flow.inside, flow.external);
        let is_last = flow.is_mapped && self.leave_mapping(mapping, ended);
        self.resting.push((flow.network, is_last.then_some(mapping)));
    }

    /// The external endpoint that an inside one has, for whoever wants to answer it.
    #[must_use]
    pub fn external_of(&self, protocol: u8, inside: Endpoint, external: IpAddr) -> Option<u16> {
        let mapping = self.mappings.iter().find(|mapping| {
            mapping.protocol == protocol
                && mapping.inside == inside
                && mapping.external.0 == external
        });
        mapping.map(|mapping| mapping.external.1)
    }
}

/// Whether a NAT knows flows of such packets; the flow's endpoints if so.
pub(super) fn endpoints(packet: &Packet, outbound: bool) -> Option<(Endpoint, Endpoint)> {
    use vnet_common::icmp::Kind;
    let has_flow = !packet.follows_its_first()
        && match packet.protocol {
            number if number == packet.icmp_number() => {
                packet.icmp == if outbound { Kind::Request } else { Kind::Reply }
            }
            protocol::ICMP | protocol::ICMPV6 => false,
            _ => true,
        };
    let source = (packet.source, packet.source_port);
    has_flow.then_some((source, (packet.destination, packet.destination_port)))
}

impl Model {
    /// The flow of a packet as it stands: by its endpoints, or by the first fragment of its datagram.
    pub(super) fn find(&mut self, packet: &Packet, outbound: bool) -> Option<Id> {
        if packet.follows_its_first() {
            let id = self.fragments.flow_of(packet, outbound)?;
            return self.flows.get(id).map(|_| id);
        }
        let (source, destination) = endpoints(packet, outbound)?;
        let id = if outbound {
            self.flows.outbound(packet.protocol, source, destination)
        } else {
            self.flows.inbound(packet.protocol, source, destination)
        }?;
        if packet.fragment == Fragment::First {
            self.fragments.remember(packet, outbound, Some(id));
        }
        Some(id)
    }

    /// Opens a flow, or says why there is none.
    pub(super) fn open(&mut self, run: &Run<'_>, opening: &Opening<'_>) -> Step<Id> {
        let Opening { packet, owner, way, inside_is_host, is_hairpin } = *opening;
        let external = self
            .external_address(packet.source, owner.slot, way)
            .ok_or(DropReason::NoExternalAddress)?;
        let Some((inside, remote)) = endpoints(packet, true) else {
            return Err(unsupported(packet).into());
        };
        if packet.protocol == protocol::TCP && !tcp::may_open(packet.tcp_flags) {
            return Err(DropReason::NoFlow.into());
        }
        self.refuse_over_guest_limit(packet.source, owner.slot)?;
        let is_forwarded = self.world.forward_of(packet.protocol, (external, inside.1)).is_some();
        if is_forwarded && !is_port_translated(packet.protocol) {
            return Err(DropReason::FlowConflict.into());
        }
        self.refuse_over_limits(run, owner.slot)?;
        let (port, is_mapped) = if is_port_translated(packet.protocol) {
            let wanted = Wanted { packet, slot: owner.slot, uplink: way.ifindex, inside, remote };
            self.translated_port(run, &wanted, external)?
        } else {
            // There is no other.
            let is_taken =
                self.flows.inbound(packet.protocol, remote, (external, inside.1)).is_some()
                    || self.is_the_hosts(owner.slot, packet.protocol, remote, (external, inside.1));
            if is_taken {
                return Err(DropReason::FlowConflict.into());
            }
            (inside.1, false)
        };
        let mtu_inbound = self.world.network(owner.slot).map_or(0, |network| network.mtu.into());
        let id = self.flows.enter(Flow {
            protocol: packet.protocol,
            inside,
            external: (external, port),
            remote,
            network: owner.slot,
            bridge: if inside_is_host { 0 } else { self.world.bridge_of(owner.slot) },
            uplink: way.ifindex,
            next_hop: way.next_hop,
            mtu_outbound: way.mtu,
            mtu_inbound,
            epoch_outbound: self.world.config.epoch,
            epoch_inbound: self.world.config.epoch,
            state: State::Opening,
            inside_is_routed: owner.behind_guest,
            is_mapped,
            is_hairpin,
            is_from_outside: false,
            is_answered: true,
            is_forwarded: false,
            last_outbound: self.flows.now,
            last_inbound: None,
            outbound: (0, 0),
            inbound: (0, 0),
        });
        if packet.fragment == Fragment::First {
            self.fragments.remember(packet, true, Some(id));
        }
        Ok(id)
    }

    /// Keeps what later fragments from outside need of their first.
    pub(super) fn remember_first(&mut self, packet: &Packet, id: Id) {
        self.fragments.remember(packet, false, Some(id));
    }

    /// Refuses a flow beyond the guest's limit.
    fn refuse_over_guest_limit(&self, inside: IpAddr, slot: u16) -> Step<()> {
        let limit = self.world.network(slot).map_or(0, |network| network.flows_per_guest);
        if self.flows.of_guest(inside) >= limit as usize {
            return Err(DropReason::GuestFlowLimit.into());
        }
        Ok(())
    }

    /// Refuses a flow without a place in the table.
    pub(super) fn refuse_over_limits(&mut self, run: &Run<'_>, slot: u16) -> Step<()> {
        let limit = self.world.network(slot).map_or(0, |network| network.flow_limit);
        if self.is_full(run, limit, |network| network == slot) {
            return Err(DropReason::NetworkFlowLimit.into());
        }
        if self.is_full(run, self.world.config.session_limit, |_| true) {
            return Err(DropReason::FlowTableFull.into());
        }
        Ok(())
    }

    /// Whether flows and ports of some networks that are held down have as many slots as they may have.
    fn is_full(&self, run: &Run<'_>, limit: u32, counts: impl Fn(u16) -> bool) -> bool {
        let limit = limit as usize;
        let flows = self.flows.iter().filter(|(_, flow)| counts(flow.network)).count();
        let mappings = self.flows.mappings.iter().filter(|one| counts(one.network));
        let held_down = mappings.filter(|one| one.idle_since.is_some()).count();
        let resting = self.flows.resting.iter().filter(|(network, _)| counts(*network)).count();
        // A slot that has just been left may rest.
        flows + held_down >= limit
            || (flows + resting >= limit && run.seen.is_refusal_of(run.arrival.frame))
    }
}

fn unsupported(packet: &Packet) -> DropReason {
    if packet.fragment == Fragment::Later {
        DropReason::LostFragment
    } else if packet.is_icmp() {
        DropReason::UnsupportedIcmp
    } else {
        DropReason::UnsupportedProtocol
    }
}
