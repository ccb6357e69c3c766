//! A guest's port: packets of known flows, and those that go on as the ones before them, straight to the uplink.

use aya_ebpf::bindings::__sk_buff;
use vnet_common::{
    family::Family,
    flow::{Direction, protocol},
    guard::{Mac, MacKey},
    shortcut::{BridgePort, PORT_JUDGED, PORT_SHORT, way_time},
    tcp::flags::SYN,
};

use super::{
    maps::BRIDGE_PORTS,
    path as short, station,
    way::{self, MacPair},
};
use crate::{
    emit, flow, former,
    hook::{Hook, Link, NEXT, Step, Stop, UNJUDGED, Verdict},
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    nat::{self, Side, Ttl},
    outbound,
    parse::{Fragment, Packet},
    path,
    session::SessionSlot,
    skb::Skb,
    tables,
};

/// Sends a guest's packet out if its flow has a short way; else the bridge gets it, and the station is noted.
/// A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_take_short_way(ctx: *mut __sk_buff) -> i32 {
    let skb = Skb::from_raw(ctx);
    let lease = way::lease();
    if lease == 0 {
        return NEXT;
    }
    // SAFETY: entries are replaced as a whole by userspace.
    let Some(port) = (unsafe { BRIDGE_PORTS.get(skb.ifindex()) }) else { return NEXT };
    let Ok(macs) = skb.read_start::<MacPair>() else { return NEXT };
    // Once for the packet: the clock is a helper's call.
    let now = flow::now();
    let may_be_short = former::is_absent()
        && port.flags & (PORT_SHORT | PORT_JUDGED) == PORT_SHORT | PORT_JUDGED
        && now < lease;
    let action = match skb.family() {
        _ if !may_be_short => NEXT,
        _ if skb.vlan_present() != 0 || !Mac::from_bytes(macs[0]).is_unicast() => NEXT,
        Some(Family::Ipv4) => steps::<Ipv4>(skb, macs, port.bridge, now),
        Some(Family::Ipv6) => steps::<Ipv6>(skb, macs, port.bridge, now),
        None => NEXT,
    };
    if action == NEXT {
        note(port, macs[1], now);
    }
    action
}

#[inline(always)]
fn note(port: &BridgePort, source: [u8; 6], now: u64) {
    let key = MacKey::new(port.bridge, Mac::from_bytes(source));
    station::note(key, port, now);
}

#[inline(always)]
fn steps<V: Ip>(skb: Skb, macs: MacPair, bridge: u32, now: u64) -> i32 {
    let action = send::<V>(skb, macs, now);
    if action == UNJUDGED { send_as_it_is::<V>(skb, macs, bridge, way_time(now)) } else { action }
}

/// A packet that goes on as it is, which the bridge's hook would find at the bridge.
#[inline(never)]
fn send_as_it_is<V: Ip>(skb: Skb, macs: MacPair, bridge: u32, clock: u32) -> i32 {
    let Some(packet) = V::packet() else { return NEXT };
    let Some(path) = path::of_packet::<V>(skb, packet, bridge, clock) else { return NEXT };
    let Some(macs) = short::outbound_macs(path, skb.ifindex(), macs, clock) else { return NEXT };
    let mut hook = Hook::new(skb, Link::Ethernet);
    hook.network = path.from;
    path::account(path, skb.len());
    let verdict = match V::decrement_ttl(skb, hook.l3()) {
        Ok(()) => emit::by_way(skb, path.ifindex, macs),
        Err(reason) => Err(reason),
    };
    hook.finish(verdict.map_err(Stop::from))
}

/// [`UNJUDGED`] if it is of no flow.
#[inline(never)]
fn send<V: Ip>(skb: Skb, macs: MacPair, now: u64) -> i32 {
    let Some((epoch, packet)) = headers::<V>(skb) else { return NEXT };
    let session = match packet.flow_key(Direction::Outbound) {
        Some(key) => flow::find::<V>(&key),
        None => None,
    };
    let Some(session) = session else { return UNJUDGED };
    let Some(out) = way_of_flow(skb, packet, session, epoch, macs, way_time(now)) else {
        return NEXT;
    };
    let mut hook = Hook::new(skb, Link::Ethernet);
    hook.network = session.network();
    let verdict = forward::<V>(&hook, session, &out, now);
    hook.finish(verdict)
}

/// A flow's way out, as it was when it was looked at.
struct Out {
    uplink_ifindex: u32,
    macs: MacPair,
}

/// The epoch of this run, and the headers of a packet that may take a short way.
#[inline(always)]
fn headers<V: Ip>(skb: Skb) -> Option<(u32, &'static Packet<V>)> {
    let epoch = tables::begin()?;
    let packet = Packet::<V>::parse(skb, Link::Ethernet).ok()?;
    let opens = packet.protocol == protocol::TCP && packet.tcp_flags & SYN != 0;
    (packet.fragment == Fragment::Whole && !opens).then_some((epoch, packet))
}

/// A flow's way, if a packet may take it; everything that may keep it from that is looked at here.
#[inline(always)]
fn way_of_flow<V: Ip>(
    skb: Skb,
    packet: &Packet<V>,
    session: SessionSlot,
    epoch: u32,
    [destination, source]: MacPair,
    clock: u32,
) -> Option<Out> {
    if session.epoch_outbound() != epoch || !way::may_have(session) {
        return None;
    }
    let inbound = session.way_inbound();
    // Its own port and its own MAC address, which were judged when the way was found.
    let is_own = inbound.port == skb.ifindex()
        && inbound.destination == source
        && way::is_good_inbound(&inbound, clock);
    let (uplink_ifindex, way) = (session.uplink_ifindex(), session.way_outbound());
    let bridge = way::bridge_address(session)?;
    let is_short = is_own
        && bridge.to_bytes() == destination
        && way::is_good_outbound(&way, clock)
        && outbound::check_exceptions(skb, packet, session.mtu_outbound()).is_ok()
        // Another CPU may have routed the flow anew meanwhile.
        && session.way_outbound() == way
        && session.uplink_ifindex() == uplink_ifindex;
    is_short.then_some(Out { uplink_ifindex, macs: [way.destination, way.source] })
}

/// As `outbound::forward`, without asking for the neighbour.
#[inline(always)]
fn forward<V: Ip>(hook: &Hook, session: SessionSlot, out: &Out, now: u64) -> Step<Verdict> {
    let skb = hook.skb;
    let Some(packet) = V::packet() else { return Ok(Verdict::Pass) };
    outbound::account(skb, packet, session, now);
    let (address, port) = (V::narrow(session.external()), session.external_port());
    nat::rewrite(hook, packet, Side::Source, address, port, Ttl::Decrement)?;
    Ok(emit::by_way(skb, out.uplink_ifindex, out.macs)?)
}
