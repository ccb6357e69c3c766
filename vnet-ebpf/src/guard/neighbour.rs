//! Neighbour discovery (RFC 4861) from a guest.

use vnet_common::{
    address::Address,
    guard::{Mac, flags},
    limits::GUARD_NEIGHBOUR_OPTIONS,
    reason::DropReason,
};

use super::{
    Check,
    guest::Guest,
    ipv6::{kind, load_within, may_use},
};
use crate::skb::Skb;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Type, code, checksum and four more bytes.
const ICMP_LEN: u32 = 8;
const TARGET_LEN: u32 = 16;

/// A router solicitation, neighbour solicitation or neighbour advertisement.
#[inline(always)]
pub fn check(skb: Skb, guest: &Guest, offset: u32, end: u32, kind: u8, source: Address) -> Check {
    let has_target = kind != kind::ROUTER_SOLICITATION;
    if has_target && guest.checks(flags::ADDRESSES) {
        let mut target = [0_u32; 4];
        load_within(skb, offset + ICMP_LEN, end, &mut target)?;
        check_target(guest, kind, source, Address::from_wire(target))?;
    }
    if guest.checks(flags::MAC) {
        let options = offset + ICMP_LEN + if has_target { TARGET_LEN } else { 0 };
        check_options(skb, guest, options, end, source)?;
    }
    Ok(())
}

#[inline(always)]
fn check_target(guest: &Guest, kind: u8, source: Address, target: Address) -> Check {
    let may_be_said = if kind == kind::NEIGHBOUR_ADVERTISEMENT {
        may_use(guest, target)
    } else if source.is_unspecified() {
        // Duplicate address detection makes others give an address up (RFC 4862, section 5.4.3).
        !target.is_ipv4() && guest.may_probe(target)
    } else {
        true
    };
    if may_be_said { Ok(()) } else { Err(DropReason::SpoofedNeighbour) }
}

/// Every link-layer address in the options is the guest's own; who has no address yet gives none
/// (RFC 4861, sections 6.1.1 and 7.1.1).
#[inline(always)]
fn check_options(skb: Skb, guest: &Guest, offset: u32, end: u32, source: Address) -> Check {
    let mut at = offset;
    for _ in 0..GUARD_NEIGHBOUR_OPTIONS {
        if at == end {
            return Ok(());
        }
        // Type, length in units of 8 bytes, then the address of an Ethernet interface.
        let mut option = [0_u8; 8];
        load_within(skb, at, end, &mut option)?;
        let [kind, length, address @ ..] = option;
        if length == 0 {
            return Err(DropReason::Malformed);
        }
        if kind == SOURCE_LINK_LAYER || kind == TARGET_LINK_LAYER {
            let is_own = length == 1 && Mac::from_bytes(address) == guest.mac;
            let is_allowed = kind == TARGET_LINK_LAYER || !source.is_unspecified();
            if !is_own || !is_allowed {
                return Err(DropReason::SpoofedNeighbour);
            }
        }
        at += 8 * u32::from(length);
    }
    if at == end { Ok(()) } else { Err(DropReason::SpoofedNeighbour) }
}
