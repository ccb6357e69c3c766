//! IPv4 (RFC 791): its header, its tables.

use aya_ebpf::bindings::__sk_buff;
use network_types::ip::Ipv4Hdr;
use vnet_common::{
    address::{Address, Ipv4Be, PortBe},
    checksum,
    family::Family,
    flow::{FlowKey, FlowSlot, FragmentKey, FragmentSlot, Session, protocol},
    icmp,
    network::{Network, Uplink},
    path::{Path, PathKey},
    reason::DropReason,
};

use crate::{
    forward, held,
    hook::Link,
    host_flow,
    ip::{Ip, UplinkAddresses},
    maps::{self, FLOWS, FRAGMENTS},
    nat::{Side, Ttl},
    parse::{Fragment, Packet},
    reject::Manner,
    reject_ipv4, route,
    session::SessionSlot,
    skb::Skb,
    steps,
};

#[derive(Clone, Copy)]
pub struct Ipv4;

/// The longest header and a TCP header without options.
const HEADERS_LEN: usize = 60 + 20;
/// Offset of the source address; the destination follows it.
const ADDRESSES_OFFSET: usize = 12;

impl Ip for Ipv4 {
    type Address = Ipv4Be;

    const FAMILY: Family = Family::Ipv4;
    const ICMP: u8 = protocol::ICMP;
    const ICMP_COVERS_ADDRESSES: bool = false;
    const HEADER_LEN: usize = size_of::<Ipv4Hdr>();

    #[inline(always)]
    fn parse(skb: Skb, link: Link) -> u32 {
        match link {
            Link::Ethernet => vnet_parse_ipv4(skb.raw()),
            Link::Raw => vnet_parse_ipv4_raw(skb.raw()),
        }
    }

    #[inline(always)]
    fn headers(skb: Skb, l3: usize, packet: &mut Packet<Self>) -> Result<(), DropReason> {
        skb.pull((l3 + HEADERS_LEN) as u32);
        let header = skb.header::<Ipv4Hdr>(l3)?;
        let header_len = usize::from(header.ihl());
        let segmented = skb.gso_size() != 0;
        // A segmentation-offload packet may be longer than its length field can say: then it is 0.
        let total_len = match header.tot_len() {
            0 if segmented => u16::MAX,
            length => length,
        };
        if header.version() != 4
            || header_len < Self::HEADER_LEN
            || usize::from(total_len) < header_len
            || (usize::from(total_len) + l3 > skb.len() as usize && !segmented)
        {
            return Err(DropReason::Malformed);
        }
        let more_fragments = header.frag_flags() & 1 != 0;
        packet.header_len = header_len as u16;
        packet.transport_offset = (l3 + header_len) as u16;
        packet.source = Ipv4Be::from_wire(u32::from_ne_bytes(header.src_addr));
        packet.destination = Ipv4Be::from_wire(u32::from_ne_bytes(header.dst_addr));
        packet.source_port = PortBe::NONE;
        packet.destination_port = PortBe::NONE;
        packet.total_len = total_len;
        packet.identification = [u16::from_ne_bytes(header.id), 0];
        packet.protocol = header.proto;
        packet.ttl = header.ttl;
        packet.traffic_class = u32::from(header.tos);
        packet.tcp_flags = 0;
        packet.fragment = Fragment::of(header.frag_offset() != 0, more_fragments);
        packet.icmp = icmp::Kind::Other;
        packet.has_options = header_len != Self::HEADER_LEN;
        packet.known = 0;
        packet.accepted = 0;
        Ok(())
    }

