//! Expiry: ends flows that have been idle too long, in slices, inside the kernel.

use vnet_common::{flow::Phase, limits, network::Config, tcp::State, timeout::NANOSECONDS};

use crate::{
    atomic::SharedWord,
    flow, inbound,
    ipv4::Ipv4,
    ipv6::Ipv6,
    mapping,
    maps::{self, SESSION_CURSOR},
    session::SessionSlot,
    slots, tables,
};

/// Looks at the next slots of the table. Userspace repeats it until the cursor is round.
#[inline(always)]
pub fn slice() {
    let (Some(_), Some(config)) = (tables::begin(), maps::config()) else { return };
    let now = flow::now();
    for _ in 0..limits::SWEEP_SLICE {
        next_slot(config, now);
        review_next(config);
    }
}

/// Looks at a few slots on behalf of a new flow: without a daemon the table still empties itself.
#[inline(always)]
pub fn on_demand(now: u64) {
    let Some(config) = maps::config() else { return };
    for _ in 0..limits::SWEEP_ON_DEMAND {
        next_slot(config, now);
    }
}

/// Judges the next slot's flow again if it has not been since the last change, so that those that may
/// not live on end without a packet. New flows do not do that for others: it takes too long.
#[inline(always)]
fn review_next(config: &Config) {
    let Some(cursor) = SESSION_CURSOR.get_ptr_mut(0) else { return };
    let fresh = slots::fresh_counter(cursor).load();
    let used = fresh.min(u64::from(config.session_limit)) as u32;
    // SAFETY: map memory outlives the program; the sweep alone moves this field.
    let index = unsafe { (&raw const (*cursor).review).read_volatile() };
    let index = if index < used { index } else { 0 };
    // SAFETY: as above.
    unsafe { (&raw mut (*cursor).review).write_volatile(index + 1) };
    if vnet_review_session(index) != 0 {
        // SAFETY: map memory outlives the program.
        unsafe { SharedWord::new(&raw mut (*cursor).ended) }.add(1);
    }
}

/// A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_review_session(index: u32) -> u32 {
    let (Some(epoch), Some(session)) = (tables::epoch(), SessionSlot::at(index)) else { return 0 };
    if session.phase() != Phase::Live as u32 || session.epoch_inbound() == epoch {
        return 0;
    }
    let is_current = if session.inside().is_ipv4() {
        inbound::is_current::<Ipv4>(session, epoch)
    } else {
        inbound::is_current::<Ipv6>(session, epoch)
    };
    u32::from(!is_current)
}

#[inline(always)]
fn next_slot(config: &Config, now: u64) {
    let Some(cursor) = SESSION_CURSOR.get_ptr_mut(0) else { return };
    let fresh = slots::fresh_counter(cursor).load();
    let used = fresh.min(u64::from(config.session_limit)) as u32;
    // SAFETY: map memory outlives the program; a lost update only repeats a look at a slot.
    let index = unsafe { (&raw const (*cursor).sweep).read_volatile() };
    let index = if index < used { index } else { 0 };
    // SAFETY: as above.
    unsafe { (&raw mut (*cursor).sweep).write_volatile(index + 1) };
    if vnet_visit_session(index, now) != 0 {
        // SAFETY: map memory outlives the program.
        unsafe { SharedWord::new(&raw mut (*cursor).ended) }.add(1);
    }
}

/// Moves one slot along its life if its time has come; 1 if that ended a flow. A global function, as
/// `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_visit_session(index: u32, now: u64) -> u32 {
    let Some(session) = SessionSlot::at(index) else { return 0 };
    match Phase::from_word(session.phase()) {
        Phase::Live => {
            let Some(network) = tables::network(session.network()) else { return 0 };
            let idle_ns = || {
                let state = State::from_byte(session.state());
                u64::from(network.timeouts.of(session.protocol(), state)) * NANOSECONDS
            };
            if session.last_refresh() + idle_ns() <= now && flow::end_idle(session, now, idle_ns) {
                return 1;
            }
        }
        Phase::HoldDown => {
            if is_drained(session, now) && session.advance(Phase::HoldDown, Phase::Filling) {
                if mapping::expire(session, now) {
                    slots::free(session, index);
                } else {
                    session.set_phase(Phase::HoldDown as u32);
                }
            }
        }
        Phase::Draining => {
            if is_drained(session, now) && session.advance(Phase::Draining, Phase::Filling) {
                slots::free(session, index);
            }
        }
        Phase::Free | Phase::Filling => {}
    }
    0
}

/// Whether no program can still read an ended slot.
#[inline(always)]
fn is_drained(session: SessionSlot, now: u64) -> bool {
    now.saturating_sub(session.since()) >= limits::DRAIN_NS
}
