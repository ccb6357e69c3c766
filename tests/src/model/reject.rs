//! The ICMP error that tells a sender why its packet goes no further.

use std::net::IpAddr;

use vnet_common::{family::Family, flow::protocol, reason::DropReason};

use super::{
    Hook, Model, Run,
    bridge::is_martian,
    checksum,
    mapping::first_address,
    outcome::Seen,
    packet::{ETHERNET, Packet, family, icmp_number},
    rewrite::octets,
};

/// Extension headers of IPv6, behind which nothing is answered.
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];

impl Model {
    /// The answer to a packet that was dropped at a hook; `None` if there is none.
    pub(super) fn answer(&mut self, run: &Run<'_>, reason: DropReason) -> Option<Vec<u8>> {
        use DropReason as Reason;
        let is_policy = matches!(reason, Reason::PolicyRejected | Reason::IsolatedPort);
        let frame = run.arrival.frame;
        let family = family(frame)?;
        if run.has_turned {
            return None;
        }
        if reason == Reason::HairpinException {
            return self.answer_exception(run, family);
        }
        let (source, is_prohibited) = match run.arrival.hook {
            Hook::BridgeIngress => {
                let is_full = matches!(
                    reason,
                    Reason::PortsExhausted
                        | Reason::FlowTableFull
                        | Reason::GuestFlowLimit
                        | Reason::GuestFlowRate
                        | Reason::NetworkFlowLimit
                        | Reason::FlowConflict
                );
                if !is_policy && reason != Reason::NotAnUplink && !is_full {
                    return None;
                }
                (self.gateway(run.network, family)?, is_full)
            }
            Hook::UplinkIngress if reason == Reason::PolicyRejected => {
                let uplink = self.world.uplinks.get(&run.arrival.ifindex)?;
                (first_address(uplink, family == Family::Ipv4)?, false)
            }
            Hook::BridgeEgress if is_policy => (self.towards_sender(run, family)?, false),
            _ => return None,
        };
        let says = match (family, is_prohibited) {
            (Family::Ipv4, false) => (3, 3, 0),
            (Family::Ipv4, true) => (3, 13, 0),
            (Family::Ipv6, false) => (1, 4, 0),
            (Family::Ipv6, true) => (1, 1, 0),
        };
        self.tell(frame, family, source, says)
    }

    /// What a router says of a packet that it cannot send on between two guests.
    fn answer_exception(&mut self, run: &Run<'_>, family: Family) -> Option<Vec<u8>> {
        let mtu = run.turning_mtu?;
        let frame = run.arrival.frame;
        let packet = Packet::parse(frame, family).ok()?;
        let may_be_cut = family == Family::Ipv4 && frame.get(ETHERNET + 6)? & 0x40 == 0;
        let says = match (packet.ttl <= 1, family) {
            (true, Family::Ipv4) => (11, 0, 0),
            (true, Family::Ipv6) => (3, 0, 0),
            (false, _) if packet.has_options || may_be_cut => return None,
            (false, Family::Ipv4) => (3, 4, mtu as u16),
            (false, Family::Ipv6) => (2, 0, mtu as u16),
        };
        let source = self.gateway(run.network, family)?;
        self.tried.push("(exception between guests that its sender is told of)");
        self.tell(frame, family, source, says)
    }

    /// An error with a type, a code and an MTU, if a frame may have one and there is one to be sent.
    fn tell(
        &mut self,
        frame: &[u8],
        family: Family,
        source: IpAddr,
        says: (u8, u8, u16),
    ) -> Option<Vec<u8>> {
        let ip = frame.get(ETHERNET..)?;
        let quote = ip.get(..header_len(family) + 8)?;
        if !may_be_answered(frame, ip, family) || self.icmp_tokens == 0 {
            return None;
        }
        self.icmp_tokens -= 1;
        let (receiver, _) = Packet::ends(ip, family)?;
        let message = message(family, source, receiver, quote, says);
        Some([&frame[6..12], &frame[..6], &frame[12..14], &message].concat())
    }

