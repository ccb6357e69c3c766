//! External ports: finding free ones, claiming, sharing and releasing them.

use core::ptr;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use vnet_common::{
    address::PortBe,
    flow::{ExternalPort, PortHolder, protocol},
    limits,
    port::PortRange,
    port_map::{NO_PORT, PortMap},
    reason::DropReason,
};

use crate::{
    account, count,
    flow::NewFlow,
    former, host_flow,
    ip::Ip,
    ipv4::Ipv4,
    ipv6::Ipv6,
    mapping,
    maps::{self, EXTERNAL_PORTS},
    outcome, port_map, tables,
};

/// Claims an external port for a flow's inside endpoint and puts it on the guest's account: the
/// inside's own port if possible, else the first that is free from a random one on. A global function,
/// as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_allocate_port(ctx: *mut __sk_buff, new: *const NewFlow) -> u64 {
    let Some(new) = NewFlow::in_map(new) else { return 0 };
    if account::vnet_enter_port(new) == 0 {
        return outcome::encode(Err(DropReason::PortsExhausted));
    }
    let (port, steps) = claim_any(ctx, new);
    count::port_search(steps);
    if port == NO_PORT {
        account::leave_port(&new.mapping.inside);
        return outcome::encode(Err(DropReason::PortsExhausted));
    }
    outcome::encode(Ok(u32::from(PortBe::from_host(port as u16).to_wire())))
}

/// The port that was claimed, or [`NO_PORT`], and the steps that it took.
#[inline(always)]
fn claim_any(ctx: *mut __sk_buff, new: &NewFlow) -> (u32, u32) {
    let map = map_of(new);
    let mut port = vnet_own_port(new);
    let mut steps = 0;
    for _ in 0..=limits::PORT_ATTEMPTS {
        if port < NO_PORT {
            steps += 1;
            if former::vnet_former_holds(new, port) == 0
                && vnet_claim_port(ctx, new, map, port) != 0
            {
                return (port, steps);
            }
        }
        let found = vnet_find_port(new, map);
        port = found as u32;
        steps += (found >> 32) as u32;
        if port == NO_PORT {
            break;
        }
    }
    (NO_PORT, steps)
}

/// The map of its external address and protocol. A function of its own for the sake of the stack.
#[inline(never)]
fn map_of(new: &NewFlow) -> *mut PortMap {
    port_map::of(&key(new, PortBe::NONE))
}

/// The ports that a flow may be given: the network's, without those that are reserved.
#[derive(Clone, Copy)]
struct Usable {
    range: PortRange,
    reserved: PortRange,
}

impl Usable {
    #[inline(always)]
    fn by(new: &NewFlow) -> Option<Self> {
        if matches!(new.mapping.protocol, protocol::ICMP | protocol::ICMPV6) {
            return Some(Self { range: PortRange::ALL, reserved: PortRange::EMPTY });
        }
        let range = tables::network(new.network)?.ports;
        Some(Self { range, reserved: maps::config()?.host_ports })
    }
}

/// The inside's own port if it may be given, else [`NO_PORT`]. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_own_port(new: *const NewFlow) -> u32 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return NO_PORT };
    let Some(usable) = Usable::by(new) else { return NO_PORT };
    let own = new.mapping.inside_port.to_host();
    let is_usable = usable.range.contains(own) && !usable.reserved.contains(own);
    if is_usable { u32::from(own) } else { NO_PORT }
}

/// The first port that is free from a random one on, as [`port_map::search`] says; without a map, any
/// port that may be given. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_find_port(new: *const NewFlow, map: *mut PortMap) -> u64 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return u64::from(NO_PORT) };
    let Some(Usable { range, reserved }) = Usable::by(new) else { return u64::from(NO_PORT) };
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    let Some(start) = range.pick(reserved, random) else { return u64::from(NO_PORT) };
    if map.is_null() {
        return u64::from(start);
    }
    port_map::search(map, range.beginning_at(start, reserved))
}

