//! IPv6 (RFC 8200): its header, its tables.

use aya_ebpf::bindings::__sk_buff;
use network_types::ip::Ipv6Hdr;
use vnet_common::{
    address::{Address, PortBe},
    family::Family,
    flow::{FlowKey, FlowSlot, FragmentKey, FragmentSlot, Session, protocol},
    icmp,
    network::{Network, Uplink},
    path::{Path, PathKey},
    reason::DropReason,
};

use crate::{
    extension::{self, Transport},
    forward, held,
    hook::Link,
    host_flow,
    ip::{Ip, UplinkAddresses},
    maps::{self, FLOWS_IPV6, FRAGMENTS_IPV6},
    nat::{Side, Ttl},
    parse::{Fragment, Packet},
    reject::Manner,
    reject_ipv6, route,
    session::SessionSlot,
    skb::Skb,
    steps,
};

#[derive(Clone, Copy)]
pub struct Ipv6;

/// A TCP header without options.
const TRANSPORT_LEN: usize = 20;
/// Offset of the next header's kind; the hop limit follows it, then the addresses.
const NEXT_HEADER_OFFSET: usize = 6;
/// Offset of the source address; the destination follows it.
const ADDRESSES_OFFSET: usize = 8;

impl Ip for Ipv6 {
    type Address = Address;

    const FAMILY: Family = Family::Ipv6;
    const ICMP: u8 = protocol::ICMPV6;
    const ICMP_COVERS_ADDRESSES: bool = true;
    const HEADER_LEN: usize = size_of::<Ipv6Hdr>();

    #[inline(always)]
    fn parse(skb: Skb, link: Link) -> u32 {
        match link {
            Link::Ethernet => vnet_parse_ipv6(skb.raw()),
            Link::Raw => vnet_parse_ipv6_raw(skb.raw()),
        }
    }

    #[inline(always)]
    fn headers(skb: Skb, l3: usize, packet: &mut Packet<Self>) -> Result<(), DropReason> {
        skb.pull((l3 + Self::HEADER_LEN + TRANSPORT_LEN) as u32);
        let first_word = u32::from_be(skb.read::<u32>(l3)?);
        let payload_len = u16::from_be(skb.read::<u16>(l3 + 4)?);
        let [next_header, hop_limit]: [u8; 2] = skb.read(l3 + NEXT_HEADER_OFFSET)?;
        packet.source = skb.read(l3 + ADDRESSES_OFFSET)?;
        packet.destination = skb.read(l3 + ADDRESSES_OFFSET + size_of::<Address>())?;
        let segmented = skb.gso_size() != 0;
        // As in IPv4; a payload of 65,535 bytes does not fit the sum either.
        let total_len = match payload_len {
            0 if segmented => u16::MAX,
            length => length.saturating_add(Self::HEADER_LEN as u16),
        };
        // IPv4 in IPv6 clothes is nobody's on the wire (RFC 4291, section 2.5.5.2), and the keys of IPv4
        // flows look so.
        if first_word >> 28 != 6
            || packet.source.is_ipv4()
            || packet.destination.is_ipv4()
            || (usize::from(payload_len) + Self::HEADER_LEN + l3 > skb.len() as usize && !segmented)
        {
            return Err(DropReason::Malformed);
        }
        let transport = if extension::is_extension(next_header) {
            let transport = extension::follow(skb, l3 + Self::HEADER_LEN, next_header)?;
            // What lies behind the payload is the link's padding, no header.
            if transport.offset - l3 > usize::from(total_len) {
                return Err(DropReason::Malformed);
            }
            skb.pull((transport.offset + TRANSPORT_LEN) as u32);
            transport
        } else {
            Transport {
                offset: l3 + Self::HEADER_LEN,
                protocol: next_header,
                fragment: Fragment::Whole,
                has_options: false,
                identification: [0; 2],
            }
        };
        packet.header_len = (transport.offset - l3) as u16;
        packet.transport_offset = transport.offset as u16;
        packet.source_port = PortBe::NONE;
        packet.destination_port = PortBe::NONE;
        packet.total_len = total_len;
        packet.identification = transport.identification;
        packet.protocol = transport.protocol;
        packet.ttl = hop_limit;
        // Traffic class and flow label, which routing rules may ask for.
        packet.traffic_class = (first_word & 0x0fff_ffff).to_be();
        packet.tcp_flags = 0;
        packet.fragment = transport.fragment;
        packet.icmp = icmp::Kind::Other;
        packet.has_options = transport.has_options;
        packet.known = 0;
        packet.accepted = 0;
        Ok(())
    }

