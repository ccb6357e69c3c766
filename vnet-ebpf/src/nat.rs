//! Rewriting addresses and ports, with every checksum that covers them.

use vnet_common::{address::PortBe, flow, reason::DropReason};

use crate::{
    hook::Hook,
    ip::Ip,
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
/// L4 checksums go through the kernel, which knows whether the field holds a full or a partial sum.
#[inline(always)]
pub fn rewrite<V: Ip>(
    hook: &Hook,
    packet: &Packet<V>,
    side: Side,
    address: V::Address,
    port: PortBe,
    ttl: Ttl,
) -> Result<(), DropReason> {
    let skb = hook.skb;
    let (old_address, old_port) = match side {
        Side::Source => (packet.source, packet.source_port),
        Side::Destination => (packet.destination, packet.destination_port),
    };
    if packet.fragment != Fragment::Later {
        rewrite_l4(skb, packet, side, (old_address, old_port), (address, port))?;
    }
    V::write_address(skb, hook.l3(), side, address, ttl)
}

#[inline(always)]
fn rewrite_l4<V: Ip>(
    skb: Skb,
    packet: &Packet<V>,
    side: Side,
    (old_address, old_port): (V::Address, PortBe),
    (address, port): (V::Address, PortBe),
) -> Result<(), DropReason> {
    let (checksum_offset, port_offset, covers_addresses) = if packet.is_icmp() {
        // The identifier follows type, code and checksum (RFC 792).
        (packet.l4() + 2, packet.l4() + 4, V::ICMP_COVERS_ADDRESSES)
    } else if let Some(offset) = flow::checksum_offset(packet.protocol) {
        (packet.l4() + offset, port_offset(packet.l4(), side), true)
    } else {
        // Translated by address alone, and what covers it, if anything, nobody here knows.
        return Ok(());
    };
    let zero_means_none = flow::zero_means_no_checksum(packet.protocol);
    if covers_addresses && old_address != address {
        V::replace_in_checksum(skb, checksum_offset, zero_means_none, old_address, address)?;
    }
    if old_port != port {
        let (from, to) = (old_port.to_wire(), port.to_wire());
        skb.replace_l4_word(checksum_offset, zero_means_none, from, to)?;
        skb.write_at(port_offset, port)?;
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
