//! The short ways of packets that go on as they are: as those of flows, but in the table of [`crate::path`].

use aya_ebpf::bindings::__sk_buff;
use vnet_common::{
    path::Path,
    shortcut::{InboundWay, OutboundWay, WAY_PAYS_NS, WAY_UNIT_BITS},
};

use super::way::{self, MacPair};
use crate::{maps, route, skb::Skb};

/// Whether ways are to be looked for: a packet follows the one that was judged soon enough.
#[inline(always)]
pub fn pays(path: &Path, clock: u32) -> bool {
    const PAYS: u32 = (WAY_PAYS_NS >> WAY_UNIT_BITS) as u32;
    let follows = path.inbound.found != 0 || clock.wrapping_sub(path.found) < PAYS;
    follows && way::are_used() && way::needs_look(&path.inbound, clock)
}

/// The MAC addresses of packets from outside; none of those that guests send.
#[inline(always)]
pub fn inbound_macs(path: &Path) -> Option<MacPair> {
    if path.from != 0 {
        return None;
    }
    Some([path.inbound.destination, way::bridge_address_of(path.to)?.to_bytes()])
}

/// The MAC addresses of what a guest sends by a port, whose frame has these, if it has a way from there.
#[inline(always)]
pub fn outbound_macs(
    path: &Path,
    port: u32,
    [destination, source]: MacPair,
    clock: u32,
) -> Option<MacPair> {
    let is_short = path.from != 0
        // Its own port and its own MAC address, which a packet had that was judged at the bridge.
        && path.inbound.port == port
        && path.inbound.destination == source
        && way::is_good_inbound(&path.inbound, clock)
        && way::is_good_outbound(&path.outbound, clock)
        && way::bridge_address_of(path.from)?.to_bytes() == destination;
    is_short.then_some([path.outbound.destination, path.outbound.source])
}

/// Looks for the ways of the packet's path, which is in this CPU's place for it. A global function, as
/// `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_find_ways_of_path(ctx: *mut __sk_buff) -> u32 {
    let (skb, Some(path)) = (Skb::from_raw(ctx), maps::path()) else { return 0 };
    let found = way::clock();
    // Before anything is looked up: whoever moves from now on makes the way stale.
    path.inbound = InboundWay { found, moves: way::moves(), ..InboundWay::default() };
    path.outbound = OutboundWay { found, ..OutboundWay::default() };
    let _ = if path.from == 0 { find_inbound(skb, path) } else { find_outbound(skb, path) };
    1
}

#[inline(always)]
fn find_inbound(skb: Skb, path: &mut Path) -> Option<()> {
    let [guest, source] = route::neighbour(skb, path.next_hop, path.ifindex)?;
    if way::bridge_address_of(path.to)?.to_bytes() != source {
        return None;
    }
    way::to_guest(skb, path.ifindex, guest, true, &mut path.inbound)
}

#[inline(always)]
fn find_outbound(skb: Skb, path: &mut Path) -> Option<()> {
    let bridge = skb.ifindex();
    let [destination, guest] = skb.read_start::<MacPair>().ok()?;
    if path.ifindex == bridge || way::bridge_address_of(path.from)?.to_bytes() != destination {
        return None;
    }
    let [next_hop, source] = route::neighbour(skb, path.next_hop, path.ifindex)?;
    (path.outbound.destination, path.outbound.source) = (next_hop, source);
    way::to_guest(skb, bridge, guest, false, &mut path.inbound)
}
