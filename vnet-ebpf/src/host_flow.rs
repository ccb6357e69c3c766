//! What the host itself talks about with remotes where no socket tells of it: pings, SCTP, GRE, ESP and
//! the like. Guests get none of the replies.

use vnet_common::{
    address::{Address, PortBe},
    flow::{Direction, FlowKey, FlowKey6, protocol},
    limits,
    tcp::State,
    timeout::NANOSECONDS,
};

use crate::{
    flow::{self, NewFlow},
    ip::Ip,
    maps::HOST_FLOWS,
    parse::Packet,
    tables,
};

/// Whether the kernel tells of the host's flows of a protocol by their sockets.
#[inline(always)]
pub const fn has_sockets(ip_protocol: u8) -> bool {
    matches!(ip_protocol, protocol::TCP | protocol::UDP)
}

/// Notes a packet that the host itself sends, and ends the flow of a guest that would get the replies.
#[inline(always)]
pub fn note<V: Ip>(packet: &Packet<V>) {
    if !has_sockets(packet.protocol) {
        V::note_host_flow();
    }
}

/// As [`note`], of this CPU's packet.
#[inline(always)]
pub fn note_packet<V: Ip>() {
    let Some(packet) = V::packet() else { return };
    // Replies and later fragments begin nothing, and nobody answers as a group.
    if packet.flow_key(Direction::Outbound).is_none() || V::is_group(packet.destination) {
        return;
    }
    let remote = (packet.destination, packet.destination_port);
    let own = (packet.source, packet.source_port);
    let key = key(packet.protocol, (V::widen(remote.0), remote.1), (V::widen(own.0), own.1));
    let now = flow::now();
    // SAFETY: the value is one word; a look-up that races with removal reads a time that was.
    let last = unsafe { HOST_FLOWS.get(key) }.copied();
    if last.is_some_and(|last| now.saturating_sub(last) < limits::HOST_FLOW_REFRESH_NS) {
        return;
    }
    // A full table forgets what has rested the longest.
    let _ = HOST_FLOWS.insert(key, now, 0);
    // Only then, so that of a guest on another CPU at least the next packet of the host's finds the flow.
    if let Some(session) = flow::find::<V>(&FlowKey::inbound(packet.protocol, remote, own)) {
        flow::end(session, now);
    }
}

/// Whether replies of a new flow's remote to an external port are the host's own.
#[inline(always)]
pub fn is_used(new: &NewFlow, port: PortBe) -> bool {
    let protocol = new.mapping.protocol;
    if has_sockets(protocol) {
        return false;
    }
    let key = key(protocol, (new.remote, new.remote_port), (new.mapping.external, port));
    // SAFETY: as above.
    let Some(last) = (unsafe { HOST_FLOWS.get(key) }).copied() else { return false };
    let seconds = tables::network(new.network)
        .map_or(0, |network| network.timeouts.of(protocol, State::Opening));
    flow::now().saturating_sub(last) < u64::from(seconds) * NANOSECONDS
}

/// How the remote's packets find the host, of either family.
#[inline(always)]
fn key(ip_protocol: u8, remote: (Address, PortBe), own: (Address, PortBe)) -> FlowKey6 {
    FlowKey::inbound(ip_protocol, remote, own)
}
