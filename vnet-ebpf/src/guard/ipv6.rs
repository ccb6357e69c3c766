//! IPv6 from a guest, and the walk along its extension headers (RFC 8200, section 4).

use bytemuck::{Pod, Zeroable};
use vnet_common::{
    address::Address, flow::protocol, guard::flags, limits::GUARD_EXTENSION_HEADERS,
    reason::DropReason,
};

use super::{Check, guest::Guest, load, neighbour};
use crate::skb::Skb;

const DHCP_SERVER: u16 = 547;
const HEADER_LEN: u32 = size_of::<Header>() as u32;

/// <https://www.iana.org/assignments/ipv6-parameters>: extension headers.
mod extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HOST_IDENTITY: u8 = 139;
    pub const SHIM: u8 = 140;
}

/// `ICMPv6` types of RFC 4861 and of multicast listeners (RFC 2710, RFC 3810).
pub mod kind {
    pub const LISTENER_REPORT: u8 = 131;
    pub const LISTENER_DONE: u8 = 132;
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    pub const LISTENER_REPORT_V2: u8 = 143;
}

/// The header as it lies in the frame (RFC 8200, section 3).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    version: u32,
    payload_length: u16,
    following: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// What the chain of headers ends in.
struct Upper {
    protocol: u8,
    offset: u32,
    /// A fragment header was on the way.
    fragmented: bool,
    /// This is not the first fragment: what `protocol` names is in another packet.
    later: bool,
}

#[inline(always)]
pub fn check(skb: Skb, offset: u32, guest: &Guest) -> Check {
    let mut header = Header::zeroed();
    load(skb, offset, &mut header)?;
    if u32::from_be(header.version) >> 28 != 6 {
        return Err(DropReason::Malformed);
    }
    let end = end_of(skb, offset, &header)?;
    let upper = walk(skb, header.following, offset + HEADER_LEN, end)?;
    let source = Address::from_wire(header.source);
    let mut may_be_unspecified = false;
    if !upper.later && upper.protocol == protocol::UDP && guest.checks(flags::SERVERS) {
        let mut port = 0_u16;
        load_within(skb, upper.offset, end, &mut port)?;
        if u16::from_be(port) == DHCP_SERVER {
            return Err(DropReason::RogueDhcpServer);
        }
    }
    if !upper.later && upper.protocol == protocol::ICMPV6 {
        let mut kind = 0_u8;
        load_within(skb, upper.offset, end, &mut kind)?;
        may_be_unspecified = check_icmp(skb, guest, &upper, end, kind, source)?;
    }
    if !guest.checks(flags::ADDRESSES) {
        return Ok(());
    }
    let is_own = if source.is_unspecified() { may_be_unspecified } else { may_use(guest, source) };
    if is_own { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}

/// Whether the guest may use an address of IPv6. The mapped form stands for IPv4 in the tables and
/// never lies in a packet (RFC 4038, section 4.2).
#[inline(always)]
pub fn may_use(guest: &Guest, address: Address) -> bool {
    !address.is_ipv4() && guest.may_use(address)
}

/// Whether this message may come from who has no address yet.
#[inline(always)]
fn check_icmp(
    skb: Skb,
    guest: &Guest,
    upper: &Upper,
    end: u32,
    kind: u8,
    source: Address,
) -> Result<bool, DropReason> {
    match kind {
        kind::ROUTER_ADVERTISEMENT | kind::REDIRECT => {
            if guest.checks(flags::SERVERS) {
                return Err(DropReason::RogueRouter);
            }
            Ok(false)
        }
        kind::ROUTER_SOLICITATION
        | kind::NEIGHBOUR_SOLICITATION
        | kind::NEIGHBOUR_ADVERTISEMENT => {
            // RFC 6980, section 5: never fragmented, and ignored if it is.
            if upper.fragmented {
                return Err(DropReason::SpoofedNeighbour);
            }
            neighbour::check(skb, guest, upper.offset, end, kind, source)?;
            Ok(kind != kind::NEIGHBOUR_ADVERTISEMENT)
        }
        // RFC 3810, section 5.2.13, and RFC 3590: the groups of an address that is not one's own yet.
        kind::LISTENER_REPORT | kind::LISTENER_DONE | kind::LISTENER_REPORT_V2 => {
            Ok(!upper.fragmented)
        }
        _ => Ok(false),
    }
}

/// Where the packet ends. A jumbogram's length is not in the header (RFC 2675).
#[inline(always)]
fn end_of(skb: Skb, offset: u32, header: &Header) -> Result<u32, DropReason> {
    let payload = u32::from(u16::from_be(header.payload_length));
    let end = offset + HEADER_LEN + payload;
    match payload {
        0 => Ok(skb.len()),
        _ if end > skb.len() => Err(DropReason::Malformed),
        _ => Ok(end),
    }
}

/// Follows the chain to the upper layer. What it cannot follow does not pass (RFC 7113, section 2);
/// RFC 7112 demands the whole chain in the first fragment.
#[inline(always)]
fn walk(skb: Skb, first: u8, offset: u32, end: u32) -> Result<Upper, DropReason> {
    let mut upper = Upper { protocol: first, offset, fragmented: false, later: false };
    for _ in 0..GUARD_EXTENSION_HEADERS {
        let unit = match upper.protocol {
            extension::HOP_BY_HOP
            | extension::ROUTING
            | extension::DESTINATION
            | extension::MOBILITY
            | extension::HOST_IDENTITY
            | extension::SHIM => 8,
            extension::AUTHENTICATION => 4,
            extension::FRAGMENT => 0,
            _ => return Ok(upper),
        };
        // Next header, length, and of a fragment header the offset.
        let mut words = [0_u8; 4];
        load_within(skb, upper.offset, end, &mut words)?;
        upper.protocol = words[0];
        upper.offset += match unit {
            // Of 8 bytes, the first not counted.
            8 => (u32::from(words[1]) + 1) * 8,
            // Of 4 bytes, the first two not counted (RFC 4302, section 2.2).
            4 => (u32::from(words[1]) + 2) * 4,
            _ => {
                upper.fragmented = true;
                if u16::from_be_bytes([words[2], words[3]]) >> 3 != 0 {
                    upper.later = true;
                    return Ok(upper);
                }
                8
            }
        };
    }
    Err(DropReason::HeaderChain)
}

/// As `load`, for bytes that must belong to the packet itself and not to the frame's padding, which
/// a first fragment could fill with another end of the chain.
#[inline(always)]
pub fn load_within<T: Pod>(skb: Skb, offset: u32, end: u32, to: &mut T) -> Check {
    if offset + size_of::<T>() as u32 > end {
        return Err(DropReason::Malformed);
    }
    load(skb, offset, to)
}
