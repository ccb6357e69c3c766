//! Mappings: the external port of an inside endpoint (RFC 4787, REQ-1 and REQ-2).

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use vnet_common::{
    address::PortBe,
    flow::{ExternalPort, MAPPING_DEAD, Mapping, MappingKey, PortHolder, protocol},
    limits,
    port::PortRange,
    reason::DropReason,
    timeout::NANOSECONDS,
};

use crate::{
    atomic::SharedWord,
    flow::NewFlow,
    forward,
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    maps::{self, EXTERNAL_PORTS, MAPPINGS, NETWORKS},
    outcome,
    session::SessionSlot,
    skb::Skb,
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

/// The external port for a flow: the endpoint's mapping if it has one, else a new one. Takes a
/// reference on it.
#[inline(always)]
pub fn acquire(skb: Skb, new: &NewFlow) -> Result<PortBe, DropReason> {
    let port = outcome::decode(vnet_acquire_mapping(skb.raw(), new))?;
    Ok(PortBe::from_wire(port as u16))
}

/// A global function, as `vnet_open_session`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_acquire_mapping(ctx: *mut __sk_buff, new: *const NewFlow) -> u64 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    let port = join_or_allocate(Skb::from_raw(ctx), new);
    outcome::encode(port.map(|port| u32::from(port.to_wire())).ok_or(DropReason::PortsExhausted))
}

#[inline(always)]
fn join_or_allocate(skb: Skb, new: &NewFlow) -> Option<PortBe> {
    let key = &new.mapping;
    if let Some(port) = join(key) {
        return Some(port);
    }
    let port = allocate(skb, new)?;
    let mapping = Mapping {
        references: 1,
        external_port: port,
        inside_port: key.inside_port,
        idle_since: 0,
        inside: key.inside,
        reserved: 0,
    };
    if MAPPINGS.insert(key, mapping, u64::from(BPF_NOEXIST)).is_ok() {
        return Some(port);
    }
    // Another CPU was faster, or the table is full.
    let _ = EXTERNAL_PORTS.remove(external_port(new, port));
    join(key)
}

/// Gives a reference back; `true` if it was the last one, so that the port is now held down.
#[inline(always)]
pub fn release(key: &MappingKey, now: u64) -> bool {
    let Some(mapping) = MAPPINGS.get_ptr_mut(key) else { return false };
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    unsafe { (&raw mut (*mapping).idle_since).write_volatile(now) };
    references(mapping).fetch_decrement() == 1
}

/// Gives back the reference of a flow that was refused after all. No session will expire a mapping
/// that was made for it, so that one is deleted at once: nobody outside has seen its port.
#[inline(always)]
pub fn abandon(key: &MappingKey, network: u16, now: u64) {
    let Some(mapping) = MAPPINGS.get_ptr_mut(key) else { return };
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    let idle_since = unsafe { (&raw const (*mapping).idle_since).read_volatile() };
    if references(mapping).fetch_decrement() == 1 {
        let was_used = idle_since != 0;
        let hold_down = if was_used { hold_down_ns(network) } else { 0 };
        expire(key, now, hold_down);
    }
}

/// How long the port of an ended flow of a network is kept from other guests, in nanoseconds.
#[inline(always)]
pub fn hold_down_ns(network: u16) -> u64 {
    let seconds =
        NETWORKS.get(u32::from(network)).map_or(0, |network| network.timeouts.port_hold_down);
    u64::from(seconds) * NANOSECONDS
}

/// Whether flows use a mapping now.
#[inline(always)]
pub fn is_used(key: &MappingKey) -> bool {
    let Some(mapping) = MAPPINGS.get_ptr_mut(key) else { return false };
    let references = references(mapping).load();
    references != 0 && references & MAPPING_DEAD == 0
}

/// Deletes a mapping that nobody has used for the hold-down time; keeps any other.
#[inline(always)]
pub fn expire(key: &MappingKey, now: u64, hold_down_ns: u64) {
    let Some(mapping) = MAPPINGS.get_ptr_mut(key) else { return };
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    let (port, idle_since) = unsafe {
        (
            (&raw const (*mapping).external_port).read_volatile(),
            (&raw const (*mapping).idle_since).read_volatile(),
        )
    };
    if now.saturating_sub(idle_since) < hold_down_ns {
        return;
    }
    if references(mapping).replace(0, MAPPING_DEAD) {
        let holder =
            ExternalPort { external: key.external, port, protocol: key.protocol, reserved: 0 };
        let _ = EXTERNAL_PORTS.remove(holder);
        let _ = MAPPINGS.remove(key);
    }
}

