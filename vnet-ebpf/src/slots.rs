//! The slots of the session array: who takes one puts it on its network's account until it is free.

use vnet_common::{
    flow::{Phase, SessionCursor},
    reason::DropReason,
};

use crate::{
    account,
    atomic::SharedWord,
    maps::{self, FREE_SESSIONS, SESSION_CURSOR},
    session::SessionSlot,
};

/// As [`take`], whatever its network has already.
#[inline(always)]
pub fn take_anyway(network: u16) -> Result<u32, DropReason> {
    account::adopt_slot(network);
    take_counted(network)
}

/// A slot nobody uses: a fresh one as long as there are, then the one that is free the longest.
#[inline(always)]
pub fn take(network: u16) -> Result<u32, DropReason> {
    account::enter_network(network)?;
    take_counted(network)
}

#[inline(always)]
fn take_counted(network: u16) -> Result<u32, DropReason> {
    let Some((index, session)) = unused() else {
        account::leave_network(network);
        return Err(DropReason::FlowTableFull);
    };
    session.set_network(network);
    session.set_phase(Phase::Filling as u32);
    Ok(index)
}

/// Returns a slot to the free ones.
#[inline(always)]
pub fn free(session: SessionSlot, index: u32) {
    account::leave_network(session.network());
    session.set_phase(Phase::Free as u32);
    // The queue has a place for every slot.
    let _ = FREE_SESSIONS.push(index, 0);
}

#[inline(always)]
fn unused() -> Option<(u32, SessionSlot)> {
    let limit = u64::from(maps::config()?.session_limit);
    let fresh = fresh_counter(SESSION_CURSOR.get_ptr_mut(0)?);
    let mut index = u64::MAX;
    if fresh.load() < limit {
        index = fresh.fetch_add(1);
    }
    let index = if index < limit { index as u32 } else { FREE_SESSIONS.pop().ok().flatten()? };
    SessionSlot::at(index).map(|session| (index, session))
}

/// The count of slots that were ever used; may run past the limit by a CPU or two.
#[inline(always)]
pub fn fresh_counter(cursor: *mut SessionCursor) -> SharedWord {
    // SAFETY: map memory outlives the program.
    unsafe { SharedWord::new(&raw mut (*cursor).fresh) }
}