    #[inline(always)]
    fn packet() -> Option<&'static mut Packet<Self>> {
        maps::packet_ipv6()
    }

    #[inline(always)]
    fn ends_at(skb: Skb, l3: usize) -> Result<(Address, Address), DropReason> {
        let [source, destination]: [Address; 2] = skb.read(l3 + ADDRESSES_OFFSET)?;
        Ok((source, destination))
    }

    #[inline(always)]
    fn next_header(skb: Skb, l3: usize) -> Result<u8, DropReason> {
        skb.pull((l3 + Self::HEADER_LEN) as u32);
        skb.read::<u8>(l3 + NEXT_HEADER_OFFSET)
    }

    #[inline(always)]
    fn quoted_transport(skb: Skb, l3: usize) -> Option<(u8, usize)> {
        let is_ipv6 = skb.read::<u8>(l3).ok()? >> 4 == 6;
        let mut next_header = skb.read::<u8>(l3 + NEXT_HEADER_OFFSET).ok()?;
        let mut header_len = Self::HEADER_LEN;
        // A large datagram is what a too small path is told of.
        if next_header == extension::FRAGMENT {
            let fragment: [u8; 8] = skb.read(l3 + Self::HEADER_LEN).ok()?;
            if fragment[2] != 0 || fragment[3] & 0xf8 != 0 {
                return None;
            }
            next_header = fragment[0];
            header_len += fragment.len();
        }
        let is_start = is_ipv6 && !extension::is_extension(next_header);
        is_start.then_some((next_header, header_len))
    }

    #[inline(always)]
    fn widen(address: Address) -> Address {
        address
    }

    #[inline(always)]
    fn narrow(address: Address) -> Address {
        address
    }

    #[inline(always)]
    fn is_group(address: Address) -> bool {
        address.is_multicast_ipv6()
    }

    #[inline(always)]
    fn is_link_local_group(address: Address) -> bool {
        address.is_link_local_multicast_ipv6()
    }

    #[inline(always)]
    fn is_martian(address: Address) -> bool {
        const LOOPBACK: [u32; 4] = [0, 0, 0, 1_u32.to_be()];
        address.is_multicast_ipv6() || address.is_unspecified() || address.to_wire() == LOOPBACK
    }

    /// Also `::`, the source of who has no address yet.
    #[inline(always)]
    fn is_link_local(address: Address) -> bool {
        address.is_link_local_ipv6() || address.is_unspecified()
    }

    #[inline(always)]
    fn share_prefix(one: Address, other: Address, prefix_length: u8) -> bool {
        one.shares_prefix(other, prefix_length)
    }

    #[inline(always)]
    fn flow_slot(key: &FlowKey<Address>) -> Option<FlowSlot> {
        // SAFETY: a look-up that races with removal reads a stale slot, which its generation betrays.
        unsafe { FLOWS_IPV6.get(key) }.copied()
    }

    #[inline(always)]
    fn former_has_flow(key: &FlowKey<Address>) -> bool {
        // SAFETY: nothing is read of the value.
        unsafe { maps::FORMER_FLOWS_IPV6.get(key) }.is_some()
    }

    #[inline(always)]
    fn former_has_fragment(key: &FragmentKey<Address>) -> bool {
        // SAFETY: as in `former_has_flow`.
        unsafe { maps::FORMER_FRAGMENTS_IPV6.get(key) }.is_some()
    }

    #[inline(always)]
    fn first_fragment(key: &FragmentKey<Address>) -> Option<FragmentSlot> {
        // SAFETY: as in `flow_slot`.
        unsafe { FRAGMENTS_IPV6.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(key: &FragmentKey<Address>, first: &FragmentSlot) {
        // A full table forgets its oldest datagram; the worst is that datagram's loss.
        let _ = FRAGMENTS_IPV6.insert(key, first, 0);
    }

    #[inline(always)]
    fn path(key: &PathKey<Address>) -> Option<*mut Path> {
        maps::PATHS_IPV6.get_ptr_mut(key)
    }

    #[inline(always)]
    fn enter_path(key: &PathKey<Address>, path: &Path) {
        let _ = maps::PATHS_IPV6.insert(key, path, 0);
    }

    #[inline(always)]
    fn seal(key: &PathKey<Address>, path: &Path) -> u32 {
        key.seal(path)
    }

    #[inline(always)]
    fn hold(skb: Skb) -> u32 {
        vnet_hold_fragment_ipv6(skb.raw())
    }

    #[inline(always)]
    fn replay(skb: Skb) -> u32 {
        vnet_replay_fragments_ipv6(skb.raw())
    }

    #[inline(always)]
    fn addresses(uplink: &Uplink) -> (&UplinkAddresses<Self>, u32) {
        (&uplink.addresses_ipv6, uplink.address_count_ipv6)
    }

    #[inline(always)]
    fn gateway(network: &Network) -> Address {
        network.gateway_ipv6
    }

    #[inline(always)]
    fn replace_in_checksum(
        skb: Skb,
        checksum_offset: usize,
        zero_means_none: bool,
        from: Address,
        to: Address,
    ) -> Result<(), DropReason> {
        skb.replace_l4_address_ipv6(checksum_offset, zero_means_none, from, to)
    }

    /// No checksum covers the hop limit, and the L4 checksum makes up for the address. Written by the
    /// kernel, which keeps the sum right that a device may have reported over the whole packet:
    /// `bpf_l4_csum_replace` changes that sum for the L4 field as if an IPv4 header made up for it.
    #[inline(always)]
    fn write_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Address,
        ttl: Ttl,
    ) -> Result<(), DropReason> {
        match side {
            Side::Source if ttl == Ttl::Decrement => {
                // One call for both, because they are neighbours.
                let mut fields: [u16; 9] = skb.read(l3 + NEXT_HEADER_OFFSET)?;
                fields[0] = counted_down(fields[0]);
                let words: [u16; 8] = bytemuck::cast(address.to_wire());
                fields[1..].copy_from_slice(&words);
                skb.store(l3 + NEXT_HEADER_OFFSET, &fields)
            }
            _ => {
                skb.store(l3 + address_offset(side), &address)?;
                if ttl == Ttl::Decrement { Self::decrement_ttl(skb, l3) } else { Ok(()) }
            }
        }
    }

    #[inline(always)]
    fn write_balanced_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Address,
    ) -> Result<(), DropReason> {
        skb.write(l3 + address_offset(side), address)
    }

    #[inline(always)]
    fn write_quoted_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Address,
    ) -> Result<Option<(u16, u16)>, DropReason> {
        skb.write(l3 + address_offset(side), address)?;
        Ok(None)
    }

    #[inline(always)]
    fn decrement_ttl(skb: Skb, l3: usize) -> Result<(), DropReason> {
        let fields = counted_down(skb.read::<u16>(l3 + NEXT_HEADER_OFFSET)?);
        skb.store(l3 + NEXT_HEADER_OFFSET, &fields)
    }

    #[inline(always)]
    fn note_host_flow() {
        vnet_note_host_flow_ipv6();
    }

    #[inline(always)]
    fn choose_external() -> bool {
        vnet_choose_external_ipv6() != 0
    }

    #[inline(always)]
    fn keeps_external(session: SessionSlot) -> bool {
        vnet_keeps_external_ipv6(session.raw()) != 0
    }

    #[inline(always)]
    fn turning_point(skb: Skb) -> u32 {
        vnet_turning_point_ipv6(skb.raw())
    }

    #[inline(always)]
    fn reply(skb: Skb, turned_at: u32) -> i32 {
        vnet_reply_ipv6(skb.raw(), turned_at)
    }

    #[inline(always)]
    fn deliver(skb: Skb, turned_at: u32) -> i32 {
        vnet_deliver_ipv6(skb.raw(), turned_at)
    }

    #[inline(always)]
    fn deliver_error(skb: Skb, turned_at: u32) -> i32 {
        vnet_deliver_error_ipv6(skb.raw(), turned_at)
    }

    #[inline(always)]
    fn turn(skb: Skb) -> i32 {
        vnet_turn_ipv6(skb.raw())
    }

    #[inline(always)]
    fn reject(skb: Skb, source: Address, manner: Manner) -> i32 {
        reject_ipv6::reject(skb, source, manner)
    }
}

