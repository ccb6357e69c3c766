//! The short ways of a flow: finding them, and whether they are good.

use aya_ebpf::bindings::__sk_buff;
use vnet_common::{
    flow::{FLAG_HAIRPIN, FLAG_INSIDE_IS_HOST, FLAG_INSIDE_IS_ROUTED, Session},
    guard::{Mac, MacKey},
    shortcut::{
        BridgePort, InboundWay, MOVES_MASK, OutboundWay, PORT_IS_UPLINK, PORT_SHORT,
        PORT_TAKES_XDP, WAY_PAYS_NS, WAY_TAKES_XDP, is_just_found, is_settled, is_young, way_time,
    },
    timeout::NANOSECONDS,
};

use super::{
    maps::{BRIDGE_ADDRESSES, BRIDGE_PORTS, MOVES, SHORTCUT_LEASE},
    station,
};
use crate::{
    atomic::increment_half, flow::now, former, policy, route, session::SessionSlot, skb::Skb,
    tables,
};

/// Two MAC addresses as they begin a frame: destination, source.
pub type MacPair = [[u8; 6]; 2];

/// Flows that have no short way: those that turn round, and those to which the host's stack takes packets.
const WITHOUT_WAY: u8 = FLAG_HAIRPIN | FLAG_INSIDE_IS_HOST | FLAG_INSIDE_IS_ROUTED;

/// Until when short ways hold, in nanoseconds; 0 where there are none.
#[inline(always)]
pub fn lease() -> u64 {
    // SAFETY: map memory outlives the program; the element is one aligned word.
    SHORTCUT_LEASE.get_ptr(0).map_or(0, |lease| unsafe { lease.read_volatile() })
}

/// Whether flows have short ways now: somebody watches the bridges, and no former datapath has some of the flows.
#[inline(always)]
pub fn are_used() -> bool {
    are_used_at(now())
}

/// The same at a time that is known.
#[inline(always)]
pub fn are_used_at(now: u64) -> bool {
    former::is_absent() && now < lease()
}

/// The time, as ways have it.
#[inline(always)]
pub fn clock() -> u32 {
    way_time(now())
}

/// Whether a flow can have short ways.
#[inline(always)]
pub fn may_have(session: SessionSlot) -> bool {
    session.flags() & WITHOUT_WAY == 0
}

/// Whether packets may go there.
#[inline(always)]
pub fn is_good_outbound(way: &OutboundWay, clock: u32) -> bool {
    is_young(way.found, clock) && way.destination != [0; 6]
}

/// Whether packets may go there.
#[inline(always)]
pub fn is_good_inbound(way: &InboundWay, clock: u32) -> bool {
    way.port != 0 && is_current(way, clock)
}

/// Whether it is so old that what TC has sent that way is ahead of what XDP sends.
#[inline(always)]
pub fn is_good_in_xdp(way: &InboundWay, clock: u32) -> bool {
    way.port != 0 && way.moves == moves() | WAY_TAKES_XDP && is_settled(way.found, clock)
}

/// Whether it was looked for less than a second ago, and no station has moved since.
#[inline(always)]
fn is_current(way: &InboundWay, clock: u32) -> bool {
    is_young(way.found, clock) && way.moves & MOVES_MASK == moves()
}

/// The MAC addresses of a flow's inbound packets.
#[inline(always)]
pub fn inbound_macs(session: SessionSlot, way: &InboundWay) -> Option<MacPair> {
    let bridge = bridge_address(session)?;
    Some([way.destination, bridge.to_bytes()])
}

/// The MAC address of the bridge of a flow's network; none where there are no short ways.
#[inline(always)]
pub fn bridge_address(session: SessionSlot) -> Option<&'static Mac> {
    bridge_address_of(session.network())
}

/// The same of a network.
#[inline(always)]
pub fn bridge_address_of(network: u16) -> Option<&'static Mac> {
    BRIDGE_ADDRESSES.get(u32::from(network)).filter(|mac| **mac != Mac::NONE)
}

/// Looks for the ways of a flow whose packet is about to take the long way out, if they are over and its packets
/// follow each other fast enough.
#[inline(always)]
pub fn refresh_outbound(skb: Skb, session: SessionSlot, now: u64) {
    // Flows of a single packet are many.
    let follows = session.has_sent() && pays(session.last_outbound(), now);
    if !follows || !are_used_at(now) || !may_have(session) {
        return;
    }
    let clock = way_time(now);
    let found = session.way_outbound().found;
    if !is_young(found, clock) && !is_just_found(found, clock) {
        vnet_find_outbound_way(skb.raw(), session.raw());
    }
    // While packets come in, they look for it, and so confirm that the guest's neighbour entry is true.
    let way = session.way_inbound();
    let comes_in = now.saturating_sub(session.last_inbound()) < NANOSECONDS;
    let is_stale = way.found == 0 || way.moves & MOVES_MASK != moves();
    if needs_look(&way, clock) && (is_stale || !comes_in) {
        vnet_find_inbound_way(skb.raw(), session.raw());
    }
}

