//! Packets from guests towards outside: at the bridge, and at the uplink when the host's stack
//! forwarded them.

use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    flow::{Direction, FLAG_INSIDE_IS_HOST, MappingKey},
    network::Uplink,
    policy::{Place, Verdict as PolicyVerdict},
    reason::{DropReason, Handover},
};

use crate::{
    count, emit,
    flow::{self, NewFlow},
    fragment,
    hook::{Hook, Link, Step, Stop, Verdict},
    icmp, maps,
    maps::UPLINKS,
    nat::{self, Side, Ttl},
    parse::{Fragment, Icmp, Packet},
    policy::{self, NetworkAt},
    route::{self, Route},
    session::SessionSlot,
    skb::Skb,
};

/// TC ingress of a bridge.
#[inline(always)]
pub fn from_bridge(hook: &mut Hook) -> Step<Verdict> {
    let skb = hook.skb;
    if !skb.is_ipv4() {
        return Err(Handover::NotIp.into());
    }
    if skb.is_for_other_host() {
        return Ok(Verdict::Pass);
    }
    let packet = Packet::parse(skb, Link::Ethernet)?;
    let epoch = maps::epoch().ok_or(DropReason::NoNetwork)?;
    let known = fragment::find_flow(&packet, Direction::Outbound);
    if let Some(session) = known {
        hook.network = session.network();
        if session.bridge_ifindex() != skb.ifindex() {
            return Err(DropReason::SpoofedSource.into());
        }
        if session.epoch_outbound() == epoch {
            return forward(hook, &packet, session);
        }
    }
    let way = match judge(hook, &packet) {
        Ok(way) => way,
        Err(stop) => {
            // What is no longer allowed ends, also for those who would answer.
            if let (Stop::Drop(_), Some(session)) = (&stop, known) {
                flow::end(session, flow::now());
            }
            return Err(stop);
        }
    };
    if packet.icmp == Icmp::Error {
        return icmp::from_guest(hook, &packet, &way.route);
    }
    check_exceptions(skb, &packet, way.route.mtu)?;
    let session = match known {
        Some(session) if still_valid(session, &way) => renew(session, epoch, &way),
        stale => {
            if let Some(session) = stale {
                flow::end(session, flow::now());
            }
            open(hook, &packet, epoch, &way, 0)?
        }
    };
    forward(hook, &packet, session)
}

/// A packet's way out: its network, its route, and the uplink at its end.
struct Way {
    network: NetworkAt,
    route: Route,
    uplink: &'static Uplink,
    external: Ipv4Be,
}

impl Way {
    /// The epoch for flows on this way: none while the stack resolves the neighbour, so that the
    /// bridge looks for it again and then takes the short way.
    #[inline(always)]
    fn epoch(&self, current: u32) -> u32 {
        if self.route.resolved { current } else { 0 }
    }
}

/// Policy and route of a packet that no current flow answers for.
#[inline(always)]
fn judge(hook: &mut Hook, packet: &Packet) -> Step<Way> {
    let skb = hook.skb;
    let network = policy::network_of_bridge(skb.ifindex()).ok_or(DropReason::NoNetwork)?;
    hook.network = network.slot;
    if packet.destination.is_multicast_or_broadcast() {
        return Err(Handover::Multicast.into());
    }
    let route = route::lookup(skb, packet, skb.ifindex())?;
    let of_source = policy::network_of_address(packet.source);
    if of_source.is_none_or(|of_source| of_source.slot != network.slot) {
        return Err(DropReason::SpoofedSource.into());
    }
    let destination = policy::destination_of_route(route.ifindex)?;
    match policy::verdict(network.place(), destination) {
        PolicyVerdict::Masquerade => {}
        PolicyVerdict::Accept | PolicyVerdict::LeaveToHost => {
            return Err(Handover::WithinNetwork.into());
        }
        PolicyVerdict::Reject => return Err(DropReason::PolicyRejected.into()),
    }
    if !route.resolved {
        return Err(Handover::NoNeighbour.into());
    }
    way(network, route)
}

