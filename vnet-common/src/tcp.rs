//! The TCP connection state that a NAT keeps (RFC 5382, RFC 7857 section 2).

/// TCP header flags, byte 13 of the header (RFC 9293, 3.1).
pub mod flags {
    /// FIN
    pub const FIN: u8 = 0x01;
    /// SYN
    pub const SYN: u8 = 0x02;
    /// RST
    pub const RST: u8 = 0x04;
    /// ACK
    pub const ACK: u8 = 0x10;
}

/// What was seen of a flow; for TCP the connection's state, for others whether it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(Hash))]
#[repr(u8)]
pub enum State {
    /// Only the inside has sent.
    Opening = 0,
    /// Both sides have sent; TCP: the handshake is over.
    Established = 1,
    /// TCP: the inside has sent FIN.
    FinInside = 2,
    /// TCP: the outside has sent FIN.
    FinOutside = 3,
    /// TCP: both sides have sent FIN, or FIN came before an answer.
    Closing = 4,
    /// TCP: the outside has answered with SYN, the handshake is not over.
    Answered = 5,
    /// TCP: the last segment of a connection was RST. Whoever only guessed its ports may have sent it.
    Reset = 6,
}

impl State {
    /// Takes the byte of a session; an unknown one is [`State::Closing`], which lives shortest.
    #[inline]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Opening,
            1 => Self::Established,
            2 => Self::FinInside,
            3 => Self::FinOutside,
            5 => Self::Answered,
            6 => Self::Reset,
            _ => Self::Closing,
        }
    }

    /// The word for it in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::FinInside => "fin-inside",
            Self::FinOutside => "fin-outside",
            Self::Closing => "closing",
            Self::Answered => "answered",
            Self::Reset => "reset",
        }
    }
}

/// Whether a segment without a flow may open one: anything but RST and FIN, with flags that a TCP
/// sends (RFC 9293, section 3.10.7: after SYN and before RST every segment has ACK).
///
/// Segments in mid-connection open one as conntrack's `nf_conntrack_tcp_loose` does, so that
/// connections survive a NAT that lost its state.
#[inline]
#[must_use]
pub const fn may_open(tcp_flags: u8) -> bool {
    tcp_flags & (flags::RST | flags::FIN) == 0 && tcp_flags & (flags::SYN | flags::ACK) != 0
}

/// Whether a segment from outside may open a flow to a guest: a SYN that answers none.
#[inline]
#[must_use]
pub const fn opens(tcp_flags: u8) -> bool {
    tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}

/// The state after a segment; `from_inside` tells who sent it. A new flow is [`State::Opening`].
///
/// Whatever the inside sends alone, the flow stays one that ends soon: only an answer from the
/// outside earns the long idle time of an established connection. RST ends nothing at once, because
/// anybody may forge it (RFC 7857, section 2.2): an established connection falls back to the short
/// idle time until another segment follows (RFC 6146, section 3.5.2.2, state TRANS). Segments that
/// both ends ignore (SYN with FIN; without SYN, RST and ACK) change nothing.
#[inline]
#[must_use]
pub const fn advance(state: State, tcp_flags: u8, from_inside: bool) -> State {
    if tcp_flags & flags::RST != 0 {
        return match state {
            State::Established | State::FinInside | State::FinOutside => State::Reset,
            short_lived => short_lived,
        };
    }
    if tcp_flags & flags::SYN != 0 {
        // A SYN from the inside on a connection that is over opens the next one on the same ports.
        return match (state, from_inside) {
            (same, _) if tcp_flags & flags::FIN != 0 => same,
            (State::Closing | State::Reset, true) => State::Opening,
            (State::Opening, false) => State::Answered,
            (other, _) => other,
        };
    }
    if tcp_flags & flags::ACK == 0 {
        return state;
    }
    if tcp_flags & flags::FIN != 0 {
        return match (state, from_inside) {
            (State::FinOutside | State::Opening, true)
            | (State::FinInside, false)
            | (State::Closing, _) => State::Closing,
            (_, true) => State::FinInside,
            (_, false) => State::FinOutside,
        };
    }
    match (state, from_inside) {
        // The ACK that ends the handshake, an answer in mid-connection, or life after a reset.
        (State::Answered | State::Reset, _) | (State::Opening, false) => State::Established,
        (other, _) => other,
    }
}