    /// The address from which guests of a network get their errors.
    fn gateway(&self, slot: u16, family: Family) -> Option<IpAddr> {
        let network = self.world.network(slot)?;
        let gateway = match family {
            Family::Ipv4 => network.gateway.to_addr().into(),
            Family::Ipv6 => network.gateway_ipv6.to_addr(),
        };
        (!gateway.is_unspecified()).then_some(gateway)
    }

    /// The host's address on the side from which a packet came that the stack was forwarding.
    fn towards_sender(&self, run: &Run<'_>, family: Family) -> Option<IpAddr> {
        let ingress = run.arrival.ingress_ifindex;
        let (sender, _) = Packet::ends(run.arrival.frame.get(ETHERNET..)?, family)?;
        let own = self.world.source_towards(sender, ingress)?;
        let uplink = self.world.uplinks.get(&ingress);
        uplink.and_then(|uplink| first_address(uplink, family == Family::Ipv4)).or(Some(own))
    }
}

impl Seen<'_> {
    /// A word of the frame.
    pub(super) fn word(&self, at: usize) -> Option<u16> {
        let bytes = self.frame.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Whether a frame was refused: dropped as it came, or answered that this is prohibited. What turns
    /// round may be dropped after it was translated.
    pub(super) fn is_refusal_of(&self, frame: &[u8]) -> bool {
        let ends = |frame: &[u8]| Packet::ends(frame.get(ETHERNET..)?, family(frame)?);
        let is_as_it_came = ends(self.frame) == ends(frame);
        let byte = |at: usize| self.frame.get(at).copied().unwrap_or(0);
        let is_prohibited = match family(self.frame) {
            Some(Family::Ipv4) => byte(23) == protocol::ICMP && (byte(34), byte(35)) == (3, 13),
            Some(Family::Ipv6) => byte(20) == protocol::ICMPV6 && (byte(54), byte(55)) == (1, 1),
            None => false,
        };
        (self.verdict == crate::programs::Verdict::Drop && is_as_it_came) || is_prohibited
    }
}

fn header_len(family: Family) -> usize {
    match family {
        Family::Ipv4 => 20,
        Family::Ipv6 => 40,
    }
}

/// Whether a packet may have an error (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
fn may_be_answered(frame: &[u8], ip: &[u8], family: Family) -> bool {
    let to_many = frame[0] & 1 != 0;
    let Some((source, destination)) = Packet::ends(ip, family) else { return false };
    if to_many || destination.is_multicast() || is_martian(source) {
        return false;
    }
    let IpAddr::V4(destination) = destination else {
        let is_informational = ip[40] >= 128 && ip[40] != 137;
        return !EXTENSIONS.contains(&ip[6]) && (ip[6] != protocol::ICMPV6 || is_informational);
    };
    let is_later = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0;
    let is_query = matches!(ip[20], 0 | 8 | 13..=18);
    ip[0] == 0x45
        && !is_later
        && !destination.is_broadcast()
        && (ip[9] != protocol::ICMP || is_query)
}

/// An ICMP error.
fn message(
    family: Family,
    source: IpAddr,
    receiver: IpAddr,
    quote: &[u8],
    (kind, code, mtu): (u8, u8, u16),
) -> Vec<u8> {
    let number = icmp_number(family);
    let [high, low] = mtu.to_be_bytes();
    let mut icmp = [&[kind, code, 0, 0, 0, 0, high, low], quote].concat();
    let length = icmp.len() as u16;
    let pseudo = match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => {
            let addresses = checksum::sum(&octets(source)) + checksum::sum(&octets(receiver));
            addresses + u64::from(length) + u64::from(number)
        }
    };
    let sum = !checksum::fold(pseudo + checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = match family {
        Family::Ipv4 => {
            // Precedence "internetwork control" (RFC 1812, section 4.3.2.5); not to be fragmented.
            let [high, low] = (20 + length).to_be_bytes();
            vec![0x45, 0xc0, high, low, 0, 0, 0x40, 0, 64, number, 0, 0]
        }
        Family::Ipv6 => {
            let [high, low] = length.to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, number, 64]
        }
    };
    header.extend(octets(source));
    header.extend(octets(receiver));
    if family == Family::Ipv4 {
        let sum = !checksum::fold(checksum::sum(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    [header, icmp].concat()
}