/// Takes a reference on an existing mapping.
#[inline(always)]
fn join(key: &MappingKey) -> Option<PortBe> {
    let mapping = MAPPINGS.get_ptr_mut(key)?;
    let references = references(mapping);
    if references.fetch_add(1) & MAPPING_DEAD != 0 {
        // It is being deleted; the count of a dead mapping no longer matters.
        return None;
    }
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    let (port, inside_port, inside) = unsafe {
        (
            (&raw const (*mapping).external_port).read_volatile(),
            (&raw const (*mapping).inside_port).read_volatile(),
            (&raw const (*mapping).inside).read_volatile(),
        )
    };
    if inside_port != key.inside_port || inside != key.inside {
        // The element was recycled for another endpoint between look-up and reference.
        references.fetch_decrement();
        return None;
    }
    Some(port)
}

/// Claims a free external port: the inside's own if possible, else a random one of the range.
#[inline(always)]
fn allocate(skb: Skb, new: &NewFlow) -> Option<PortBe> {
    let (range, reserved) = if matches!(new.mapping.protocol, protocol::ICMP | protocol::ICMPV6) {
        (PortRange::ALL, PortRange::EMPTY)
    } else {
        (NETWORKS.get(u32::from(new.network))?.ports, maps::config()?.host_ports)
    };
    let own = new.mapping.inside_port.to_host();
    if range.contains(own) && !reserved.contains(own) && claim(skb, new, new.mapping.inside_port) {
        return Some(new.mapping.inside_port);
    }
    for _ in 0..limits::PORT_ATTEMPTS {
        // SAFETY: the helper has no preconditions.
        let random = unsafe { bpf_get_prandom_u32() };
        let port = PortBe::from_host(range.pick(reserved, random)?);
        if claim(skb, new, port) {
            return Some(port);
        }
    }
    None
}

#[inline(always)]
fn claim(skb: Skb, new: &NewFlow, port: PortBe) -> bool {
    vnet_claim_port(skb.raw(), new, u32::from(port.to_wire())) != 0
}

/// Claims one external port unless another inside endpoint or a socket of the host has it; 1 if it
/// could. A global function, as `vnet_open_session`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_claim_port(ctx: *mut __sk_buff, new: *const NewFlow, port: u32) -> u32 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    let port = PortBe::from_wire(port as u16);
    if forward::forward_of(new.mapping.external, new.mapping.protocol, port).is_some() {
        return 0;
    }
    let key = external_port(new, port);
    let holder = PortHolder {
        inside: new.mapping.inside,
        uplink_ifindex: new.uplink_ifindex,
        inside_port: new.mapping.inside_port,
        network: new.network,
    };
    if EXTERNAL_PORTS.insert(key, holder, u64::from(BPF_NOEXIST)).is_err() {
        return 0;
    }
    if host_has_socket(ctx, new, port) {
        let _ = EXTERNAL_PORTS.remove(key);
        return 0;
    }
    1
}

#[inline(always)]
fn external_port(new: &NewFlow, port: PortBe) -> ExternalPort {
    ExternalPort {
        external: new.mapping.external,
        port,
        protocol: new.mapping.protocol,
        reserved: 0,
    }
}

/// One family's part of `struct bpf_sock_tuple`.
#[repr(C)]
struct SocketTuple<A> {
    source: A,
    destination: A,
    source_port: PortBe,
    destination_port: PortBe,
}

/// Whether a packet from the remote to this port would find a socket of the host.
#[inline(always)]
pub fn host_has_socket(ctx: *mut __sk_buff, new: &NewFlow, port: PortBe) -> bool {
    if new.mapping.external.is_ipv4() {
        host_has_socket_of::<Ipv4>(ctx, new, port)
    } else {
        host_has_socket_of::<Ipv6>(ctx, new, port)
    }
}

#[inline(always)]
fn host_has_socket_of<V: Ip>(ctx: *mut __sk_buff, new: &NewFlow, port: PortBe) -> bool {
    let mut tuple = SocketTuple {
        source: V::narrow(new.remote),
        destination: V::narrow(new.mapping.external),
        source_port: new.remote_port,
        destination_port: port,
    };
    let length = size_of::<SocketTuple<V::Address>>() as u32;
    let pointer = (&raw mut tuple).cast();
    let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
    // SAFETY: the context is valid, the tuple is as long as told, and a socket that is found is
    // released before the program goes on.
    unsafe {
        let socket = match new.mapping.protocol {
            protocol::TCP => bpf_skc_lookup_tcp(ctx.cast(), pointer, length, netns, 0),
            protocol::UDP => bpf_sk_lookup_udp(ctx.cast(), pointer, length, netns, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}

#[inline(always)]
fn references(mapping: *mut Mapping) -> SharedWord {
    // SAFETY: map memory outlives the program.
    unsafe { SharedWord::new(&raw mut (*mapping).references) }
}
