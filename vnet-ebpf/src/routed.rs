//! Packets that go on as they are: between guests and places that see their own addresses.
//!
//! No state is kept of them: the policy allows both directions of such a connection or none.

use vnet_common::{
    flow::Direction,
    policy::Verdict as PolicyVerdict,
    reason::{DropReason, Handover},
};

use crate::{
    count, emit,
    hook::{Hook, Link, Step, Verdict},
    ip::Ip,
    outbound,
    parse::Packet,
    policy::{self, End},
    route::{self, Route},
};

/// Sends an accepted packet of a guest on its way.
#[inline(always)]
pub fn forward<V: Ip>(hook: &Hook, packet: &mut Packet<V>, route: &Route) -> Step<Verdict> {
    let skb = hook.skb;
    outbound::check_exceptions(skb, packet, route.mtu)?;
    let network = policy::network_of_bridge(route.ifindex);
    packet.accepted = 1 + u32::from(network.0);
    count::traffic(hook.network, Direction::Outbound, skb.len());
    if network.is_some() {
        count::traffic(network.0, Direction::Inbound, skb.len());
    }
    V::decrement_ttl(skb, hook.l3())?;
    Ok(emit::to_neighbour(skb, route.ifindex, route.next_hop))
}

/// Checks the source of a packet from outside: nobody there has an address of a guest or of the host.
#[inline(always)]
pub fn check_source<V: Ip>(hook: &mut Hook, packet: &Packet<V>) -> Step<()> {
    if V::is_group(packet.destination) || packet.is_of_the_link() {
        return Err(Handover::NoFlow.into());
    }
    let source = policy::owner_of::<V>(packet.source);
    hook.network = source.slot.0;
    policy::check_source::<V>(source, hook.skb.ifindex())?;
    hook.network = 0;
    Ok(())
}

/// Whether a source is none that a guest could answer: nobody's, many's, of the link or of a network of
/// ours, whose packets come from its bridge.
#[inline(always)]
pub fn is_no_station<V: Ip>(packet: &Packet<V>) -> bool {
    V::is_martian(packet.source)
        || V::is_link_local(packet.source)
        || policy::owner_of::<V>(packet.source).slot.is_some()
}

/// Judges a packet from outside that belongs to no flow, and brings it to the guest.
#[inline(always)]
pub fn from_outside<V: Ip>(hook: &mut Hook, packet: &mut Packet<V>) -> Step<Verdict> {
    let skb = hook.skb;
    let source = policy::owner_of::<V>(packet.source);
    let owner = policy::owner_of::<V>(packet.destination);
    if !owner.slot.is_some() {
        return Err(Handover::NoFlow.into());
    }
    hook.network = owner.slot.0;
    if owner.is_host() {
        return Err(Handover::ToHost.into());
    }
    if V::is_link_local(packet.source) || V::is_martian(packet.source) {
        return Err(DropReason::SpoofedSource.into());
    }
    if source.slot.is_some() && !owner.slot.is_open::<V>() {
        hook.network = source.slot.0;
        return Err(DropReason::SpoofedSource.into());
    }
    let outside = End::outside(skb.ifindex());
    match policy::verdict::<V>(outside, owner.slot.end()) {
        PolicyVerdict::Accept | PolicyVerdict::Masquerade => {}
        PolicyVerdict::LeaveToHost => return Err(Handover::OpenNetwork.into()),
        PolicyVerdict::Reject => {
            return Err(policy::rejection(outside, owner.slot.end()).into());
        }
    }
    if hook.link == Link::Raw {
        return Err(Handover::RawLink.into());
    }
    let route = route::lookup(skb, packet, skb.ifindex())?;
    // The host's routes lead elsewhere than the definition says: the stack may follow them.
    if route.ifindex != owner.slot.bridge_ifindex() {
        return Err(Handover::NoRoute.into());
    }
    // Without a neighbour the kernel does not tell the MTU.
    if !route.resolved {
        return Err(Handover::NoNeighbour.into());
    }
    outbound::check_exceptions(skb, packet, route.mtu)?;
    packet.accepted = 1 + u32::from(owner.slot.0);
    count::traffic(owner.slot.0, Direction::Inbound, skb.len());
    V::decrement_ttl(skb, hook.l3())?;
    Ok(emit::to_neighbour(skb, route.ifindex, route.next_hop))
}