/// Claims one external port unless another inside endpoint or a socket of the host has it; 1 if it
/// could. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_claim_port(
    ctx: *mut __sk_buff,
    new: *const NewFlow,
    map: *mut PortMap,
    port: u32,
) -> u32 {
    /// `EEXIST` of the kernel's `include/uapi/asm-generic/errno-base.h`.
    const EXISTS: i32 = -17;
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    let port_wire = PortBe::from_host(port as u16);
    if !port_map::take(map, port as u16) {
        return 0;
    }
    // Its bit stays, so that no search finds it again; userspace has a new map made when the forward goes
    // or others are reserved.
    if port_map::is_reserved(new.mapping.protocol, port as u16)
        || tables::forward_of(new.mapping.external, new.mapping.protocol, port_wire).is_some()
    {
        return 0;
    }
    let key = key(new, port_wire);
    let holder = PortHolder {
        inside: new.mapping.inside,
        uplink_ifindex: new.uplink_ifindex,
        inside_port: new.mapping.inside_port,
        network: new.network,
    };
    if let Err(error) = EXTERNAL_PORTS.insert(key, holder, u64::from(BPF_NOEXIST)) {
        // Who holds it clears its bit as well.
        if error != EXISTS {
            port_map::clear(map, port as u16);
        }
        return 0;
    }
    if host_has_socket(ctx, new, port_wire) {
        let _ = EXTERNAL_PORTS.remove(key);
        port_map::clear(map, port as u16);
        return 0;
    }
    1
}

/// Gives a claimed port back.
#[inline(always)]
pub fn release(key: &ExternalPort) {
    let _ = EXTERNAL_PORTS.remove(key);
    port_map::clear(port_map::existing(key), key.port.to_host());
}

/// An external port for a flow that gets none of its own: any of the range at which this remote has no
/// flow yet. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn vnet_share_port(ctx: *mut __sk_buff, new: *const NewFlow) -> u64 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    outcome::encode(shared(ctx, new).ok_or(DropReason::PortsExhausted))
}

#[inline(always)]
fn shared(ctx: *mut __sk_buff, new: &NewFlow) -> Option<u32> {
    for _ in 0..limits::SHARED_PORT_ATTEMPTS {
        let port = vnet_find_port(new, ptr::null_mut()) as u32;
        if port == NO_PORT {
            return None;
        }
        let port = u32::from(PortBe::from_host(port as u16).to_wire());
        if vnet_may_share(ctx, new, port) != 0 {
            return Some(port);
        }
    }
    None
}

/// Whether nobody has a flow with this remote at an external port, no socket of the host would get its
/// replies, and no other guest's late replies would get here. A global function, as `vnet_open_flow`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn vnet_may_share(ctx: *mut __sk_buff, new: *const NewFlow, port: u32) -> u32 {
    // SAFETY: the verifier lets callers pass a whole `NewFlow` or null only.
    let Some(new) = (unsafe { new.as_ref() }) else { return 0 };
    let port = PortBe::from_wire(port as u16);
    let is_free = !new.has_flow_at(port)
        && !port_map::is_reserved(new.mapping.protocol, port.to_host())
        && tables::forward_of(new.mapping.external, new.mapping.protocol, port).is_none()
        && !is_held_down_for_another(new, port)
        && !host_has_socket(ctx, new, port);
    u32::from(is_free)
}

/// Whether a port is kept from all but the guest whose flow at it has ended (RFC 6888, REQ-8).
#[inline(always)]
fn is_held_down_for_another(new: &NewFlow, port: PortBe) -> bool {
    let key = key(new, port);
    // SAFETY: a look-up that races with removal reads an earlier holder, whose mapping is gone.
    let Some(holder) = (unsafe { EXTERNAL_PORTS.get(key) }) else { return false };
    holder.inside != new.mapping.inside && mapping::is_held_down(&key, holder)
}

#[inline(always)]
fn key(new: &NewFlow, port: PortBe) -> ExternalPort {
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

/// Whether a packet from the remote to this port would find a socket of the host, or is of a flow of
/// its.
#[inline(always)]
pub fn host_has_socket(ctx: *mut __sk_buff, new: &NewFlow, port: PortBe) -> bool {
    if !host_flow::has_sockets(new.mapping.protocol) {
        return host_flow::is_used(new, port);
    }
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
