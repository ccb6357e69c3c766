//! Finding, opening, touching and ending flows.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_coarse_ns, maps::HashMap};
use bytemuck::{Pod, Zeroable};
use vnet_common::{
    address::{Address, PortBe},
    flow::{
        Direction, FLAG_FROM_OUTSIDE, FLAG_UNMAPPED, FlowKey, FlowSlot, GUEST_GONE, GuestUsage,
        MappingKey, Phase, SessionCursor, Translation, protocol,
    },
    reason::DropReason,
    tcp::{self, State},
};

use crate::{
    atomic::SharedWord,
    expire,
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    mapping,
    maps::{self, DEPARTURES, FLOWS, FLOWS_IPV6, FREE_SESSIONS, GUESTS, NETWORKS, SESSION_CURSOR},
    outcome,
    parse::Packet,
    session::SessionSlot,
    skb::Skb,
};

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE`: a few milliseconds coarse, and cheap.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The live session of a key.
#[inline(always)]
pub fn find<V: Ip>(key: &FlowKey<V::Address>) -> Option<SessionSlot> {
    SessionSlot::live(V::flow_slot(key)?)
}

/// What a new flow is made of. Lives in a per-CPU map, because the stack is small.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct NewFlow {
    /// The inside endpoint and the external address.
    pub mapping: MappingKey,
    pub next_hop: Address,
    pub remote: Address,
    /// The bridge where the inside lives; 0 if the inside is the host.
    pub bridge_ifindex: u32,
    pub uplink_ifindex: u32,
    /// The epoch in which it was routed; 0 if the next packet is to be judged again.
    pub epoch: u32,
    /// Filled once the mapping is acquired.
    pub external_port: PortBe,
    pub remote_port: PortBe,
    pub mtu: u16,
    /// Slot of the network.
    pub network: u16,
    pub flags: u8,
    pub reserved: [u8; 3],
}

impl NewFlow {
    #[inline(always)]
    fn outbound_key<V: Ip>(&self) -> FlowKey<V::Address> {
        let inside = (V::narrow(self.mapping.inside), self.mapping.inside_port);
        let remote = (V::narrow(self.remote), self.remote_port);
        FlowKey::outbound(self.mapping.protocol, inside, remote)
    }

    #[inline(always)]
    fn inbound_key<V: Ip>(&self) -> FlowKey<V::Address> {
        let external = (V::narrow(self.mapping.external), self.external_port);
        let remote = (V::narrow(self.remote), self.remote_port);
        FlowKey::inbound(self.mapping.protocol, remote, external)
    }
}

/// Opens a flow: takes a mapping, a place on the guest's account, a slot and both keys, or nothing.
/// Returns the slot's index.
#[inline(always)]
pub fn open<V: Ip>(skb: Skb, packet: &Packet<V>, new: &mut NewFlow) -> Result<u32, DropReason> {
    if packet.flow_key(Direction::Outbound).is_none() {
        return Err(unsupported(packet));
    }
    if packet.protocol == protocol::TCP && !tcp::may_open(packet.tcp_flags) {
        return Err(DropReason::NoFlow);
    }
    expire::on_demand(now());
    if new.flags & FLAG_UNMAPPED != 0 {
        // The external endpoint is given.
    } else if Translation::of(packet.protocol) == Translation::Port {
        new.external_port = mapping::acquire(skb, new)?;
    } else {
        new.flags |= FLAG_UNMAPPED;
        new.external_port = new.mapping.inside_port;
    }
    match outcome::decode(vnet_open_session(new)) {
        Ok(index) => Ok(index),
        // Another CPU may just have opened the same flow.
        Err(DropReason::FlowConflict) => {
            find_opened::<V>(new).checked_sub(1).ok_or(DropReason::FlowConflict)
        }
        Err(reason) => Err(reason),
    }
}

/// The live flow that another CPU has opened: its slot and one; 0 for none. A function of its own for
/// the sake of the stack.
#[inline(never)]
fn find_opened<V: Ip>(new: &NewFlow) -> u32 {
    match V::flow_slot(&new.outbound_key::<V>()) {
        Some(slot) if SessionSlot::live(slot).is_some() => slot.index + 1,
        _ => 0,
    }
}

/// Enters a flow whose mapping is acquired into the table; releases the mapping if it cannot.
///
/// A global function: the verifier checks it once instead of at every call, and it has a stack
/// frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_open_session(new: *const NewFlow) -> u64 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    let now = now();
    let entered = enter_guest(new).and_then(|()| {
        let entered = enter_session(new, now);
        if entered.is_err() {
            leave_guest(&new.mapping.inside);
        }
        entered
    });
    if entered.is_err() && new.flags & FLAG_UNMAPPED == 0 {
        mapping::abandon(&new.mapping, new.network, now);
    }
    outcome::encode(entered)
}

#[inline(always)]
fn enter_session(new: &NewFlow, now: u64) -> Result<u32, DropReason> {
    let (index, session) = take_slot().ok_or(DropReason::FlowTableFull)?;
    let generation = session.generation().wrapping_add(1);
    session.set_phase(Phase::Filling as u32);
    session.set_generation(generation);
    session.set_epoch_outbound(new.epoch);
    session.set_epoch_inbound(new.epoch);
    session.set_bridge_ifindex(new.bridge_ifindex);
    session.set_uplink_ifindex(new.uplink_ifindex);
    session.set_protocol(new.mapping.protocol);
    session.set_state(State::Opening as u8);
    session.set_flags(new.flags);
    session.set_network(new.network);
    session.set_mtu_outbound(new.mtu);
    session.set_mtu_inbound(NETWORKS.get(u32::from(new.network)).map_or(0, |network| network.mtu));
    session.set_inside_port(new.mapping.inside_port);
    session.set_external_port(new.external_port);
    session.set_remote_port(new.remote_port);
    session.set_next_hop(new.next_hop);
    session.set_inside(new.mapping.inside);
    session.set_external(new.mapping.external);
    session.set_remote(new.remote);
    session.set_last_outbound(now);
    session.set_last_inbound(0);
    session.set_since(now);
    session.clear_traffic();
    session.set_phase(Phase::Live as u32);

    let slot = FlowSlot { index, generation };
    let entered = if new.mapping.inside.is_ipv4() {
        enter_keys(&FLOWS, &new.outbound_key::<Ipv4>(), &new.inbound_key::<Ipv4>(), slot)
    } else {
        enter_keys(&FLOWS_IPV6, &new.outbound_key::<Ipv6>(), &new.inbound_key::<Ipv6>(), slot)
    };
    if entered {
        return Ok(index);
    }
    give_back(session, index);
    Err(DropReason::FlowConflict)
}

/// Enters both keys or none.
#[inline(always)]
fn enter_keys<K>(flows: &HashMap<K, FlowSlot>, outbound: &K, inbound: &K, slot: FlowSlot) -> bool {
    if flows.insert(outbound, slot, u64::from(BPF_NOEXIST)).is_err() {
        return false;
    }
    let entered = flows.insert(inbound, slot, u64::from(BPF_NOEXIST)).is_ok();
    if !entered {
        let _ = flows.remove(outbound);
    }
    entered
}

/// Accounts a packet to its flow and takes the connection's state along.
#[inline(always)]
pub fn touch<V: Ip>(session: SessionSlot, packet: &Packet<V>, direction: Direction, bytes: u32) {
    session.count(direction, bytes);
    let now = now();
    let outbound = matches!(direction, Direction::Outbound);
    if outbound {
        session.set_last_outbound(now);
    } else {
        session.set_last_inbound(now);
    }
    let state = State::from_byte(session.state());
    let from_outside = session.flags() & FLAG_FROM_OUTSIDE != 0;
    let next = match (packet.protocol, from_outside) {
        (protocol::TCP, false) => tcp::advance(state, packet.tcp_flags, outbound),
        (protocol::TCP, true) => tcp::advance_from_outside(state, packet.tcp_flags, outbound),
        // Whoever has not sent first answers.
        _ if outbound == from_outside => State::Established,
        _ => state,
    };
    if next as u8 != state as u8 {
        session.set_state(next as u8);
    }
}

/// Ends a live session: both keys, the guest's account and the mapping's reference go; the slot
/// rests until nobody can still read it. `false` if it was not live. A function of its own for the
/// sake of the stack.
#[inline(never)]
pub fn end(session: SessionSlot, now: u64) -> bool {
    if !session.advance(Phase::Live, Phase::Filling) {
        return false;
    }
    if session.inside().is_ipv4() {
        let (outbound, inbound) = session.keys::<Ipv4>();
        let _ = FLOWS.remove(outbound);
        let _ = FLOWS.remove(inbound);
    } else {
        let (outbound, inbound) = session.keys::<Ipv6>();
        let _ = FLOWS_IPV6.remove(outbound);
        let _ = FLOWS_IPV6.remove(inbound);
    }
    leave_guest(&session.inside());
    let holds_port =
        session.flags() & FLAG_UNMAPPED == 0 && mapping::release(&mapping::key_of(session), now);
    session.set_since(now);
    let next = if holds_port { Phase::HoldDown } else { Phase::Draining };
    session.set_phase(next as u32);
    true
}

/// Whether a flow's guest has gone since: whoever has its address now is another one.
#[inline(always)]
pub fn has_lost_its_guest(session: SessionSlot) -> bool {
    if maps::config().is_none_or(|config| config.departures == 0) {
        return false;
    }
    // SAFETY: the value is one word; a look-up that races with removal reads one that was.
    match unsafe { DEPARTURES.get(session.inside()) } {
        Some(departed) => session.since() <= *departed,
        None => false,
    }
}

/// Returns an ended slot to the free ones.
#[inline(always)]
pub fn give_back(session: SessionSlot, index: u32) {
    session.set_phase(Phase::Free as u32);
    // The queue has a place for every slot.
    let _ = FREE_SESSIONS.push(index, 0);
}

/// A slot nobody uses: a fresh one as long as there are, then the one that is free the longest.
#[inline(always)]
fn take_slot() -> Option<(u32, SessionSlot)> {
    let limit = u64::from(maps::config()?.session_limit);
    let fresh = fresh_counter(SESSION_CURSOR.get_ptr_mut(0)?);
    let mut index = u64::MAX;
    if fresh.load() < limit {
        index = fresh.fetch_add(1);
    }
    let index = if index < limit { index as u32 } else { FREE_SESSIONS.pop().ok().flatten()? };
    SessionSlot::at(index).map(|session| (index, session))
}

/// The count of slots that were ever used; may run past the limit by a CPU or two.
#[inline(always)]
pub fn fresh_counter(cursor: *mut SessionCursor) -> SharedWord {
    // SAFETY: map memory outlives the program.
    unsafe { SharedWord::new(&raw mut (*cursor).fresh) }
}

#[inline(always)]
fn unsupported<V: Ip>(packet: &Packet<V>) -> DropReason {
    use crate::parse::Fragment;
    if packet.fragment == Fragment::Later {
        DropReason::LostFragment
    } else if packet.is_icmp() {
        DropReason::UnsupportedIcmp
    } else {
        DropReason::UnsupportedProtocol
    }
}

#[inline(always)]
fn enter_guest(new: &NewFlow) -> Result<(), DropReason> {
    let inside = &new.mapping.inside;
    let limit = NETWORKS.get(u32::from(new.network)).map_or(0, |network| network.flows_per_guest);
    let usage = if let Some(usage) = GUESTS.get_ptr_mut(inside) {
        usage
    } else {
        // Two CPUs may get here together; one insertion wins, both find the entry.
        let _ = GUESTS.insert(
            inside,
            GuestUsage { flows: 0, ports: 0, opened: 0 },
            u64::from(BPF_NOEXIST),
        );
        GUESTS.get_ptr_mut(inside).ok_or(DropReason::GuestFlowLimit)?
    };
    let flows = guest_flows(usage);
    // An entry that is being deleted counts as full for that moment.
    if flows.fetch_add(1) < u64::from(limit) {
        return Ok(());
    }
    flows.fetch_decrement();
    Err(DropReason::GuestFlowLimit)
}

/// Takes a flow off a guest's account. The last one takes the account along, so that addresses that
/// a guest has only tried leave nothing behind.
#[inline(always)]
fn leave_guest(inside: &Address) {
    let Some(usage) = GUESTS.get_ptr_mut(inside) else { return };
    let flows = guest_flows(usage);
    if flows.fetch_decrement() == 1 && flows.replace(0, GUEST_GONE) {
        let _ = GUESTS.remove(inside);
    }
}

#[inline(always)]
fn guest_flows(usage: *mut GuestUsage) -> SharedWord {
    // SAFETY: map memory outlives the program.
    unsafe { SharedWord::new(&raw mut (*usage).flows) }
}
