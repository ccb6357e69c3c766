//! Where the ports have seen MAC addresses, beside what the bridge knows of them.

use vnet_common::{
    guard::MacKey,
    shortcut::{BridgePort, Station},
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
pub fn note(key: MacKey, ifindex: u32, now: u64) {
    if let Some(station) = STATIONS.get_ptr_mut(key) {
        note_at(station, ifindex, now, SEEN_EVERY_NS);
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
    let is_new = seen_at != ifindex;
    if is_new || now.saturating_sub(seen) >= every {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*station).seen).write_volatile(now);
            (&raw mut (*station).seen_at).write_volatile(ifindex);
        }
    }
    if is_new && seen_at != 0 {
        way::note_move();
    }
    is_new
}
