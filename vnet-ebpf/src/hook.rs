//! What a program carries through its steps, and how it ends.

use vnet_common::reason::{DropReason, Handover};

use crate::{count, log, skb::Skb};

/// `TC_ACT_UNSPEC`, also `TCX_NEXT`: on to the next program, and to the stack after the last.
pub const NEXT: i32 = -1;
/// `TC_ACT_SHOT`
pub const SHOT: i32 = 2;
// No actions for the kernel: see `Verdict`.
pub const UNJUDGED: i32 = 0x7000;
pub const KNOWN: i32 = 0x7001;
pub const ERROR: i32 = 0x7002;
pub const POSSIBLE_REPLY: i32 = 0x7003;
pub const FRAGMENT: i32 = 0x7004;
pub const TURNED: i32 = 0x7005;
pub const OF_THE_HOST: i32 = 0x7006;

/// What lies in front of a packet's IP header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header of 14 bytes; VLAN tags are out of band at TC.
    Ethernet,
    /// Nothing.
    Raw,
}

impl Link {
    #[inline(always)]
    pub const fn header_len(self) -> usize {
        match self {
            Self::Ethernet => 14,
            Self::Raw => 0,
        }
    }
}

/// What becomes of a packet.
pub enum Verdict {
    /// It goes on as it now is: judged and, if needed, translated.
    Pass,
    /// A redirect helper has set its way; this is the action that the helper returned.
    Redirect(i32),
    /// No current flow has an answer: the next step has to judge it.
    Unjudged,
    /// The packet's flow is known now: the next step translates.
    Known,
    /// It is an ICMP error about another packet, and may go on: the next step translates.
    Error,
    /// It is a later fragment whose first has not come yet: the next step translates its address alone.
    Fragment,
    /// It comes again, followed by the fragments that were waiting for it.
    Replayed,
    /// It is for the host itself, or for a flow that is masqueraded to an address of its.
    PossibleReply,
    /// It is translated, and for a guest behind an external address of this host: the next step takes it
    /// as one from outside.
    Turned,
    /// The host itself sends it, and no socket tells of its flow: the next step looks at it.
    OfTheHost,
}

/// Why a packet leaves the steps early.
pub enum Stop {
    /// It ends here.
    Drop(DropReason),
    /// The host's stack takes it as it is.
    Handover(Handover),
}

pub type Step<T> = Result<T, Stop>;

impl From<DropReason> for Stop {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl From<Handover> for Stop {
    #[inline(always)]
    fn from(handover: Handover) -> Self {
        Self::Handover(handover)
    }
}

/// A run of a program: the packet, and the network on whose account it goes.
pub struct Hook {
    pub skb: Skb,
    pub link: Link,
    /// Slot of the network; 0 while none is known.
    pub network: u16,
    /// Whether it is a guest's packet to an external address of this host, which has turned round.
    pub is_turned: bool,
    /// The uplink where that would have come in.
    turned_at: u32,
}

impl Hook {
    #[inline(always)]
    pub fn new(skb: Skb, link: Link) -> Self {
        Self { skb, link, network: 0, is_turned: false, turned_at: 0 }
    }

    /// For a packet at a bridge that has turned round at an uplink, or not if that is 0.
    #[inline(always)]
    pub fn at_bridge(skb: Skb, turned_at: u32) -> Self {
        Self { skb, link: Link::Ethernet, network: 0, is_turned: turned_at != 0, turned_at }
    }

    /// The interface from outside at which the packet is, or could be.
    #[inline(always)]
    pub fn arrived_at(&self) -> u32 {
        if self.is_turned { self.turned_at } else { self.skb.ifindex() }
    }

    /// Offset of the IP header.
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        self.link.header_len()
    }

    /// Counts the outcome and returns the action for the kernel.
    #[expect(clippy::needless_pass_by_value, reason = "the outcome ends here")]
    #[inline(always)]
    pub fn finish(&self, outcome: Step<Verdict>) -> i32 {
        match outcome {
            Ok(Verdict::Pass) => NEXT,
            Ok(Verdict::Redirect(action)) => action,
            Ok(Verdict::Unjudged) => UNJUDGED,
            Ok(Verdict::Known) => KNOWN,
            Ok(Verdict::Error) => ERROR,
            Ok(Verdict::Fragment) => FRAGMENT,
            Ok(Verdict::Replayed) => SHOT,
            Ok(Verdict::PossibleReply) => POSSIBLE_REPLY,
            Ok(Verdict::Turned) => TURNED,
            Ok(Verdict::OfTheHost) => OF_THE_HOST,
            Err(Stop::Handover(handover)) => {
                count::handover(self.network, handover);
                log::handover(self, handover);
                NEXT
            }
            Err(Stop::Drop(reason)) => self.drop(reason),
        }
    }

    /// As [`Hook::finish`], and answers the sender of a packet that may not go on: `answer` sends an
    /// ICMP error instead of it, if there is one for the reason.
    #[inline(always)]
    pub fn finish_or_reject(
        &self,
        outcome: Step<Verdict>,
        answer: impl FnOnce(&Self, DropReason) -> Option<i32>,
    ) -> i32 {
        let Err(Stop::Drop(reason)) = outcome else { return self.finish(outcome) };
        let action = self.drop(reason);
        answer(self, reason).unwrap_or(action)
    }

    #[inline(always)]
    fn drop(&self, reason: DropReason) -> i32 {
        count::drop(self.network, reason);
        log::drop(self, reason);
        SHOT
    }
}
