//! Where the ports have seen MAC addresses, beside what the bridge knows of them.

use vnet_common::{
    guard::MacKey,
    shortcut::{BridgePort, PORT_SHORT, STATION_REST_NS, Station},
    timeout::NANOSECONDS,
};

use super::{maps::STATIONS, way};

/// How often the time of a frame is noted, in nanoseconds.
const SEEN_EVERY_NS: u64 = NANOSECONDS / 4;
/// How long frames may pass by the bridge until one has to go there, in nanoseconds.
const BRIDGE_EVERY_NS: u64 = NANOSECONDS;

/// Where a station is: the bridge and a frame agree.
pub struct Place {
    /// Interface index of the port.
    pub ifindex: u32,
    seen: u64,
}

impl Place {
    /// Whether the bridge would still keep it.
    #[inline(always)]
    pub fn is_alive(&self, port: &BridgePort, now: u64) -> bool {
        now.saturating_sub(self.seen) < u64::from(port.ageing_ms) * (NANOSECONDS / 1000)
    }
}

/// Where a station is.
#[inline(always)]
pub fn place(key: MacKey) -> Option<Place> {
    let station = STATIONS.get_ptr(key)?;
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    let (port, seen_at, seen) = unsafe {
        (
            (&raw const (*station).port).read_volatile(),
            (&raw const (*station).seen_at).read_volatile(),
            (&raw const (*station).seen).read_volatile(),
        )
    };
    (port != 0 && port == seen_at).then_some(Place { ifindex: port, seen })
}

/// Whether a frame of a station at a port may pass by the bridge: that has learned the station there and
/// had a frame of it lately. Notes a frame that may not; userspace makes the entries.
#[inline(always)]
pub fn may_pass_by(key: MacKey, ifindex: u32, now: u64) -> bool {
    let Some(station) = STATIONS.get_ptr_mut(key) else { return false };
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    let (port, seen) =
        unsafe { ((&raw const (*station).port).read_volatile(), (&raw const (*station).seen)) };
    // SAFETY: as above.
    let seen = unsafe { seen.read_volatile() };
    if note_at(station, ifindex, now, BRIDGE_EVERY_NS) {
        return false;
    }
    port == ifindex && now.saturating_sub(seen) < BRIDGE_EVERY_NS
}

/// Notes a frame of a station at a port, which goes on to the bridge.
#[inline(always)]
pub fn note(key: MacKey, port: &BridgePort, now: u64) {
    let Some(station) = STATIONS.get_ptr_mut(key) else { return };
    // SAFETY: map memory outlives the program; the field is aligned plain data.
    let known_at = unsafe { (&raw const (*station).port).read_volatile() };
    // The bridge may drop what comes in there, and then nothing has moved.
    if port.flags & PORT_SHORT != 0 || known_at == port.port {
        note_at(station, port.port, now, SEEN_EVERY_NS);
    }
}

/// Notes a frame, if the last one was so long ago; whether the station was not there before.
#[inline(always)]
fn note_at(station: *mut Station, ifindex: u32, now: u64, every: u64) -> bool {
    // SAFETY: map memory outlives the program; the fields are aligned plain data.
    let (seen_at, seen) = unsafe {
        (
            (&raw const (*station).seen_at).read_volatile(),
            (&raw const (*station).seen).read_volatile(),
        )
    };
    let age = now.saturating_sub(seen);
    let is_here = seen_at == ifindex;
    let is_noted = if is_here { age < every } else { seen_at == 0 && age < STATION_REST_NS };
    if is_noted {
        return !is_here;
    }
    let has_moved = !is_here && seen_at != 0;
    // SAFETY: as above.
    unsafe {
        (&raw mut (*station).seen).write_volatile(now);
        (&raw mut (*station).seen_at).write_volatile(if has_moved { 0 } else { ifindex });
    }
    // Ways that are found from now on do not find it.
    if has_moved {
        way::note_move();
    }
    !is_here
}
