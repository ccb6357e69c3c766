//! Counters, one per CPU each, so that counting needs no lock.

use vnet_common::{
    flow::Direction,
    limits,
    reason::{DropReason, Handover},
};

use crate::maps::{DROPS, HANDOVERS, PORT_SEARCH, TRAFFIC};

#[inline(always)]
pub fn drop(network: u16, reason: DropReason) {
    increment(DROPS.get_ptr_mut(reason.counter(network)));
}

#[inline(always)]
pub fn handover(network: u16, handover: Handover) {
    increment(HANDOVERS.get_ptr_mut(handover.counter(network)));
}

#[inline(always)]
pub fn traffic(network: u16, direction: Direction, bytes: u32) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(u32::from(network)) {
        // SAFETY: the element is this CPU's own and programs on one CPU do not interleave here.
        let traffic = unsafe { &mut *traffic };
        let account = match direction {
            Direction::Outbound => &mut traffic.outbound,
            Direction::Inbound => &mut traffic.inbound,
        };
        account.packets += 1;
        account.bytes += u64::from(bytes);
    }
}

/// Counts a search for an external port by the steps that it took.
#[inline(always)]
pub fn port_search(steps: u32) {
    let last = limits::PORT_SEARCH_STEPS - 1;
    increment(PORT_SEARCH.get_ptr_mut(if steps < last { steps } else { last }));
}

#[inline(always)]
fn increment(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: the element is this CPU's own and programs on one CPU do not interleave here.
        unsafe { *counter += 1 }
    }
}
