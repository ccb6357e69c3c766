//! Native XDP of an uplink: packets of known flows, and those that go on as the ones before them, straight to the
//! guest's port.
//!
//! It runs in the softirq of the CPU that TC's programs run in after it, and never within one of them: both
//! may use the same per-CPU counters.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use vnet_common::{
    family::Family,
    flow::{Direction, protocol},
    limits,
    reason::DropReason,
    shortcut::{XdpMode, XdpUplink, way_time},
    tcp::flags::{ACK, FIN, RST, SYN},
};

use super::{
    frame::Frame,
    ip::{FrameIp, Header, Transport},
    maps::{XDP_MODE, XDP_PORTS, XDP_UPLINKS, XDP_UPLINKS_BY_INDEX},
    path as short,
    way::{self, MacPair},
};
use crate::{count, flow, ipv4::Ipv4, ipv6::Ipv6, log, maps, path, session::SessionSlot};

/// A frame from outside.
#[inline(always)]
pub fn forward(frame: Frame) -> u32 {
    // Once for the packet: the clock is a helper's call.
    let now = flow::now();
    if !way::are_used_at(now) {
        return XDP_PASS;
    }
    let Some(uplink) = uplink_at(frame.ingress_ifindex()) else { return XDP_PASS };
    // What the NIC only hears because somebody listens is none of ours.
    if frame.read::<[u8; 6]>(0) != Some(uplink.mac) {
        return XDP_PASS;
    }
    match frame.family() {
        Some(Family::Ipv4) => steps::<Ipv4>(frame, uplink.ifindex, now),
        Some(Family::Ipv6) => steps::<Ipv6>(frame, uplink.ifindex, now),
        None => XDP_PASS,
    }
}

/// Whose frames come in at a device.
#[inline(always)]
fn uplink_at(device: u32) -> Option<&'static XdpUplink> {
    if device < limits::XDP_UPLINKS_BY_INDEX {
        // A frame that meets one half written is none of ours, or its flow has another uplink.
        return XDP_UPLINKS_BY_INDEX.get(device).filter(|uplink| uplink.ifindex != 0);
    }
    // SAFETY: entries are replaced as a whole by userspace.
    unsafe { XDP_UPLINKS.get(device) }
}

#[inline(always)]
fn steps<V: FrameIp>(frame: Frame, uplink: u32, now: u64) -> u32 {
    let action = send::<V>(frame, uplink, now);
    if action == NO_FLOW { send_as_it_is::<V>(frame, uplink, now) } else { action }
}

/// No action for the kernel: the packet is of no flow.
const NO_FLOW: u32 = 0x7000;

#[inline(never)]
fn send<V: FrameIp>(frame: Frame, uplink: u32, now: u64) -> u32 {
    // Before any flow is looked for, as at TC, which alone can log it.
    if V::is_malformed(frame) && !log::is_on() {
        count::drop(0, DropReason::Malformed);
        return XDP_DROP;
    }
    to_guest::<V>(frame, uplink, now).unwrap_or(XDP_PASS)
}

#[inline(never)]
fn send_as_it_is<V: FrameIp>(frame: Frame, uplink: u32, now: u64) -> u32 {
    by_path::<V>(frame, uplink, now).unwrap_or(XDP_PASS)
}

/// As `path::follow`. `None` as below.
#[inline(always)]
fn by_path<V: FrameIp>(frame: Frame, uplink: u32, now: u64) -> Option<u32> {
    let header = V::header(frame)?;
    let key = header.path_key(&header.transport(frame)?, V::traffic_class(frame)?, uplink);
    let path = path::find::<V>(&key, maps::config()?.epoch, way_time(now))?;
    let fits = header.ttl > 1 && header.total_len <= path.mtu;
    if !fits || !way::is_good_in_xdp(&path.inbound, way_time(now)) {
        return None;
    }
    let macs = short::inbound_macs(path)?;
    let action = XDP_PORTS.redirect(path.inbound.port, u64::from(XDP_PASS)).ok()?;
    path::account(path, frame.len());
    if V::count_down(frame).and_then(|()| frame.write(0, macs)).is_none() {
        // As the verifier wants it; the bytes were there when they were read.
        count::drop(path.to, DropReason::TranslationFailed);
        return Some(XDP_DROP);
    }
    Some(action)
}

/// `None`: it goes on to TC as it came. Everything that may keep it from its short way comes before the first
/// write.
#[inline(always)]
fn to_guest<V: FrameIp>(frame: Frame, uplink: u32, now: u64) -> Option<u32> {
    let header = V::header(frame)?;
    let transport = header.transport(frame)?;
    if header.protocol == protocol::TCP && !is_taken(&transport) {
        return None;
    }
    if transport.is_request {
        return Some(NO_FLOW);
    }
    let Some(session) = flow::find::<V>(&header.inbound_key(&transport)) else {
        return Some(NO_FLOW);
    };
    let is_current = session.epoch_inbound() == maps::config()?.epoch;
    let fits = header.ttl > 1 && header.total_len <= session.mtu_inbound();
    // What comes in elsewhere than it went out is looked at by TC.
    let is_ours = session.uplink_ifindex() == uplink;
    let inbound = session.way_inbound();
    let has_way = way::is_good_in_xdp(&inbound, way_time(now));
    if !(is_current && fits && is_ours && has_way && way::may_have(session)) {
        return None;
    }
    let macs = way::inbound_macs(session, &inbound)?;
    // Only notes where the frame is to go; says so if the port is not there any more.
    let action = XDP_PORTS.redirect(inbound.port, u64::from(XDP_PASS)).ok()?;
    account(frame, &transport, session, now);
    let written = translate(frame, &header, &transport, session, macs);
    if written.is_none() {
        // As the verifier wants it; the bytes were there when they were read.
        count::drop(session.network(), DropReason::TranslationFailed);
        return Some(XDP_DROP);
    }
    Some(action)
}

/// Whether a TCP segment may pass by the stack, which merges those with data (GRO). What begins or ends a
/// connection goes the long way.
#[inline(always)]
fn is_taken(transport: &Transport) -> bool {
    let is_plain = transport.tcp_flags & (SYN | FIN | RST) == 0;
    is_plain && (takes_all() || (transport.tcp_flags == ACK && !transport.has_payload))
}

/// Whether TCP segments with data are taken, too.
#[inline(always)]
pub fn takes_all() -> bool {
    XDP_MODE.get(0).is_some_and(|mode| *mode == XdpMode::On as u32)
}

/// As `inbound::deliver`.
#[inline(always)]
fn account(frame: Frame, transport: &Transport, session: SessionSlot, now: u64) {
    let bytes = frame.len();
    flow::touch(session, transport.tcp_flags, Direction::Inbound, bytes, now);
    count::traffic(session.network(), Direction::Inbound, bytes);
}

#[inline(always)]
fn translate<V: FrameIp>(
    frame: Frame,
    header: &Header<V>,
    transport: &Transport,
    session: SessionSlot,
    macs: MacPair,
) -> Option<()> {
    let to = (V::narrow(session.inside()), session.inside_port());
    header.redirect(frame, transport, to)?;
    frame.write(0, macs)
}
