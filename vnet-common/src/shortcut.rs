//! Short ways past the bridge: straight from a guest's port to the uplink, and from the uplink to the port.
//!
//! They are taken by packets whose flow TC has judged; anything else takes the long way, unchanged.

use bytemuck::{Pod, Zeroable};

/// A port of a bridge, guest's or uplink, by the interface index at which its frames arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BridgePort {
    /// Interface index of the bridge.
    pub bridge: u32,
    /// Interface index of the port: for a slave of a bond that of the bond.
    pub port: u32,
    /// `PORT_*`
    pub flags: u32,
    /// How long the bridge keeps the address of a silent station, in milliseconds.
    pub ageing_ms: u32,
}

impl BridgePort {
    /// Whether packets may take ways by this entry that they may not by the other one.
    #[must_use]
    pub fn allows_more_than(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| {
            (self.bridge, self.port) != (other.bridge, other.port) || self.flags & !other.flags != 0
        })
    }
}

/// [`BridgePort::flags`]: packets may pass by the bridge on their way from and to this port: it forwards, the
/// bridge filters no VLANs, and nobody has rules at the bridge.
pub const PORT_SHORT: u32 = 1;
/// [`BridgePort::flags`]: the device also takes frames that XDP redirects to it.
pub const PORT_TAKES_XDP: u32 = 2;
/// [`BridgePort::flags`]: it leads out of this host: frames between two such ports stay with the bridge.
pub const PORT_IS_UPLINK: u32 = 4;

/// [`BridgePort::flags`]: what comes in there may leave without the bridge: that is of a network whose guests'
/// packets are judged, translated or routed, and nobody else looks at them on their way. At the others no flow is
/// looked for.
pub const PORT_JUDGED: u32 = 8;

/// What a bridge has learned of a MAC address, and what its ports have seen since. The key is a
/// [`crate::guard::MacKey`].
///
/// Userspace writes whole entries, as the bridge tells; the programs change what they have seen. Both have
/// to name the same port before a frame passes by the bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Station {
    /// Interface index of the port that the bridge knows the address at.
    pub port: u32,
    /// Interface index of the port where a frame with this source was seen last; 0 for none, and for a while
    /// ([`STATION_REST_NS`]) after one was seen at another port.
    pub seen_at: u32,
    /// When that frame passed on to the bridge, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub seen: u64,
}

/// Where a flow's outbound packets go without asking anybody: the next hop. Part of a
/// [`crate::flow::Session`]; zero is no way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct OutboundWay {
    /// When it was looked for, in units of 2^20 ns (about a millisecond) of `CLOCK_MONOTONIC_COARSE`; 0 for
    /// never.
    pub found: u32,
    /// The next hop's MAC address, as in the frame; zero if there was no way.
    pub destination: [u8; 6],
    /// The uplink's MAC address.
    pub source: [u8; 6],
}

/// Where a flow's inbound packets go: the guest's port. Part of a [`crate::flow::Session`]; zero is no way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InboundWay {
    /// As [`OutboundWay::found`].
    pub found: u32,
    /// Interface index of the guest's port; 0 if there was no way.
    pub port: u32,
    /// The guest's MAC address, as in the frame. The source is in `BRIDGE_ADDRESSES`.
    pub destination: [u8; 6],
    /// The lower bits ([`MOVES_MASK`]) of what `MOVES` was; it is good while they still are. And
    /// [`WAY_TAKES_XDP`].
    pub moves: u16,
}

/// The bits of `MOVES` that a way has.
pub const MOVES_MASK: u16 = 0x7fff;
/// [`InboundWay::moves`]: the port takes frames of XDP, and the flow's packets come in at uplinks.
pub const WAY_TAKES_XDP: u16 = 0x8000;

/// How long a way is good, in its units: one second, after which a packet takes the long way and keeps the
/// bridge's and the neighbours' entries alive.
pub const WAY_LIFE: u32 = (1_000_000_000_u64 >> WAY_UNIT_BITS) as u32;
/// The unit of [`OutboundWay::found`] is two to the power of this, in nanoseconds.
pub const WAY_UNIT_BITS: u32 = 20;
/// How soon one packet has to follow another, in nanoseconds, for a way to be looked for: it costs as much as
/// it saves a few packets.
pub const WAY_PAYS_NS: u64 = 250_000_000;

/// How long nobody looks for a way again, whatever has made it stale, in its units: about 16 ms.
pub const WAY_REST: u32 = 16;
/// How old a way has to be before XDP uses it, in its units: about 8 ms, in which what TC has queued at the port
/// is sent.
pub const WAY_AGE_FOR_XDP: u32 = 8;
/// How long a station that has moved is nowhere, in nanoseconds: so it moves ten times a second at most.
pub const STATION_REST_NS: u64 = 100_000_000;

/// A time in nanoseconds as ways have it, never 0.
#[inline]
#[must_use]
pub const fn way_time(nanoseconds: u64) -> u32 {
    let time = (nanoseconds >> WAY_UNIT_BITS) as u32;
    if time == 0 { 1 } else { time }
}

/// Whether what was found at a time is still good.
#[inline]
#[must_use]
pub const fn is_young(found: u32, now: u32) -> bool {
    found != 0 && now.wrapping_sub(found) < WAY_LIFE
}

/// Whether a way was looked for so lately that nobody does it again.
#[inline]
#[must_use]
pub const fn is_just_found(found: u32, now: u32) -> bool {
    // Another CPU may have found it a moment later.
    found != 0 && now.wrapping_sub(found).cast_signed() < WAY_REST.cast_signed()
}

/// Whether XDP may use what was found at a time.
#[inline]
#[must_use]
pub const fn is_settled(found: u32, now: u32) -> bool {
    is_young(found, now) && now.wrapping_sub(found) >= WAY_AGE_FOR_XDP
}

/// An uplink whose frames XDP may take, by the interface index at which they come in: its own or, of a bond, that of
/// a slave that the bond takes frames from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct XdpUplink {
    /// Interface index of the uplink.
    pub ifindex: u32,
    /// Its MAC address, as in the frame.
    pub mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

/// What packets XDP takes: the only element of `XDP_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum XdpMode {
    /// All but TCP segments that the stack would merge (GRO): of TCP, bare acknowledgements.
    Auto = 0,
    /// All.
    On = 1,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_the_programs_were_compiled_for() {
        assert_eq!(size_of::<BridgePort>(), 16);
        assert_eq!(size_of::<Station>(), 16);
        assert_eq!(size_of::<OutboundWay>(), 16);
        assert_eq!(size_of::<InboundWay>(), 16);
        assert_eq!(size_of::<XdpUplink>(), 12);
    }

    #[test]
    fn ways_are_young_for_a_second_also_where_the_clock_wraps() {
        assert!(!is_young(0, 1));
        assert!(is_young(1, 1) && is_young(1, WAY_LIFE) && !is_young(1, 1 + WAY_LIFE));
        assert!(is_young(u32::MAX, 3) && !is_young(u32::MAX, WAY_LIFE));
        // One that another CPU has found a moment later.
        assert!(!is_young(8, 7));
        assert!(
            is_just_found(8, 7) && is_just_found(1, WAY_REST) && !is_just_found(1, 1 + WAY_REST)
        );
        assert!(is_just_found(u32::MAX, 3) && !is_just_found(0, 1));
        assert!(
            !is_settled(8, 7) && !is_settled(1, 8) && is_settled(1, 9) && is_settled(1, WAY_LIFE)
        );
        assert!(!is_settled(1, 1 + WAY_LIFE));
        assert_eq!((way_time(0), way_time(1_000_000_000)), (1, WAY_LIFE));
    }
}
