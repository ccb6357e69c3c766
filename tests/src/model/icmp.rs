//! ICMP errors: the packet that they quote is translated, too (RFC 5508, section 4).

use std::net::IpAddr;

use vnet_common::{
    family::Family,
    flow::protocol,
    icmp,
    policy::Mode,
    reason::{DropReason, Handover},
};

use super::{
    Counter, Endpoint, Model, Packet, Run, checksum,
    flow::Id,
    outcome::{Done, Step},
    packet::{ETHERNET, family, has_ports, icmp_number},
    rewrite::{self, Side, octets},
};

/// The packet that an error quotes.
struct Quote {
    /// Offset of its IP header in the frame.
    l3: usize,
    /// Offset of what follows.
    l4: usize,
    source: Endpoint,
    destination: Endpoint,
    protocol: u8,
}

impl Quote {
    /// Reads the quoted headers; `None` if no flow has such.
    fn parse(frame: &[u8], packet: &Packet) -> Option<Self> {
        // Routers send their errors without options.
        if packet.has_extensions {
            return None;
        }
        let end = ETHERNET + packet.total_len;
        let l3 = packet.l4 + 8;
        let ip = frame.get(l3..end)?;
        let (number, header_len) = start(ip, packet.family)?;
        let (source, destination) = Packet::ends(ip, packet.family)?;
        let transport = ip.get(header_len..)?;
        let word = |at: usize| {
            let bytes = transport.get(at..at + 2)?;
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let (source_port, destination_port) = match number {
            number if has_ports(number) => (word(0)?, word(2)?),
            number if number == icmp_number(packet.family) => {
                let header = transport.get(..8)?;
                let identifier = word(4)?;
                match icmp::kind(packet.family, header[0]) {
                    icmp::Kind::Request => (identifier, 0),
                    icmp::Kind::Reply => (0, identifier),
                    _ => return None,
                }
            }
            protocol::ICMP | protocol::ICMPV6 => return None,
            _ => (0, 0),
        };
        Some(Self {
            l3,
            l4: l3 + header_len,
            source: (source, source_port),
            destination: (destination, destination_port),
            protocol: number,
        })
    }
}

/// Protocol and header length of a quoted packet that begins its datagram.
fn start(ip: &[u8], family: Family) -> Option<(u8, usize)> {
    match family {
        Family::Ipv4 => {
            let header = ip.get(..20)?;
            let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
            let header_len = usize::from(header[0] & 0xf) * 4;
            let is_start = header[0] >> 4 == 4 && header_len >= 20 && offset == 0;
            is_start.then_some((header[9], header_len))
        }
        Family::Ipv6 => {
            let header = ip.get(..40)?;
            if header[0] >> 4 != 6 {
                return None;
            }
            match header[6] {
                44 => {
                    let fragment = ip.get(40..48)?;
                    let offset = u16::from_be_bytes([fragment[2], fragment[3]]) >> 3;
                    let is_chain = matches!(fragment[0], 0 | 43 | 44 | 60);
                    (offset == 0 && !is_chain).then_some((fragment[0], 48))
                }
                0 | 43 | 60 => None,
                number => Some((number, 40)),
            }
        }
    }
}

impl Model {
    /// From outside, about a packet that a flow sent.
    pub(super) fn error_from_outside(&mut self, run: &mut Run<'_>, packet: &Packet) -> Step<Done> {
        let mut frame = run.arrival.frame.to_vec();
        let quote = Quote::parse(&frame, packet).ok_or(Handover::NoFlow)?;
        let id = self.flows.inbound(quote.protocol, quote.destination, quote.source);
        let id = id.ok_or(Handover::NoFlow)?;
        if !self.may_arrive_at(id, run.arrived_at()) || !self.is_current(id) {
            return Err(Handover::NoFlow.into());
        }
        let flow = self.flows.get(id).ok_or(Handover::NoFlow)?.clone();
        self.check_remote(run, id)?;
        let inside = flow.inside;
        trim(&mut frame, packet);
        self.count(Counter::Inbound(flow.network, frame.len()));
        let by_stack = flow.inside_is_host() || flow.inside_is_routed || packet.ttl <= 1;
        if run.turned_at.is_some() && by_stack {
            return Err(DropReason::HairpinException.into());
        }
        translate(&mut frame, packet, &quote, Side::Source, inside);
        outer(&mut frame, packet, Side::Destination, inside.0);
        if flow.inside_is_host() {
            return Ok(Done::Passed(Some(frame)));
        }
        if by_stack {
            return Ok(Done::ThroughStack(frame));
        }
        rewrite::decrement_ttl(&mut frame, packet.family);
        Ok(Done::Redirected(frame))
    }