    #[inline(always)]
    fn packet() -> Option<&'static mut Packet<Self>> {
        maps::packet_ipv4()
    }

    #[inline(always)]
    fn ends_at(skb: Skb, l3: usize) -> Result<(Ipv4Be, Ipv4Be), DropReason> {
        let [source, destination]: [Ipv4Be; 2] = skb.read(l3 + ADDRESSES_OFFSET)?;
        Ok((source, destination))
    }

    #[inline(always)]
    fn next_header(skb: Skb, l3: usize) -> Result<u8, DropReason> {
        skb.pull((l3 + Self::HEADER_LEN) as u32);
        Ok(skb.header::<Ipv4Hdr>(l3)?.proto)
    }

    #[inline(always)]
    fn quoted_transport(skb: Skb, l3: usize) -> Option<(u8, usize)> {
        let header = skb.header::<Ipv4Hdr>(l3).ok()?;
        let header_len = usize::from(header.ihl());
        let is_start =
            header.version() == 4 && header_len >= Self::HEADER_LEN && header.frag_offset() == 0;
        is_start.then_some((header.proto, header_len))
    }

    #[inline(always)]
    fn widen(address: Ipv4Be) -> Address {
        Address::from_ipv4(address)
    }

    #[inline(always)]
    fn narrow(address: Address) -> Ipv4Be {
        address.ipv4_part()
    }

    #[inline(always)]
    fn is_group(address: Ipv4Be) -> bool {
        address.is_multicast_or_broadcast()
    }

    /// 224.0.0.0/24 and 255.255.255.255, which libvirt does not masquerade.
    #[inline(always)]
    fn is_link_local_group(address: Ipv4Be) -> bool {
        address.shares_prefix(Ipv4Be::from_wire(u32::from_ne_bytes([224, 0, 0, 0])), 24)
            || address.to_wire() == u32::MAX
    }

    #[inline(always)]
    fn is_martian(address: Ipv4Be) -> bool {
        matches!(address.to_wire().to_ne_bytes()[0], 0 | 127 | 224..)
    }

    /// 0.0.0.0, the source of who has no address yet. 169.254.0.0/16 is not treated apart: libvirt's
    /// networks may well be there.
    #[inline(always)]
    fn is_link_local(address: Ipv4Be) -> bool {
        address == Ipv4Be::UNSPECIFIED
    }

    #[inline(always)]
    fn share_prefix(one: Ipv4Be, other: Ipv4Be, prefix_length: u8) -> bool {
        one.shares_prefix(other, prefix_length)
    }

    #[inline(always)]
    fn flow_slot(key: &FlowKey<Ipv4Be>) -> Option<FlowSlot> {
        // SAFETY: a look-up that races with removal reads a stale slot, which its generation betrays.
        unsafe { FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn former_has_flow(key: &FlowKey<Ipv4Be>) -> bool {
        // SAFETY: nothing is read of the value.
        unsafe { maps::FORMER_FLOWS.get(key) }.is_some()
    }

    #[inline(always)]
    fn former_has_fragment(key: &FragmentKey<Ipv4Be>) -> bool {
        // SAFETY: as in `former_has_flow`.
        unsafe { maps::FORMER_FRAGMENTS.get(key) }.is_some()
    }

    #[inline(always)]
    fn first_fragment(key: &FragmentKey<Ipv4Be>) -> Option<FragmentSlot> {
        // SAFETY: as in `flow_slot`.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(key: &FragmentKey<Ipv4Be>, first: &FragmentSlot) {
        // A full table forgets its oldest datagram; the worst is that datagram's loss.
        let _ = FRAGMENTS.insert(key, first, 0);
    }

    #[inline(always)]
    fn path(key: &PathKey<Ipv4Be>) -> Option<*mut Path> {
        maps::PATHS.get_ptr_mut(key)
    }

    #[inline(always)]
    fn enter_path(key: &PathKey<Ipv4Be>, path: &Path) {
        let _ = maps::PATHS.insert(key, path, 0);
    }

    #[inline(always)]
    fn seal(key: &PathKey<Ipv4Be>, path: &Path) -> u32 {
        key.seal(path)
    }

    #[inline(always)]
    fn hold(skb: Skb) -> u32 {
        vnet_hold_fragment_ipv4(skb.raw())
    }

    #[inline(always)]
    fn replay(skb: Skb) -> u32 {
        vnet_replay_fragments_ipv4(skb.raw())
    }

    #[inline(always)]
    fn addresses(uplink: &Uplink) -> (&UplinkAddresses<Self>, u32) {
        (&uplink.addresses, uplink.address_count)
    }

    #[inline(always)]
    fn gateway(network: &Network) -> Ipv4Be {
        network.gateway
    }

    #[inline(always)]
    fn replace_in_checksum(
        skb: Skb,
        checksum_offset: usize,
        zero_means_none: bool,
        from: Ipv4Be,
        to: Ipv4Be,
    ) -> Result<(), DropReason> {
        skb.replace_l4_address(checksum_offset, zero_means_none, from, to)
    }

    /// The header's own checksum is always full and changes in place.
    #[inline(always)]
    fn write_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Ipv4Be,
        ttl: Ttl,
    ) -> Result<(), DropReason> {
        let header = skb.header_mut::<Ipv4Hdr>(l3)?;
        replace_address(header, side, address);
        if ttl == Ttl::Decrement {
            count_down(header);
        }
        Ok(())
    }

    #[inline(always)]
    fn write_balanced_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Ipv4Be,
    ) -> Result<(), DropReason> {
        replace_address(skb.header_mut::<Ipv4Hdr>(l3)?, side, address);
        Ok(())
    }

    #[inline(always)]
    fn write_quoted_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Ipv4Be,
    ) -> Result<Option<(u16, u16)>, DropReason> {
        let header = skb.header_mut::<Ipv4Hdr>(l3)?;
        let from = u16::from_ne_bytes(header.check);
        replace_address(header, side, address);
        Ok(Some((from, u16::from_ne_bytes(header.check))))
    }

    #[inline(always)]
    fn decrement_ttl(skb: Skb, l3: usize) -> Result<(), DropReason> {
        count_down(skb.header_mut::<Ipv4Hdr>(l3)?);
        Ok(())
    }

    #[inline(always)]
    fn note_host_flow() {
        vnet_note_host_flow_ipv4();
    }

    #[inline(always)]
    fn choose_external() -> bool {
        vnet_choose_external_ipv4() != 0
    }

    #[inline(always)]
    fn keeps_external(session: SessionSlot) -> bool {
        vnet_keeps_external_ipv4(session.raw()) != 0
    }

    #[inline(always)]
    fn turning_point(skb: Skb) -> u32 {
        vnet_turning_point_ipv4(skb.raw())
    }

    #[inline(always)]
    fn reply(skb: Skb, turned_at: u32) -> i32 {
        vnet_reply_ipv4(skb.raw(), turned_at)
    }

    #[inline(always)]
    fn deliver(skb: Skb, turned_at: u32) -> i32 {
        vnet_deliver_ipv4(skb.raw(), turned_at)
    }

    #[inline(always)]
    fn deliver_error(skb: Skb, turned_at: u32) -> i32 {
        vnet_deliver_error_ipv4(skb.raw(), turned_at)
    }

    #[inline(always)]
    fn turn(skb: Skb) -> i32 {
        vnet_turn_ipv4(skb.raw())
    }

    #[inline(always)]
    fn reject(skb: Skb, source: Ipv4Be, manner: Manner) -> i32 {
        reject_ipv4::reject(skb, source, manner)
    }
}

