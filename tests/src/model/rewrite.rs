//! Changing endpoints in a frame, and every checksum that covers them.

use std::net::IpAddr;

use vnet_common::{family::Family, flow::protocol};

use super::{
    Endpoint, Fragment, Packet, checksum,
    packet::{ETHERNET, icmp_number},
};

/// Which endpoint is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

/// Where the source's port is in a packet from the inside.
pub(super) fn source_port_offset(packet: &Packet) -> usize {
    if packet.is_icmp() { packet.l4 + 4 } else { packet.l4 }
}

/// Changes one endpoint of a packet.
pub(super) fn endpoint(frame: &mut [u8], packet: &Packet, side: Side, to: Endpoint) {
    let old = match side {
        Side::Source => packet.source,
        Side::Destination => packet.destination,
    };
    let is_covered = !packet.is_icmp() || packet.family == Family::Ipv6;
    let old_port = match side {
        Side::Source => packet.source_port,
        Side::Destination => packet.destination_port,
    };
    // Where nothing changes that the checksum covers, it stays as it is, be it 0 or ffff.
    let changes = old_port != to.1 || (is_covered && old != to.0);
    if packet.fragment != Fragment::Later && changes {
        l4(frame, packet.family, packet.protocol, packet.l4, side, (old, to));
    }
    address(frame, packet.family, ETHERNET, side, to.0);
}

/// Changes port and checksum of the L4 header at an offset; what the packet does not hold stays.
pub(super) fn l4(
    frame: &mut [u8],
    family: Family,
    number: u8,
    at: usize,
    side: Side,
    (old, (new, port)): (IpAddr, Endpoint),
) {
    let is_icmp = number == icmp_number(family);
    let (port_at, checksum_at) = match number {
        _ if is_icmp => (at + 4, at + 2),
        protocol::TCP => (at + port_offset(side), at + 16),
        protocol::UDP | protocol::UDP_LITE | protocol::DCCP => (at + port_offset(side), at + 6),
        _ => return,
    };
    let covers_addresses = !is_icmp || family == Family::Ipv6;
    let old_port = [frame[port_at], frame[port_at + 1]];
    let port = port.to_be_bytes();
    frame[port_at..port_at + 2].copy_from_slice(&port);
    let Some(field) = frame.get(checksum_at..checksum_at + 2) else { return };
    let sum = u16::from_be_bytes([field[0], field[1]]);
    // No checksum at all (RFC 768).
    let is_udp = matches!(number, protocol::UDP | protocol::UDP_LITE);
    if is_udp && sum == 0 {
        return;
    }
    let (mut before, mut after) = (old_port.to_vec(), port.to_vec());
    if covers_addresses {
        before.extend(octets(old));
        after.extend(octets(new));
    }
    let mut sum = checksum::follow(sum, &before, &after);
    if is_udp && sum == 0 {
        sum = 0xffff;
    }
    frame[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Changes an address of the IP header at an offset, and the header's checksum.
pub(super) fn address(frame: &mut [u8], family: Family, ip: usize, side: Side, to: IpAddr) {
    let at = ip
        + match (family, side) {
            (Family::Ipv4, Side::Source) => 12,
            (Family::Ipv4, Side::Destination) => 16,
            (Family::Ipv6, Side::Source) => 8,
            (Family::Ipv6, Side::Destination) => 24,
        };
    change(frame, family, ip, at, &octets(to));
}

/// One hop further.
pub(super) fn decrement_ttl(frame: &mut [u8], family: Family) {
    match family {
        Family::Ipv4 => {
            let word = [frame[ETHERNET + 8] - 1, frame[ETHERNET + 9]];
            change(frame, family, ETHERNET, ETHERNET + 8, &word);
        }
        Family::Ipv6 => frame[ETHERNET + 7] -= 1,
    }
}

fn change(frame: &mut [u8], family: Family, ip: usize, at: usize, to: &[u8]) {
    if family == Family::Ipv4 {
        let sum = u16::from_be_bytes([frame[ip + 10], frame[ip + 11]]);
        let sum = checksum::follow(sum, &frame[at..at + to.len()], to);
        frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    }
    frame[at..at + to.len()].copy_from_slice(to);
}

fn port_offset(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Destination => 2,
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
