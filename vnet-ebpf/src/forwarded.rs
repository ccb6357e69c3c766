//! What the host's own stack sends out, at the egress of uplinks and bridges.

use vnet_common::{
    flow::{Direction, FLAG_INSIDE_IS_HOST},
    policy::{Mode, Verdict as PolicyVerdict},
    reason::DropReason,
};

use crate::{
    emit, flow, fragment,
    hook::{Hook, Step, Verdict},
    host_flow, icmp,
    ip::Ip,
    nat::{self, Side, Ttl},
    outbound,
    parse::Packet,
    policy::{self, End, Owner},
    route::{self, Route},
    session::SessionSlot,
    skb::Skb,
    tables,
};

/// TC egress of an uplink.
#[inline(always)]
pub fn to_uplink<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    if emit::take_mark(skb) {
        return Ok(Verdict::Pass);
    }
    tables::begin();
    let (source, _) = V::ends(skb, hook.l3())?;
    let owner = policy::owner_of::<V>(source);
    let outside = End::outside(skb.ifindex());
    let ingress = skb.ingress_ifindex();
    // Routed elsewhere than to its guest, whose address it shows. What the host makes of it itself may
    // inherit the mark (`net.ipv4.fwmark_reflect`).
    if emit::take_inbound_mark(skb) && ingress != 0 {
        return Err(DropReason::PolicyRejected.into());
    }
    if ingress == 0 {
        if !owner.slot.is_some() || owner.slot.mode::<V>() != Mode::Nat {
            return from_host::<V>(hook);
        }
        hook.network = owner.slot.0;
        // The host's address there is as hidden as its guests' are.
        let is_masqueraded = is_masqueraded::<V>(owner, outside);
        let refused = Err(DropReason::PolicyRejected.into());
        return if is_masqueraded { Ok(Verdict::Unjudged) } else { refused };
    }
    let arrived_from = policy::network_of_bridge(ingress);
    let network = if owner.slot.is_some() && !owner.is_host() { owner.slot } else { arrived_from };
    hook.network = network.0;
    // However it got past the bridge's ingress, a guest's packet has a guest's source.
    if network.is_some() || owner.is_host() {
        policy::check_forwarded_source::<V>(owner, ingress)?;
    }
    if !network.is_some() {
        return Ok(Verdict::Pass);
    }
    match policy::verdict::<V>(network.end(), outside) {
        PolicyVerdict::Accept | PolicyVerdict::LeaveToHost => Ok(Verdict::Pass),
        PolicyVerdict::Reject => Err(DropReason::PolicyRejected.into()),
        // The host's own rules have translated it.
        PolicyVerdict::Masquerade if owner.is_host() => Ok(Verdict::Pass),
        PolicyVerdict::Masquerade => Ok(Verdict::Unjudged),
    }
}

/// TC egress of a bridge.
#[inline(always)]
pub fn to_bridge<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    if emit::take_mark(skb) {
        return Ok(Verdict::Pass);
    }
    tables::begin();
    let ingress = skb.ingress_ifindex();
    if emit::take_inbound_mark(skb) && ingress != 0 {
        return to_own_bridge::<V>(hook);
    }
    if ingress == 0 {
        return from_host::<V>(hook);
    }
    let network = policy::network_of_bridge(skb.ifindex());
    if !network.is_some() {
        return Err(DropReason::NoNetwork.into());
    }
    hook.network = network.0;
    let (source, _) = V::ends(skb, hook.l3())?;
    let owner = policy::owner_of::<V>(source);
    policy::check_source_for::<V>(network, owner, ingress)?;
    let (from, to) = (End::of_interface(ingress), network.end());
    match policy::verdict::<V>(from, to) {
        PolicyVerdict::Accept | PolicyVerdict::LeaveToHost => Ok(Verdict::Pass),
        PolicyVerdict::Reject => Err(policy::rejection(from, to).into()),
        PolicyVerdict::Masquerade if owner.is_host() => Ok(Verdict::Pass),
        PolicyVerdict::Masquerade => Ok(Verdict::Unjudged),
    }
}

/// What the host itself sends: nothing more of protocols whose sockets tell of it.
#[inline(always)]
fn from_host<V: Ip>(hook: &Hook) -> Step<Verdict> {
    let next_header = V::next_header(hook.skb, hook.l3())?;
    let is_told = host_flow::has_sockets(next_header);
    Ok(if is_told { Verdict::Pass } else { Verdict::OfTheHost })
}

