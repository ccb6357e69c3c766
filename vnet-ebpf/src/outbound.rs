//! Packets from guests, at the bridge.

use vnet_common::{
    flow::{Direction, FLAG_FORWARDED, FLAG_HAIRPIN, FLAG_INSIDE_IS_HOST, FLAG_INSIDE_IS_ROUTED},
    network::SUBNET_BEHIND_GUEST,
    policy::{Mode, Verdict as PolicyVerdict},
    reason::{DropReason, Handover},
};

use crate::{
    count, emit, flow, fragment,
    hook::{Hook, Link, Step, Stop, Verdict},
    icmp,
    ip::Ip,
    maps,
    nat::{self, Side, Ttl},
    parse::{Fragment, Packet},
    policy::{self, End, Owner, Slot},
    route::{self, Route},
    routed,
    session::SessionSlot,
    shortcut::way,
    skb::Skb,
    tables,
};

/// TC ingress of a bridge.
#[inline(always)]
pub fn from_bridge<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    if skb.is_none_of_ours() {
        return Ok(Verdict::Pass);
    }
    let epoch = tables::begin().ok_or(DropReason::NoNetwork)?;
    let packet = Packet::<V>::parse(skb, Link::Ethernet)?;
    if let Some(slot) = fragment::find_slot(packet, Direction::Outbound)
        && let Some(session) = SessionSlot::live(slot)
    {
        hook.network = session.network();
        if session.bridge_ifindex() != skb.ifindex() {
            return Err(DropReason::SpoofedSource.into());
        }
        pass_on::<V>(slot.index);
        if session.epoch_outbound() == epoch && is_still_answered::<V>(skb, packet, session) {
            return Ok(Verdict::Known);
        }
    }
    Ok(Verdict::Unjudged)
}

/// Whether there still is somebody where the packets of a flow turn round; the host may have a socket
/// there meanwhile. Later fragments have no port to ask for.
#[inline(always)]
fn is_still_answered<V: Ip>(skb: Skb, packet: &Packet<V>, session: SessionSlot) -> bool {
    session.flags() & FLAG_HAIRPIN == 0
        || packet.fragment == Fragment::Later
        || V::turning_point(skb) != 0
}

/// Keeps the flow that was found for the next step.
#[inline(always)]
pub fn pass_on<V: Ip>(index: u32) {
    if let Some(packet) = V::packet() {
        packet.known = index + 1;
    }
}

/// The same hook, for a packet that no current flow answers for.
#[inline(always)]
pub fn from_bridge_unjudged<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    let Some(headers) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let packet = &*headers;
    let epoch = tables::epoch().ok_or(DropReason::NoNetwork)?;
    let known = SessionSlot::known(packet.known);
    hook.network = known.map_or(0, SessionSlot::network);
    let judged = match judge(hook, packet) {
        Ok(judged) => judged,
        // About a packet that came from another guest by way of the host's address.
        Err(Stop::Handover(Handover::ToHost))
            if packet.is_icmp_error() && Slot(hook.network).mode::<V>() == Mode::Nat =>
        {
            let new = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
            new.uplink_ifindex = 0;
            return Ok(Verdict::Error);
        }
        // An own address of the host's may be what another network's guest is masqueraded to.
        Err(Stop::Handover(Handover::ToHost))
            if known.is_none() && policy::is_uplink(skb.ifindex()) =>
        {
            return Ok(Verdict::PossibleReply);
        }
        Err(stop) => {
            // What is no longer allowed ends, also for those who would answer.
            let is_over = matches!(stop, Stop::Drop(_) | Stop::Handover(Handover::ToHost));
            if let (true, Some(session)) = (is_over, known) {
                flow::end(session, flow::now());
            }
            return Err(stop);
        }
    };
    if !judged.masquerade {
        if let Some(session) = known {
            flow::end(session, flow::now());
        }
        return routed::forward(hook, headers, &judged.route);
    }
    let way = way(judged.source, &judged.route)?;
    let exception = check_exceptions(skb, packet, way.mtu);
    if judged.turns && exception.is_err() {
        return Err(DropReason::HairpinException.into());
    }
    exception?;
    if packet.is_icmp_error() {
        return Ok(Verdict::Error);
    }
    if known.is_none() && packet.follows_its_first() {
        return Ok(Verdict::Fragment);
    }
    let flags = if judged.turns { FLAG_HAIRPIN } else { 0 };
    renew_or_open(hook, packet, known, epoch, &way, flags)?;
    Ok(Verdict::Known)
}

