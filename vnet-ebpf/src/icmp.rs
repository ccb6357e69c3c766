//! ICMP errors about translated packets: the packet they quote is translated too (RFC 5508).

use network_types::{icmp::Icmpv4Hdr, ip::Ipv4Hdr};
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    checksum,
    flow::{Direction, FLAG_INSIDE_IS_HOST, FlowKey, protocol},
    reason::{DropReason, Handover},
};

use crate::{
    count, emit, flow,
    hook::{Hook, Link, Step, Verdict},
    inbound,
    nat::{self, Side, Ttl},
    outbound,
    parse::{Icmp, Packet},
    policy,
    route::Route,
    session::SessionSlot,
    skb::Skb,
};

const IPV4_HEADER_LEN: usize = size_of::<Ipv4Hdr>();
const ICMP_HEADER_LEN: usize = size_of::<Icmpv4Hdr>();
/// Outer headers, quoted header, and a quoted TCP header without options.
const QUOTE_END: usize = IPV4_HEADER_LEN + ICMP_HEADER_LEN + IPV4_HEADER_LEN + 20;

/// The packet that an ICMP error quotes.
struct Quote {
    /// Offset of the quoted IPv4 header.
    l3: usize,
    /// Offset of what follows it.
    l4: usize,
    source: Ipv4Be,
    destination: Ipv4Be,
    source_port: PortBe,
    destination_port: PortBe,
    protocol: u8,
}