    /// From a guest, about a packet that a flow brought it: the frame as it goes out, and the uplink where
    /// it turns round, or 0.
    pub(super) fn translate_error_of_guest(
        &mut self,
        run: &mut Run<'_>,
        packet: &Packet,
        is_hop: bool,
        must_turn: bool,
    ) -> Step<(Vec<u8>, u32)> {
        let mut frame = run.arrival.frame.to_vec();
        let quote = Quote::parse(&frame, packet).ok_or(DropReason::UnrelatedIcmpError)?;
        let id = self.flow_that_brought(&quote).ok_or(DropReason::UnrelatedIcmpError)?;
        let flow = self.flows.get(id).ok_or(DropReason::UnrelatedIcmpError)?.clone();
        if must_turn && !flow.is_hairpin {
            return Err(DropReason::UnrelatedIcmpError.into());
        }
        // Nobody speaks about others' flows but who routes for them.
        if flow.network != run.network || (!flow.inside_is_routed && packet.source != flow.inside.0)
        {
            return Err(DropReason::UnrelatedIcmpError.into());
        }
        trim(&mut frame, packet);
        self.count(Counter::Outbound(flow.network, frame.len()));
        translate(&mut frame, packet, &quote, Side::Destination, flow.external);
        outer(&mut frame, packet, Side::Source, flow.external.0);
        if flow.is_hairpin {
            self.tried.push("(error from guest to guest)");
            return Ok((frame, flow.uplink));
        }
        if is_hop {
            rewrite::decrement_ttl(&mut frame, packet.family);
        }
        Ok((frame, 0))
    }

    /// What the host sends: errors about packets that it brought to a guest must not show the guest.
    pub(super) fn host_sends(&mut self, run: &mut Run<'_>, to_guest: bool) -> Step<Done> {
        let mut frame = run.arrival.frame.to_vec();
        let Some(family) = family(&frame) else { return Ok(Done::Passed(None)) };
        let number_at = ETHERNET + if family == Family::Ipv4 { 9 } else { 6 };
        let number = *frame.get(number_at).ok_or(DropReason::Malformed)?;
        if frame.len() < ETHERNET + if family == Family::Ipv4 { 20 } else { 40 } {
            return Err(DropReason::Malformed.into());
        }
        let is_icmp = number == icmp_number(family);
        if matches!(number, protocol::TCP | protocol::UDP) {
            return Ok(Done::Passed(None));
        }
        // No packet of the host's is lost for headers that are not understood.
        let packet = match Packet::parse(&frame, family) {
            Err(_) if !is_icmp => return Ok(Done::Passed(None)),
            parsed => parsed?,
        };
        if self.world.is_uplink(run.arrival.ifindex) {
            self.note_host_flow(&packet);
        }
        if !is_icmp {
            return Ok(Done::Passed(None));
        }
        if !packet.is_icmp_error() {
            return if to_guest { Ok(Done::Passed(None)) } else { self.redirects(run, &packet) };
        }
        if let Some(quote) = Quote::parse(&frame, &packet)
            && let Some(flow) = self.flow_that_brought(&quote).and_then(|id| self.flows.get(id))
        {
            let external = flow.external;
            trim(&mut frame, &packet);
            translate(&mut frame, &packet, &quote, Side::Destination, external);
            return Ok(Done::Passed(Some(frame)));
        }
        if to_guest || packet.has_extensions {
            return Ok(Done::Passed(None));
        }
        let quoted = frame.get(packet.l4 + 8..).unwrap_or_default();
        let Some((_, hidden)) = Packet::ends(quoted, family) else {
            return Ok(Done::Passed(None));
        };
        self.hide(run, family, hidden)
    }

