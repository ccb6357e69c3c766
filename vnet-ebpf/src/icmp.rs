//! ICMP errors about translated packets: the packet they quote is translated too (RFC 5508).

use network_types::icmp::Icmpv4Hdr;
use vnet_common::{
    address::{Address, PortBe},
    checksum,
    flow::{
        self, Direction, FLAG_HAIRPIN, FLAG_INSIDE_IS_HOST, FLAG_INSIDE_IS_ROUTED, FlowKey,
        protocol,
    },
    icmp,
    policy::Mode,
    reason::DropReason,
};

use crate::{
    count, emit, flow as flows,
    hook::{Hook, Link, Step, Verdict},
    inbound,
    ip::Ip,
    nat::{Side, Ttl},
    parse::Packet,
    policy,
    session::SessionSlot,
};

/// Of both families' messages: type, code, checksum, four bytes of the type's own.
const ICMP_HEADER_LEN: usize = size_of::<Icmpv4Hdr>();
/// Quoted IPv4 options, or an IPv6 fragment header, and a quoted TCP header without options.
const QUOTED_TRANSPORT_LEN: usize = 40 + 20;

/// The packet that an ICMP error quotes.
struct Quote<V: Ip> {
    /// Offset of the quoted IP header.
    l3: usize,
    /// Offset of what follows it.
    l4: usize,
    source: V::Address,
    destination: V::Address,
    source_port: PortBe,
    destination_port: PortBe,
    protocol: u8,
}

impl<V: Ip> Quote<V> {
    /// Reads the quoted headers: `None` if they are of no kind that a NAT flow has.
    #[inline(always)]
    fn parse(hook: &Hook, packet: &Packet<V>) -> Option<Self> {
        // Routers send their errors without options, and the stack turns packets with options into
        // errors itself.
        if packet.header_len() != V::HEADER_LEN {
            return None;
        }
        let skb = hook.skb;
        let l3 = hook.l3() + V::HEADER_LEN + ICMP_HEADER_LEN;
        skb.pull((l3 + V::HEADER_LEN + QUOTED_TRANSPORT_LEN) as u32);
        let (protocol, header_len) = V::quoted_transport(skb, l3)?;
        let l4 = l3 + header_len;
        // What the frame has behind the error is padding.
        let needed = if flow::has_ports(protocol) {
            size_of::<[PortBe; 2]>()
        } else if protocol == V::ICMP {
            ICMP_HEADER_LEN
        } else {
            0
        };
        if l4 + needed > hook.l3() + usize::from(packet.total_len) {
            return None;
        }
        let (source, destination) = V::ends_at(skb, l3).ok()?;
        let mut quote = Self {
            l3,
            l4,
            source,
            destination,
            source_port: PortBe::NONE,
            destination_port: PortBe::NONE,
            protocol,
        };
        if flow::has_ports(protocol) {
            [quote.source_port, quote.destination_port] = skb.read_at(l4).ok()?;
        } else if protocol == V::ICMP {
            let header: [u8; ICMP_HEADER_LEN] = skb.read_at(l4).ok()?;
            let identifier = PortBe::from_wire(u16::from_ne_bytes([header[4], header[5]]));
            match icmp::kind(V::FAMILY, header[0]) {
                icmp::Kind::Request => quote.source_port = identifier,
                icmp::Kind::Reply => quote.destination_port = identifier,
                icmp::Kind::Error | icmp::Kind::Neighbour | icmp::Kind::Other => return None,
            }
        } else if matches!(protocol, protocol::ICMP | protocol::ICMPV6) {
            return None;
        }
        Some(quote)
    }

    /// The flow whose outbound packet is quoted, as the outside saw it.
    #[inline(always)]
    fn flow_seen_outside(&self) -> Option<SessionSlot> {
        let remote = (self.destination, self.destination_port);
        let external = (self.source, self.source_port);
        flows::find::<V>(&FlowKey::inbound(self.protocol, remote, external))
    }

    /// The flow whose inbound packet is quoted, as the inside saw it.
    #[inline(always)]
    fn flow_seen_inside(&self) -> Option<SessionSlot> {
        let inside = (self.destination, self.destination_port);
        let remote = (self.source, self.source_port);
        flows::find::<V>(&FlowKey::outbound(self.protocol, inside, remote))
    }
}

type Keys<V> = (FlowKey<<V as Ip>::Address>, FlowKey<<V as Ip>::Address>);

/// The keys of the flow that an ICMP error may be about, outbound and inbound: as the inside and as the
/// outside saw the packet that it quotes.
#[inline(always)]
pub fn quoted_flows<V: Ip>(hook: &Hook, packet: &Packet<V>) -> Option<Keys<V>> {
    let quote = Quote::parse(hook, packet)?;
    let source = (quote.source, quote.source_port);
    let destination = (quote.destination, quote.destination_port);
    Some((
        FlowKey::outbound(quote.protocol, destination, source),
        FlowKey::inbound(quote.protocol, destination, source),
    ))
}