#[inline(always)]
pub fn needs_look(way: &InboundWay, clock: u32) -> bool {
    !is_current(way, clock) && !is_just_found(way.found, clock)
}

/// The same for one on the long way in; only where [`are_used`].
#[inline(always)]
pub fn refresh_inbound(skb: Skb, session: SessionSlot, now: u64) {
    if may_have(session)
        && pays(session.last_inbound(), now)
        && bridge_address(session).is_some()
        && needs_look(&session.way_inbound(), way_time(now))
    {
        vnet_find_inbound_way(skb.raw(), session.raw());
    }
}

#[inline(always)]
fn pays(last: u64, now: u64) -> bool {
    now.saturating_sub(last) < WAY_PAYS_NS
}

/// A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_find_outbound_way(ctx: *mut __sk_buff, session: *mut Session) -> u32 {
    let Some(session) = SessionSlot::from_raw(session) else { return 0 };
    let mut way = OutboundWay { found: clock(), ..OutboundWay::default() };
    let next_hop = session.next_hop();
    let (uplink, tenant) = (session.uplink_ifindex(), session.generation());
    if let Some([destination, source]) = route::neighbour(Skb::from_raw(ctx), next_hop, uplink) {
        way.destination = destination;
        way.source = source;
    }
    session.set_way_outbound(way);
    // Another CPU may have routed the flow anew meanwhile, or ended it.
    if session.next_hop() != next_hop
        || session.uplink_ifindex() != uplink
        || session.generation() != tenant
        || !tables::is_current()
    {
        session.clear_ways();
    }
    1
}

/// A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_find_inbound_way(ctx: *mut __sk_buff, session: *mut Session) -> u32 {
    let Some(session) = SessionSlot::from_raw(session) else { return 0 };
    let tenant = session.generation();
    // Before anything is looked up: whoever moves from now on makes the way stale.
    let mut way = InboundWay { found: clock(), moves: moves(), ..InboundWay::default() };
    let _ = find_inbound(Skb::from_raw(ctx), session, &mut way);
    session.set_way_inbound(way);
    // Another CPU may have judged the flow anew meanwhile, or ended it.
    if session.generation() != tenant || !tables::is_current() {
        session.clear_ways();
    }
    1
}

#[inline(always)]
fn find_inbound(skb: Skb, session: SessionSlot, way: &mut InboundWay) -> Option<()> {
    // What went to another network's bridge is answered there (`inbound::may_arrive_at`), where no XDP runs.
    let leaves = !policy::network_of_bridge(session.uplink_ifindex()).is_some();
    let macs = route::neighbour(skb, session.inside(), session.bridge_ifindex())?;
    let bridge = session.bridge_ifindex();
    if bridge_address(session)?.to_bytes() != macs[1] {
        return None;
    }
    to_guest(skb, bridge, macs[0], leaves, way)
}

/// The way to the port of a station of a bridge.
#[inline(always)]
pub fn to_guest(
    skb: Skb,
    bridge: u32,
    guest: [u8; 6],
    takes_xdp: bool,
    way: &mut InboundWay,
) -> Option<()> {
    let place = station::place(MacKey::new(bridge, Mac::from_bytes(guest)))?;
    let port = port_of_guest(bridge, place.ifindex)?;
    if !place.is_alive(port, now()) || !skb.has_device(place.ifindex) {
        return None;
    }
    way.destination = guest;
    if port.flags & PORT_TAKES_XDP != 0 && takes_xdp {
        way.moves |= WAY_TAKES_XDP;
    }
    way.port = place.ifindex;
    Some(())
}

/// A port of a bridge at which guests are, and that frames may go to without it.
#[inline(always)]
pub fn port_of_guest(bridge: u32, ifindex: u32) -> Option<&'static BridgePort> {
    // SAFETY: entries are replaced as a whole by userspace.
    let port = unsafe { BRIDGE_PORTS.get(ifindex) }?;
    let fits = port.bridge == bridge
        && port.port == ifindex
        && port.flags & (PORT_SHORT | PORT_IS_UPLINK) == PORT_SHORT;
    fits.then_some(port)
}

#[inline(always)]
pub fn moves() -> u16 {
    // SAFETY: map memory outlives the program; the element is aligned plain data.
    let moves = MOVES.get_ptr(0).map_or(0, |moves| unsafe { moves.read_volatile() });
    moves as u16 & MOVES_MASK
}

/// Makes all inbound ways stale.
#[inline(always)]
pub fn note_move() {
    if let Some(moves) = MOVES.get_ptr_mut(0) {
        // SAFETY: the element is an aligned half word of map memory.
        unsafe { increment_half(moves) }
    }
}