    /// The host tells of better ways, too, but not to what nobody outside may know.
    fn redirects(&self, run: &mut Run<'_>, packet: &Packet) -> Step<Done> {
        let (kind, length) = match packet.family {
            Family::Ipv4 => (5, 4),
            Family::Ipv6 => (137, 16),
        };
        let message = run.arrival.frame.get(packet.l4..).unwrap_or_default();
        // RFC 792: in the header that it quotes; RFC 4861, section 4.5: in a field.
        let bytes = message.get(24..24 + length);
        let (Some(bytes), false) = (bytes, packet.has_extensions) else {
            return Ok(Done::Passed(None));
        };
        if message[0] != kind {
            return Ok(Done::Passed(None));
        }
        let destination = match <[u8; 4]>::try_from(bytes) {
            Ok(octets) => octets.into(),
            Err(_) => <[u8; 16]>::try_from(bytes).map_err(|_| DropReason::Malformed)?.into(),
        };
        self.hide(run, packet.family, destination)
    }

    /// Lets a message of the host's pass unless the address in it is hidden.
    fn hide(&self, run: &mut Run<'_>, family: Family, hidden: IpAddr) -> Step<Done> {
        let owner = self.world.owner_of(hidden);
        if owner.slot != 0 && !owner.is_host && self.world.mode(owner.slot, family) == Mode::Nat {
            run.network = owner.slot;
            return Err(DropReason::UnrelatedIcmpError.into());
        }
        Ok(Done::Passed(None))
    }

    fn flow_that_brought(&self, quote: &Quote) -> Option<Id> {
        self.flows.outbound(quote.protocol, quote.destination, quote.source)
    }
}

/// Takes off the link's padding, which is no part of what the error quotes.
fn trim(frame: &mut Vec<u8>, packet: &Packet) {
    frame.truncate(ETHERNET + packet.total_len);
}

/// Changes one endpoint of the quoted packet; the error's own checksum follows every byte of it.
fn translate(frame: &mut [u8], packet: &Packet, quote: &Quote, side: Side, to: Endpoint) {
    let body = packet.l4 + 4..frame.len();
    let mut before = frame[body.clone()].to_vec();
    let old = match side {
        Side::Source => quote.source.0,
        Side::Destination => quote.destination.0,
    };
    rewrite::address(frame, packet.family, quote.l3, side, to.0);
    rewrite::l4(frame, packet.family, quote.protocol, quote.l4, side, (old, to));
    let mut after = frame[body].to_vec();
    if before.len() % 2 == 1 {
        before.push(0);
        after.push(0);
    }
    follow(frame, packet, &before, &after);
}

/// Changes the error's own address.
fn outer(frame: &mut [u8], packet: &Packet, side: Side, to: IpAddr) {
    let old = match side {
        Side::Source => packet.source,
        Side::Destination => packet.destination,
    };
    rewrite::address(frame, packet.family, ETHERNET, side, to);
    if packet.family == Family::Ipv6 {
        follow(frame, packet, &octets(old), &octets(to));
    }
}

fn follow(frame: &mut [u8], packet: &Packet, before: &[u8], after: &[u8]) {
    let at = packet.l4 + 2;
    let sum = u16::from_be_bytes([frame[at], frame[at + 1]]);
    frame[at..at + 2].copy_from_slice(&checksum::follow(sum, before, after).to_be_bytes());
}