/// Either hook, for a packet of the host's own: notes whom it talks to, and translates what an error
/// quotes. No packet is lost for headers that nobody here reads.
#[inline(always)]
pub fn of_the_host<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let is_icmp = V::next_header(hook.skb, hook.l3())? == V::ICMP;
    let packet = match Packet::<V>::parse(hook.skb, hook.link) {
        Ok(packet) => packet,
        Err(reason) if is_icmp => return Err(reason.into()),
        Err(_) => return Ok(Verdict::Pass),
    };
    // Guests are remotes where others are masqueraded to their bridge.
    let is_uplink = policy::is_uplink(hook.skb.ifindex());
    if is_uplink {
        host_flow::note(packet);
    }
    if is_icmp { Ok(Verdict::Error) } else { Ok(Verdict::Pass) }
}

/// Either hook, for ICMP of the host's own.
#[inline(always)]
pub fn icmp_of_the_host<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    if policy::network_of_bridge(hook.skb.ifindex()).is_some() {
        icmp::from_host_to_guest(hook, packet)
    } else {
        icmp::from_host(hook, packet)
    }
}

/// A translated packet may go to its guest's bridge and to no other, wherever the stack has routed it.
#[inline(always)]
fn to_own_bridge<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let (_, destination) = V::ends(hook.skb, hook.l3())?;
    let owner = policy::owner_of::<V>(destination);
    hook.network = owner.slot.0;
    if owner.slot.is_some() && owner.slot.bridge_ifindex() == hook.skb.ifindex() {
        return Ok(Verdict::Pass);
    }
    // An answer would quote the guest's address.
    Err(DropReason::NoFlow.into())
}

#[inline(always)]
fn is_masqueraded<V: Ip>(owner: Owner, destination: End) -> bool {
    matches!(policy::verdict::<V>(owner.slot.end(), destination), PolicyVerdict::Masquerade)
}

/// Either hook, for a packet that has to have another source: translates it.
#[inline(always)]
pub fn masquerade<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    let (source, _) = V::ends(skb, hook.l3())?;
    let owner = policy::owner_of::<V>(source);
    hook.network = owner.slot.0;
    let flags = if skb.ingress_ifindex() == 0 { FLAG_INSIDE_IS_HOST } else { 0 };
    let packet = Packet::<V>::parse(skb, hook.link)?;
    if V::is_link_local_group(packet.destination) {
        return Err(DropReason::MulticastLeak.into());
    }
    let epoch = tables::epoch().ok_or(DropReason::NoNetwork)?;
    let known = SessionSlot::known(find_known::<V>());
    if let Some(session) = known
        && session.uplink_ifindex() == skb.ifindex()
        && session.epoch_outbound() == epoch
    {
        return Ok(Verdict::Known);
    }
    let route = route_out(skb, packet, owner);
    let way = outbound::way(owner, &route)?;
    if packet.is_icmp_error() {
        return Ok(Verdict::Error);
    }
    if known.is_none() && packet.follows_its_first() {
        return Ok(Verdict::Fragment);
    }
    outbound::renew_or_open(hook, packet, known, epoch, &way, flags)?;
    Ok(Verdict::Known)
}

/// Either hook, for a later fragment that came before its first.
#[inline(always)]
pub fn translate_fragment<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    outbound::masquerade_fragment::<V>(hook, Ttl::Keep)?;
    Ok(Verdict::Pass)
}

/// Either hook, once the packet's flow is known: translates it.
#[inline(always)]
pub fn translate<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let session = SessionSlot::known(packet.known).ok_or(DropReason::NoFlow)?;
    hook.network = session.network();
    outbound::account(hook.skb, packet, session, flow::now());
    let (address, port) = (V::narrow(session.external()), session.external_port());
    nat::rewrite(hook, packet, Side::Source, address, port, Ttl::Keep)?;
    Ok(Verdict::Pass)
}

/// Either hook, for a guest's ICMP error that may go out.
#[inline(always)]
pub fn translate_error<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    hook.network = policy::owner_of::<V>(packet.source).slot.0;
    icmp::from_guest(hook, packet, Ttl::Keep, true)?;
    Ok(Verdict::Pass)
}

/// The live flow of this CPU's packet: its slot and one; 0 for none. A function of its own for the
/// sake of the stack.
#[inline(never)]
fn find_known<V: Ip>() -> u32 {
    if let Some(packet) = V::packet()
        && let Some(slot) = fragment::find_slot(packet, Direction::Outbound)
        && SessionSlot::live(slot).is_some()
    {
        packet.known = slot.index + 1;
        return packet.known;
    }
    0
}

/// The route that the stack has already chosen, as the next packet at the bridge would find it.
#[inline(always)]
fn route_out<V: Ip>(skb: Skb, packet: &Packet<V>, owner: Owner) -> Route {
    match route::lookup(skb, packet, owner.slot.bridge_ifindex()) {
        Ok(route) if route.ifindex == skb.ifindex() => route,
        // The stack knows better, by marks or sockets: an MTU that no packet fits leaves all the
        // flow's packets to it.
        _ => Route {
            ifindex: skb.ifindex(),
            next_hop: V::widen(packet.destination),
            mtu: 0,
            resolved: true,
        },
    }
}