// Global functions: the verifier checks them once, and forgets what it knows of each header.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_note_host_flow_ipv6() -> u32 {
    host_flow::note_packet::<Ipv6>();
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_choose_external_ipv6() -> u32 {
    u32::from(route::choose_external::<Ipv6>())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_keeps_external_ipv6(session: *mut Session) -> u32 {
    let Some(session) = SessionSlot::from_raw(session) else { return 0 };
    u32::from(route::keeps_external::<Ipv6>(session))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_turning_point_ipv6(ctx: *mut __sk_buff) -> u32 {
    forward::turning_point::<Ipv6>(Skb::from_raw(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_reply_ipv6(ctx: *mut __sk_buff, turned_at: u32) -> i32 {
    steps::reply::<Ipv6>(Skb::from_raw(ctx), turned_at)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_deliver_ipv6(ctx: *mut __sk_buff, turned_at: u32) -> i32 {
    steps::deliver::<Ipv6>(Skb::from_raw(ctx), turned_at)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_deliver_error_ipv6(ctx: *mut __sk_buff, turned_at: u32) -> i32 {
    steps::deliver_error::<Ipv6>(Skb::from_raw(ctx), turned_at)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_turn_ipv6(ctx: *mut __sk_buff) -> i32 {
    steps::turn::<Ipv6>(Skb::from_raw(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_parse_ipv6(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb::from_raw(ctx);
    Packet::<Ipv6>::enter(skb, Link::Ethernet.header_len())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_parse_ipv6_raw(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb::from_raw(ctx);
    Packet::<Ipv6>::enter(skb, Link::Raw.header_len())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_hold_fragment_ipv6(ctx: *mut __sk_buff) -> u32 {
    held::hold::<Ipv6>(Skb::from_raw(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_replay_fragments_ipv6(ctx: *mut __sk_buff) -> u32 {
    held::replay::<Ipv6>(Skb::from_raw(ctx))
}

#[inline(always)]
const fn address_offset(side: Side) -> usize {
    match side {
        Side::Source => ADDRESSES_OFFSET,
        Side::Destination => ADDRESSES_OFFSET + size_of::<Address>(),
    }
}

/// Next header and hop limit, one hop further.
#[inline(always)]
fn counted_down(fields: u16) -> u16 {
    let [next_header, hop_limit] = fields.to_ne_bytes();
    u16::from_ne_bytes([next_header, hop_limit.wrapping_sub(1)])
}
