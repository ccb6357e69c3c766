//! Packets towards guests: from outside at the uplink, and from the host's stack at the bridge.

use vnet_common::{
    address::Address,
    flow::{Direction, FLAG_INSIDE_IS_HOST},
    policy::{Place, Verdict as PolicyVerdict},
    reason::{DropReason, Handover},
};

use crate::{
    count, emit, flow, fragment,
    hook::{Hook, Link, Step, Verdict},
    icmp, maps,
    maps::UPLINKS,
    nat::{self, Side, Ttl},
    outbound,
    parse::{Icmp, Packet},
    policy::{self, NetworkAt},
    route,
    session::SessionSlot,
};

/// TC ingress of an uplink.
#[inline(always)]
pub fn from_uplink(hook: &mut Hook, link: Link) -> Step<Verdict> {
    let skb = hook.skb;
    if !skb.is_ipv4() || skb.is_for_other_host() {
        return Ok(Verdict::Pass);
    }
    let packet = Packet::parse(skb, link)?;
    let epoch = maps::epoch().ok_or(DropReason::NoNetwork)?;
    if let Some(session) = fragment::find_flow(&packet, Direction::Inbound)
        && is_current(session, epoch)
    {
        hook.network = session.network();
        return deliver(hook, &packet, session, link);
    }
    if packet.icmp == Icmp::Error {
        return icmp::from_outside(hook, &packet, link, epoch);
    }
    let Some(network) = policy::network_of_address(packet.destination) else {
        return Err(Handover::NoFlow.into());
    };
    hook.network = network.slot;
    let source = Place::Outside { ifindex: skb.ifindex() };
    match policy::verdict(source, network.place()) {
        PolicyVerdict::Reject => Err(DropReason::PolicyRejected.into()),
        PolicyVerdict::Accept | PolicyVerdict::Masquerade | PolicyVerdict::LeaveToHost => {
            Ok(Verdict::Pass)
        }
    }
}

/// Whether a flow may still be used by replies; ends one that may not.
#[inline(always)]
pub fn is_current(session: SessionSlot, epoch: u32) -> bool {
    if session.epoch_inbound() == epoch {
        return true;
    }
    if judge_again(session) {
        session.set_epoch_inbound(epoch);
        return true;
    }
    flow::end(session, flow::now());
    false
}

/// Judges a flow of an earlier epoch: its network is as it was and its address is still there.
#[inline(always)]
fn judge_again(session: SessionSlot) -> bool {
    let Some(network) = policy::network_of_address(session.inside().ipv4_part()) else {
        return false;
    };
    let inside_is_host = session.flags() & FLAG_INSIDE_IS_HOST != 0;
    let bridge = if inside_is_host { 0 } else { network.network.bridge_ifindex };
    // SAFETY: entries are replaced as a whole by userspace, which bumps the epoch afterwards.
    let Some(uplink) = (unsafe { UPLINKS.get(session.uplink_ifindex()) }) else { return false };
    session.set_mtu_inbound(network.network.mtu);
    network.slot == session.network()
        && is_masqueraded(network, session.uplink_ifindex())
        && bridge == session.bridge_ifindex()
        && route::has_address(uplink, session.external().ipv4_part())
}

#[inline(always)]
fn is_masqueraded(network: NetworkAt, uplink_ifindex: u32) -> bool {
    let outside = Place::Outside { ifindex: uplink_ifindex };
    matches!(policy::verdict(network.place(), outside), PolicyVerdict::Masquerade)
}

/// Translates a packet back and brings it to the guest.
#[inline(always)]
fn deliver(hook: &Hook, packet: &Packet, session: SessionSlot, link: Link) -> Step<Verdict> {
    let skb = hook.skb;
    let bytes = skb.len();
    flow::touch(session, packet, Direction::Inbound, bytes);
    count::traffic(session.network(), Direction::Inbound, bytes);
    let (inside, port) = (session.inside(), session.inside_port());
    if session.flags() & FLAG_INSIDE_IS_HOST != 0 {
        nat::rewrite(skb, packet, Side::Destination, inside.ipv4_part(), port, Ttl::Keep)?;
        return Ok(Verdict::Pass);
    }
    if let Err(handover) = outbound::check_exceptions(skb, packet, session.mtu_inbound()) {
        count::handover(session.network(), handover);
        nat::rewrite(skb, packet, Side::Destination, inside.ipv4_part(), port, Ttl::Keep)?;
        return Ok(emit::through_stack(skb));
    }
    if link == Link::Raw {
        // The kernel sends no packet to a neighbour that came without a link-layer header.
        nat::rewrite(skb, packet, Side::Destination, inside.ipv4_part(), port, Ttl::Keep)?;
        return Ok(emit::through_stack(skb));
    }
    nat::rewrite(skb, packet, Side::Destination, inside.ipv4_part(), port, Ttl::Decrement)?;
    Ok(emit::to_neighbour(skb, session.bridge_ifindex(), Address::from_ipv4(inside.ipv4_part())))
}

/// TC egress of a bridge.
#[inline(always)]
pub fn to_bridge(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    // What the host itself sends to its guests, and what another hook of ours has judged.
    if emit::take_mark(skb) || skb.ingress_ifindex() == 0 || !skb.is_ipv4() {
        return Ok(Verdict::Pass);
    }
    let network = policy::network_of_bridge(skb.ifindex()).ok_or(DropReason::NoNetwork)?;
    hook.network = network.slot;
    match policy::verdict(policy::place_of_interface(skb.ingress_ifindex()), network.place()) {
        PolicyVerdict::Reject => Err(DropReason::PolicyRejected.into()),
        PolicyVerdict::Accept | PolicyVerdict::Masquerade | PolicyVerdict::LeaveToHost => {
            Ok(Verdict::Pass)
        }
    }
}
