//! The two versions of IP behind one face, so that every step is written once.

use bytemuck::Pod;
use vnet_common::{
    address::Address,
    family::Family,
    flow::{FlowKey, FlowSlot, FragmentKey, FragmentSlot},
    limits,
    network::{Network, Uplink, UplinkAddress},
    path::{Path, PathKey},
    reason::DropReason,
};

use crate::{
    hook::Link,
    nat::{Side, Ttl},
    parse::Packet,
    reject::Manner,
    session::SessionSlot,
    skb::Skb,
};

/// A version of IP: [`crate::ipv4::Ipv4`] or [`crate::ipv6::Ipv6`].
pub trait Ip: Copy + Sized + 'static {
    /// An address as the header holds it.
    type Address: Pod + PartialEq;

    const FAMILY: Family;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// Whether that ICMP's checksum covers the addresses (RFC 4443, section 2.3).
    const ICMP_COVERS_ADDRESSES: bool;
    /// Length in bytes of a header without options.
    const HEADER_LEN: usize;

    /// Reads and checks the headers; see [`Packet::parse`].
    fn parse(skb: Skb, link: Link) -> u32;
    /// Reads and checks the headers at `l3` up to the transport header.
    fn headers(skb: Skb, l3: usize, packet: &mut Packet<Self>) -> Result<(), DropReason>;
    /// This CPU's place for a packet's headers.
    fn packet() -> Option<&'static mut Packet<Self>>;
    /// The source and destination of the header at `l3`, which is made readable.
    #[inline(always)]
    fn ends(skb: Skb, l3: usize) -> Result<(Self::Address, Self::Address), DropReason> {
        skb.pull((l3 + Self::HEADER_LEN) as u32);
        Self::ends_at(skb, l3)
    }
    /// The source and destination of the header at `l3`, which is readable.
    fn ends_at(skb: Skb, l3: usize) -> Result<(Self::Address, Self::Address), DropReason>;
    /// What follows the header at `l3`, which is made readable.
    fn next_header(skb: Skb, l3: usize) -> Result<u8, DropReason>;
    /// The transport protocol of the packet that an ICMP error quotes at `l3`, and the length of its
    /// header with its options; `None` if it is not the beginning of its datagram.
    fn quoted_transport(skb: Skb, l3: usize) -> Option<(u8, usize)>;

    fn widen(address: Self::Address) -> Address;
    fn narrow(address: Address) -> Self::Address;
    /// Multicast, or broadcast to everybody.
    fn is_group(address: Self::Address) -> bool;
    /// Multicast that no router forwards.
    fn is_link_local_group(address: Self::Address) -> bool;
    /// An address that no single host beyond the link has (RFC 6890; RFC 1812, section 5.3.7).
    fn is_martian(address: Self::Address) -> bool;
    /// An address that has no meaning beyond its link.
    fn is_link_local(address: Self::Address) -> bool;
    /// Whether both addresses share their first `prefix_length` bits of this family.
    fn share_prefix(one: Self::Address, other: Self::Address, prefix_length: u8) -> bool;

    fn flow_slot(key: &FlowKey<Self::Address>) -> Option<FlowSlot>;
    /// Whether a former datapath has a flow of a key: see [`crate::former`].
    fn former_has_flow(key: &FlowKey<Self::Address>) -> bool;
    /// The same of a datagram's first fragment.
    fn former_has_fragment(key: &FragmentKey<Self::Address>) -> bool;
    fn first_fragment(key: &FragmentKey<Self::Address>) -> Option<FragmentSlot>;
    fn remember_fragment(key: &FragmentKey<Self::Address>, first: &FragmentSlot);

    /// Where packets of a key went lately.
    fn path(key: &PathKey<Self::Address>) -> Option<*mut Path>;
    /// Keeps where they go; the oldest may be forgotten for it.
    fn enter_path(key: &PathKey<Self::Address>, path: &Path);
    /// See [`PathKey::seal`].
    fn seal(key: &PathKey<Self::Address>, path: &Path) -> u32;

    /// Keeps a packet that came before the first fragment of its datagram; see [`crate::held`].
    fn hold(skb: Skb) -> u32;
    /// Lets a first fragment come again with what was kept for it; see [`crate::held`].
    fn replay(skb: Skb) -> u32;

    /// The addresses of an uplink, and how many of them are filled.
    fn addresses(uplink: &Uplink) -> (&UplinkAddresses<Self>, u32);
    /// The bridge's own address that guests get ICMP errors from, or the unspecified one.
    fn gateway(network: &Network) -> Self::Address;

    /// Adjusts an L4 checksum that covers the addresses for a changed one.
    fn replace_in_checksum(
        skb: Skb,
        checksum_offset: usize,
        zero_means_none: bool,
        from: Self::Address,
        to: Self::Address,
    ) -> Result<(), DropReason>;
    /// Writes one address of the header, and counts down its time to live.
    fn write_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Self::Address,
        ttl: Ttl,
    ) -> Result<(), DropReason>;
    /// Writes one address of the header where another change in the packet makes up for it.
    fn write_balanced_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Self::Address,
    ) -> Result<(), DropReason>;
    /// Writes one address of a quoted header; what became of the header's checksum if it has one.
    fn write_quoted_address(
        skb: Skb,
        l3: usize,
        side: Side,
        address: Self::Address,
    ) -> Result<Option<(u16, u16)>, DropReason>;
    /// Counts down the time to live.
    fn decrement_ttl(skb: Skb, l3: usize) -> Result<(), DropReason>;

    /// Notes this CPU's packet: [`crate::host_flow::note`].
    fn note_host_flow();

    /// [`crate::route::choose_external`]
    fn choose_external() -> bool;
    /// [`crate::route::keeps_external`]
    fn keeps_external(session: SessionSlot) -> bool;
    /// Where this CPU's packet turns round: [`crate::forward::turning_point`].
    fn turning_point(skb: Skb) -> u32;
    /// The steps of packets at a bridge that are for an address of the host: [`crate::steps::reply`].
    fn reply(skb: Skb, turned_at: u32) -> i32;
    /// [`crate::steps::deliver`]
    fn deliver(skb: Skb, turned_at: u32) -> i32;
    /// [`crate::steps::deliver_error`]
    fn deliver_error(skb: Skb, turned_at: u32) -> i32;
    /// What follows for a packet that turns round: [`crate::steps::turn`].
    fn turn(skb: Skb) -> i32;

    /// Sends an ICMP error from `source` instead of the packet; the action for the packet.
    fn reject(skb: Skb, source: Self::Address, manner: Manner) -> i32;
}

pub type UplinkAddresses<V> = [UplinkAddress<<V as Ip>::Address>; limits::ADDRESSES_PER_UPLINK];