/// An error from outside about a packet that a flow sent.
#[inline(always)]
pub fn from_outside<V: Ip>(hook: &mut Hook, packet: &Packet<V>, epoch: u32) -> Step<Verdict> {
    let skb = hook.skb;
    let session = Quote::parse(hook, packet)
        .and_then(|quote| quote.flow_seen_outside().map(|session| (quote, session)))
        .filter(|(_, session)| {
            inbound::may_arrive_at(*session, hook.arrived_at())
                && inbound::is_current::<V>(*session, epoch)
        });
    // An error about a packet of no flow is about the host's own.
    let Some((quote, session)) = session else { return Ok(Verdict::Unjudged) };
    hook.network = session.network();
    inbound::check_remote(hook, session)?;
    let (inside, port) = (V::narrow(session.inside()), session.inside_port());
    translate(hook, &quote, Side::Source, (inside, port), (packet.destination, inside))?;
    count::traffic(session.network(), Direction::Inbound, skb.len());
    let flags = session.flags();
    let by_stack = flags & (FLAG_INSIDE_IS_HOST | FLAG_INSIDE_IS_ROUTED) != 0
        || packet.ttl <= 1
        || hook.link == Link::Raw;
    if hook.is_turned && by_stack {
        return Err(DropReason::HairpinException.into());
    }
    V::write_balanced_address(skb, hook.l3(), Side::Destination, inside)?;
    if flags & FLAG_INSIDE_IS_HOST != 0 {
        return Ok(Verdict::Pass);
    }
    if by_stack {
        return Ok(emit::through_stack(skb));
    }
    V::decrement_ttl(skb, hook.l3())?;
    Ok(emit::to_neighbour(skb, session.bridge_ifindex(), session.inside()))
}

/// An error from a guest about a packet that a flow brought it: the uplink at which it turns round, 0
/// if it leaves the host. `may_leave` is false where no route leads on, so that it has to turn.
#[inline(always)]
pub fn from_guest<V: Ip>(
    hook: &mut Hook,
    packet: &Packet<V>,
    ttl: Ttl,
    may_leave: bool,
) -> Step<u32> {
    let skb = hook.skb;
    let quote = Quote::parse(hook, packet).ok_or(DropReason::UnrelatedIcmpError)?;
    let session = quote.flow_seen_inside().ok_or(DropReason::UnrelatedIcmpError)?;
    let turns = session.flags() & FLAG_HAIRPIN != 0;
    if !may_leave && !turns {
        return Err(DropReason::UnrelatedIcmpError.into());
    }
    // The flows of other guests are none of this one's business, unless they are behind it.
    let is_routed = session.flags() & FLAG_INSIDE_IS_ROUTED != 0;
    if session.network() != hook.network
        || (!is_routed && packet.source != V::narrow(session.inside()))
    {
        return Err(DropReason::UnrelatedIcmpError.into());
    }
    let (external, port) = (V::narrow(session.external()), session.external_port());
    let outer = (packet.source, external);
    translate(hook, &quote, Side::Destination, (external, port), outer)?;
    count::traffic(session.network(), Direction::Outbound, skb.len());
    V::write_balanced_address(skb, hook.l3(), Side::Source, external)?;
    if turns {
        return Ok(session.uplink_ifindex());
    }
    if ttl == Ttl::Decrement {
        V::decrement_ttl(skb, hook.l3())?;
    }
    Ok(0)
}

/// ICMP that the host sends outside under its own address: errors about packets that it was bringing to
/// a guest quote them translated and must not.
#[inline(always)]
pub fn from_host<V: Ip>(hook: &mut Hook, packet: &Packet<V>) -> Step<Verdict> {
    let skb = hook.skb;
    let is_error = packet.is_icmp_error();
    if is_error && translate_from_host(hook, packet)? {
        return Ok(Verdict::Pass);
    }
    // What cannot be translated must not show a guest's hidden address either.
    if packet.header_len() != V::HEADER_LEN {
        return Ok(Verdict::Pass);
    }
    let message = hook.l3() + V::HEADER_LEN;
    let destination = if is_error {
        let Ok((_, destination)) = V::ends(skb, message + ICMP_HEADER_LEN) else {
            return Ok(Verdict::Pass);
        };
        destination
    } else {
        skb.pull((message + icmp::REDIRECTED_OFFSET + size_of::<V::Address>()) as u32);
        match (skb.read::<u8>(message), skb.read(message + icmp::REDIRECTED_OFFSET)) {
            (Ok(kind), Ok(destination)) if kind == icmp::redirect(V::FAMILY) => destination,
            _ => return Ok(Verdict::Pass),
        }
    };
    let owner = policy::owner_of::<V>(destination);
    if owner.slot.is_some() && owner.slot.mode::<V>() == Mode::Nat && !owner.is_host() {
        hook.network = owner.slot.0;
        return Err(DropReason::UnrelatedIcmpError.into());
    }
    Ok(Verdict::Pass)
}

