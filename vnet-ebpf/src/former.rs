//! While flows are migrated: what the former datapath still has, and handing packets over to it.
//!
//! A flow is the former programs' until it has keys in the new tables ([`crate::adopt`]), so that each
//! packet meets one state of its flow. Former tables are looked into by the keys of the present layout: one
//! that changes keys, or [`vnet_common::flow::Mapping`], has to convert them here.

use aya_ebpf::{Global, bindings::__sk_buff, programs::TcContext};
use vnet_common::{
    address::PortBe,
    family::Family,
    flow::{Direction, ExternalPort, FlowKey},
    migration::Phase,
    names::program,
};

use crate::{
    flow::NewFlow,
    hook::{Hook, Link},
    icmp,
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    maps::{EXTERNAL_PORTS, FORMER_EXTERNAL_PORTS, FORMER_MAPPINGS, FORMER_PROGRAMS, MIGRATION},
    parse::Packet,
    skb::Skb,
};

/// Whether the programs were loaded for a migration. Where they were not, the verifier removes all of this.
#[unsafe(no_mangle)]
pub static MIGRATES: Global<u8> = Global::new(0);

#[inline(always)]
fn phase() -> u32 {
    // SAFETY: map memory outlives the program; the element is one aligned word.
    MIGRATION.get_ptr(0).map_or(Phase::Done as u32, |phase| unsafe { phase.read_volatile() })
}

/// Whether there is no former datapath: only then packets take short ways.
#[inline(always)]
pub fn is_absent() -> bool {
    MIGRATES.load() == 0
}

/// Whether former tables have what the new ones may lack.
#[inline(always)]
fn is_asked() -> bool {
    MIGRATES.load() != 0 && phase() == Phase::Shared as u32
}

/// Where a packet is: [`vnet_former_serves`] takes it as a word.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum At {
    Bridge = 0,
    Ethernet = 1,
    Raw = 2,
}

/// Goes on with the former program of a name, and never returns, if the packet is of a flow that the
/// former datapath still has. To be called by entry points, before they change the packet.
#[inline(always)]
pub fn hand_over(ctx: &TcContext, name: &str, at: At) {
    if MIGRATES.load() == 0 || vnet_former_serves(ctx.skb.skb, at as u32) == 0 {
        return;
    }
    // SAFETY: nothing here has anything to drop.
    unsafe { FORMER_PROGRAMS.tail_call(ctx, index_of(name)) };
}

/// The place of a program among the former ones.
const fn index_of(name: &str) -> u32 {
    let mut index = 0;
    while index < program::ALL.len() {
        if is_same(program::ALL[index].as_bytes(), name.as_bytes()) {
            break;
        }
        index += 1;
    }
    index as u32
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

/// Whether a packet is the former programs'. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_former_serves(ctx: *mut __sk_buff, at: u32) -> u32 {
    let phase = phase();
    if phase != Phase::Shared as u32 {
        return u32::from(phase == Phase::Former as u32);
    }
    let skb = Skb::new(&TcContext::new(ctx));
    let link = if at == At::Raw as u32 { Link::Raw } else { Link::Ethernet };
    let is_at_bridge = at == At::Bridge as u32;
    let is_former = match skb.family() {
        Some(Family::Ipv4) => serves::<Ipv4>(skb, link, is_at_bridge),
        Some(Family::Ipv6) => serves::<Ipv6>(skb, link, is_at_bridge),
        None => false,
    };
    u32::from(is_former)
}

#[inline(never)]
fn serves<V: Ip>(skb: Skb, link: Link, is_at_bridge: bool) -> bool {
    let Ok(packet) = Packet::<V>::parse(skb, link) else { return false };
    if packet.follows_its_first() {
        return serves_fragment(packet);
    }
    if packet.is_icmp_error() {
        return serves_quoted(skb, link, packet);
    }
    let is_masqueraded = has_port::<V>(packet);
    // Packets between guests by an address of this host have a flow at either end: the former tables have
    // both, the new ones may have one so far.
    if is_at_bridge && is_masqueraded {
        return true;
    }
    match (serves_key(packet, Direction::Outbound), serves_key(packet, Direction::Inbound)) {
        (NEW, _) | (_, NEW) => false,
        (FORMER, _) | (_, FORMER) => true,
        // A stranger, perhaps, to whom a guest's port is open.
        _ => is_masqueraded && !has_new_port::<V>(packet),
    }
}

