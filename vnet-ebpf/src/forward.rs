//! Ports of the host behind which a guest is: port forwards, and the mappings of guests.

use vnet_common::{
    flow::{
        Direction, ExternalPort, FLAG_FORWARDED, FLAG_FROM_OUTSIDE, FLAG_HAIRPIN,
        FLAG_INSIDE_IS_ROUTED, FLAG_UNMAPPED, FlowKey, protocol,
    },
    network::{NETWORK_ENDPOINT_INDEPENDENT, SUBNET_BEHIND_GUEST},
    policy::Verdict as PolicyVerdict,
    reason::DropReason,
    tcp,
};

use crate::{
    flow::{self, NewFlow},
    fragment,
    hook::{Hook, Step},
    host_flow,
    ip::Ip,
    mapping,
    maps::{self, EXTERNAL_PORTS},
    parse::{Fragment, Packet},
    policy::{self, End, Slot},
    ports,
    session::SessionSlot,
    skb::Skb,
    tables,
};

// Whose a port is: what `find` says.
/// The host's own.
pub const NOBODYS: u32 = 0;
/// A forward leads to a guest.
pub const FORWARDED: u32 = 1;
/// A guest's mapping has it, and anybody may send there.
pub const OPEN: u32 = 2;
/// A guest's mapping has it, and only those may send there to whom the guest has sent.
pub const FILTERED: u32 = 3;

/// Whose port this CPU's packet is for. Fills the guest's side of this CPU's new flow, unless it is
/// nobody's.
#[inline(always)]
pub fn find<V: Ip>(skb: Skb) -> u32 {
    match find_guest::<V>() {
        // A socket of the host that is newer than the mapping.
        OPEN | FILTERED if host_has_socket(skb) => NOBODYS,
        // A forward is no reason to take the host's own flow from it, where a packet tells of one.
        FORWARDED if host_has_flow() => NOBODYS,
        found => found,
    }
}

/// As [`find`], but for the host's sockets. A function of its own for the sake of the stack.
#[inline(never)]
fn find_guest<V: Ip>() -> u32 {
    let (Some(packet), Some(new)) = (V::packet(), maps::new_flow()) else { return NOBODYS };
    new.network = 0;
    new.flags = 0;
    new.mapping.external = V::widen(packet.destination);
    new.mapping.protocol = packet.protocol;
    new.mapping.reserved = 0;
    new.external_port = packet.destination_port;
    new.remote = V::widen(packet.source);
    new.remote_port = packet.source_port;
    if find_forward(new) { FORWARDED } else { find_holder(new) }
}

#[inline(always)]
fn find_forward(new: &mut NewFlow) -> bool {
    let port = new.external_port;
    let Some(forward) = tables::forward_of(new.mapping.external, new.mapping.protocol, port) else {
        return false;
    };
    new.mapping.inside = forward.inside;
    new.mapping.inside_port = forward.inside_port(port);
    new.uplink_ifindex = forward.uplink_ifindex;
    new.network = forward.network;
    new.flags = FLAG_FORWARDED | FLAG_UNMAPPED;
    true
}

#[inline(always)]
fn find_holder(new: &mut NewFlow) -> u32 {
    let key = ExternalPort {
        external: new.mapping.external,
        port: new.external_port,
        protocol: new.mapping.protocol,
        reserved: 0,
    };
    // SAFETY: a look-up that races with removal reads a holder that was.
    let Some(holder) = (unsafe { EXTERNAL_PORTS.get(key) }) else { return NOBODYS };
    new.mapping.inside = holder.inside;
    new.mapping.inside_port = holder.inside_port;
    new.uplink_ifindex = holder.uplink_ifindex;
    new.network = holder.network;
    // It may only be held down.
    if !mapping::is_used(&new.mapping) {
        return NOBODYS;
    }
    // Flows of a guest that has gone may still hold it: the next one with its address is another.
    if flow::has_departed(&new.mapping.inside) {
        return FILTERED;
    }
    let flags = Slot(new.network).network().map_or(0, |network| network.flags);
    if flags & NETWORK_ENDPOINT_INDEPENDENT != 0 { OPEN } else { FILTERED }
}

/// Whether a socket of the host would take this CPU's packet. As [`find_guest`].
#[inline(never)]
fn host_has_socket(skb: Skb) -> bool {
    let Some(new) = maps::new_flow() else { return true };
    ports::host_has_socket(skb.raw(), new, new.external_port)
}

/// Whether this CPU's packet is of a flow of the host's that has no socket. As [`find_guest`].
#[inline(never)]
fn host_has_flow() -> bool {
    maps::new_flow().is_some_and(|new| host_flow::is_used(new, new.external_port))
}

