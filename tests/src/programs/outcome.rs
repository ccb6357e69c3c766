//! What became of a packet, and the whole of it compared with what is expected.

use vnet_common::{
    flow::Direction,
    names::FORWARDED_MARK,
    reason::{DropReason, Handover},
};

use super::counters::{Counted, counted};
use super::packet::{Packet, hex};

/// The action that a program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `TC_ACT_UNSPEC`
    Pass,
    /// `TC_ACT_SHOT`
    Drop,
    /// `TC_ACT_REDIRECT`
    Redirect,
    /// None that these programs return.
    Other(u32),
}

impl Verdict {
    /// Takes what a program returned.
    #[must_use]
    pub fn from_action(action: u32) -> Self {
        match action.cast_signed() {
            -1 => Self::Pass,
            2 => Self::Drop,
            7 => Self::Redirect,
            _ => Self::Other(action),
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The action.
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The mark as the program left it.
    pub mark: u32,
    /// The counters that moved.
    pub counted: Counted,
}

impl Outcome {
    /// Sent on by a redirect helper: translated, marked, counted as traffic and nothing else.
    #[track_caller]
    pub fn assert_redirected(&self, network: u16, direction: Direction, packet: &Packet) {
        self.assert(
            Verdict::Redirect,
            &packet.frame(),
            FORWARDED_MARK,
            &traffic(network, direction, packet.frame().len()),
        );
    }

    /// Passed on translated, without a mark, counted as traffic and nothing else.
    #[track_caller]
    pub fn assert_translated(&self, network: u16, direction: Direction, packet: &Packet) {
        let length = packet.frame().len();
        self.assert(Verdict::Pass, &packet.frame(), 0, &traffic(network, direction, length));
    }

    /// Left to the host's stack as it came.
    #[track_caller]
    pub fn assert_handed_over(&self, network: u16, handover: Handover, packet: &Packet) {
        let name = format!("{network} handover {}", handover.id());
        self.assert(Verdict::Pass, &packet.frame(), 0, &counted(&[(&name, 1)]));
    }

    /// Passed as it came, and not counted at all.
    #[track_caller]
    pub fn assert_passed(&self, packet: &Packet) {
        self.assert(Verdict::Pass, &packet.frame(), 0, &Counted::new());
    }

    /// Passed, unmarked, and not counted at all.
    #[track_caller]
    pub fn assert_passed_unchanged(&self) {
        assert_eq!((self.verdict, &self.counted), (Verdict::Pass, &Counted::new()));
        assert_eq!(self.mark, 0, "the mark");
    }

    /// Passed as another packet, unmarked, and not counted at all.
    #[track_caller]
    pub fn assert_passed_as(&self, packet: &Packet) {
        self.assert_passed(packet);
    }

    /// Dropped, and counted for that reason only.
    #[track_caller]
    pub fn assert_dropped(&self, network: u16, reason: DropReason) {
        let name = format!("{network} drop {}", reason.id());
        assert_eq!((self.verdict, &self.counted), (Verdict::Drop, &counted(&[(&name, 1)])));
    }

    /// Counted as dropped for that reason only, whether or not its sender is told.
    #[track_caller]
    pub fn assert_refused(&self, network: u16, reason: DropReason) {
        let name = format!("{network} drop {}", reason.id());
        assert!(matches!(self.verdict, Verdict::Drop | Verdict::Redirect), "{:?}", self.verdict);
        assert_eq!(self.counted, counted(&[(&name, 1)]));
    }

    /// Counted as dropped for that reason only, and answered with this frame.
    #[track_caller]
    pub fn assert_rejected(&self, network: u16, reason: DropReason, answer: &[u8]) {
        let name = format!("{network} drop {}", reason.id());
        self.assert(Verdict::Redirect, answer, FORWARDED_MARK, &counted(&[(&name, 1)]));
    }

    /// Everything at once.
    #[track_caller]
    pub fn assert(&self, verdict: Verdict, frame: &[u8], mark: u32, counted: &Counted) {
        assert_eq!((self.verdict, &self.counted), (verdict, counted));
        assert_eq!(hex(&self.frame), hex(frame), "the frame\n{}", hex(&self.frame));
        assert_eq!(self.mark, mark, "the mark");
    }
}

fn traffic(network: u16, direction: Direction, bytes: usize) -> Counted {
    let word = match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    };
    let (packets, total) = (format!("{network} {word} packets"), format!("{network} {word} bytes"));
    counted(&[(&packets, 1), (&total, bytes as u64)])
}
