//! What each guest and each network uses of the tables, and whether it may use more.

use aya_ebpf::bindings::BPF_NOEXIST;
use bytemuck::Zeroable as _;
use vnet_common::{
    address::Address,
    flow::{FLAG_FROM_OUTSIDE, GUEST_GONE, GuestUsage, share_of_outside},
    network::Network,
    reason::DropReason,
    timeout::NANOSECONDS,
};

use crate::{
    atomic::SharedWord,
    flow::{self, NewFlow},
    maps::{GUESTS, NETWORK_FLOWS},
    outcome, tables,
};

/// A guest's flows and ports are one word: flows in the lower half.
const FLOW: u64 = 1;
const PORT: u64 = 1 << 32;
const GONE: u64 = (GUEST_GONE as u64) << 32;
/// How often a guest's entry is looked for that another CPU is deleting.
const ATTEMPTS: u32 = 4;

/// Puts a new flow on its guest's account, or says what limit that has reached. A global function, as
/// `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_enter_guest(new: *const NewFlow) -> u64 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    outcome::encode(enter_guest(new).map(|()| 0))
}

#[inline(always)]
fn enter_guest(new: &NewFlow) -> Result<(), DropReason> {
    let inside = &new.mapping.inside;
    let network = tables::network(new.network).ok_or(DropReason::GuestFlowLimit)?;
    let usage = add(inside, FLOW).ok_or(DropReason::GuestFlowLimit)?;
    let is_from_outside = new.flags & FLAG_FROM_OUTSIDE != 0;
    if is_from_outside {
        from_outside(usage).add(1);
    }
    let refusal = check_limits(usage, network, is_from_outside);
    if refusal.is_err() {
        leave_guest(inside, new.flags);
    }
    refusal
}

/// Whether one more flow is within a guest's limits; it is among those of the account.
#[inline(always)]
fn check_limits(
    usage: *mut GuestUsage,
    network: &Network,
    is_from_outside: bool,
) -> Result<(), DropReason> {
    let limit = network.flows_per_guest;
    if flows(usage) > limit
        || (is_from_outside && from_outside(usage).load() > u64::from(share_of_outside(limit)))
    {
        return Err(DropReason::GuestFlowLimit);
    }
    let limit = network.new_flows_per_second;
    // SAFETY: map memory outlives the program.
    let (opened, opened_from_outside) = unsafe {
        (
            SharedWord::new(&raw mut (*usage).opened),
            SharedWord::new(&raw mut (*usage).opened_from_outside),
        )
    };
    if limit == 0
        || ((!is_from_outside || is_in_time(opened_from_outside, share_of_outside(limit)))
            && is_in_time(opened, limit))
    {
        return Ok(());
    }
    Err(DropReason::GuestFlowRate)
}

/// Puts a flow of a former datapath with some `FLAG_*` on its guest's account, whatever that has; `false` if
/// there is no room for the account.
#[inline(always)]
pub fn adopt_flow(inside: &Address, flags: u8) -> bool {
    let Some(usage) = add(inside, FLOW) else { return false };
    if flags & FLAG_FROM_OUTSIDE != 0 {
        from_outside(usage).add(1);
    }
    true
}

/// The same for an external port.
#[inline(always)]
pub fn adopt_port(inside: &Address) -> bool {
    add(inside, PORT).is_some()
}

/// The same for a slot of the session array, on a network's.
#[inline(always)]
pub fn adopt_slot(network: u16) {
    if let Some(slots) = network_slots(network) {
        slots.add(1);
    }
}

/// Takes a flow with some `FLAG_*` off its guest's account.
#[inline(always)]
pub fn leave_guest(inside: &Address, flags: u8) {
    if flags & FLAG_FROM_OUTSIDE != 0
        && let Some(usage) = GUESTS.get_ptr_mut(inside)
    {
        from_outside(usage).fetch_decrement();
    }
    subtract(inside, FLOW);
}

