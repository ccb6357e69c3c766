//! Mappings: the external port of an inside endpoint (RFC 4787, REQ-1 and REQ-2).

use aya_ebpf::bindings::BPF_NOEXIST;
use vnet_common::{
    address::PortBe,
    flow::{ExternalPort, FLAG_FROM_OUTSIDE, MAPPING_DEAD, Mapping, MappingKey, PortHolder},
    reason::DropReason,
    timeout::NANOSECONDS,
};

use crate::{
    account, atomic::SharedWord, flow::NewFlow, host_flow, maps::MAPPINGS, outcome, ports,
    session::SessionSlot, tables,
};

/// The key of the mapping that a session uses.
#[inline(always)]
pub fn key_of(session: SessionSlot) -> MappingKey {
    MappingKey {
        inside: session.inside(),
        external: session.external(),
        inside_port: session.inside_port(),
        protocol: session.protocol(),
        reserved: 0,
    }
}

/// What [`vnet_look_for_mapping`] has found.
pub mod found {
    /// The endpoint has no mapping.
    pub const NONE: u32 = 0;
    /// It has one that is no use with this remote.
    pub const TAKEN: u32 = 1;
    /// It has one.
    pub const USABLE: u32 = 2;
}

/// Whether an endpoint has a mapping, and one of use with this remote. A global function, as
/// `vnet_open_flow`; by itself, because [`vnet_join_mapping`] has no room on the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_look_for_mapping(new: *const NewFlow) -> u32 {
    let Some(new) = NewFlow::in_map(new) else { return found::NONE };
    let key = &new.mapping;
    match MAPPINGS.get_ptr_mut(key) {
        None => found::NONE,
        Some(mapping) if is_taken(new, port_of(mapping)) => found::TAKEN,
        Some(_) => found::USABLE,
    }
}

/// The external port of an endpoint that has a mapping, and a reference on it. A global function, as
/// `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_join_mapping(new: *const NewFlow) -> u64 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    let port = join(new).map(|port| u32::from(port.to_wire()));
    outcome::encode(port.ok_or(DropReason::PortsExhausted))
}

/// Enters a mapping to the flow's external port, which it has claimed, with a reference on it; the
/// port of the mapping that the flow has then. [`DropReason::FlowConflict`] if it is no use with this
/// remote: the port is released then. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_enter_mapping(new: *const NewFlow) -> u64 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    let (key, port) = (&new.mapping, new.external_port);
    if is_taken(new, port) {
        ports::release(&external_port(key, port));
        account::leave_port(&key.inside);
        return outcome::encode(Err(DropReason::FlowConflict));
    }
    let mapping = Mapping {
        inside: key.inside,
        references: 1,
        own: u64::from(is_own(new)),
        idle_since: 0,
        inside_port: key.inside_port,
        external_port: port,
        protocol: key.protocol,
        reserved: [0; 3],
    };
    if MAPPINGS.insert(key, mapping, u64::from(BPF_NOEXIST)).is_ok() {
        return outcome::encode(Ok(u32::from(port.to_wire())));
    }
    // Another CPU was faster, or the table is full.
    ports::release(&external_port(key, port));
    account::leave_port(&key.inside);
    let joined = join(new).map(|port| u32::from(port.to_wire()));
    outcome::encode(joined.ok_or(DropReason::PortsExhausted))
}

/// Whether a port is no use with this remote. Who took a reference nevertheless would leave a slot
/// behind that waits for the mapping's hold-down, for each packet that is refused.
#[inline(always)]
fn is_taken(new: &NewFlow, port: PortBe) -> bool {
    new.has_flow_at(port) || host_flow::is_used(new, port)
}

/// Whether the inside opens a flow, and not a stranger to whom its mapping is open.
#[inline(always)]
const fn is_own(new: &NewFlow) -> bool {
    new.flags & FLAG_FROM_OUTSIDE == 0
}

/// Lets strangers find a mapping open as long as one more flow has not ended.
#[inline(always)]
pub fn hold_open(key: &MappingKey) {
    if let Some(mapping) = MAPPINGS.get_ptr_mut(key) {
        own(mapping).add(1);
    }
}

/// Takes that back.
#[inline(always)]
pub fn no_longer_hold_open(key: &MappingKey) {
    if let Some(mapping) = MAPPINGS.get_ptr_mut(key) {
        own(mapping).fetch_decrement();
    }
}

