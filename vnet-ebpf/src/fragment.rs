//! Fragments: those after the first carry no ports, so the first one tells their flow.

use vnet_common::{
    flow::{Direction, FlowKey, FlowSlot, FragmentSlot},
    limits,
    reason::Handover,
};

use crate::{
    flow, held,
    hook::{Hook, Step, Verdict},
    ip::Ip,
    parse::{Fragment, Packet},
    session::SessionSlot,
};

/// The flow of a packet that is in the table: by its ports, or by its datagram's first fragment.
#[inline(always)]
pub fn find_flow<V: Ip>(packet: &Packet<V>, direction: Direction) -> Option<SessionSlot> {
    SessionSlot::live(find_slot(packet, direction)?)
}

/// As [`find_flow`], but what the key names, live or not.
#[inline(always)]
pub fn find_slot<V: Ip>(packet: &Packet<V>, direction: Direction) -> Option<FlowSlot> {
    if packet.follows_its_first() {
        return find_first(packet, direction);
    }
    let key = packet.flow_key(direction)?;
    if packet.fragment == Fragment::First {
        remember(packet, direction, &key);
    }
    V::flow_slot(&key)
}

/// Keeps what the fragments need that follow the first of a datagram whose flow is new. A function of
/// its own for the sake of the stack.
#[inline(never)]
pub fn remember_new<V: Ip>(direction: Direction) {
    if let Some(packet) = V::packet()
        && let Some(key) = packet.flow_key(direction)
    {
        remember(packet, direction, &key);
    }
}

/// What becomes of a packet from outside that is of no flow and for no guest: the stack gets it, but
/// a fragment may be of a flow whose first is still to come.
#[inline(always)]
pub fn of_no_flow<V: Ip>(hook: &Hook, packet: &Packet<V>, to_stack: Handover) -> Step<Verdict> {
    match packet.fragment {
        Fragment::First => {
            let first = FragmentSlot::of_the_host(flow::now());
            V::remember_fragment(&packet.fragment_key(Direction::Inbound), &first);
        }
        Fragment::Later if packet.follows_its_first() => match V::hold(hook.skb) {
            held::KEPT => return Err(Handover::HeldFragment.into()),
            held::COMES_AGAIN => return Ok(Verdict::Replayed),
            _ => {}
        },
        Fragment::Whole | Fragment::Later => {}
    }
    Err(to_stack.into())
}

/// Keeps what the following fragments need of a datagram's first.
#[inline(always)]
fn remember<V: Ip>(packet: &Packet<V>, direction: Direction, key: &FlowKey<V::Address>) {
    if let Some(slot) = V::flow_slot(key) {
        let first = FragmentSlot { flow: slot, since: flow::now() };
        V::remember_fragment(&packet.fragment_key(direction), &first);
    }
}

#[inline(always)]
fn find_first<V: Ip>(packet: &Packet<V>, direction: Direction) -> Option<FlowSlot> {
    first(packet, direction).map(|first| first.flow)
}

/// What the first fragment of a packet's datagram has left; numbers of datagrams repeat.
#[inline(always)]
pub fn first<V: Ip>(packet: &Packet<V>, direction: Direction) -> Option<FragmentSlot> {
    let first = V::first_fragment(&packet.fragment_key(direction))?;
    let age = flow::now().saturating_sub(first.since);
    (age <= limits::FRAGMENT_LIFETIME_NS).then_some(first)
}
