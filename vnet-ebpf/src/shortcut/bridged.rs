//! Native XDP of a NIC or bond below a bridge: frames for stations that the bridge knows, as they are.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use vnet_common::{
    guard::{Mac, MacKey},
    shortcut::{PORT_IS_UPLINK, PORT_SHORT, PORT_TAKES_XDP},
};

use super::{
    frame::Frame,
    ip,
    maps::{BRIDGE_PORTS, XDP_PORTS},
    station, uplink,
    way::{self, MacPair},
};
use crate::flow;

/// A frame from outside.
#[inline(always)]
pub fn forward(frame: Frame) -> u32 {
    // It knows no flows: a former datapath does not matter.
    let now = flow::now();
    if now >= way::lease() {
        return XDP_PASS;
    }
    to_station(frame, now).unwrap_or(XDP_PASS)
}

/// `None`: the bridge gets it. So it gets whatever is not IP, such as ARP, STP and LACP, what is tagged, and what
/// is for many.
#[inline(always)]
fn to_station(frame: Frame, now: u64) -> Option<u32> {
    frame.family()?;
    let [destination, source] = frame.read::<MacPair>(0)?.map(Mac::from_bytes);
    if !destination.is_unicast() || !source.is_unicast() {
        return None;
    }
    // SAFETY: entries are replaced as a whole by userspace.
    let uplink = unsafe { BRIDGE_PORTS.get(frame.ingress_ifindex()) }?;
    if uplink.flags & (PORT_SHORT | PORT_IS_UPLINK) != PORT_SHORT | PORT_IS_UPLINK {
        return None;
    }
    if !station::may_pass_by(MacKey::new(uplink.bridge, source), uplink.port, now) {
        return None;
    }
    let place = station::place(MacKey::new(uplink.bridge, destination))?;
    let port = way::port_of_guest(uplink.bridge, place.ifindex)?;
    if !place.is_alive(port, now) || port.flags & PORT_TAKES_XDP == 0 {
        return None;
    }
    if !uplink::takes_all() && ip::is_tcp_with_payload(frame) {
        return None;
    }
    XDP_PORTS.redirect(place.ifindex, u64::from(XDP_PASS)).ok()
}
