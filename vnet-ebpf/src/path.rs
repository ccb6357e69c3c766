//! What was judged and routed of packets that go on as they are, for those that follow them: the tables and the
//! kernel's routes are asked for the first, and then once a second.
//!
//! A cache: without it everything is as it is, and slower. What is in it was accepted in its epoch, of packets with
//! the same addresses, ports, protocol and class that came in at the same interface; the verdict depends on nothing
//! else. Whatever has exceptions of its own (fragments, options, time to live, MTU, messages of ICMP other than
//! echoes) takes the long way.

use vnet_common::{
    flow::{Direction, protocol},
    icmp, limits,
    path::{Path, PathBudget, PathKey},
    shortcut::{is_young, way_time},
};

use crate::{
    count, emit, flow,
    hook::{Hook, Step, Verdict},
    ip::Ip,
    maps::{NEW_PATH, PATH_BUDGET},
    outbound,
    parse::{Fragment, Packet},
    route::Route,
    skb::Skb,
    tables,
};

/// Sends a packet on its way as the last one of its kind; [`Verdict::Unjudged`] where it has to be judged.
#[inline(always)]
pub fn follow<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Ok(Verdict::Unjudged) };
    let packet = &*packet;
    if packet.known != 0 || !is_plain(packet) {
        return Ok(Verdict::Unjudged);
    }
    let skb = hook.skb;
    let key = key(packet, skb.ifindex());
    let Some(path) = V::path(&key) else { return Ok(Verdict::Unjudged) };
    let path = read(path);
    let is_current = Some(path.epoch) == tables::epoch()
        && path.check == key.check()
        && is_young(path.found, way_time(flow::now()));
    if !is_current || outbound::check_exceptions(skb, packet, path.mtu).is_err() {
        return Ok(Verdict::Unjudged);
    }
    let bytes = skb.len();
    if path.from != 0 {
        hook.network = path.from;
        count::traffic(path.from, Direction::Outbound, bytes);
    }
    if path.to != 0 {
        hook.network = if path.from == 0 { path.to } else { path.from };
        count::traffic(path.to, Direction::Inbound, bytes);
    }
    V::decrement_ttl(skb, hook.l3())?;
    Ok(emit::to_neighbour(skb, path.ifindex, path.next_hop))
}

/// Notes where an accepted packet goes, and the networks that it is counted at, for [`enter`].
#[inline(always)]
pub fn note(route: &Route, from: u16, to: u16) {
    let Some(new) = NEW_PATH.get_ptr_mut(0) else { return };
    // SAFETY: the element is this CPU's own until the program ends.
    unsafe {
        (*new).next_hop = route.next_hop;
        (*new).ifindex = route.ifindex;
        (*new).mtu = route.mtu;
        (*new).from = from;
        (*new).to = to;
        (*new).epoch = tables::epoch().unwrap_or_default();
    }
}

/// Keeps what was noted of the packet, if anything was. A function of its own for the sake of the stack: the next step
/// after the one that judges.
#[inline(never)]
pub fn enter<V: Ip>(skb: Skb) {
    let (Some(packet), Some(new)) = (V::packet(), NEW_PATH.get_ptr_mut(0)) else { return };
    // SAFETY: as in `note`.
    let new = unsafe { &mut *new };
    let is_noted = new.epoch != 0 && tables::is_current();
    if !is_noted || packet.known != 0 || !is_plain(packet) {
        new.epoch = 0;
        return;
    }
    let key = key(packet, skb.ifindex());
    new.found = way_time(flow::now());
    new.check = key.check();
    match V::path(&key) {
        Some(known) => write(known, new),
        None if may_enter() => V::enter_path(&key, new),
        None => {}
    }
    new.epoch = 0;
}

/// Whether nothing but the key and the epoch decides.
#[inline(always)]
fn is_plain<V: Ip>(packet: &Packet<V>) -> bool {
    let is_told = match packet.protocol {
        protocol::TCP | protocol::UDP => true,
        _ => packet.is_icmp() && matches!(packet.icmp, icmp::Kind::Request | icmp::Kind::Reply),
    };
    is_told && packet.fragment == Fragment::Whole && !packet.has_options
}

#[inline(always)]
fn key<V: Ip>(packet: &Packet<V>, ifindex: u32) -> PathKey<V::Address> {
    PathKey {
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        traffic_class: packet.traffic_class,
        ifindex,
        protocol: packet.protocol.into(),
    }
}

/// Whether this CPU may enter one more now: whoever asks for ever new ones does not make packets dear.
#[inline(always)]
fn may_enter() -> bool {
    let Some(budget) = PATH_BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: the element is this CPU's own until the program ends.
    let budget: &mut PathBudget = unsafe { &mut *budget };
    let window = (flow::now() >> limits::PATH_WINDOW_BITS) as u32;
    if budget.window != window {
        *budget = PathBudget { window, entered: 0 };
    }
    budget.entered += 1;
    budget.entered <= limits::PATHS_PER_WINDOW
}

/// Another CPU may write it meanwhile, and the kernel may give its place to another key: the check is the last that is
/// written and the last that is read.
#[inline(always)]
fn read(path: *const Path) -> Path {
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    unsafe {
        Path {
            next_hop: (&raw const (*path).next_hop).read_volatile(),
            epoch: (&raw const (*path).epoch).read_volatile(),
            found: (&raw const (*path).found).read_volatile(),
            ifindex: (&raw const (*path).ifindex).read_volatile(),
            mtu: (&raw const (*path).mtu).read_volatile(),
            from: (&raw const (*path).from).read_volatile(),
            to: (&raw const (*path).to).read_volatile(),
            reserved: 0,
            check: (&raw const (*path).check).read_volatile(),
        }
    }
}

#[inline(always)]
fn write(place: *mut Path, path: &Path) {
    // SAFETY: as in `read`.
    unsafe {
        (&raw mut (*place).check).write_volatile(!path.check);
        (&raw mut (*place).next_hop).write_volatile(path.next_hop);
        (&raw mut (*place).epoch).write_volatile(path.epoch);
        (&raw mut (*place).found).write_volatile(path.found);
        (&raw mut (*place).ifindex).write_volatile(path.ifindex);
        (&raw mut (*place).mtu).write_volatile(path.mtu);
        (&raw mut (*place).from).write_volatile(path.from);
        (&raw mut (*place).to).write_volatile(path.to);
        (&raw mut (*place).check).write_volatile(path.check);
    }
}
