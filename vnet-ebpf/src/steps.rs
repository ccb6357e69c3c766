//! The steps behind the entry points, in the order in which a packet takes them.
//!
//! Each has a stack frame of its own, because together they do not fit 512 bytes. What one has found
//! out the next one finds in per-CPU maps: the headers in `PACKET`, and in its `known` the flow.

use crate::{
    forwarded,
    hook::{ERROR, FRAGMENT, Hook, KNOWN, Link, OF_THE_HOST, POSSIBLE_REPLY, TURNED, UNJUDGED},
    inbound,
    ip::Ip,
    maps, outbound, path, reject,
    skb::Skb,
};

#[inline(always)]
pub fn at_bridge<V: Ip>(skb: Skb) -> i32 {
    let mut action = from_guest::<V>(skb);
    if action == UNJUDGED {
        action = by_path::<V>(skb);
    }
    if action == UNJUDGED {
        action = from_guest_unjudged::<V>(skb);
        path::enter::<V>(skb);
    }
    let action = match action {
        KNOWN => from_guest_known::<V>(skb),
        ERROR => from_guest_error::<V>(skb),
        FRAGMENT => from_guest_fragment::<V>(skb),
        POSSIBLE_REPLY => in_reply::<V>(skb),
        action => action,
    };
    if action == TURNED { V::turn(skb) } else { action }
}

/// What a guest sends to the host, or to those that are masqueraded to an address of its.
#[inline(always)]
fn in_reply<V: Ip>(skb: Skb) -> i32 {
    let mut action = V::reply(skb, NOT_TURNED);
    if action == KNOWN {
        return V::deliver(skb, NOT_TURNED);
    }
    if action == ERROR {
        action = V::deliver_error(skb, NOT_TURNED);
    }
    if action == UNJUDGED {
        action = from_guest_to_host::<V>(skb);
    }
    action
}

/// What follows for a guest's packet that is for a guest behind an external address of this host.
#[inline(always)]
pub fn turn<V: Ip>(skb: Skb) -> i32 {
    // The step before has left it in this CPU's new flow.
    let uplink = maps::new_flow().map_or(NOT_TURNED, |new| new.uplink_ifindex);
    let mut action = V::reply(skb, uplink);
    if action == ERROR {
        return V::deliver_error(skb, uplink);
    }
    if action == UNJUDGED {
        action = turned_unjudged::<V>(skb, uplink);
    }
    if action == KNOWN { V::deliver(skb, uplink) } else { action }
}

/// No uplink at which a packet has turned round.
const NOT_TURNED: u32 = 0;

// What follows for packets at a bridge is one code for those that have turned round at an uplink and those
// that have not, because the verifier goes through it once for each.

/// The flow that a guest's packet is the reply of.
#[inline(always)]
pub fn reply<V: Ip>(skb: Skb, turned_at: u32) -> i32 {
    let mut hook = Hook::at_bridge(skb, turned_at);
    let verdict = inbound::reply_at_bridge::<V>(&mut hook);
    hook.finish(verdict)
}

/// Brings it to the guest or the host.
#[inline(always)]
pub fn deliver<V: Ip>(skb: Skb, turned_at: u32) -> i32 {
    let mut hook = Hook::at_bridge(skb, turned_at);
    let verdict = inbound::from_uplink_known::<V>(&mut hook);
    hook.finish(verdict)
}

/// Brings an ICMP error there.
#[inline(always)]
pub fn deliver_error<V: Ip>(skb: Skb, turned_at: u32) -> i32 {
    let mut hook = Hook::at_bridge(skb, turned_at);
    let verdict = inbound::error_at_bridge::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(always)]
pub fn at_uplink<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut action = from_outside::<V, RAW>(skb);
    if action == ERROR {
        action = error_from_outside::<V, RAW>(skb);
    }
    if action == UNJUDGED && !RAW {
        action = by_path::<V>(skb);
    }
    if action == UNJUDGED {
        action = from_outside_unjudged::<V, RAW>(skb);
        if !RAW {
            path::enter::<V>(skb);
        }
    }
    if action == KNOWN { from_outside_known::<V, RAW>(skb) } else { action }
}

#[inline(always)]
pub fn at_bridge_egress<V: Ip>(skb: Skb) -> i32 {
    egress::<V, false>(skb, to_guest::<V>(skb))
}

#[inline(always)]
pub fn at_uplink_egress<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    egress::<V, RAW>(skb, to_outside::<V, RAW>(skb))
}

/// What follows the first step at an egress.
#[inline(always)]
fn egress<V: Ip, const RAW: bool>(skb: Skb, mut action: i32) -> i32 {
    if action == OF_THE_HOST {
        action = of_the_host::<V, RAW>(skb);
        return if action == ERROR { icmp_of_the_host::<V, RAW>(skb) } else { action };
    }
    if action == UNJUDGED {
        action = masquerade::<V, RAW>(skb);
    }
    match action {
        KNOWN => translate::<V, RAW>(skb),
        ERROR => translate_error::<V, RAW>(skb),
        FRAGMENT => translate_fragment::<V, RAW>(skb),
        action => action,
    }
}

/// What the packets of an interface begin with.
const fn link(raw: bool) -> Link {
    if raw { Link::Raw } else { Link::Ethernet }
}

#[inline(never)]
fn from_guest<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::guest::<V>)
}

/// The way of those before it, for a packet that goes on as it is.
#[inline(never)]
fn by_path<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = path::follow::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn from_guest_unjudged<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge_unjudged::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::guest::<V>)
}

#[inline(never)]
fn from_guest_known<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge_known::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::guest::<V>)
}

#[inline(never)]
fn from_guest_error<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::from_bridge_error::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn from_guest_fragment<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = outbound::fragment_from_bridge::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn from_guest_to_host<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = inbound::to_host_at_bridge::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn to_guest<V: Ip>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, Link::Ethernet);
    let verdict = forwarded::to_bridge::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::forwarded::<V>)
}

#[inline(never)]
fn from_outside<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = inbound::from_uplink::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn error_from_outside<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = inbound::error_from_uplink::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn from_outside_unjudged<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = inbound::from_uplink_unjudged::<V>(&mut hook);
    hook.finish_or_reject(verdict, reject::outside::<V>)
}

#[inline(never)]
fn from_outside_known<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = inbound::from_uplink_known::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn turned_unjudged<V: Ip>(skb: Skb, uplink: u32) -> i32 {
    let mut hook = Hook::at_bridge(skb, uplink);
    let verdict = inbound::turned_unjudged::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn to_outside<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = forwarded::to_uplink::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn of_the_host<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = forwarded::of_the_host::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn icmp_of_the_host<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = forwarded::icmp_of_the_host::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn masquerade<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = forwarded::masquerade::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn translate<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = forwarded::translate::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn translate_error<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = forwarded::translate_error::<V>(&mut hook);
    hook.finish(verdict)
}

#[inline(never)]
fn translate_fragment<V: Ip, const RAW: bool>(skb: Skb) -> i32 {
    let mut hook = Hook::new(skb, link(RAW));
    let verdict = forwarded::translate_fragment::<V>(&mut hook);
    hook.finish(verdict)
}
