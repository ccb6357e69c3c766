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
    path::{PATH_WORDS, Path, PathBudget, PathKey},
    policy::Mode,
    shortcut::{InboundWay, OutboundWay, is_young},
};

use crate::{
    count, emit, flow,
    hook::{Hook, Step, Verdict},
    ip::Ip,
    maps::{self, PATH_BUDGET},
    outbound,
    parse::{Fragment, Packet},
    policy,
    shortcut::{path as short, way},
    skb::Skb,
    tables,
};

/// Sends a packet on its way as the last one of its kind; [`Verdict::Unjudged`] where it has to be judged.
#[inline(always)]
pub fn follow<V: Ip>(hook: &mut Hook) -> Step<Verdict> {
    let Some(packet) = V::packet() else { return Ok(Verdict::Unjudged) };
    let skb = hook.skb;
    if packet.known != 0 {
        return Ok(Verdict::Unjudged);
    }
    let clock = way::clock();
    let Some(path) = of_packet::<V>(skb, packet, skb.ifindex(), clock) else {
        return Ok(Verdict::Unjudged);
    };
    if short::pays(path, clock) && short::vnet_find_ways_of_path(skb.raw()) != 0 {
        keep::<V>(packet, skb.ifindex(), path);
    }
    hook.network = if path.from == 0 { path.to } else { path.from };
    account(path, skb.len());
    V::decrement_ttl(skb, hook.l3())?;
    if way::are_used()
        && way::is_good_inbound(&path.inbound, clock)
        && let Some(macs) = short::inbound_macs(path)
    {
        return Ok(emit::to_port(skb, path.inbound.port, macs)?);
    }
    Ok(emit::to_neighbour(skb, path.ifindex, path.next_hop))
}

/// As `routed::forward` and `routed::from_outside` do.
#[inline(always)]
pub fn account(path: &Path, bytes: u32) {
    if path.from != 0 {
        count::traffic(path.from, Direction::Outbound, bytes);
    }
    if path.to != 0 {
        count::traffic(path.to, Direction::Inbound, bytes);
    }
}

/// Where a packet goes that is at an interface, in this CPU's place for it; `None` where it has to be judged.
#[inline(always)]
pub fn of_packet<V: Ip>(
    skb: Skb,
    packet: &Packet<V>,
    ifindex: u32,
    clock: u32,
) -> Option<&'static mut Path> {
    if !is_plain(packet) {
        return None;
    }
    let path = find::<V>(&key(packet, ifindex), tables::epoch()?, clock)?;
    outbound::check_exceptions(skb, packet, path.mtu).ok()?;
    Some(path)
}

/// Where packets of a key went in this epoch, less than a second ago, in this CPU's place for it.
#[inline(always)]
pub fn find<V: Ip>(key: &PathKey<V::Address>, epoch: u32, clock: u32) -> Option<&'static mut Path> {
    let path = maps::path()?;
    copy(V::path(key)?, path);
    let is_good =
        path.epoch == epoch && is_young(path.found, clock) && path.seal == V::seal(key, path);
    is_good.then_some(path)
}

/// Keeps where the packet goes that was judged in the step before, if it goes on as it is. A step of its own for the
/// sake of the stack: the route still is in this CPU's place for look-ups.
#[inline(never)]
pub fn enter<V: Ip>(skb: Skb) {
    let (Some(packet), Some(fib), Some(path)) = (V::packet(), maps::fib_lookup(), maps::path())
    else {
        return;
    };
    let Some(epoch) = tables::epoch() else { return };
    if packet.accepted == 0 || packet.known != 0 || !is_plain(packet) {
        return;
    }
    let from = policy::network_of_bridge(skb.ifindex());
    // Where a NAT network's packets turn round depends on more than the epoch.
    if from.is_some() && from.mode::<V>() == Mode::Nat {
        return;
    }
    let route = fib.route();
    *path = Path {
        next_hop: route.next_hop,
        epoch,
        found: way::clock(),
        ifindex: route.ifindex,
        mtu: route.mtu,
        from: from.0,
        to: (packet.accepted - 1) as u16,
        reserved: 0,
        inbound: InboundWay::default(),
        outbound: OutboundWay::default(),
        seal: 0,
    };
    keep::<V>(packet, skb.ifindex(), path);
}

/// Enters it, unless the tables have changed meanwhile.
#[inline(always)]
fn keep<V: Ip>(packet: &Packet<V>, ifindex: u32, path: &mut Path) {
    let key = key(packet, ifindex);
    path.seal = V::seal(&key, path);
    if !tables::is_current() {
        return;
    }
    match V::path(&key) {
        Some(known) => copy(path, known),
        None if may_enter() => V::enter_path(&key, path),
        None => {}
    }
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

/// Word by word: another CPU may write it meanwhile, and the kernel give its place to another key. The seal tells.
#[inline(always)]
fn copy(from: *const Path, to: *mut Path) {
    let (from, to) = (from.cast::<u32>(), to.cast::<u32>());
    for index in 0..PATH_WORDS {
        // SAFETY: map memory outlives the program; both are so many aligned words of plain data.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) }
    }
}