/// The same hook, for a later fragment that came before its first.
#[inline(always)]
pub fn fragment_from_bridge<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let way = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
    masquerade_fragment::<V>(hook, Ttl::Decrement)?;
    Ok(emit::to_neighbour(hook.skb, way.uplink_ifindex, way.next_hop))
}

/// Gives a later fragment that came before its first the address that its guest has on this CPU's new
/// way. It has no ports to translate and no flow to be accounted to; paired pooling (RFC 4787, REQ-2) lets
/// its first get the same address.
#[inline(always)]
pub fn masquerade_fragment<V: Ip>(hook: &mut Hook, ttl: Ttl) -> Step<()> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let new = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
    hook.network = policy::owner_of::<V>(packet.source).slot.0;
    new.network = hook.network;
    new.mapping.inside = V::widen(packet.source);
    if !V::choose_external() {
        return Err(DropReason::NoExternalAddress.into());
    }
    count::traffic(hook.network, Direction::Outbound, hook.skb.len());
    let external = V::narrow(new.mapping.external);
    V::write_address(hook.skb, hook.l3(), Side::Source, external, ttl)?;
    Ok(())
}

/// The same hook, once the packet's flow is known.
#[inline(always)]
pub fn from_bridge_known<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let session = SessionSlot::known(packet.known).ok_or(DropReason::NoFlow)?;
    hook.network = session.network();
    forward(hook, packet, session)
}

/// The same hook, for an ICMP error that may go out.
#[inline(always)]
pub fn from_bridge_error<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Err(DropReason::Malformed.into()) };
    let place = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
    hook.network = policy::network_of_bridge(hook.skb.ifindex()).0;
    let has_way = place.uplink_ifindex != 0;
    let turns_at = match icmp::from_guest(hook, packet, Ttl::Decrement, has_way) {
        Err(_) if !has_way => return Err(Handover::ToHost.into()),
        turns_at => turns_at?,
    };
    if turns_at != 0 {
        place.uplink_ifindex = turns_at;
        return Ok(Verdict::Turned);
    }
    Ok(emit::to_neighbour(hook.skb, place.uplink_ifindex, place.next_hop))
}

/// What policy and route say of a packet that may go on.
struct Judged {
    source: Owner,
    route: Route,
    /// Whether it needs another source; else it goes as it is.
    masquerade: bool,
    /// Whether it is for a guest behind an external address of this host.
    turns: bool,
}

