//! What the benchmarks' generator of frames sends: see `vnet-ebpf/src/bin/generator.rs`.

use bytemuck::{Pod, Zeroable};

/// Bytes of a frame without its check sequence: the smallest of Ethernet with it has 64.
pub const FRAME_BYTES: usize = 60;

/// The frames to send: one, with another port each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Stream {
    /// The frame.
    pub frame: [u8; FRAME_BYTES],
    /// Offset of the port in it: that of the source or that of the destination.
    pub port_offset: u32,
    /// The first of the ports.
    pub first_port: u32,
    /// How many ports there are less one; a power of two less one.
    pub port_mask: u32,
    /// How many ports the next frame's is after that of the last; odd, so that all are used.
    pub step: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_what_the_programs_were_compiled_for() {
        assert_eq!(size_of::<Stream>(), 76);
    }
}
