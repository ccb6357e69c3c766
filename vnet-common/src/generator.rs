//! What the benchmarks' generator of frames sends: see `vnet-ebpf/src/bin/generator.rs`.

use bytemuck::{Pod, Zeroable};

/// Bytes of the longest frame without its check sequence.
pub const FRAME_BYTES: usize = 64;
/// Bytes of the shortest frame without its check sequence: with it, it has 64.
pub const SHORT_FRAME_BYTES: usize = 60;

/// The frames to send: one, in which two words change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Stream {
    /// The frame.
    pub frame: [u8; FRAME_BYTES],
    /// What changes from frame to frame.
    pub fields: [Field; 2],
}

/// A word of 16 bits that says another number in each frame: `first + ((n >> shift) * step & mask)` in the frame of
/// number `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Field {
    /// Its offset in the frame; 0 for none.
    pub offset: u32,
    /// Offset of a word that says the opposite, so that a checksum of both stays what it is; 0 for none.
    pub complement: u32,
    /// The first number.
    pub first: u32,
    /// How many numbers there are less one; a power of two less one.
    pub mask: u32,
    /// Bits of the frame's number that do not count.
    pub shift: u32,
    /// How far it is to the next number; odd, so that all are used.
    pub step: u32,
}

impl Field {
    /// The number in a frame.
    #[must_use]
    #[inline]
    pub const fn number(&self, frame: u32) -> u16 {
        let count = (frame >> (self.shift & 31)).wrapping_mul(self.step);
        (self.first + (count & self.mask)) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_what_the_programs_were_compiled_for() {
        assert_eq!(size_of::<Stream>(), 112);
    }

    #[test]
    fn numbers_return_to_the_first() {
        let field = Field { first: 100, mask: 3, shift: 1, step: 1, ..Field::default() };
        let numbers: [u16; 10] = core::array::from_fn(|frame| field.number(frame as u32));
        assert_eq!(numbers, [100, 100, 101, 101, 102, 102, 103, 103, 100, 100]);
    }
}