impl Quote {
    /// Reads the quoted headers: `None` if they are of no kind that a NAT flow has.
    #[inline(always)]
    fn parse(skb: Skb, packet: &Packet) -> Option<Self> {
        // Routers send their errors without options, and the stack turns packets with options into
        // errors itself.
        if packet.has_options() {
            return None;
        }
        skb.pull((packet.l3 + QUOTE_END) as u32);
        let l3 = packet.l3 + IPV4_HEADER_LEN + ICMP_HEADER_LEN;
        let l4 = l3 + IPV4_HEADER_LEN;
        let header = skb.header::<Ipv4Hdr>(l3).ok()?;
        if header.vihl != 0x45 || header.frag_offset() != 0 {
            return None;
        }
        let mut quote = Self {
            l3,
            l4,
            source: Ipv4Be::from_wire(u32::from_ne_bytes(header.src_addr)),
            destination: Ipv4Be::from_wire(u32::from_ne_bytes(header.dst_addr)),
            source_port: PortBe::NONE,
            destination_port: PortBe::NONE,
            protocol: header.proto,
        };
        match quote.protocol {
            protocol::TCP | protocol::UDP => {
                [quote.source_port, quote.destination_port] = skb.read(l4).ok()?;
            }
            protocol::ICMP => {
                let icmp = skb.header::<Icmpv4Hdr>(l4).ok()?;
                let identifier =
                    PortBe::from_wire(u16::from_ne_bytes([icmp.data[0], icmp.data[1]]));
                match icmp.type_ {
                    8 | 13 | 15 | 17 => quote.source_port = identifier,
                    0 | 14 | 16 | 18 => quote.destination_port = identifier,
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(quote)
    }

    /// The flow whose outbound packet is quoted, as the outside saw it.
    #[inline(always)]
    fn flow_seen_outside(&self) -> Option<SessionSlot> {
        let remote = (self.destination, self.destination_port);
        let external = (self.source, self.source_port);
        flow::find(&FlowKey::inbound(self.protocol, remote, external))
    }

    /// The flow whose inbound packet is quoted, as the inside saw it.
    #[inline(always)]
    fn flow_seen_inside(&self) -> Option<SessionSlot> {
        let inside = (self.destination, self.destination_port);
        let remote = (self.source, self.source_port);
        flow::find(&FlowKey::outbound(self.protocol, inside, remote))
    }
}

/// An error from outside about a packet that a flow sent.
#[inline(always)]
pub fn from_outside(hook: &mut Hook, packet: &Packet, link: Link, epoch: u32) -> Step<Verdict> {
    let skb = hook.skb;
    let session = Quote::parse(skb, packet)
        .and_then(|quote| quote.flow_seen_outside().map(|session| (quote, session)))
        .filter(|(_, session)| inbound::is_current(*session, epoch));
    // An error about a packet of no flow is about the host's own.
    let Some((quote, session)) = session else { return Err(Handover::NoFlow.into()) };
    hook.network = session.network();
    let inside = session.inside().ipv4_part();
    translate_quote(skb, packet, &quote, Side::Source, inside, session.inside_port())?;
    count::traffic(session.network(), Direction::Inbound, skb.len());
    let is_host = session.flags() & FLAG_INSIDE_IS_HOST != 0;
    let keep = is_host || packet.ttl <= 1 || link == Link::Raw;
    let ttl = if keep { Ttl::Keep } else { Ttl::Decrement };
    nat::rewrite_ipv4(skb, packet.l3, Side::Destination, packet.destination, inside, ttl)?;
    if is_host {
        return Ok(Verdict::Pass);
    }
    if keep {
        return Ok(emit::through_stack(skb));
    }
    Ok(emit::to_neighbour(skb, session.bridge_ifindex(), Address::from_ipv4(inside)))
}

/// An error from a guest about a packet that a flow brought it, at the bridge.
#[inline(always)]
pub fn from_guest(hook: &mut Hook, packet: &Packet, route: &Route) -> Step<Verdict> {
    outbound::check_exceptions(hook.skb, packet, route.mtu)?;
    translate_outbound(hook, packet, Ttl::Decrement)?;
    Ok(emit::to_neighbour(hook.skb, route.ifindex, route.next_hop))
}

/// An error from a guest that the host's stack forwarded, at the uplink.
#[inline(always)]
pub fn from_forwarded_guest(hook: &mut Hook, packet: &Packet) -> Step<Verdict> {
    translate_outbound(hook, packet, Ttl::Keep)?;
    Ok(Verdict::Pass)
}

#[inline(always)]
fn translate_outbound(hook: &mut Hook, packet: &Packet, ttl: Ttl) -> Step<()> {
    let skb = hook.skb;
    let quote = Quote::parse(skb, packet).ok_or(DropReason::UnrelatedIcmpError)?;
    let session = quote.flow_seen_inside().ok_or(DropReason::UnrelatedIcmpError)?;
    // The flows of other networks are none of this guest's business.
    if session.network() != hook.network {
        return Err(DropReason::UnrelatedIcmpError.into());
    }
    let external = session.external().ipv4_part();
    translate_quote(skb, packet, &quote, Side::Destination, external, session.external_port())?;
    count::traffic(session.network(), Direction::Outbound, skb.len());
    nat::rewrite_ipv4(skb, packet.l3, Side::Source, packet.source, external, ttl)?;
    Ok(())
}

/// What the host sends outside under its own address: errors about packets that it was bringing to
/// a guest quote them translated and must not.
#[inline(always)]
pub fn from_host(hook: &mut Hook, link: Link) -> Step<Verdict> {
    const PROTOCOL_OFFSET: usize = 9;
    let skb = hook.skb;
    let is_icmp = skb.read::<u8>(link.header_len() + PROTOCOL_OFFSET)? == protocol::ICMP;
    if !is_icmp || skb.ingress_ifindex() != 0 {
        return Ok(Verdict::Pass);
    }
    let packet = Packet::parse(skb, link)?;
    if packet.icmp != Icmp::Error {
        return Ok(Verdict::Pass);
    }
    if let Some(quote) = Quote::parse(skb, &packet)
        && let Some(session) = quote.flow_seen_inside()
    {
        hook.network = session.network();
        let external = session.external().ipv4_part();
        let port = session.external_port();
        translate_quote(skb, &packet, &quote, Side::Destination, external, port)?;
        return Ok(Verdict::Pass);
    }
    // What cannot be translated must not show a guest's address either.
    let Ok(quoted) = skb.read::<Ipv4Be>(packet.l4 + ICMP_HEADER_LEN + DESTINATION_OFFSET) else {
        return Ok(Verdict::Pass);
    };
    match policy::network_of_address(quoted) {
        Some(network) => {
            hook.network = network.slot;
            Err(DropReason::UnrelatedIcmpError.into())
        }
        None => Ok(Verdict::Pass),
    }
}

/// Offset of the destination address in the IPv4 header (RFC 791, section 3.1).
const DESTINATION_OFFSET: usize = 16;

/// Rewrites one endpoint of the quoted packet, its checksums, and the error's checksum.
///
/// All in place: an ICMP message never has a partial checksum, and as its own checksum makes up for
/// each change, the sum over the whole packet stays as the device may have reported it.
#[inline(always)]
fn translate_quote(
    skb: Skb,
    packet: &Packet,
    quote: &Quote,
    side: Side,
    address: Ipv4Be,
    port: PortBe,
) -> Result<(), DropReason> {
    let (old_address, old_port) = match side {
        Side::Source => (quote.source, quote.source_port),
        Side::Destination => (quote.destination, quote.destination_port),
    };
    let mut changes = Changes { sum: skb.read::<u16>(packet.l4 + 2)? };

    let header = skb.header_mut::<Ipv4Hdr>(quote.l3)?;
    let old_check = u16::from_ne_bytes(header.check);
    let check = checksum::replace_long(old_check, old_address.to_wire(), address.to_wire());
    header.check = check.to_ne_bytes();
    match side {
        Side::Source => header.src_addr = address.to_wire().to_ne_bytes(),
        Side::Destination => header.dst_addr = address.to_wire().to_ne_bytes(),
    }
    changes.long(old_address.to_wire(), address.to_wire());
    changes.word(old_check, check);

    let is_icmp = quote.protocol == protocol::ICMP;
    let port_offset = match (is_icmp, side) {
        (true, _) => quote.l4 + 4,
        (false, Side::Source) => quote.l4,
        (false, Side::Destination) => quote.l4 + 2,
    };
    skb.write(port_offset, port)?;
    changes.word(old_port.to_wire(), port.to_wire());

    let l4_checksum = match quote.protocol {
        protocol::ICMP => quote.l4 + 2,
        protocol::UDP => quote.l4 + 6,
        _ => quote.l4 + 16,
    };
    // A quote may end before the TCP checksum, and UDP may have none.
    if let Ok(old) = skb.read::<u16>(l4_checksum)
        && (old != 0 || quote.protocol != protocol::UDP)
    {
        let mut new = checksum::replace_word(old, old_port.to_wire(), port.to_wire());
        if !is_icmp {
            new = checksum::replace_long(new, old_address.to_wire(), address.to_wire());
        }
        skb.write(l4_checksum, new)?;
        changes.word(old, new);
    }
    skb.write(packet.l4 + 2, changes.sum)
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

    #[inline(always)]
    fn long(&mut self, from: u32, to: u32) {
        self.sum = checksum::replace_long(self.sum, from, to);
    }
}
