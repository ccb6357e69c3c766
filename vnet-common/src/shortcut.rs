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

/// [`BridgePort::flags`]: packets may pass by the bridge on their way from and to this port: it forwards, the
/// bridge filters no VLANs, and nobody has rules at the bridge.
pub const PORT_SHORT: u32 = 1;
/// [`BridgePort::flags`]: the device also takes frames that XDP redirects to it.
pub const PORT_TAKES_XDP: u32 = 2;
/// [`BridgePort::flags`]: it leads out of this host: frames between two such ports stay with the bridge.
pub const PORT_IS_UPLINK: u32 = 4;

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
    /// Interface index of the port where a frame with this source was seen last; 0 for none.
    pub seen_at: u32,
    /// When that frame passed on to the bridge, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub seen: u64,
}

/// Where a flow's outbound packets go without asking anybody: the next hop. Part of a
/// [`crate::flow::Session`]; zero is no way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct OutboundWay {
    /// When it was found, in units of 2^20 ns (about a millisecond) of `CLOCK_MONOTONIC_COARSE`; never 0.
    pub found: u32,
    /// The next hop's MAC address, as in the frame.
    pub destination: [u8; 6],
    /// The uplink's MAC address.
    pub source: [u8; 6],
}

/// Where a flow's inbound packets go: the guest's port. Part of a [`crate::flow::Session`]; zero is no way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InboundWay {
    /// Interface index of the guest's port; 0 for none.
    pub port: u32,
    /// What `MOVES` was when the guest was seen at that port; it is good while it still is.
    pub moves: u32,
    /// The guest's MAC address, as in the frame. The source is in `BRIDGE_ADDRESSES`.
    pub destination: [u8; 6],
    /// Whether the port takes frames of XDP.
    pub takes_xdp: u8,
    /// Zero.
    pub reserved: u8,
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
    }
}