/// Whether the forward that let a flow in still leads to its guest.
#[inline(always)]
pub fn leads_to(session: SessionSlot) -> bool {
    let port = session.external_port();
    let Some(forward) = tables::forward_of(session.external(), session.protocol(), port) else {
        return false;
    };
    forward.network == session.network()
        && forward.inside == session.inside()
        && forward.inside_port(port) == session.inside_port()
}

/// Whether a packet from outside may be the first of a flow.
#[inline(always)]
pub fn may_open<V: Ip>(packet: &Packet<V>) -> bool {
    match packet.protocol {
        protocol::TCP => packet.fragment != Fragment::Later && tcp::opens(packet.tcp_flags),
        protocol::UDP | protocol::SCTP => packet.fragment != Fragment::Later,
        _ => false,
    }
}

/// Opens the flow of a packet that belongs to none, to the guest that [`find`] has found, if the
/// policy lets it in; `false` if it does not. The packet knows its flow then.
#[inline(always)]
pub fn admit<V: Ip>(hook: &mut Hook, packet: &Packet<V>) -> Step<bool> {
    let new = maps::new_flow().ok_or(DropReason::FlowTableFull)?;
    let owner = policy::owner_of::<V>(V::narrow(new.mapping.inside));
    let arrived_at = hook.arrived_at();
    let is_masqueraded = |ifindex| {
        let outside = End::of_interface(ifindex);
        matches!(policy::verdict::<V>(owner.slot.end(), outside), PolicyVerdict::Masquerade)
    };
    if owner.slot.0 != new.network
        || !owner.slot.is_some()
        || owner.is_host()
        || !is_masqueraded(arrived_at)
    {
        return Ok(false);
    }
    // A mapping stays at the uplink whose address it has; forwards have those of all uplinks.
    let is_forwarded = new.flags & FLAG_FORWARDED != 0;
    if !is_forwarded && new.uplink_ifindex != arrived_at {
        let is_of_guests = policy::network_of_bridge(new.uplink_ifindex).is_some()
            || policy::network_of_bridge(arrived_at).is_some();
        if is_of_guests || !is_masqueraded(new.uplink_ifindex) {
            return Ok(false);
        }
    } else {
        new.uplink_ifindex = arrived_at;
    }
    hook.network = new.network;
    new.bridge_ifindex = owner.slot.bridge_ifindex();
    // The first answer is judged and routed.
    new.epoch = 0;
    new.mtu = 0;
    new.next_hop = new.remote;
    new.flags |= FLAG_FROM_OUTSIDE;
    if owner.flags & SUBNET_BEHIND_GUEST != 0 {
        new.flags |= FLAG_INSIDE_IS_ROUTED;
    }
    if hook.is_turned {
        new.flags |= FLAG_HAIRPIN;
    }
    let index = flow::open(hook.skb, packet, new)?;
    let session = SessionSlot::at(index).ok_or(DropReason::FlowTableFull)?;
    // The guest talks to that remote already, under another address or port of the host.
    if session.external() != V::widen(packet.destination)
        || session.external_port() != packet.destination_port
    {
        return Err(DropReason::FlowConflict.into());
    }
    if packet.fragment == Fragment::First {
        fragment::remember_new::<V>(Direction::Inbound);
    }
    if let Some(packet) = V::packet() {
        packet.known = index + 1;
    }
    Ok(true)
}

/// The uplink whose address this CPU's packet of a guest is for, if a guest is behind the port: there the
/// packet turns round, and this CPU's new flow says how long it may be. 0 if it does not.
#[inline(always)]
pub fn turning_point<V: Ip>(skb: Skb) -> u32 {
    let Some(packet) = V::packet() else { return 0 };
    let known = turned_at::<V>(packet.known);
    if known != 0 {
        return known;
    }
    if !matches!(packet.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
        || packet.fragment == Fragment::Later
        || find::<V>(skb) == NOBODYS
    {
        return 0;
    }
    let Some(new) = maps::new_flow() else { return 0 };
    new.mtu = Slot(new.network).network().map_or(0, |network| network.mtu);
    let uplink = new.uplink_ifindex;
    // Guests of other networks know the address there as the host's.
    if policy::network_of_bridge(uplink).is_some() { 0 } else { uplink }
}

/// Where the packets of a known flow have turned round so far and find a flow that they come in by; 0
/// if they have not. As [`find_guest`].
#[inline(never)]
fn turned_at<V: Ip>(known: u32) -> u32 {
    let Some(session) = SessionSlot::known(known) else { return 0 };
    if session.flags() & FLAG_HAIRPIN == 0 {
        return 0;
    }
    let own = (V::narrow(session.external()), session.external_port());
    let remote = (V::narrow(session.remote()), session.remote_port());
    let other = flow::find::<V>(&FlowKey::inbound(session.protocol(), own, remote));
    let (Some(other), Some(new)) = (other, maps::new_flow()) else { return 0 };
    new.mtu = other.mtu_inbound();
    other.uplink_ifindex()
}