// Global functions: the verifier checks them once, and forgets what it knows of each header.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_note_host_flow_ipv4() -> u32 {
    host_flow::note_packet::<Ipv4>();
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_choose_external_ipv4() -> u32 {
    u32::from(route::choose_external::<Ipv4>())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_keeps_external_ipv4(session: *mut Session) -> u32 {
    let Some(session) = SessionSlot::from_raw(session) else { return 0 };
    u32::from(route::keeps_external::<Ipv4>(session))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_turning_point_ipv4(ctx: *mut __sk_buff) -> u32 {
    forward::turning_point::<Ipv4>(Skb::from_raw(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_reply_ipv4(ctx: *mut __sk_buff, turned_at: u32) -> i32 {
    steps::reply::<Ipv4>(Skb::from_raw(ctx), turned_at)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_deliver_ipv4(ctx: *mut __sk_buff, turned_at: u32) -> i32 {
    steps::deliver::<Ipv4>(Skb::from_raw(ctx), turned_at)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_deliver_error_ipv4(ctx: *mut __sk_buff, turned_at: u32) -> i32 {
    steps::deliver_error::<Ipv4>(Skb::from_raw(ctx), turned_at)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_turn_ipv4(ctx: *mut __sk_buff) -> i32 {
    steps::turn::<Ipv4>(Skb::from_raw(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_parse_ipv4(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb::from_raw(ctx);
    Packet::<Ipv4>::enter(skb, Link::Ethernet.header_len())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_parse_ipv4_raw(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb::from_raw(ctx);
    Packet::<Ipv4>::enter(skb, Link::Raw.header_len())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_hold_fragment_ipv4(ctx: *mut __sk_buff) -> u32 {
    held::hold::<Ipv4>(Skb::from_raw(ctx))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_replay_fragments_ipv4(ctx: *mut __sk_buff) -> u32 {
    held::replay::<Ipv4>(Skb::from_raw(ctx))
}

/// Writes the destination of a header and counts down its time to live.
#[inline(always)]
pub fn redirect_header(header: &mut Ipv4Hdr, destination: Ipv4Be) {
    replace_address(header, Side::Destination, destination);
    count_down(header);
}

#[inline(always)]
fn replace_address(header: &mut Ipv4Hdr, side: Side, address: Ipv4Be) {
    let field = match side {
        Side::Source => &mut header.src_addr,
        Side::Destination => &mut header.dst_addr,
    };
    let from = u32::from_ne_bytes(*field);
    *field = address.to_wire().to_ne_bytes();
    let sum = u16::from_ne_bytes(header.check);
    header.check = checksum::replace_long(sum, from, address.to_wire()).to_ne_bytes();
}

#[inline(always)]
pub fn count_down(header: &mut Ipv4Hdr) {
    let from = u16::from_ne_bytes([header.ttl, header.proto]);
    header.ttl -= 1;
    let to = u16::from_ne_bytes([header.ttl, header.proto]);
    let sum = u16::from_ne_bytes(header.check);
    header.check = checksum::replace_word(sum, from, to).to_ne_bytes();
}
