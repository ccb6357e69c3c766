//! The state of a TCP connection as a NAT sees it (RFC 5382, RFC 7857 section 2).

use vnet_common::tcp::{
    State::{self, Answered, Closing, Established, FinInside, FinOutside, Opening},
    flags::{FIN, RST, SYN},
};

/// Whether a segment of no flow may begin one: it may be in mid-connection, but not end one.
pub(super) fn may_open(flags: u8) -> bool {
    flags & (RST | FIN) == 0
}

/// The state after a segment. Alone the inside never gets further than to open or to close.
pub(super) fn after(state: State, flags: u8, from_inside: bool) -> State {
    let (is_reset, is_syn, is_fin) = (flags & RST != 0, flags & SYN != 0, flags & FIN != 0);
    match state {
        _ if is_reset => Closing,
        Opening if is_syn => {
            if from_inside {
                Opening
            } else {
                Answered
            }
        }
        Closing if is_syn && from_inside => Opening,
        same if is_syn => same,
        Closing => Closing,
        Opening if is_fin => {
            if from_inside {
                Closing
            } else {
                FinOutside
            }
        }
        FinInside if is_fin && !from_inside => Closing,
        FinOutside if is_fin && from_inside => Closing,
        _ if is_fin => {
            if from_inside {
                FinInside
            } else {
                FinOutside
            }
        }
        Opening if from_inside => Opening,
        Opening | Answered => Established,
        same => same,
    }
}