/// Policy and route of a packet that no current flow answers for.
#[inline(always)]
fn judge<V: Ip>(hook: &mut Hook, packet: &Packet<V>) -> Step<Judged> {
    let skb = hook.skb;
    let network = policy::network_of_bridge(skb.ifindex());
    if !network.is_some() {
        return Err(DropReason::NoNetwork.into());
    }
    hook.network = network.0;
    let owner = policy::owner_of::<V>(packet.source);
    let stays_on_link = V::is_link_local(packet.source)
        && (V::is_group(packet.destination) || !packet.is_from_nobody());
    if !stays_on_link {
        policy::check_source::<V>(owner, skb.ifindex())?;
    }
    if V::is_group(packet.destination) {
        return Err(Handover::Multicast.into());
    }
    if V::is_link_local(packet.destination) || packet.is_of_the_link() {
        return Err(Handover::LinkLocal.into());
    }
    let turns_at = turning_point::<V>(skb, network);
    let route = if turns_at != 0 {
        let next_hop = V::widen(packet.destination);
        let mtu = maps::new_flow().map_or(0, |new| new.mtu);
        Route { ifindex: turns_at, next_hop, mtu, resolved: true }
    } else {
        match route::lookup(skb, packet, skb.ifindex()) {
            Err(Handover::NoRoute) if is_refused_anywhere::<V>(network) => {
                return Err(DropReason::PolicyRejected.into());
            }
            route => route?,
        }
    };
    // To the host itself only; no router forwards such a source (RFC 4291, section 2.5.6).
    if stays_on_link {
        return Err(DropReason::SpoofedSource.into());
    }
    let destination = End::of_interface(route.ifindex);
    let masquerade = match policy::verdict::<V>(network.end(), destination) {
        PolicyVerdict::Masquerade if destination.has_hooks() => true,
        // What the stack forwards there would leave untranslated.
        PolicyVerdict::Masquerade => return Err(DropReason::NotAnUplink.into()),
        PolicyVerdict::Accept if destination.has_hooks() => false,
        PolicyVerdict::Accept => return Err(Handover::OtherInterface.into()),
        PolicyVerdict::LeaveToHost => return Err(Handover::OpenNetwork.into()),
        PolicyVerdict::Reject => return Err(policy::rejection(network.end(), destination).into()),
    };
    if !route.resolved {
        return Err(Handover::NoNeighbour.into());
    }
    Ok(Judged { source: owner, route, masquerade, turns: turns_at != 0 })
}

/// The uplink at which a masqueraded guest's packet turns round; 0 if it does not.
#[inline(always)]
fn turning_point<V: Ip>(skb: Skb, network: Slot) -> u32 {
    if network.mode::<V>() == Mode::Nat { V::turning_point(skb) } else { 0 }
}

/// Whether the policy would refuse this CPU's packet on any route, for one that the host does not
/// route, as when forwarding is off. A function of its own for the sake of the stack.
#[inline(never)]
fn is_refused_anywhere<V: Ip>(network: Slot) -> bool {
    let Some(packet) = V::packet() else { return true };
    let owner = policy::owner_of::<V>(packet.destination);
    let destination = if owner.slot.is_some() {
        owner.slot.end()
    } else {
        // The one uplink that it may use, if there is only one.
        End::outside(network.network().map_or(0, |network| network.forward_ifindex))
    };
    let verdict = policy::verdict::<V>(network.end(), destination);
    !owner.is_host() && owner.slot != network && matches!(verdict, PolicyVerdict::Reject)
}

/// A masqueraded packet's way out; its next hop is that of this CPU's new flow.
pub struct Way {
    pub source: Owner,
    pub ifindex: u32,
    pub mtu: u16,
    pub resolved: bool,
}

impl Way {
    /// The epoch for flows on this way: none while the stack resolves the neighbour, so that the
    /// bridge looks for it again and then takes the short way.
    #[inline(always)]
    fn epoch(&self, current: u32) -> u32 {
        if self.resolved { current } else { 0 }
    }
}

#[inline(always)]
pub fn way(source: Owner, route: &Route) -> Step<Way> {
    if !policy::is_uplink(route.ifindex) {
        return Err(DropReason::NotAnUplink.into());
    }
    let new = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
    new.next_hop = route.next_hop;
    new.uplink_ifindex = route.ifindex;
    Ok(Way { source, ifindex: route.ifindex, mtu: route.mtu, resolved: route.resolved })
}

/// Whether a flow of an earlier epoch may go on: same way out, and its address is still there.
#[inline(always)]
fn still_valid<V: Ip>(session: SessionSlot, way: &Way) -> bool {
    // Answers to who came by a port forward take the host's route, as whatever the guest sends.
    let is_forwarded = session.flags() & FLAG_FORWARDED != 0;
    (is_forwarded || session.uplink_ifindex() == way.ifindex)
        && session.network() == way.source.slot.0
        && V::keeps_external(session)
}