/// As [`advance`], of a flow whose outside has sent first: inside and outside play each other's parts.
#[inline]
#[must_use]
pub const fn advance_from_outside(state: State, tcp_flags: u8, from_inside: bool) -> State {
    mirrored(advance(mirrored(state), tcp_flags, !from_inside))
}

const fn mirrored(state: State) -> State {
    match state {
        State::FinInside => State::FinOutside,
        State::FinOutside => State::FinInside,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{State::*, flags::*, *};

    fn walk(start: State, segments: &[(u8, bool)]) -> State {
        segments.iter().fold(start, |state, &(flags, inside)| advance(state, flags, inside))
    }

    const ALL: [State; 7] = [Opening, Established, FinInside, FinOutside, Closing, Answered, Reset];

    /// A state, and what becomes of it by SYN, by SYN and ACK, by ACK, by FIN and ACK, and by RST, each
    /// from the inside and from the outside.
    type Row = (State, [(State, State); 5]);

    const TABLE: [Row; 7] = [
        (
            Opening,
            [
                (Opening, Answered),
                (Opening, Answered),
                (Opening, Established),
                (Closing, FinOutside),
                (Opening, Opening),
            ],
        ),
        (
            Answered,
            [
                (Answered, Answered),
                (Answered, Answered),
                (Established, Established),
                (FinInside, FinOutside),
                (Answered, Answered),
            ],
        ),
        (
            Established,
            [
                (Established, Established),
                (Established, Established),
                (Established, Established),
                (FinInside, FinOutside),
                (Reset, Reset),
            ],
        ),
        (
            FinInside,
            [
                (FinInside, FinInside),
                (FinInside, FinInside),
                (FinInside, FinInside),
                (FinInside, Closing),
                (Reset, Reset),
            ],
        ),
        (
            FinOutside,
            [
                (FinOutside, FinOutside),
                (FinOutside, FinOutside),
                (FinOutside, FinOutside),
                (Closing, FinOutside),
                (Reset, Reset),
            ],
        ),
        (
            Closing,
            [
                (Opening, Closing),
                (Opening, Closing),
                (Closing, Closing),
                (Closing, Closing),
                (Closing, Closing),
            ],
        ),
        (
            Reset,
            [
                (Opening, Reset),
                (Opening, Reset),
                (Established, Established),
                (FinInside, FinOutside),
                (Reset, Reset),
            ],
        ),
    ];

    #[test]
    fn every_state_and_segment_has_its_next_state() {
        for (state, row) in TABLE {
            let segments = [SYN, SYN | ACK, ACK, FIN | ACK, RST];
            for (segment, (inside, outside)) in segments.into_iter().zip(row) {
                assert_eq!(advance(state, segment, true), inside, "{state:?} {segment:#x} inside");
                let next = advance(state, segment, false);
                assert_eq!(next, outside, "{state:?} {segment:#x} outside");
            }
        }
    }

    #[test]
    fn segments_that_both_ends_ignore_change_nothing() {
        for state in ALL {
            for from_inside in [true, false] {
                for segment in [0, FIN, SYN | FIN, SYN | FIN | ACK, 0x08, 0x20, 0x28] {
                    assert_eq!(advance(state, segment, from_inside), state);
                }
                // RST wins over what stands beside it.
                for segment in [RST | ACK, SYN | RST, FIN | RST, 0xff] {
                    let next = advance(state, segment, from_inside);
                    assert_eq!(next, advance(state, RST, from_inside));
                }
            }
        }
    }

    #[test]
    fn handshake_establishes_with_its_third_segment() {
        assert_eq!(walk(Opening, &[(SYN, true), (SYN | ACK, false)]), Answered);
        assert_eq!(walk(Opening, &[(SYN | ACK, false), (ACK, true)]), Established);
    }

    #[test]
    fn simultaneous_open_establishes() {
        let segments = [(SYN, false), (SYN | ACK, true), (SYN | ACK, false), (ACK, true)];
        assert_eq!(walk(Opening, &segments[..3]), Answered);
        assert_eq!(walk(Opening, &segments), Established);
    }

    #[test]
    fn an_inside_that_gets_no_answer_never_establishes() {
        let segments = [(ACK, true), (ACK, true), (SYN, true), (ACK, true)];
        assert_eq!(walk(Opening, &segments), Opening);
        assert_eq!(walk(Opening, &[(FIN | ACK, true)]), Closing);
    }

    #[test]
    fn an_answer_in_mid_connection_establishes() {
        assert_eq!(walk(Opening, &[(ACK, true), (ACK, false)]), Established);
    }

    #[test]
    fn both_fins_close() {
        assert_eq!(walk(Established, &[(FIN | ACK, true)]), FinInside);
        assert_eq!(walk(Established, &[(FIN | ACK, true), (FIN | ACK, true)]), FinInside);
        assert_eq!(walk(Established, &[(FIN | ACK, true), (FIN | ACK, false)]), Closing);
        assert_eq!(walk(Established, &[(FIN | ACK, false), (FIN | ACK, true)]), Closing);
    }

    #[test]
    fn forged_reset_kills_no_connection() {
        assert_eq!(walk(Established, &[(RST, false)]), Reset);
        assert_eq!(walk(Established, &[(RST, false), (ACK, true)]), Established);
        assert_eq!(walk(Established, &[(RST, false), (ACK, false)]), Established);
        // Nor one that is only about to be.
        let segments = [(RST, false), (SYN | ACK, false), (RST, false), (ACK, true)];
        assert_eq!(walk(Opening, &segments), Established);
    }

    #[test]
    fn inside_syn_recycles_a_flow_that_is_over_and_outside_syn_does_not() {
        for over in [Closing, Reset] {
            assert_eq!(advance(over, SYN, true), Opening);
            assert_eq!(advance(over, SYN, false), over);
        }
        assert_eq!(advance(Established, SYN, true), Established);
    }

    #[test]
    fn mid_connection_segments_open_a_flow_and_ends_open_none() {
        assert!(may_open(SYN) && may_open(ACK));
        assert!(!may_open(RST) && !may_open(FIN | ACK) && !may_open(RST | ACK));
    }

    #[test]
    fn flags_that_no_tcp_sends_open_nothing() {
        for invalid in [0, 0x08, 0x20, 0x28, SYN | FIN, SYN | RST, SYN | FIN | ACK, 0xff] {
            assert!(!may_open(invalid), "{invalid:#x}");
        }
    }

    #[test]
    fn a_flow_from_outside_is_established_by_the_inside_alone() {
        let walk = |segments: &[(u8, bool)]| {
            segments
                .iter()
                .fold(Opening, |state, &(flags, inside)| advance_from_outside(state, flags, inside))
        };
        assert_eq!(walk(&[(SYN, false), (ACK, false), (SYN, false)]), Opening);
        let handshake = [(SYN, false), (SYN | ACK, true), (ACK, false), (FIN | ACK, true)];
        assert_eq!(walk(&handshake[..2]), Answered);
        assert_eq!(walk(&handshake[..3]), Established);
        assert_eq!(walk(&handshake), FinInside);
        assert_eq!(walk(&[(SYN, false), (RST | ACK, true), (SYN, false)]), Opening);
    }

    #[test]
    fn only_a_bare_syn_opens_a_flow_to_a_guest() {
        assert!(opens(SYN) && opens(SYN | 0x40));
        for flags in [0, ACK, SYN | ACK, SYN | FIN, SYN | RST, RST] {
            assert!(!opens(flags), "{flags:#x}");
        }
    }

    #[test]
    fn byte_round_trips() {
        for state in ALL {
            assert_eq!(State::from_byte(state as u8), state);
        }
        assert_eq!(State::from_byte(200), Closing);
    }
}
