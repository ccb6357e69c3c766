//! UDP checksums of the host's own DHCP replies.
//!
//! The host's stack leaves the sum to a NIC that a bridge does not have: the frame has the sum of the
//! pseudo-header alone. A guest's kernel knows that, but DHCP clients that read raw frames check the
//! sum themselves and take no such reply. libvirt has a rule of netfilter for it
//! (`iptablesOutputFixUdpChecksum` in `src/network/network_iptables.c`).

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_csum_diff};

use crate::{
    hook::Link,
    maps, reject,
    skb::{self, Skb},
};

const L3: usize = Link::Ethernet.header_len();
/// Behind an IPv4 header without options, as every DHCP server sends it.
const L4: usize = L3 + 20;
const CHECKSUM: usize = L4 + 6;
/// What is summed at a time, in bytes.
const STEP: usize = 64;
const STEPS: usize = 24;
/// The longest reply that is completed, as a frame: more than an Ethernet has room for.
const LONGEST: usize = L4 + STEPS * STEP;

/// Completes the checksum of this packet of the host's own if it is a DHCP reply to a guest that lacks
/// it. All others stay as they are.
#[inline(always)]
pub fn complete_reply(skb: Skb) {
    if skb.ingress_ifindex() == 0 && is_reply(skb) {
        vnet_complete_dhcp_reply(skb.raw());
    }
}

#[inline(always)]
fn is_reply(skb: Skb) -> bool {
    const PORTS: [u16; 2] = [67_u16.to_be(), 68_u16.to_be()];
    let (Ok(first), Ok(protocol)) = (skb.read::<u8>(L3), skb.read::<u8>(L3 + 9)) else {
        return false;
    };
    first == 0x45 && protocol == 17 && matches!(skb.read::<[u16; 2]>(L4), Ok(PORTS))
}

/// A global function: the verifier checks it once, and its stack is its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_complete_dhcp_reply(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb::from_raw(ctx);
    complete(skb).map_or(0, |()| 1)
}

#[inline(always)]
fn complete(skb: Skb) -> Option<()> {
    let length = skb::within(skb.len(), LONGEST)?;
    if skb.gso_size() != 0 || (length as usize) < L4 + 8 {
        return None;
    }
    let frame = &mut maps::held_fragment()?.frame;
    skb.load_start(frame, length)?;
    let word = |at: usize| u16::from_ne_bytes([frame[at], frame[at + 1]]);
    let udp_length = word(L4 + 4);
    let is_fragment = word(L3 + 6) & 0x3fff_u16.to_be() != 0;
    if is_fragment || u32::from(u16::from_be(udp_length)) + L4 as u32 != length {
        return None;
    }
    let mut pseudo = u32::from(17_u16.to_be());
    pseudo += u32::from(udp_length);
    pseudo += u32::from(word(L3 + 12)) + u32::from(word(L3 + 14));
    pseudo += u32::from(word(L3 + 16)) + u32::from(word(L3 + 18));
    if word(CHECKSUM) != fold(pseudo) {
        return None;
    }
    frame[CHECKSUM] = 0;
    frame[CHECKSUM + 1] = 0;
    // What is summed ends at a whole step.
    let end = length as usize;
    if end > LONGEST || frame.len() < LONGEST + STEP {
        return None;
    }
    // SAFETY: `end` and `STEP` bytes behind it lie in the frame's room, which was checked.
    unsafe { frame.as_mut_ptr().add(end).cast::<[u8; STEP]>().write_unaligned([0; STEP]) };
    let mut sum = pseudo;
    for step in 0..STEPS {
        let at = L4 + step * STEP;
        if at >= end {
            break;
        }
        // SAFETY: a step lies in the frame's room; the helper only reads.
        let next = unsafe {
            bpf_csum_diff(
                core::ptr::null_mut(),
                0,
                frame.as_mut_ptr().add(at).cast(),
                STEP as u32,
                sum,
            )
        };
        sum = next.cast_unsigned() as u32;
    }
    let checksum = match !fold(sum) {
        0 => 0xffff,
        checksum => checksum,
    };
    let [high, low] = checksum.to_ne_bytes();
    frame[CHECKSUM] = high;
    frame[CHECKSUM + 1] = low;
    reject::replace(skb, Link::Ethernet, frame.as_ptr(), end)
}

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
