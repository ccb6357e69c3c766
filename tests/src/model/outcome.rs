//! What the model says of a packet.

use std::net::IpAddr;

use vnet_common::reason::{DropReason, Handover};

use super::Endpoint;
use crate::programs::Verdict;

/// What became of a frame at the real programs.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The action.
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub frame: &'a [u8],
    /// The external port that an inside endpoint of a protocol has at an external address by now.
    pub mapping: &'a dyn Fn(u8, Endpoint, IpAddr) -> Option<u16>,
}

/// What must become of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The action.
    pub verdict: Verdict,
    /// The frame; `None` if it does not matter, because it is dropped.
    pub frame: Option<Vec<u8>>,
    /// The mark.
    pub mark: u32,
    /// Illegal choices of the datapath.
    pub objections: Vec<String>,
}

/// A counter that moves by one packet, with its network's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// A packet was dropped.
    Drop(u16, DropReason),
    /// A packet was left to the stack.
    Handover(u16, Handover),
    /// A packet of so many bytes went from a guest.
    Outbound(u16, usize),
    /// A packet of so many bytes went to a guest.
    Inbound(u16, usize),
}

impl Counter {
    /// The word for it, without the network.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drop(_, reason) => reason.id(),
            Self::Handover(_, handover) => handover.id(),
            Self::Outbound(..) => "outbound",
            Self::Inbound(..) => "inbound",
        }
    }
}

/// Why a packet leaves the steps early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It ends here.
    Drop(DropReason),
    /// The host's stack takes it as it came.
    Handover(Handover),
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl From<Handover> for Stop {
    fn from(handover: Handover) -> Self {
        Self::Handover(handover)
    }
}

/// How a packet that may go on does so.
pub(super) enum Done {
    /// To the stack: changed, or as it came.
    Passed(Option<Vec<u8>>),
    /// To the stack, translated, with the mark that lets it pass at bridges.
    ThroughStack(Vec<u8>),
    /// Out of an interface, with the mark that lets it pass there.
    Redirected(Vec<u8>),
    /// Not at all.
    Dropped,
}

pub(super) type Step<T> = Result<T, Stop>;