#[inline(always)]
fn way(network: NetworkAt, route: Route) -> Step<Way> {
    // SAFETY: entries are replaced as a whole by userspace, which bumps the epoch afterwards.
    let uplink = unsafe { UPLINKS.get(route.ifindex) }.ok_or(DropReason::NotAnUplink)?;
    let external =
        route::masquerade_address(uplink, route.next_hop).ok_or(DropReason::NoExternalAddress)?;
    Ok(Way { network, route, uplink, external })
}

/// Whether a flow of an earlier epoch may go on: same uplink, and its address is still there.
#[inline(always)]
fn still_valid(session: SessionSlot, way: &Way) -> bool {
    session.uplink_ifindex() == way.route.ifindex
        && session.network() == way.network.slot
        && route::has_address(way.uplink, session.external().ipv4_part())
}

/// The flow on its way of this epoch.
#[inline(always)]
fn renew(session: SessionSlot, epoch: u32, way: &Way) -> SessionSlot {
    session.set_next_hop(way.route.next_hop);
    session.set_mtu_outbound(way.route.mtu);
    session.set_epoch_outbound(way.epoch(epoch));
    session
}

#[inline(always)]
fn open(hook: &Hook, packet: &Packet, epoch: u32, way: &Way, flags: u8) -> Step<SessionSlot> {
    let inside_is_host = flags & FLAG_INSIDE_IS_HOST != 0;
    let new = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
    *new = NewFlow {
        mapping: MappingKey {
            inside: Address::from_ipv4(packet.source),
            external: Address::from_ipv4(way.external),
            inside_port: packet.source_port,
            protocol: packet.protocol,
            reserved: 0,
        },
        next_hop: way.route.next_hop,
        remote: packet.destination,
        bridge_ifindex: if inside_is_host { 0 } else { way.network.network.bridge_ifindex },
        uplink_ifindex: way.route.ifindex,
        epoch: way.epoch(epoch),
        external_port: PortBe::NONE,
        remote_port: packet.destination_port,
        mtu: way.route.mtu,
        network: way.network.slot,
        flags,
        reserved: [0; 3],
    };
    let session = flow::open(hook.skb, packet, new)?;
    if packet.fragment == Fragment::First
        && let Some(key) = packet.flow_key(Direction::Outbound)
    {
        fragment::remember(packet, Direction::Outbound, &key);
    }
    Ok(session)
}

/// Translates a packet of a current flow and sends it out of the uplink.
#[inline(always)]
fn forward(hook: &Hook, packet: &Packet, session: SessionSlot) -> Step<Verdict> {
    let skb = hook.skb;
    check_exceptions(skb, packet, session.mtu_outbound())?;
    account(skb, packet, session);
    let (address, port) = (session.external().ipv4_part(), session.external_port());
    nat::rewrite(skb, packet, Side::Source, address, port, Ttl::Decrement)?;
    Ok(emit::to_neighbour(skb, session.uplink_ifindex(), session.next_hop()))
}

#[inline(always)]
fn account(skb: Skb, packet: &Packet, session: SessionSlot) {
    let bytes = skb.len();
    flow::touch(session, packet, Direction::Outbound, bytes);
    count::traffic(session.network(), Direction::Outbound, bytes);
}

/// What only the host's stack does right: it sends the ICMP errors and fragments.
#[inline(always)]
pub fn check_exceptions(skb: Skb, packet: &Packet, mtu: u16) -> Result<(), Handover> {
    if packet.ttl <= 1 {
        return Err(Handover::TtlExpiring);
    }
    if packet.has_options() {
        return Err(Handover::IpOptions);
    }
    if packet.exceeds(skb, mtu) {
        return Err(Handover::OverMtu);
    }
    Ok(())
}