/// Puts a slot of the session array on a network's account.
#[inline(always)]
pub fn enter_network(network: u16) -> Result<(), DropReason> {
    let limit = tables::network(network).map_or(0, |network| network.flow_limit);
    let slots = network_slots(network).ok_or(DropReason::NetworkFlowLimit)?;
    if slots.fetch_add(1) < u64::from(limit) {
        return Ok(());
    }
    slots.fetch_decrement();
    Err(DropReason::NetworkFlowLimit)
}

/// Takes a slot of the session array off a network's account.
#[inline(always)]
pub fn leave_network(network: u16) {
    if let Some(slots) = network_slots(network) {
        slots.fetch_decrement();
    }
}

/// Puts an external port on a guest's account; 0 if it has as many as it may have. A global function, as
/// `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_enter_port(new: *const NewFlow) -> u32 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    let inside = &new.mapping.inside;
    let limit = tables::network(new.network).map_or(0, |network| network.ports_per_guest);
    let Some(usage) = add(inside, PORT) else { return 0 };
    // The new one is among them.
    if ports(usage) > limit {
        leave_port(inside);
        return 0;
    }
    1
}

/// Takes an external port off a guest's account.
#[inline(always)]
pub fn leave_port(inside: &Address) {
    subtract(inside, PORT);
}

/// Adds to a guest's account, which is made if there is none.
#[inline(always)]
fn add(inside: &Address, what: u64) -> Option<*mut GuestUsage> {
    for _ in 0..ATTEMPTS {
        let usage = if let Some(usage) = GUESTS.get_ptr_mut(inside) {
            usage
        } else {
            let fresh = GuestUsage { inside: *inside, ..GuestUsage::zeroed() };
            // Two CPUs may get here together; one insertion wins, both find the entry.
            let _ = GUESTS.insert(inside, fresh, u64::from(BPF_NOEXIST));
            GUESTS.get_ptr_mut(inside)?
        };
        let used = used(usage);
        // What is added to an entry that is being deleted goes with it.
        if used.fetch_add(what) & GONE == 0 {
            // SAFETY: map memory outlives the program; the field is aligned plain data.
            if unsafe { (&raw const (*usage).inside).read_volatile() } == *inside {
                return Some(usage);
            }
            // The element was recycled for another guest between look-up and addition.
            used.fetch_add(what.wrapping_neg());
        }
    }
    None
}

/// Subtracts what was added. What empties the account takes it along, so that addresses that a guest
/// has only tried leave nothing behind.
#[inline(always)]
fn subtract(inside: &Address, what: u64) {
    let Some(usage) = GUESTS.get_ptr_mut(inside) else { return };
    let used = used(usage);
    if used.fetch_add(what.wrapping_neg()) == what && used.replace(0, GONE) {
        let _ = GUESTS.remove(inside);
    }
}

/// Whether one more flow may be opened in this second; counts it if so.
#[inline(always)]
fn is_in_time(opened: SharedWord, limit: u32) -> bool {
    let second = (flow::now() / NANOSECONDS) << 32;
    let before = opened.load();
    // Of two CPUs that begin a second together one does, and both count in it.
    if before >> 32 != second >> 32 {
        opened.replace(before, second);
    }
    if opened.load() & u64::from(u32::MAX) >= u64::from(limit) {
        return false;
    }
    opened.add(1);
    true
}

#[inline(always)]
fn network_slots(network: u16) -> Option<SharedWord> {
    let word = NETWORK_FLOWS.get_ptr_mut(u32::from(network))?;
    // SAFETY: map memory outlives the program.
    Some(unsafe { SharedWord::new(word) })
}

#[inline(always)]
fn used(usage: *mut GuestUsage) -> SharedWord {
    // SAFETY: map memory outlives the program; the two fields are one aligned word.
    unsafe { SharedWord::new((&raw mut (*usage).flows).cast()) }
}

/// Flows that remotes have opened.
#[inline(always)]
fn from_outside(usage: *mut GuestUsage) -> SharedWord {
    // SAFETY: map memory outlives the program.
    unsafe { SharedWord::new(&raw mut (*usage).from_outside) }
}

#[inline(always)]
fn flows(usage: *mut GuestUsage) -> u32 {
    used(usage).load() as u32
}

#[inline(always)]
fn ports(usage: *mut GuestUsage) -> u32 {
    (used(usage).load() >> 32) as u32
}