/// The same towards guests, who are remotes of those that are masqueraded to their bridge.
#[inline(always)]
pub fn from_host_to_guest<V: Ip>(hook: &mut Hook, packet: &Packet<V>) -> Step<Verdict> {
    if packet.is_icmp_error() {
        translate_from_host(hook, packet)?;
    }
    Ok(Verdict::Pass)
}

/// Whether the error was about a packet of a flow and now quotes it as the remote knows it.
#[inline(always)]
fn translate_from_host<V: Ip>(hook: &mut Hook, packet: &Packet<V>) -> Step<bool> {
    let Some(quote) = Quote::parse(hook, packet) else { return Ok(false) };
    let Some(session) = quote.flow_seen_inside() else { return Ok(false) };
    hook.network = session.network();
    let external = (V::narrow(session.external()), session.external_port());
    let outer = (packet.source, packet.source);
    translate(hook, &quote, Side::Destination, external, outer)?;
    Ok(true)
}

/// Rewrites one endpoint of the quoted packet, its checksums, and the error's checksum, which in IPv6
/// covers the change of the error's own address, too.
///
/// All in place: an ICMP error never has a partial checksum, and as its own checksum makes up for
/// each change, the sum over the whole packet stays as the device may have reported it.
#[inline(always)]
fn translate<V: Ip>(
    hook: &Hook,
    quote: &Quote<V>,
    side: Side,
    (address, port): (V::Address, PortBe),
    (outer_from, outer_to): (V::Address, V::Address),
) -> Result<(), DropReason> {
    let skb = hook.skb;
    trim::<V>(hook);
    // Errors with options or extensions in front have been turned away.
    let l4 = hook.l3() + V::HEADER_LEN;
    let (old_address, old_port) = match side {
        Side::Source => (quote.source, quote.source_port),
        Side::Destination => (quote.destination, quote.destination_port),
    };
    let old = V::widen(old_address);
    let new = V::widen(address);
    let mut changes = Changes { sum: skb.read::<u16>(l4 + 2)? };
    if V::ICMP_COVERS_ADDRESSES {
        changes.address(V::widen(outer_from), V::widen(outer_to));
    }
    changes.address(old, new);
    if let Some((old_check, check)) = V::write_quoted_address(skb, quote.l3, side, address)? {
        changes.word(old_check, check);
    }

    let is_icmp = quote.protocol == V::ICMP;
    let checksum_offset = if is_icmp { Some(2) } else { flow::checksum_offset(quote.protocol) };
    // Protocols without one keep their ports.
    let Some(checksum_offset) = checksum_offset else {
        return skb.write(l4 + 2, changes.sum);
    };
    let port_offset = match (is_icmp, side) {
        (true, _) => quote.l4 + 4,
        (false, Side::Source) => quote.l4,
        (false, Side::Destination) => quote.l4 + 2,
    };
    skb.write_at(port_offset, port)?;
    changes.word(old_port.to_wire(), port.to_wire());

    let zero_means_none = flow::zero_means_no_checksum(quote.protocol);
    // A quote may end before the TCP checksum, and UDP may have none.
    if let Ok(old_sum) = skb.read_at::<u16>(quote.l4 + checksum_offset)
        && (old_sum != 0 || !zero_means_none)
    {
        let mut inner = Changes { sum: old_sum };
        inner.word(old_port.to_wire(), port.to_wire());
        if !is_icmp || V::ICMP_COVERS_ADDRESSES {
            inner.address(old, new);
        }
        let sum = if inner.sum == 0 && zero_means_none { u16::MAX } else { inner.sum };
        skb.write_at(quote.l4 + checksum_offset, sum)?;
        changes.word(old_sum, sum);
    }
    skb.write(l4 + 2, changes.sum)
}

/// Takes the link's padding off this CPU's packet: a quote that ends early has no checksum there. A
/// function of its own for the sake of the stack.
#[inline(never)]
fn trim<V: Ip>(hook: &Hook) {
    if let Some(packet) = V::packet() {
        hook.skb.trim((hook.l3() + usize::from(packet.total_len)) as u32);
    }
}

/// A checksum that follows changes of the words it covers.
struct Changes {
    sum: u16,
}

impl Changes {
    #[inline(always)]
    fn word(&mut self, from: u16, to: u16) {
        self.sum = checksum::replace_word(self.sum, from, to);
    }

    /// What two IPv4 addresses share of their mapped form changes nothing.
    #[inline(always)]
    fn address(&mut self, from: Address, to: Address) {
        for (from, to) in from.to_wire().into_iter().zip(to.to_wire()) {
            self.sum = checksum::replace_long(self.sum, from, to);
        }
    }
}
