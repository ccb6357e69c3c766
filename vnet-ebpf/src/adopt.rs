//! Flows of a former datapath: entered in the new tables as they are, beside packets that open new ones.

use aya_ebpf::bindings::BPF_NOEXIST;
use vnet_common::{
    address::PortBe,
    flow::{ExternalPort, FLAG_FROM_OUTSIDE, FLAG_UNMAPPED, FlowSlot, Phase, PortHolder, Session},
    limits,
    migration::{ADOPTED, CONFLICT, KNOWN, NO_ROOM, WANTED},
};

use crate::{
    account,
    flow::{self, NewFlow},
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    mapping,
    maps::{self, ADOPTIONS, EXTERNAL_PORTS, FLOWS, FLOWS_IPV6},
    opening, outcome, port_map,
    session::SessionSlot,
    slots, tables,
};

/// Enters what userspace has put there.
#[inline(always)]
pub fn all() {
    if tables::begin().is_none() {
        return;
    }
    for index in 0..limits::ADOPTIONS {
        vnet_adopt(index);
    }
}

/// A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_adopt(index: u32) -> u32 {
    let Some(adoption) = ADOPTIONS.get_ptr_mut(index) else { return 0 };
    let Some(new) = maps::adopted_flow() else { return 0 };
    // SAFETY: userspace waits until this run has ended, and no other program uses it.
    let adoption = unsafe { &mut *adoption };
    if adoption.outcome != WANTED {
        return 0;
    }
    describe(&adoption.session, new);
    let is_live = adoption.session.phase == Phase::Live as u32;
    if is_live && let Some(known) = find(new) {
        (adoption.outcome, adoption.slot) = (KNOWN, known.index);
        return 1;
    }
    if is_live && !account::adopt_flow(&new.mapping.inside, new.flags) {
        adoption.outcome = NO_ROOM;
        return 1;
    }
    let Ok(index) = slots::take_anyway(new.network) else {
        if is_live {
            account::leave_guest(&new.mapping.inside, new.flags);
        }
        adoption.outcome = NO_ROOM;
        return 1;
    };
    adoption.slot = index;
    adoption.outcome = enter(&adoption.session, new, index);
    if is_live && adoption.outcome != ADOPTED {
        account::leave_guest(&new.mapping.inside, new.flags);
    }
    1
}

#[inline(always)]
fn describe(session: &Session, new: &mut NewFlow) {
    new.mapping.inside = session.inside;
    new.mapping.external = session.external;
    new.mapping.inside_port = session.inside_port;
    new.mapping.protocol = session.protocol;
    new.mapping.reserved = 0;
    new.next_hop = session.next_hop;
    new.remote = session.remote;
    new.bridge_ifindex = session.bridge_ifindex;
    new.uplink_ifindex = session.uplink_ifindex;
    new.epoch = session.epoch_outbound;
    new.external_port = session.external_port;
    new.remote_port = session.remote_port;
    new.mtu = session.mtu_outbound;
    new.network = session.network;
    new.flags = session.flags;
}

#[inline(never)]
fn find(new: &NewFlow) -> Option<FlowSlot> {
    if new.mapping.inside.is_ipv4() {
        Ipv4::flow_slot(&new.outbound_key::<Ipv4>())
    } else {
        Ipv6::flow_slot(&new.outbound_key::<Ipv6>())
    }
}

/// Enters a flow in a slot, or gives the slot back.
#[inline(never)]
fn enter(session: &Session, new: &mut NewFlow, index: u32) -> u32 {
    let Some(slot) = SessionSlot::at(index) else { return NO_ROOM };
    let is_live = session.phase == Phase::Live as u32;
    let is_mapped = new.flags & FLAG_UNMAPPED == 0 && vnet_adopt_mapping(new) != 0;
    if !is_mapped {
        if !is_live {
            slots::free(slot, index);
            return ADOPTED;
        }
        // Its endpoint has got another port meanwhile: it keeps its own, towards this remote only.
        new.flags |= FLAG_UNMAPPED;
    }
    let now = flow::now();
    let generation = opening::fill(slot, new, now);
    restore(slot, session);
    if !is_live {
        let is_answered = new.flags & FLAG_FROM_OUTSIDE == 0;
        if mapping::release(&new.mapping, is_answered, session.since) {
            slot.set_phase(Phase::HoldDown as u32);
        } else {
            slots::free(slot, index);
        }
        return ADOPTED;
    }
    if is_mapped && new.flags & FLAG_FROM_OUTSIDE != 0 && session.answered != 0 {
        mapping::hold_open(&new.mapping);
    }
    let flow = FlowSlot { index, generation };
    let entered = if new.mapping.inside.is_ipv4() {
        let keys = (&new.outbound_key::<Ipv4>(), &new.inbound_key::<Ipv4>());
        opening::enter_keys(&FLOWS, keys.0, keys.1, flow)
    } else {
        let keys = (&new.outbound_key::<Ipv6>(), &new.inbound_key::<Ipv6>());
        opening::enter_keys(&FLOWS_IPV6, keys.0, keys.1, flow)
    };
    if entered.is_err() {
        opening::give_up(slot, index, now);
        return CONFLICT;
    }
    slot.set_phase(Phase::Live as u32);
    ADOPTED
}

/// What [`opening::fill`] takes for that of a new flow.
#[inline(always)]
fn restore(slot: SessionSlot, session: &Session) {
    slot.set_epoch_inbound(session.epoch_inbound);
    slot.set_state(session.state);
    slot.set_answered(session.answered);
    slot.set_mtu_inbound(session.mtu_inbound);
    slot.set_last_outbound(session.last_outbound);
    slot.set_last_inbound(session.last_inbound);
    slot.set_since(session.since);
    slot.set_traffic(session.outbound, session.inbound);
}

/// A reference on the mapping to the flow's external port, which is made if there is none; 0 if its endpoint
/// or its port has another. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_adopt_mapping(new: *const NewFlow) -> u32 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    let joined = outcome::decode(mapping::vnet_join_mapping(new));
    let port = match joined {
        Ok(port) => port,
        Err(_) if vnet_claim_kept_port(new) == 0 => return 0,
        Err(_) => match outcome::decode(mapping::vnet_enter_mapping(new)) {
            Ok(port) => port,
            Err(_) => return 0,
        },
    };
    if PortBe::from_wire(port as u16) == new.external_port {
        return 1;
    }
    mapping::release(&new.mapping, new.flags & FLAG_FROM_OUTSIDE == 0, 0);
    0
}

/// Claims the external port of a flow whose endpoint has it in the former tables, and puts it on the guest's
/// account; 0 if another one has it in the new ones. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_claim_kept_port(new: *const NewFlow) -> u32 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    if !account::adopt_port(&new.mapping.inside) {
        return 0;
    }
    let key = ExternalPort {
        external: new.mapping.external,
        port: new.external_port,
        protocol: new.mapping.protocol,
        reserved: 0,
    };
    let holder = PortHolder {
        inside: new.mapping.inside,
        uplink_ifindex: new.uplink_ifindex,
        inside_port: new.mapping.inside_port,
        network: new.network,
    };
    if EXTERNAL_PORTS.insert(key, holder, u64::from(BPF_NOEXIST)).is_err() {
        account::leave_port(&new.mapping.inside);
        return 0;
    }
    port_map::take(port_map::of(&key), new.external_port.to_host());
    1
}
