//! Fragments from outside that come before the first one of their datagram, which has the ports.
//!
//! A copy of each waits in a small table (RFC 4787, REQ-14); the packet itself goes on to the host's
//! stack, whose own it may be. When the first fragment comes and has a flow, it comes in anew and they
//! follow it. All of it costs bounded memory and, for each packet, bounded work.

use aya_ebpf::bindings::BPF_NOEXIST;
use vnet_common::{
    address::Address,
    flow::{Direction, FragmentKey, HeldFragment, HeldKey},
    limits,
};

use crate::{
    flow, fragment,
    ip::Ip,
    maps::{self, HELD_FRAGMENTS},
    parse::Packet,
    session::SessionSlot,
    skb::Skb,
};

/// What [`hold`] says: it is not kept.
pub const IGNORED: u32 = 0;
/// What [`hold`] says: it is kept.
pub const KEPT: u32 = 1;
/// What [`hold`] says: the first fragment was there after all, so the packet comes again.
pub const COMES_AGAIN: u32 = 2;

/// Keeps a copy of this CPU's packet, a later fragment that nothing is known of.
#[inline(always)]
pub fn hold<V: Ip>(skb: Skb) -> u32 {
    let (Some(packet), Some(held)) = (V::packet(), maps::held_fragment()) else { return IGNORED };
    // The first was the host's, or of a flow that has ended.
    if fragment::first(packet, Direction::Inbound).is_some() {
        return IGNORED;
    }
    let length = skb.len();
    if skb.gso_size() != 0 || skb.load_start(&mut held.frame, length).is_none() {
        return IGNORED;
    }
    held.since = flow::now();
    held.ifindex = skb.ifindex();
    held.length = length;
    let held = &*held;
    let mut place = HeldKey { datagram: datagram(packet), index: 0 };
    for index in 0..limits::HELD_PER_DATAGRAM {
        place.index = index;
        let key = &place;
        let flags = match HELD_FRAGMENTS.get_ptr(key) {
            Some(other) if is_fresh(other, skb.ifindex()) => continue,
            Some(_) => 0,
            None => u64::from(BPF_NOEXIST),
        };
        if HELD_FRAGMENTS.insert(key, held, flags).is_ok() {
            return take_back_if_late::<V>(skb, packet, key);
        }
    }
    IGNORED
}

/// The first fragment may have come on another CPU after this one had looked for it, and before it
/// could find this one.
#[inline(always)]
fn take_back_if_late<V: Ip>(skb: Skb, packet: &Packet<V>, key: &HeldKey) -> u32 {
    let first = fragment::first(packet, Direction::Inbound);
    let has_flow = first.is_some_and(|first| SessionSlot::live(first.flow).is_some());
    if has_flow && HELD_FRAGMENTS.remove(key).is_ok() && skb.come_again() {
        return COMES_AGAIN;
    }
    KEPT
}

/// Lets this CPU's packet, a first fragment that has a flow, come again, and what was kept for it
/// behind it; 0 if there is nothing.
#[inline(always)]
pub fn replay<V: Ip>(skb: Skb) -> u32 {
    let Some(packet) = V::packet() else { return 0 };
    let mut place = HeldKey { datagram: datagram(packet), index: 0 };
    let mut has_waited = false;
    // Any may be too old, or forgotten, and others not.
    for index in 0..limits::HELD_PER_DATAGRAM {
        place.index = index;
        let key = &place;
        match HELD_FRAGMENTS.get_ptr(key) {
            Some(held) if is_fresh(held, skb.ifindex()) => has_waited = true,
            Some(_) => {
                let _ = HELD_FRAGMENTS.remove(key);
            }
            None => {}
        }
    }
    if !has_waited || !skb.come_again() {
        return 0;
    }
    for index in 0..limits::HELD_PER_DATAGRAM {
        place.index = index;
        vnet_replay_fragment(skb.raw(), &raw const place);
    }
    1
}

/// Turns the packet into one that was kept, and lets that come in; 0 if there is none of that number.
///
/// It is taken out of the table before, so that nothing comes twice and the first fragment, when it
/// comes again, finds nothing to wait for. A global function: the verifier checks it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_replay_fragment(
    ctx: *mut aya_ebpf::bindings::__sk_buff,
    key: *const HeldKey,
) -> u32 {
    // SAFETY: the verifier lets callers pass a whole `HeldKey` or null only.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    // On the stack, as in `NewFlow::in_map`.
    let key = &{ *key };
    let skb = Skb::from_raw(ctx);
    let Some(held) = HELD_FRAGMENTS.get_ptr(key) else { return 0 };
    let is_wanted = is_fresh(held, skb.ifindex());
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    let length = unsafe { (&raw const (*held).length).read_volatile() };
    // SAFETY: the pointer is only passed on; the element is map memory.
    let is_copied = skb.become_frame(unsafe { &raw const (*held).frame }, length);
    // Whoever takes it out has it; if it was replaced while it was copied, it is gone by now.
    let is_ours = HELD_FRAGMENTS.remove(key).is_ok();
    if is_wanted && is_copied && is_ours {
        skb.come_again();
    }
    1
}

/// Whether a kept fragment may still be of the datagram that is coming in at this interface: numbers
/// of datagrams repeat.
#[inline(always)]
fn is_fresh(held: *const HeldFragment, ifindex: u32) -> bool {
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    let (since, at) = unsafe {
        ((&raw const (*held).since).read_volatile(), (&raw const (*held).ifindex).read_volatile())
    };
    at == ifindex && flow::now().saturating_sub(since) < limits::HELD_LIFETIME_NS
}

#[inline(always)]
fn datagram<V: Ip>(packet: &Packet<V>) -> FragmentKey<Address> {
    let key = packet.fragment_key(Direction::Inbound);
    FragmentKey {
        source: V::widen(key.source),
        destination: V::widen(key.destination),
        identification: key.identification,
        protocol: key.protocol,
        direction: key.direction,
        reserved: 0,
    }
}
