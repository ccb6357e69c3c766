//! Finding, opening, touching and ending flows.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use bytemuck::{Pod, Zeroable};
use vnet_common::{
    address::{Address, PortBe},
    flow::{
        Direction, FLAG_FROM_OUTSIDE, FLAG_UNMAPPED, FlowKey, MappingKey, Phase, Session,
        Translation, protocol,
    },
    reason::DropReason,
    tcp::{self, State},
};

use crate::{
    account, expire,
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    mapping,
    maps::{self, DEPARTURES, FLOWS, FLOWS_IPV6, NEW_FLOW},
    opening, outcome,
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
    /// Which one of the per-CPU map it is.
    pub place: u8,
    pub reserved: [u8; 2],
}

impl NewFlow {
    /// The flow that a global function got, by a pointer into the map: kernels before 6.2 let no map take
    /// its keys from memory that they know as an argument only (`map_key_value_types` in
    /// `kernel/bpf/verifier.c`).
    #[inline(always)]
    pub fn in_map(argument: *const Self) -> Option<&'static mut Self> {
        // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
        let place = unsafe { argument.as_ref() }?.place;
        // SAFETY: as for `maps::new_flow`.
        NEW_FLOW.get_ptr_mut(u32::from(place)).map(|new| unsafe { &mut *new })
    }

    #[inline(always)]
    pub fn outbound_key<V: Ip>(&self) -> FlowKey<V::Address> {
        let inside = (V::narrow(self.mapping.inside), self.mapping.inside_port);
        let remote = (V::narrow(self.remote), self.remote_port);
        FlowKey::outbound(self.mapping.protocol, inside, remote)
    }

    #[inline(always)]
    pub fn inbound_key<V: Ip>(&self) -> FlowKey<V::Address> {
        self.inbound_key_at::<V>(self.external_port)
    }

    /// Whether its remote has a flow at an external port already.
    #[inline(always)]
    pub fn has_flow_at(&self, port: PortBe) -> bool {
        if self.mapping.inside.is_ipv4() {
            Ipv4::flow_slot(&self.inbound_key_at::<Ipv4>(port)).is_some()
        } else {
            Ipv6::flow_slot(&self.inbound_key_at::<Ipv6>(port)).is_some()
        }
    }

    #[inline(always)]
    fn inbound_key_at<V: Ip>(&self, port: PortBe) -> FlowKey<V::Address> {
        let external = (V::narrow(self.mapping.external), port);
        let remote = (V::narrow(self.remote), self.remote_port);
        FlowKey::inbound(self.mapping.protocol, remote, external)
    }
}

/// Opens a flow for a packet that may open one. Returns its slot's index.
#[inline(always)]
pub fn open<V: Ip>(skb: Skb, packet: &Packet<V>, new: &mut NewFlow) -> Result<u32, DropReason> {
    if packet.flow_key(Direction::Outbound).is_none() {
        return Err(unsupported(packet));
    }
    if packet.protocol == protocol::TCP && !tcp::may_open(packet.tcp_flags) {
        return Err(DropReason::NoFlow);
    }
    expire::on_demand(now());
    if new.flags & FLAG_UNMAPPED == 0 && Translation::of(packet.protocol) != Translation::Port {
        new.flags |= FLAG_UNMAPPED;
        new.external_port = new.mapping.inside_port;
    }
    match outcome::decode(opening::vnet_open_flow(skb.raw(), new)) {
        // Another CPU may just have opened the same flow, and so have taken its port.
        Err(reason @ (DropReason::FlowConflict | DropReason::PortsExhausted)) => {
            match find_opened::<V>(new) {
                0 => Err(reason),
                OPENING => Err(DropReason::FlowOpening),
                opened => Ok(opened - 1),
            }
        }
        opened => opened,
    }
}

/// What [`find_opened`] says of a flow that has its keys and is not yet live.
const OPENING: u32 = u32::MAX;

