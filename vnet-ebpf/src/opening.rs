//! Opening a flow: its accounts, a slot, its external port and both keys, or nothing.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    maps::HashMap,
};
use vnet_common::{
    address::PortBe,
    flow::{FLAG_FORWARDED, FLAG_FROM_OUTSIDE, FLAG_UNMAPPED, FlowSlot, Phase},
    reason::DropReason,
    tcp::State,
};

use crate::{
    account, adopt,
    flow::{NewFlow, now},
    former, host_flow,
    ipv4::Ipv4,
    ipv6::Ipv6,
    mapping,
    maps::{FLOWS, FLOWS_IPV6},
    outcome, ports,
    session::SessionSlot,
    slots, tables,
};

/// How often a port is shared that another CPU then has a flow at.
const SHARE_ATTEMPTS: u32 = 2;

/// Opens a flow; its slot's index. A flow that says [`FLAG_UNMAPPED`] has its external port; any other
/// gets its endpoint's, or shares one with flows to other remotes if there is none left.
///
/// A global function: the verifier checks it once instead of at every call, and it has a stack frame
/// of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_open_flow(ctx: *mut __sk_buff, new: *mut NewFlow) -> u64 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    let entered = account::vnet_enter_guest(new);
    if outcome::decode(entered).is_err() {
        return entered;
    }
    let opened = if new.flags & FLAG_UNMAPPED != 0 { kept(new) } else { translated(ctx, new) };
    if opened.is_err() {
        account::leave_guest(&new.mapping.inside, new.flags);
    }
    outcome::encode(opened)
}

/// A flow whose external port is that of its inside.
#[inline(always)]
fn kept(new: &NewFlow) -> Result<u32, DropReason> {
    let is_forwarded = new.flags & FLAG_FORWARDED == 0
        && tables::forward_of(new.mapping.external, new.mapping.protocol, new.external_port)
            .is_some();
    if is_forwarded {
        return Err(DropReason::FlowConflict);
    }
    match open_at(new) {
        // There is no other.
        Err(DropReason::PortsExhausted) => Err(DropReason::FlowConflict),
        opened => opened,
    }
}

#[inline(always)]
fn translated(ctx: *mut __sk_buff, new: &mut NewFlow) -> Result<u32, DropReason> {
    match open_mapped(ctx, new) {
        Err(DropReason::PortsExhausted | DropReason::FlowConflict) => {}
        opened => return opened,
    }
    // Who sends from outside has chosen the port.
    if new.flags & FLAG_FROM_OUTSIDE != 0 {
        return Err(DropReason::PortsExhausted);
    }
    new.flags |= FLAG_UNMAPPED;
    for _ in 0..SHARE_ATTEMPTS {
        let port = outcome::decode(ports::vnet_share_port(ctx, new))?;
        new.external_port = PortBe::from_wire(port as u16);
        match open_at(new) {
            Err(DropReason::PortsExhausted) => {}
            opened => return opened,
        }
    }
    Err(DropReason::PortsExhausted)
}

/// At the endpoint's mapping. The slot comes first: from the moment that the flow refers to the mapping
/// on, there is a slot that will release it.
#[inline(always)]
fn open_mapped(ctx: *mut __sk_buff, new: &mut NewFlow) -> Result<u32, DropReason> {
    let index = slots::take(new.network)?;
    match acquire(ctx, new) {
        Ok(()) => outcome::decode(vnet_enter_session(new, index)),
        Err(reason) => {
            if let Some(session) = SessionSlot::at(index) {
                slots::free(session, index);
            }
            Err(reason)
        }
    }
}

/// The endpoint's external port: that of its mapping, else a new one; [`DropReason::FlowConflict`] if
/// its remote has a flow there.
#[inline(always)]
fn acquire(ctx: *mut __sk_buff, new: &mut NewFlow) -> Result<(), DropReason> {
    let found = mapping::vnet_look_for_mapping(new);
    if found == mapping::found::TAKEN {
        return Err(DropReason::FlowConflict);
    }
    let joined = if found == mapping::found::NONE {
        Err(DropReason::PortsExhausted)
    } else {
        outcome::decode(mapping::vnet_join_mapping(new))
    };
    let port = if let Ok(port) = joined {
        port
    } else if new.flags & FLAG_FROM_OUTSIDE != 0 {
        return Err(DropReason::PortsExhausted);
    } else {
        if !keeps_former_port(new) {
            let claimed = outcome::decode(ports::vnet_allocate_port(ctx, new))?;
            new.external_port = PortBe::from_wire(claimed as u16);
        }
        outcome::decode(mapping::vnet_enter_mapping(new))?
    };
    new.external_port = PortBe::from_wire(port as u16);
    Ok(())
}

