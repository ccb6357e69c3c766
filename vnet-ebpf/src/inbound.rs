//! Packets towards guests from outside: replies of flows, and what the policy lets in.

use vnet_common::{
    flow::{Direction, FLAG_HAIRPIN, FLAG_INSIDE_IS_HOST, FLAG_INSIDE_IS_ROUTED},
    policy::Verdict as PolicyVerdict,
    reason::{DropReason, Handover},
    shortcut::{InboundWay, way_time},
};

use crate::{
    count, emit, flow, forward, fragment,
    hook::{Hook, Link, Step, Stop, Verdict},
    icmp,
    ip::Ip,
    maps,
    nat::{self, Side, Ttl},
    outbound,
    parse::{Fragment, Packet},
    policy::{self, End},
    routed,
    session::SessionSlot,
    shortcut::way,
    tables,
};

/// TC ingress of an uplink.
#[inline(always)]
pub fn from_uplink<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    if skb.is_none_of_ours() {
        return Ok(Verdict::Pass);
    }
    let epoch = tables::begin().ok_or(DropReason::NoNetwork)?;
    let packet = match Packet::<V>::parse(skb, hook.link) {
        // For a guest it is judged at the bridge; for the host it is the host's to judge.
        Err(DropReason::HeaderChain) => return Err(Handover::IpOptions.into()),
        parsed => parsed?,
    };
    reply(hook, packet, epoch)
}

/// The same hook, for an ICMP error.
#[inline(always)]
pub fn error_from_uplink<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let epoch = tables::epoch().ok_or(DropReason::NoNetwork)?;
    icmp::from_outside(hook, packet, epoch)
}

/// The same hook, for a packet that no flow answers for.
#[inline(always)]
pub fn from_uplink_unjudged<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    routed::check_source::<V>(hook, packet)?;
    if forward::may_open(packet) && !routed::is_no_station::<V>(packet) {
        let holder = forward::find::<V>(hook.skb);
        if matches!(holder, forward::FORWARDED | forward::OPEN) && forward::admit(hook, packet)? {
            return Ok(Verdict::Known);
        }
    }
    match routed::from_outside(hook, packet) {
        Err(Stop::Handover(Handover::NoFlow)) if !V::is_group(packet.destination) => {
            fragment::of_no_flow(hook, packet, Handover::NoFlow)
        }
        step => step,
    }
}

/// The same hook, once the packet's flow is known.
#[inline(always)]
pub fn from_uplink_known<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let session = SessionSlot::known(packet.known).ok_or(DropReason::NoFlow)?;
    hook.network = session.network();
    deliver_with_held(hook, packet, session)
}

/// TC ingress of a bridge: what a guest sends to the host itself where flows are masqueraded to it, or to an
/// external endpoint of this host at which it has turned round, translated. Its flow, if it has one.
#[inline(always)]
pub fn reply_at_bridge<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let packet = Packet::<V>::parse(hook.skb, hook.link)?;
    let epoch = tables::epoch().ok_or(DropReason::NoNetwork)?;
    if let Some(slot) = fragment::find_slot(packet, Direction::Inbound)
        && let Some(session) = SessionSlot::live(slot)
        && may_arrive_at(session, hook.arrived_at())
        && is_current::<V>(session, epoch)
    {
        hook.network = session.network();
        check_remote(hook, session)?;
        outbound::pass_on::<V>(slot.index);
        return Ok(Verdict::Known);
    }
    Ok(if packet.is_icmp_error() { Verdict::Error } else { Verdict::Unjudged })
}

/// The same, for an ICMP error. One that has turned round goes to a guest or nowhere.
#[inline(always)]
pub fn error_at_bridge<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    match error_from_uplink::<V>(hook)? {
        Verdict::Unjudged if hook.is_turned => Err(DropReason::UnrelatedIcmpError.into()),
        verdict => Ok(verdict),
    }
}

/// TC ingress of a bridge, for a packet that has turned round and that no flow answers for.
#[inline(always)]
pub fn turned_unjudged<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let packet = &*packet;
    let is_first = forward::may_open(packet);
    let holder = forward::find::<V>(hook.skb);
    let admitted = is_first
        && matches!(holder, forward::FORWARDED | forward::OPEN)
        && forward::admit(hook, packet)?;
    if admitted {
        return Ok(Verdict::Known);
    }
    hook.network = maps::new_flow().map_or(0, |new| new.network);
    Err(DropReason::Filtered.into())
}

/// TC ingress of a bridge at which flows are masqueraded, for a packet to the host itself that is of no flow.
#[inline(always)]
pub fn to_host_at_bridge<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    hook.network = policy::network_of_bridge(hook.skb.ifindex()).0;
    fragment::of_no_flow(hook, packet, Handover::ToHost)
}

/// A packet of a flow; [`Verdict::Error`] for an ICMP error, [`Verdict::Unjudged`] for any other.
#[inline(always)]
fn reply<V: Ip>(hook: &mut Hook, packet: &Packet<V>, epoch: u32) -> Step<Verdict> {
    if let Some(session) = fragment::find_flow(packet, Direction::Inbound)
        && may_arrive_at(session, hook.arrived_at())
        && is_current::<V>(session, epoch)
    {
        hook.network = session.network();
        check_remote(hook, session)?;
        return deliver_with_held(hook, packet, session);
    }
    Ok(if packet.is_icmp_error() { Verdict::Error } else { Verdict::Unjudged })
}