/// The flow that another CPU has opened: its slot and one, or [`OPENING`]; 0 for none. A function of its
/// own for the sake of the stack.
#[inline(never)]
fn find_opened<V: Ip>(new: &NewFlow) -> u32 {
    let Some(slot) = V::flow_slot(&new.outbound_key::<V>()) else { return 0 };
    if SessionSlot::live(slot).is_some() { slot.index + 1 } else { OPENING }
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

/// Accounts a packet to its flow and takes the connection's state along, if it has one.
#[inline(always)]
pub fn touch(session: SessionSlot, tcp_flags: u8, direction: Direction, bytes: u32, now: u64) {
    session.count(direction, bytes);
    let outbound = matches!(direction, Direction::Outbound);
    if outbound {
        session.set_last_outbound(now);
        if session.answered() == 0 {
            vnet_answer(session.raw());
        }
    } else {
        session.set_last_inbound(now);
    }
    let state = State::from_byte(session.state());
    let from_outside = session.flags() & FLAG_FROM_OUTSIDE != 0;
    // What a later fragment of IPv6 says of its protocol is not what its first has said.
    let next = match (session.protocol(), from_outside) {
        (protocol::TCP, false) => tcp::advance(state, tcp_flags, outbound),
        (protocol::TCP, true) => tcp::advance_from_outside(state, tcp_flags, outbound),
        // Whoever has not sent first answers.
        _ if outbound == from_outside => State::Established,
        _ => state,
    };
    if next as u8 != state as u8 {
        session.set_state(next as u8);
    }
}

/// Notes that the inside has answered a flow that its remote has opened: it keeps its mapping open
/// then. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_answer(session: *mut Session) -> u32 {
    let Some(session) = SessionSlot::from_raw(session) else { return 0 };
    if session.flags() & FLAG_UNMAPPED != 0 {
        session.note_answer();
        return 0;
    }
    let key = &mapping::key_of(session);
    // Before the note: whoever ends the flow takes it back if it reads that.
    mapping::hold_open(key);
    if session.note_answer() {
        mapping::no_longer_hold_open(key);
    }
    1
}

/// Ends a live session: both keys, the guest's account and the mapping's reference go; the slot
/// rests until nobody can still read it. `false` if it was not live.
#[inline(always)]
pub fn end(session: SessionSlot, now: u64) -> bool {
    if !session.advance(Phase::Live, Phase::Filling) {
        return false;
    }
    vnet_finish_session(session.raw(), now, now);
    true
}

/// Ends a live session that has been idle for its time; `false` if it has not, or is not live.
#[inline(always)]
pub fn end_idle(session: SessionSlot, now: u64, idle_ns: impl Fn() -> u64) -> bool {
    if !session.advance(Phase::Live, Phase::Filling) {
        return false;
    }
    // A packet may have come since somebody looked; from now on none finds the session live.
    let ended = session.last_refresh().saturating_add(idle_ns());
    if ended > now {
        session.advance(Phase::Filling, Phase::Live);
        return false;
    }
    vnet_finish_session(session.raw(), now, ended);
    true
}

/// What [`end`] does with a session that is this program's. The hold-down of its port counts from the
/// time at which it should have ended, however late somebody noticed. A global function, as
/// `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_finish_session(session: *mut Session, now: u64, ended: u64) -> u32 {
    let Some(session) = SessionSlot::from_raw(session) else { return 0 };
    if session.inside().is_ipv4() {
        remove_outbound_ipv4(session);
        remove_inbound_ipv4(session);
    } else {
        remove_outbound_ipv6(session);
        remove_inbound_ipv6(session);
    }
    account::leave_guest(&session.inside(), session.flags());
    // From now on no packet counts as the first answer.
    let is_answered = session.note_answer();
    let holds_port =
        session.flags() & FLAG_UNMAPPED == 0 && release_mapping(session, is_answered, ended);
    session.set_since(now);
    let next = if holds_port { Phase::HoldDown } else { Phase::Draining };
    session.set_phase(next as u32);
    1
}

// Functions of their own for the sake of the stack: the step that finds a flow has ended has a deep one.

#[inline(never)]
fn remove_outbound_ipv4(session: SessionSlot) {
    let _ = FLOWS.remove(session.key::<Ipv4>(Direction::Outbound));
}

#[inline(never)]
fn remove_inbound_ipv4(session: SessionSlot) {
    let _ = FLOWS.remove(session.key::<Ipv4>(Direction::Inbound));
}

#[inline(never)]
fn remove_outbound_ipv6(session: SessionSlot) {
    let _ = FLOWS_IPV6.remove(session.key::<Ipv6>(Direction::Outbound));
}

#[inline(never)]
fn remove_inbound_ipv6(session: SessionSlot) {
    let _ = FLOWS_IPV6.remove(session.key::<Ipv6>(Direction::Inbound));
}

#[inline(never)]
fn release_mapping(session: SessionSlot, is_answered: bool, ended: u64) -> bool {
    mapping::release(&mapping::key_of(session), is_answered, ended)
}

/// Whether a flow's guest has gone since: whoever has its address now is another one.
#[inline(always)]
pub fn has_lost_its_guest(session: SessionSlot) -> bool {
    departure(&session.inside()).is_some_and(|departed| session.since() <= departed)
}

/// Whether a guest has gone, and flows of its may be left.
#[inline(always)]
pub fn has_departed(inside: &Address) -> bool {
    departure(inside).is_some()
}

#[inline(always)]
fn departure(inside: &Address) -> Option<u64> {
    if maps::config().is_none_or(|config| config.departures == 0) {
        return None;
    }
    // SAFETY: the value is one word; a look-up that races with removal reads one that was.
    unsafe { DEPARTURES.get(inside) }.copied()
}