/// TC egress of an uplink.
#[inline(always)]
pub fn to_uplink(hook: &mut Hook, link: Link) -> Step<Verdict> {
    let skb = hook.skb;
    if emit::take_mark(skb) || !skb.is_ipv4() {
        return Ok(Verdict::Pass);
    }
    skb.pull((link.header_len() + size_of::<network_types::ip::Ipv4Hdr>()) as u32);
    let source = skb.read::<Ipv4Be>(link.header_len() + SOURCE_OFFSET)?;
    let Some(network) = policy::network_of_address(source) else {
        // However it got past the bridge's ingress, a guest's packet has a guest's source.
        if let Some(network) = policy::network_of_bridge(skb.ingress_ifindex()) {
            hook.network = network.slot;
            return Err(DropReason::SpoofedSource.into());
        }
        return icmp::from_host(hook, link);
    };
    hook.network = network.slot;
    let packet = Packet::parse(skb, link)?;
    let flags = origin(skb, network)?;
    if is_link_local_multicast(packet.destination) {
        return Err(DropReason::MulticastLeak.into());
    }
    let epoch = maps::epoch().ok_or(DropReason::NoNetwork)?;
    let known = fragment::find_flow(&packet, Direction::Outbound);
    if let Some(session) = known
        && session.uplink_ifindex() == skb.ifindex()
        && session.epoch_outbound() == epoch
    {
        return leave(skb, &packet, session);
    }
    let place = Place::Outside { ifindex: skb.ifindex() };
    match policy::verdict(network.place(), place) {
        PolicyVerdict::Masquerade => {}
        PolicyVerdict::Accept | PolicyVerdict::LeaveToHost => return Ok(Verdict::Pass),
        PolicyVerdict::Reject => return Err(DropReason::PolicyRejected.into()),
    }
    let way = way(network, route_out(skb, &packet, network))?;
    if packet.icmp == Icmp::Error {
        return icmp::from_forwarded_guest(hook, &packet);
    }
    let session = match known {
        Some(session) if still_valid(session, &way) => renew(session, epoch, &way),
        stale => {
            if let Some(session) = stale {
                flow::end(session, flow::now());
            }
            open(hook, &packet, epoch, &way, flags)?
        }
    };
    leave(skb, &packet, session)
}

/// The route that the stack has already chosen, as the next packet at the bridge would find it.
#[inline(always)]
fn route_out(skb: Skb, packet: &Packet, network: NetworkAt) -> Route {
    match route::lookup(skb, packet, network.network.bridge_ifindex) {
        Ok(route) if route.ifindex == skb.ifindex() => route,
        // The stack knows better, by marks or sockets: an MTU that no packet fits leaves all the
        // flow's packets to it.
        _ => Route {
            ifindex: skb.ifindex(),
            next_hop: Address::from_ipv4(packet.destination),
            mtu: 0,
            resolved: true,
        },
    }
}

/// Translates a packet that the stack sends out itself.
#[inline(always)]
fn leave(skb: Skb, packet: &Packet, session: SessionSlot) -> Step<Verdict> {
    account(skb, packet, session);
    let (address, port) = (session.external().ipv4_part(), session.external_port());
    nat::rewrite(skb, packet, Side::Source, address, port, Ttl::Keep)?;
    Ok(Verdict::Pass)
}

/// Whether a packet with a network's source really comes from there, or from the host itself.
#[inline(always)]
fn origin(skb: Skb, network: NetworkAt) -> Result<u8, DropReason> {
    match skb.ingress_ifindex() {
        0 => Ok(FLAG_INSIDE_IS_HOST),
        ifindex if ifindex == network.network.bridge_ifindex => Ok(0),
        _ => Err(DropReason::SpoofedSource),
    }
}

/// 224.0.0.0/24 and 255.255.255.255, which libvirt does not masquerade and no router forwards.
#[inline(always)]
fn is_link_local_multicast(destination: Ipv4Be) -> bool {
    destination.shares_prefix(Ipv4Be::from_wire(u32::from_ne_bytes([224, 0, 0, 0])), 24)
        || destination.to_wire() == u32::MAX
}

/// Offset of the source address in the IPv4 header (RFC 791, section 3.1).
const SOURCE_OFFSET: usize = 12;
