//! The chain of IPv6 extension headers (RFC 8200, section 4).

use aya_ebpf::bindings::__sk_buff;
use vnet_common::reason::DropReason;

use crate::{parse::Fragment, skb::Skb};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Headers of one packet that are followed; a longer chain is dropped, as routers may (RFC 9098).
const CHAIN_LIMIT: u32 = 8;
/// Offset that no header may begin behind.
const OFFSET_LIMIT: u32 = 1280;

/// Where a packet's transport header is, and what the headers before it say.
#[derive(Clone, Copy)]
pub struct Transport {
    pub offset: usize,
    pub protocol: u8,
    pub fragment: Fragment,
    /// Options for each hop, or a routing header.
    pub has_options: bool,
    pub identification: [u16; 2],
}

#[inline(always)]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Follows the chain that begins at `offset` with a header of kind `next_header`.
#[inline(always)]
pub fn follow(skb: Skb, offset: usize, next_header: u8) -> Result<Transport, DropReason> {
    let word = vnet_follow_extensions(skb.raw(), offset as u32, u32::from(next_header));
    if word & FAILED != 0 {
        let is_long = word & 1 != 0;
        return Err(if is_long { DropReason::HeaderChain } else { DropReason::Malformed });
    }
    let identification = (word >> 32) as u32;
    Ok(Transport {
        offset: (word & 0xfff) as usize,
        protocol: (word >> 12) as u8,
        fragment: Fragment::of(word & LATER != 0, word & FIRST != 0),
        has_options: word & OPTIONS != 0,
        identification: [identification as u16, (identification >> 16) as u16],
    })
}

// The result in one word: offset in 12 bits, protocol in 8, these flags, and from bit 32 on the
// identification as it lies in the packet.
const FIRST: u64 = 1 << 20;
const LATER: u64 = 1 << 21;
const OPTIONS: u64 = 1 << 22;
const FAILED: u64 = 1 << 23;

/// A global function: the verifier checks the loop once instead of at each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_follow_extensions(ctx: *mut __sk_buff, offset: u32, next_header: u32) -> u64 {
    const MALFORMED: u64 = FAILED;
    const TOO_LONG: u64 = FAILED | 1;
    const OFFSET_MASK: u16 = 0xfff8_u16.to_be();
    const MORE_FRAGMENTS: u16 = 1_u16.to_be();
    let skb = Skb::from_raw(ctx);
    let (mut offset, mut next_header) = (offset, next_header as u8);
    let (mut flags, mut identification) = (0_u64, 0_u32);
    for place in 0..CHAIN_LIMIT {
        if !is_extension(next_header) {
            return u64::from(offset)
                | u64::from(next_header) << 12
                | flags
                | u64::from(identification) << 32;
        }
        // Options for each hop come first or not at all (RFC 8200, section 4.1).
        if next_header == HOP_BY_HOP && place != 0 {
            return MALFORMED;
        }
        if offset > OFFSET_LIMIT {
            return TOO_LONG;
        }
        let mut header = [0_u16; 4];
        if skb.load(offset as usize, &mut header).is_none() {
            return MALFORMED;
        }
        let [following, length] = header[0].to_ne_bytes();
        if next_header == FRAGMENT {
            let [_, field, high, low] = header;
            identification = u32::from(high) | u32::from(low) << 16;
            if field & OFFSET_MASK != 0 {
                // What follows is the middle of a datagram; the first fragment names the rest.
                return u64::from(offset + 8)
                    | u64::from(following) << 12
                    | flags
                    | LATER
                    | u64::from(identification) << 32;
            }
            if field & MORE_FRAGMENTS != 0 {
                flags |= FIRST;
            }
            offset += 8;
        } else {
            if next_header != DESTINATION_OPTIONS {
                flags |= OPTIONS;
            }
            offset += (u32::from(length) + 1) * 8;
        }
        next_header = following;
    }
    TOO_LONG
}