/// Claims the port that the endpoint has in the tables of a former datapath, if it has. A function of its own
/// for the sake of the stack.
#[inline(never)]
fn keeps_former_port(new: &mut NewFlow) -> bool {
    let Some(port) = former::mapped_port(new) else { return false };
    new.external_port = port;
    adopt::vnet_claim_kept_port(new) != 0
}

/// Without a mapping, at the external port that the flow has.
#[inline(always)]
fn open_at(new: &NewFlow) -> Result<u32, DropReason> {
    let index = slots::take(new.network)?;
    outcome::decode(vnet_enter_session(new, index))
}

/// Fills a slot and enters both keys. If it cannot, the slot is on its way to the free ones: the flow is
/// there already ([`DropReason::FlowConflict`]), or its external port has another flow with this remote,
/// the host's or a guest's ([`DropReason::PortsExhausted`]). A global function, as [`vnet_open_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_enter_session(new: *const NewFlow, index: u32) -> u64 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    let Some(session) = SessionSlot::at(index) else { return 0 };
    let now = now();
    let generation = fill(session, new, now);
    let slot = FlowSlot { index, generation };
    let entered = if host_flow::is_used(new, new.external_port) || former::has_flow_at(new) {
        Err(DropReason::PortsExhausted)
    } else if new.mapping.inside.is_ipv4() {
        enter_keys(&FLOWS, &new.outbound_key::<Ipv4>(), &new.inbound_key::<Ipv4>(), slot)
    } else {
        enter_keys(&FLOWS_IPV6, &new.outbound_key::<Ipv6>(), &new.inbound_key::<Ipv6>(), slot)
    };
    outcome::encode(match entered {
        Ok(()) => {
            // Only now, so that no other CPU uses, or ends, a flow that may not come to be.
            session.set_phase(Phase::Live as u32);
            Ok(index)
        }
        Err(reason) => {
            give_up(session, index, now);
            Err(reason)
        }
    })
}

/// Makes a slot that of a new flow, which nobody finds yet; its generation.
#[inline(always)]
pub fn fill(session: SessionSlot, new: &NewFlow, now: u64) -> u32 {
    let generation = session.generation().wrapping_add(1);
    session.set_generation(generation);
    session.set_epoch_outbound(new.epoch);
    session.set_epoch_inbound(new.epoch);
    session.set_bridge_ifindex(new.bridge_ifindex);
    session.set_uplink_ifindex(new.uplink_ifindex);
    session.set_protocol(new.mapping.protocol);
    session.set_state(State::Opening as u8);
    session.set_flags(new.flags);
    session.set_answered(u8::from(new.flags & FLAG_FROM_OUTSIDE == 0));
    session.set_mtu_outbound(new.mtu);
    session.set_mtu_inbound(tables::network(new.network).map_or(0, |network| network.mtu));
    session.set_inside_port(new.mapping.inside_port);
    session.set_external_port(new.external_port);
    session.set_remote_port(new.remote_port);
    session.set_next_hop(new.next_hop);
    session.set_inside(new.mapping.inside);
    session.set_external(new.mapping.external);
    session.set_remote(new.remote);
    session.set_last_outbound(now);
    session.set_last_inbound(0);
    session.set_since(now);
    session.clear_ways();
    session.clear_traffic();
    generation
}

/// Enters both keys or none.
#[inline(always)]
pub fn enter_keys<K>(
    flows: &HashMap<K, FlowSlot>,
    outbound: &K,
    inbound: &K,
    slot: FlowSlot,
) -> Result<(), DropReason> {
    if flows.insert(outbound, slot, u64::from(BPF_NOEXIST)).is_err() {
        return Err(DropReason::FlowConflict);
    }
    if flows.insert(inbound, slot, u64::from(BPF_NOEXIST)).is_err() {
        let _ = flows.remove(outbound);
        return Err(DropReason::PortsExhausted);
    }
    Ok(())
}

/// Lets go of a slot that was never found by a key. If it refers to a mapping, it is that one's last
/// flow, perhaps, and then has to delete it.
#[inline(always)]
pub fn give_up(session: SessionSlot, index: u32, now: u64) {
    /// No packet has used the mapping: that does not prolong its hold-down.
    const NOT_USED: u64 = 0;
    let is_mapped = session.flags() & FLAG_UNMAPPED == 0;
    let is_answered = session.answered() != 0;
    if is_mapped && mapping::release(&mapping::key_of(session), is_answered, NOT_USED) {
        session.set_since(now);
        session.set_phase(Phase::HoldDown as u32);
    } else {
        slots::free(session, index);
    }
}