// Who has a key.
const NOBODY: u32 = 0;
const NEW: u32 = 1;
const FORMER: u32 = 2;

// Functions of their own for the sake of the stack.

#[inline(never)]
fn serves_key<V: Ip>(packet: &Packet<V>, direction: Direction) -> u32 {
    packet.flow_key(direction).map_or(NOBODY, |key| holder::<V>(&key))
}

#[inline(always)]
fn holder<V: Ip>(key: &FlowKey<V::Address>) -> u32 {
    if V::flow_slot(key).is_some() {
        NEW
    } else if V::former_has_flow(key) {
        FORMER
    } else {
        NOBODY
    }
}

#[inline(never)]
fn serves_fragment<V: Ip>(packet: &Packet<V>) -> bool {
    let is_former = |direction| {
        let key = packet.fragment_key(direction);
        V::first_fragment(&key).is_none() && V::former_has_fragment(&key)
    };
    is_former(Direction::Outbound) || is_former(Direction::Inbound)
}

#[inline(never)]
fn serves_quoted<V: Ip>(skb: Skb, link: Link, packet: &Packet<V>) -> bool {
    let hook = Hook::new(skb, link);
    let Some((outbound, inbound)) = icmp::quoted_flows(&hook, packet) else { return false };
    holder::<V>(&outbound) == FORMER || holder::<V>(&inbound) == FORMER
}

/// Whether a guest's mapping in the former tables has the port that a packet is for.
#[inline(never)]
fn has_port<V: Ip>(packet: &Packet<V>) -> bool {
    // SAFETY: nothing is read of the value.
    unsafe { FORMER_EXTERNAL_PORTS.get(destination::<V>(packet)) }.is_some()
}

/// The same of the new tables.
#[inline(never)]
fn has_new_port<V: Ip>(packet: &Packet<V>) -> bool {
    // SAFETY: nothing is read of the value.
    unsafe { EXTERNAL_PORTS.get(destination::<V>(packet)) }.is_some()
}

#[inline(always)]
fn destination<V: Ip>(packet: &Packet<V>) -> ExternalPort {
    ExternalPort {
        external: V::widen(packet.destination),
        port: packet.destination_port,
        protocol: packet.protocol,
        reserved: 0,
    }
}

/// Whether somebody holds a port of a new flow's external address in the former tables, and so is about to
/// have it in the new ones. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_former_holds(new: *const NewFlow, port: u32) -> u32 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    if !is_asked() {
        return 0;
    }
    let key = ExternalPort {
        external: new.mapping.external,
        port: PortBe::from_host(port as u16),
        protocol: new.mapping.protocol,
        reserved: 0,
    };
    // SAFETY: nothing is read of the value.
    u32::from(unsafe { FORMER_EXTERNAL_PORTS.get(key) }.is_some())
}

/// Whether the remote of a new flow has another one at its external endpoint in the former tables.
#[inline(always)]
pub fn has_flow_at(new: &NewFlow) -> bool {
    if !is_asked() {
        return false;
    }
    if new.mapping.inside.is_ipv4() {
        Ipv4::former_has_flow(&new.inbound_key::<Ipv4>())
    } else {
        Ipv6::former_has_flow(&new.inbound_key::<Ipv6>())
    }
}

/// The external port that the inside endpoint of a new flow has in the former tables, which it keeps.
#[inline(always)]
pub fn mapped_port(new: &NewFlow) -> Option<PortBe> {
    if !is_asked() {
        return None;
    }
    let key = &new.mapping;
    let mapping = FORMER_MAPPINGS.get_ptr(key)?;
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    Some(unsafe { (&raw const (*mapping).external_port).read_volatile() })
}