/// Gives a reference back, for a flow that has ended or should have at a time; `true` if it was the
/// last one, so that the port is now held down. `is_answered` if the inside had sent.
#[inline(always)]
pub fn release(key: &MappingKey, is_answered: bool, ended: u64) -> bool {
    let Some(mapping) = MAPPINGS.get_ptr_mut(key) else { return false };
    if is_answered {
        own(mapping).fetch_decrement();
    }
    if idle_since(mapping) < ended {
        // SAFETY: map memory outlives the program; the field is aligned plain data.
        unsafe { (&raw mut (*mapping).idle_since).write_volatile(ended) };
    }
    references(mapping).fetch_decrement() == 1
}

/// How long the port of an ended flow of a network is kept from other guests, in nanoseconds.
#[inline(always)]
fn hold_down_ns(network: u16) -> u64 {
    let seconds = tables::network(network).map_or(0, |network| network.timeouts.port_hold_down);
    u64::from(seconds) * NANOSECONDS
}

/// Whether flows that the inside has opened or answered use a mapping now: those of strangers alone do
/// not keep it open (RFC 4787, REQ-6; RFC 7857, section 7).
#[inline(always)]
pub fn is_used(key: &MappingKey) -> bool {
    let Some(mapping) = MAPPINGS.get_ptr_mut(key) else { return false };
    let references = references(mapping).load();
    references != 0 && references & MAPPING_DEAD == 0 && own(mapping).load() != 0
}

/// Deletes the mapping of an ended session if nobody has used it for the hold-down time; `false` if that
/// time is not over. A function of its own for the sake of the stack.
#[inline(never)]
pub fn expire(session: SessionSlot, now: u64) -> bool {
    let key = &key_of(session);
    let Some(mapping) = MAPPINGS.get_ptr_mut(key) else { return true };
    let references = references(mapping);
    if references.load() != 0 {
        // The next flow to end sees to it.
        return true;
    }
    if now.saturating_sub(idle_since(mapping)) < hold_down_ns(session.network()) {
        return false;
    }
    let port = port_of(mapping);
    if references.replace(0, MAPPING_DEAD) {
        ports::release(&external_port(key, port));
        let _ = MAPPINGS.remove(key);
        account::leave_port(&key.inside);
    }
    true
}

/// Whether the holder of an external port has no flow there any more.
#[inline(always)]
pub fn is_held_down(port: &ExternalPort, holder: &PortHolder) -> bool {
    let key = MappingKey {
        inside: holder.inside,
        external: port.external,
        inside_port: holder.inside_port,
        protocol: port.protocol,
        reserved: 0,
    };
    MAPPINGS.get_ptr_mut(key).is_some_and(|mapping| references(mapping).load() == 0)
}

/// Takes a reference on the existing mapping of a new flow.
#[inline(always)]
fn join(new: &NewFlow) -> Option<PortBe> {
    let key = &new.mapping;
    let mapping = MAPPINGS.get_ptr_mut(key)?;
    let references = references(mapping);
    if references.fetch_add(1) & MAPPING_DEAD != 0 {
        // It is being deleted; the count of a dead mapping no longer matters.
        return None;
    }
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    let (inside_port, inside, protocol) = unsafe {
        (
            (&raw const (*mapping).inside_port).read_volatile(),
            (&raw const (*mapping).inside).read_volatile(),
            (&raw const (*mapping).protocol).read_volatile(),
        )
    };
    if inside_port != key.inside_port || inside != key.inside || protocol != key.protocol {
        // The element was recycled for another endpoint between look-up and reference.
        references.fetch_decrement();
        return None;
    }
    if is_own(new) {
        own(mapping).add(1);
    }
    // Only now is it the endpoint's.
    Some(port_of(mapping))
}

#[inline(always)]
fn port_of(mapping: *mut Mapping) -> PortBe {
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    unsafe { (&raw const (*mapping).external_port).read_volatile() }
}

#[inline(always)]
fn external_port(key: &MappingKey, port: PortBe) -> ExternalPort {
    ExternalPort { external: key.external, port, protocol: key.protocol, reserved: 0 }
}

#[inline(always)]
fn idle_since(mapping: *mut Mapping) -> u64 {
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    unsafe { (&raw const (*mapping).idle_since).read_volatile() }
}

#[inline(always)]
fn own(mapping: *mut Mapping) -> SharedWord {
    // SAFETY: map memory outlives the program.
    unsafe { SharedWord::new(&raw mut (*mapping).own) }
}

#[inline(always)]
fn references(mapping: *mut Mapping) -> SharedWord {
    // SAFETY: map memory outlives the program.
    unsafe { SharedWord::new(&raw mut (*mapping).references) }
}
