//! IPv4 from a guest.

use bytemuck::{Pod, Zeroable};
use vnet_common::{
    address::{Address, Ipv4Be},
    flow::protocol,
    guard::flags,
    reason::DropReason,
};

use super::{Check, guest::Guest, load};
use crate::skb::Skb;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const ICMP_REDIRECT: u8 = 5;
/// RFC 1256
const ICMP_ROUTER_ADVERTISEMENT: u8 = 9;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const MORE_FRAGMENTS: u16 = 0x2000;

/// The header as it lies in the frame, without options (RFC 791, section 3.1).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    version_and_length: u8,
    service: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[inline(always)]
pub fn check(skb: Skb, offset: u32, guest: &Guest) -> Check {
    let mut header = Header::zeroed();
    load(skb, offset, &mut header)?;
    let words = u32::from(header.version_and_length & 0xf);
    if header.version_and_length >> 4 != 4 || words < 5 {
        return Err(DropReason::Malformed);
    }
    let fragment = u16::from_be(header.fragment);
    // The first fragment carries at least eight bytes, and so both ports; later ones carry none.
    let has_ports = fragment & FRAGMENT_OFFSET == 0 && header.protocol == protocol::UDP;
    let mut ports = [0_u16; 2];
    if has_ports {
        load(skb, offset + 4 * words, &mut ports)?;
    }
    let ports = ports.map(u16::from_be);
    if guest.checks(flags::SERVERS) {
        if has_ports && ports[0] == DHCP_SERVER {
            return Err(DropReason::RogueDhcpServer);
        }
        if fragment & FRAGMENT_OFFSET == 0 && header.protocol == protocol::ICMP {
            let mut kind = 0_u8;
            load(skb, offset + 4 * words, &mut kind)?;
            if kind == ICMP_REDIRECT || kind == ICMP_ROUTER_ADVERTISEMENT {
                return Err(DropReason::RogueRouter);
            }
        }
    }
    if !guest.checks(flags::ADDRESSES) {
        return Ok(());
    }
    let source = Ipv4Be::from_wire(header.source);
    let is_own = if source == Ipv4Be::UNSPECIFIED {
        // RFC 2131, section 4.1: who has no address yet asks for one.
        fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) == 0
            && has_ports
            && ports == [DHCP_CLIENT, DHCP_SERVER]
    } else {
        guest.may_use(Address::from_ipv4(source))
    };
    if is_own { Ok(()) } else { Err(DropReason::SpoofedAddress) }
}
