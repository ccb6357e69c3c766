//! Rewriting addresses and ports, with every checksum that covers them.

use network_types::ip::Ipv4Hdr;
use vnet_common::{
    address::{Ipv4Be, PortBe},
    checksum,
    flow::protocol,
    reason::DropReason,
};

use crate::{
    parse::{Fragment, Packet},
    skb::Skb,
};

/// The endpoint of a packet that is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Whether this host is a hop for the packet: its stack decrements the time to live itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    Keep,
    Decrement,
}

/// Rewrites one endpoint of a packet.
///
/// L4 checksums go through the kernel, which knows whether the field holds a full or a partial sum;
/// the IPv4 header's own checksum is always full and is adjusted in place.
#[inline(always)]
pub fn rewrite(
    skb: Skb,
    packet: &Packet,
    side: Side,
    address: Ipv4Be,
    port: PortBe,
    ttl: Ttl,
) -> Result<(), DropReason> {
    let (old_address, old_port) = match side {
        Side::Source => (packet.source, packet.source_port),
        Side::Destination => (packet.destination, packet.destination_port),
    };
    if packet.fragment != Fragment::Later {
        rewrite_l4(skb, packet, side, (old_address, old_port), (address, port))?;
    }
    rewrite_ipv4(skb, packet.l3, side, old_address, address, ttl)
}

#[inline(always)]
fn rewrite_l4(
    skb: Skb,
    packet: &Packet,
    side: Side,
    (old_address, old_port): (Ipv4Be, PortBe),
    (address, port): (Ipv4Be, PortBe),
) -> Result<(), DropReason> {
    let (checksum_offset, port_offset, has_pseudo_header) = match packet.protocol {
        protocol::TCP => (packet.l4 + 16, port_offset(packet.l4, side), true),
        protocol::UDP => (packet.l4 + 6, port_offset(packet.l4, side), true),
        // The identifier follows type, code and checksum (RFC 792).
        protocol::ICMP => (packet.l4 + 2, packet.l4 + 4, false),
        _ => return Ok(()),
    };
    let zero_means_none = packet.protocol == protocol::UDP;
    if has_pseudo_header && old_address != address {
        skb.replace_l4_address(checksum_offset, zero_means_none, old_address, address)?;
    }
    if old_port != port {
        let (from, to) = (old_port.to_wire(), port.to_wire());
        skb.replace_l4_word(checksum_offset, zero_means_none, from, to)?;
        skb.write(port_offset, port)?;
    }
    Ok(())
}

#[inline(always)]
const fn port_offset(l4: usize, side: Side) -> usize {
    match side {
        Side::Source => l4,
        Side::Destination => l4 + 2,
    }
}

/// Rewrites one address of an IPv4 header.
#[inline(always)]
pub fn rewrite_ipv4(
    skb: Skb,
    l3: usize,
    side: Side,
    old_address: Ipv4Be,
    address: Ipv4Be,
    ttl: Ttl,
) -> Result<(), DropReason> {
    let header = skb.header_mut::<Ipv4Hdr>(l3)?;
    let mut sum = u16::from_ne_bytes(header.check);
    sum = checksum::replace_long(sum, old_address.to_wire(), address.to_wire());
    match side {
        Side::Source => header.src_addr = address.to_wire().to_ne_bytes(),
        Side::Destination => header.dst_addr = address.to_wire().to_ne_bytes(),
    }
    if ttl == Ttl::Decrement {
        let from = u16::from_ne_bytes([header.ttl, header.proto]);
        header.ttl -= 1;
        let to = u16::from_ne_bytes([header.ttl, header.proto]);
        sum = checksum::replace_word(sum, from, to);
    }
    header.check = sum.to_ne_bytes();
    Ok(())
}
