//! Fragments: those after the first carry no ports, so the first one tells their flow.

use vnet_common::{
    flow::{Direction, FlowKey, FragmentSlot},
    limits,
};

use crate::{
    flow,
    maps::FRAGMENTS,
    parse::{Fragment, Packet},
    session::SessionSlot,
};

/// The flow of a packet that is in the table: by its ports, or by its datagram's first fragment.
#[inline(always)]
pub fn find_flow(packet: &Packet, direction: Direction) -> Option<SessionSlot> {
    if packet.fragment == Fragment::Later {
        return find_first(packet, direction);
    }
    let key = packet.flow_key(direction)?;
    if packet.fragment == Fragment::First {
        remember(packet, direction, &key);
    }
    flow::find(&key)
}

/// Keeps what the following fragments need of a datagram's first.
#[inline(always)]
pub fn remember(packet: &Packet, direction: Direction, key: &FlowKey) {
    if let Some(slot) = flow::slot_of(key) {
        let first = FragmentSlot { flow: slot, since: flow::now() };
        // A full table forgets its oldest datagram; the worst is that datagram's loss.
        let _ = FRAGMENTS.insert(packet.fragment_key(direction), first, 0);
    }
}

#[inline(always)]
fn find_first(packet: &Packet, direction: Direction) -> Option<SessionSlot> {
    // SAFETY: a look-up that races with eviction reads a stale slot, which its generation betrays.
    let first = unsafe { FRAGMENTS.get(packet.fragment_key(direction)) }?;
    if flow::now().saturating_sub(first.since) > limits::FRAGMENT_LIFETIME_NS {
        return None;
    }
    SessionSlot::live(first.flow)
}