/// As [`deliver`], once the fragments that came before their first have been sent after it. What has
/// turned round was translated, and does not come again.
#[inline(always)]
fn deliver_with_held<V: Ip>(
    hook: &Hook,
    packet: &Packet<V>,
    session: SessionSlot,
) -> Step<Verdict> {
    if packet.fragment == Fragment::First && !hook.is_turned && V::replay(hook.skb) != 0 {
        return Ok(Verdict::Replayed);
    }
    deliver(hook, packet, session)
}

/// Nobody outside has an address of the host's: what hairpin flows have for a remote.
#[inline(always)]
pub fn check_remote(hook: &Hook, session: SessionSlot) -> Result<(), DropReason> {
    let is_spoofed = !hook.is_turned && session.flags() & FLAG_HAIRPIN != 0;
    if is_spoofed { Err(DropReason::SpoofedSource) } else { Ok(()) }
}

/// Whether a reply may come in at an interface: routes to outside may be asymmetric, but what went to
/// a network's bridge is answered there and nowhere else.
#[inline(always)]
pub fn may_arrive_at(session: SessionSlot, ifindex: u32) -> bool {
    let uplink = session.uplink_ifindex();
    uplink == ifindex
        || !(policy::network_of_bridge(uplink).is_some()
            || policy::network_of_bridge(ifindex).is_some())
}

/// Whether a flow may still be used by replies; ends one that may not.
#[inline(always)]
pub fn is_current<V: Ip>(session: SessionSlot, epoch: u32) -> bool {
    if session.epoch_inbound() == epoch {
        return true;
    }
    if judge_again::<V>(session) {
        session.set_way_inbound(InboundWay::default());
        session.set_epoch_inbound(epoch);
        return true;
    }
    flow::end(session, flow::now());
    false
}

/// Judges a flow of an earlier epoch: its network is as it was and its address is still there.
#[inline(always)]
fn judge_again<V: Ip>(session: SessionSlot) -> bool {
    let owner = policy::owner_of::<V>(V::narrow(session.inside()));
    let Some(network) = owner.slot.network() else { return false };
    let inside_is_host = session.flags() & FLAG_INSIDE_IS_HOST != 0;
    let bridge = if inside_is_host { 0 } else { network.bridge_ifindex };
    session.set_mtu_inbound(network.mtu);
    let outside = End::of_interface(session.uplink_ifindex());
    let verdict = policy::verdict::<V>(owner.slot.end(), outside);
    owner.slot.0 == session.network()
        && owner.slot.is_some()
        && matches!(verdict, PolicyVerdict::Masquerade)
        && bridge == session.bridge_ifindex()
        && V::keeps_external(session)
}

/// Translates a packet back and brings it to the guest.
#[inline(always)]
fn deliver<V: Ip>(hook: &Hook, packet: &Packet<V>, session: SessionSlot) -> Step<Verdict> {
    let skb = hook.skb;
    let now = flow::now();
    let may_be_short = !hook.is_turned && way::are_used_at(now);
    let way = if may_be_short { session.way_inbound() } else { InboundWay::default() };
    let is_short = may_be_short && way::is_good_inbound(&way, way_time(now));
    if may_be_short && !is_short {
        way::refresh_inbound(skb, session, now);
    }
    let bytes = skb.len();
    flow::touch(session, packet.tcp_flags, Direction::Inbound, bytes, now);
    count::traffic(session.network(), Direction::Inbound, bytes);
    let (inside, port) = (session.inside(), session.inside_port());
    let flags = session.flags();
    let by_stack = flags & (FLAG_INSIDE_IS_HOST | FLAG_INSIDE_IS_ROUTED) != 0
        // The kernel sends no packet to a neighbour that came without a link-layer header.
        || hook.link == Link::Raw;
    let exception = if flags & FLAG_INSIDE_IS_HOST != 0 {
        None
    } else {
        outbound::check_exceptions(skb, packet, session.mtu_inbound()).err()
    };
    if hook.is_turned && (by_stack || exception.is_some()) {
        return Err(DropReason::HairpinException.into());
    }
    if let Some(handover) = exception {
        count::handover(session.network(), handover);
    }
    let keep = by_stack || exception.is_some();
    let ttl = if keep { Ttl::Keep } else { Ttl::Decrement };
    nat::rewrite(hook, packet, Side::Destination, V::narrow(inside), port, ttl)?;
    if flags & FLAG_INSIDE_IS_HOST != 0 {
        return Ok(Verdict::Pass);
    }
    if keep {
        return Ok(emit::through_stack(skb));
    }
    if is_short && let Some(macs) = way::inbound_macs(session, &way) {
        return Ok(emit::to_port(skb, way.port, macs)?);
    }
    Ok(emit::to_neighbour(skb, session.bridge_ifindex(), inside))
}
