//! A guest's port: packets of known flows straight to the uplink.

use aya_ebpf::bindings::__sk_buff;
use vnet_common::{
    family::Family,
    flow::{Direction, protocol},
    guard::{Mac, MacKey},
    shortcut::{BridgePort, PORT_JUDGED, PORT_SHORT},
    tcp::flags::SYN,
};

use super::{
    maps::BRIDGE_PORTS,
    station,
    way::{self, MacPair},
};
use crate::{
    emit, flow, former,
    hook::{Hook, Link, NEXT, Step, Verdict},
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    nat::{self, Side, Ttl},
    outbound,
    parse::{Fragment, Packet},
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
    let may_be_short = former::is_absent()
        && port.flags & (PORT_SHORT | PORT_JUDGED) == PORT_SHORT | PORT_JUDGED
        && way::holds(lease);
    let action = match skb.family() {
        _ if !may_be_short => NEXT,
        _ if skb.vlan_present() != 0 || !Mac::from_bytes(macs[0]).is_unicast() => NEXT,
        Some(Family::Ipv4) => send::<Ipv4>(skb, macs),
        Some(Family::Ipv6) => send::<Ipv6>(skb, macs),
        None => NEXT,
    };
    if action == NEXT {
        note(port, macs[1]);
    }
    action
}

#[inline(always)]
fn note(port: &BridgePort, source: [u8; 6]) {
    let key = MacKey::new(port.bridge, Mac::from_bytes(source));
    station::note(key, port, flow::now());
}

#[inline(never)]
fn send<V: Ip>(skb: Skb, macs: MacPair) -> i32 {
    let Some((session, out)) = flow_with_way::<V>(skb, macs) else { return NEXT };
    let mut hook = Hook::new(skb, Link::Ethernet);
    hook.network = session.network();
    let verdict = forward::<V>(&hook, session, &out);
    hook.finish(verdict)
}

/// A flow's way out, as it was when it was looked at.
struct Out {
    uplink_ifindex: u32,
    macs: MacPair,
}

/// The flow of a packet that may take its short way; everything that may keep it from that is looked at here.
#[inline(always)]
fn flow_with_way<V: Ip>(skb: Skb, [destination, source]: MacPair) -> Option<(SessionSlot, Out)> {
    let epoch = tables::begin()?;
    let packet = Packet::<V>::parse(skb, Link::Ethernet).ok()?;
    let opens = packet.protocol == protocol::TCP && packet.tcp_flags & SYN != 0;
    if packet.fragment != Fragment::Whole || opens {
        return None;
    }
    let session = flow::find::<V>(&packet.flow_key(Direction::Outbound)?)?;
    if session.epoch_outbound() != epoch || !way::may_have(session) {
        return None;
    }
    let clock = way::clock();
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
    is_short.then_some((session, Out { uplink_ifindex, macs: [way.destination, way.source] }))
}

/// As `outbound::forward`, without asking for the neighbour.
#[inline(always)]
fn forward<V: Ip>(hook: &Hook, session: SessionSlot, out: &Out) -> Step<Verdict> {
    let skb = hook.skb;
    let Some(packet) = V::packet() else { return Ok(Verdict::Pass) };
    outbound::account(skb, packet, session);
    let (address, port) = (V::narrow(session.external()), session.external_port());
    nat::rewrite(hook, packet, Side::Source, address, port, Ttl::Decrement)?;
    Ok(emit::by_way(skb, out.uplink_ifindex, out.macs)?)
}
