//! Migration: flows of a datapath of another layout or size go on in new tables.

use bytemuck::{Pod, Zeroable};

use crate::flow::Session;

/// How far a migration has come. The programs read it once for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Phase {
    /// No packet has met the new programs yet.
    Preparing = 0,
    /// The former programs serve every packet, wherever the new ones are already.
    Former = 1,
    /// The former programs serve flows that only their tables have; the others are the new ones'.
    Shared = 2,
    /// The new programs serve every packet.
    Done = 3,
}

impl Phase {
    /// Takes the word of the map; an unknown one is [`Phase::Preparing`].
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word {
            1 => Self::Former,
            2 => Self::Shared,
            3 => Self::Done,
            _ => Self::Preparing,
        }
    }
}

/// A flow of the former tables, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Adoption {
    /// The flow in the present layout; live, or ended and holding its port.
    pub session: Session,
    /// One of the constants below.
    pub outcome: u32,
    /// The slot that it has now.
    pub slot: u32,
}

/// [`Adoption::outcome`]: nothing is to be done.
pub const IDLE: u32 = 0;
/// [`Adoption::outcome`]: the flow is to be entered.
pub const WANTED: u32 = 1;
/// [`Adoption::outcome`]: it was.
pub const ADOPTED: u32 = 2;
/// [`Adoption::outcome`]: it has been there already.
pub const KNOWN: u32 = 3;
/// [`Adoption::outcome`]: the new tables have no room for it.
pub const NO_ROOM: u32 = 4;
/// [`Adoption::outcome`]: another flow has its external endpoint towards its remote.
pub const CONFLICT: u32 = 5;
