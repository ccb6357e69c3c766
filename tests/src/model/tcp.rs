//! The state of a TCP connection as a NAT sees it (RFC 5382, RFC 7857 section 2).

use vnet_common::tcp::{
    State::{self, Answered, Closing, Established, FinInside, FinOutside, Opening, Reset},
    flags::{ACK, FIN, RST, SYN},
};

/// Whether a segment of no flow may begin one: it may be in mid-connection, but not end one, and has to
/// be one that a TCP sends.
pub(super) fn may_open(flags: u8) -> bool {
    flags & (RST | FIN) == 0 && flags & (SYN | ACK) != 0
}

/// As [`after`], of a connection that the outside has begun: each end plays the other's part.
pub(super) fn after_from_outside(state: State, flags: u8, from_inside: bool) -> State {
    let other = |state| match state {
        FinInside => FinOutside,
        FinOutside => FinInside,
        same => same,
    };
    other(after(other(state), flags, !from_inside))
}

/// The state after a segment. Alone the inside never gets further than to open or to close; segments
/// that both ends ignore change nothing.
pub(super) fn after(state: State, flags: u8, from_inside: bool) -> State {
    let has = |flag: u8| flags & flag != 0;
    if has(RST) {
        // Anybody may forge it: it only shortens the time of a connection (RFC 7857, section 2.2).
        let is_open = matches!(state, Established | FinInside | FinOutside);
        return if is_open { Reset } else { state };
    }
    if has(SYN) {
        let opens_anew = matches!(state, Closing | Reset) && from_inside;
        return match state {
            _ if has(FIN) => state,
            _ if opens_anew => Opening,
            Opening if !from_inside => Answered,
            _ => state,
        };
    }
    if !has(ACK) {
        return state;
    }
    if has(FIN) {
        let other_has_sent_fin = match state {
            Closing => true,
            // While it is opening, nobody has answered yet.
            FinOutside | Opening => from_inside,
            FinInside => !from_inside,
            _ => false,
        };
        return match (other_has_sent_fin, from_inside) {
            (true, _) => Closing,
            (false, true) => FinInside,
            (false, false) => FinOutside,
        };
    }
    match state {
        Answered | Reset => Established,
        Opening if !from_inside => Established,
        same => same,
    }
}