/// Gives the packet its flow: the one that it has, on its way of this epoch, or a new one.
#[inline(always)]
pub fn renew_or_open<V: Ip>(
    hook: &Hook,
    packet: &Packet<V>,
    known: Option<SessionSlot>,
    epoch: u32,
    way: &Way,
    flags: u8,
) -> Step<()> {
    if let Some(session) = known {
        if still_valid::<V>(session, way) {
            if let Some(new) = maps::new_flow() {
                // Before and after: no way goes with another uplink than its own.
                session.clear_ways();
                session.set_next_hop(new.next_hop);
            }
            session.set_uplink_ifindex(way.ifindex);
            session.set_flags(session.flags() & !FLAG_HAIRPIN | flags & FLAG_HAIRPIN);
            session.set_mtu_outbound(way.mtu);
            session.clear_ways();
            session.set_epoch_outbound(way.epoch(epoch));
            return Ok(());
        }
        flow::end(session, flow::now());
    }
    let index = open(hook, packet, epoch, way, flags)?;
    pass_on::<V>(index);
    Ok(())
}

#[inline(always)]
fn open<V: Ip>(hook: &Hook, packet: &Packet<V>, epoch: u32, way: &Way, flags: u8) -> Step<u32> {
    let inside_is_host = flags & FLAG_INSIDE_IS_HOST != 0;
    let behind_guest = way.source.flags & SUBNET_BEHIND_GUEST != 0;
    let new = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
    new.mapping.inside = V::widen(packet.source);
    new.mapping.inside_port = packet.source_port;
    new.mapping.protocol = packet.protocol;
    new.mapping.reserved = 0;
    new.remote = V::widen(packet.destination);
    new.remote_port = packet.destination_port;
    new.bridge_ifindex = if inside_is_host { 0 } else { way.source.slot.bridge_ifindex() };
    new.epoch = way.epoch(epoch);
    new.mtu = way.mtu;
    new.network = way.source.slot.0;
    new.flags = flags | if behind_guest { FLAG_INSIDE_IS_ROUTED } else { 0 };
    if !V::choose_external() {
        return Err(DropReason::NoExternalAddress.into());
    }
    let index = flow::open(hook.skb, packet, new)?;
    if packet.fragment == Fragment::First {
        fragment::remember_new::<V>(Direction::Outbound);
    }
    Ok(index)
}

/// Translates a packet of a current flow and sends it out.
#[inline(always)]
fn forward<V: Ip>(hook: &Hook, packet: &Packet<V>, session: SessionSlot) -> Step<Verdict> {
    let skb = hook.skb;
    let turns = session.flags() & FLAG_HAIRPIN != 0;
    let exception = check_exceptions(skb, packet, session.mtu_outbound());
    if turns && exception.is_err() {
        if let Some(new) = maps::new_flow() {
            new.mtu = session.mtu_outbound();
        }
        return Err(DropReason::HairpinException.into());
    }
    exception?;
    let now = flow::now();
    way::refresh_outbound(skb, session, now);
    account(skb, packet, session, now);
    let (address, port) = (V::narrow(session.external()), session.external_port());
    // It is counted down where it comes in again.
    let ttl = if turns { Ttl::Keep } else { Ttl::Decrement };
    nat::rewrite(hook, packet, Side::Source, address, port, ttl)?;
    if turns {
        let place = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
        place.uplink_ifindex = session.uplink_ifindex();
        return Ok(Verdict::Turned);
    }
    Ok(emit::to_neighbour(skb, session.uplink_ifindex(), session.next_hop()))
}

#[inline(always)]
pub fn account<V: Ip>(skb: Skb, packet: &Packet<V>, session: SessionSlot, now: u64) {
    let bytes = skb.len();
    flow::touch(session, packet.tcp_flags, Direction::Outbound, bytes, now);
    count::traffic(session.network(), Direction::Outbound, bytes);
}

/// What only the host's stack does right: it sends the ICMP errors and fragments.
#[inline(always)]
pub fn check_exceptions<V: Ip>(skb: Skb, packet: &Packet<V>, mtu: u16) -> Result<(), Handover> {
    if packet.ttl <= 1 {
        return Err(Handover::TtlExpiring);
    }
    if packet.has_options {
        return Err(Handover::IpOptions);
    }
    if packet.exceeds(skb, mtu) {
        return Err(Handover::OverMtu);
    }
    Ok(())
}
