//! Sending a packet on its way.

use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh};
use vnet_common::{
    address::Address,
    names::{FORWARDED_MARK, INBOUND_MARK},
    reason::DropReason,
};

use crate::{hook::Verdict, shortcut::way::MacPair, skb::Skb};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Sends the packet out of an interface to a neighbour; the kernel writes the link-layer header.
#[inline(always)]
pub fn to_neighbour(skb: Skb, ifindex: u32, next_hop: Address) -> Verdict {
    skb.set_mark(FORWARDED_MARK);
    let mut neighbour = if next_hop.is_ipv4() {
        Neighbour { family: AF_INET, next_hop: [next_hop.ipv4_part().to_wire(), 0, 0, 0] }
    } else {
        Neighbour { family: AF_INET6, next_hop: next_hop.to_wire() }
    };
    let length = size_of::<Neighbour>() as i32;
    // SAFETY: the parameters are laid out as the kernel's and as long as told.
    let action = unsafe { bpf_redirect_neigh(ifindex, (&raw mut neighbour).cast(), length, 0) };
    Verdict::Redirect(action as i32)
}

/// Sends the packet out of an interface that has hooks of ours, with these MAC addresses.
#[inline(always)]
pub fn by_way(skb: Skb, ifindex: u32, macs: MacPair) -> Result<Verdict, DropReason> {
    skb.set_mark(FORWARDED_MARK);
    redirect(skb, ifindex, macs)
}

/// Sends the packet out of a guest's port, with these MAC addresses.
#[inline(always)]
pub fn to_port(skb: Skb, ifindex: u32, macs: MacPair) -> Result<Verdict, DropReason> {
    // As the hook at the bridge would leave it.
    skb.set_mark(0);
    redirect(skb, ifindex, macs)
}

#[inline(always)]
fn redirect(skb: Skb, ifindex: u32, macs: MacPair) -> Result<Verdict, DropReason> {
    skb.write(0, macs)?;
    // SAFETY: the helper checks the interface.
    Ok(Verdict::Redirect(unsafe { bpf_redirect(ifindex, 0) } as i32))
}

/// `struct bpf_redir_neigh` of the kernel's `include/uapi/linux/bpf.h`.
#[repr(C)]
struct Neighbour {
    family: u32,
    next_hop: [u32; 4],
}

/// Marks a packet that has been translated towards a guest and goes there through the host's stack,
/// so that the hook at the bridge knows that it has been judged.
#[inline(always)]
pub fn through_stack(skb: Skb) -> Verdict {
    skb.set_mark(INBOUND_MARK);
    Verdict::Pass
}

/// Takes that mark off.
#[inline(always)]
pub fn take_inbound_mark(skb: Skb) -> bool {
    let judged = skb.mark() == INBOUND_MARK;
    if judged {
        skb.set_mark(0);
    }
    judged
}

/// Takes the mark off a packet that another hook of ours has judged; `false` if there is none.
#[inline(always)]
pub fn take_mark(skb: Skb) -> bool {
    let judged = skb.mark() == FORWARDED_MARK;
    if judged {
        skb.set_mark(0);
    }
    judged
}
