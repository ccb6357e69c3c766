//! How long an idle flow lives.

use bytemuck::{Pod, Zeroable};

use crate::{flow::protocol, tcp::State};

/// What a second of [`Timeouts`] is on the programs' clock.
pub const NANOSECONDS: u64 = 1_000_000_000;

/// Idle times in seconds. The defaults satisfy the RFC named at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Timeouts {
    /// TCP after the handshake, no FIN from both sides; at least 2 h 4 min (RFC 5382, REQ-5).
    pub tcp_established: u32,
    /// TCP opening or closing, also after RST (RFC 5382 REQ-5, RFC 7857 section 2.1).
    pub tcp_transitory: u32,
    /// UDP; at least 2 min, 5 min recommended (RFC 4787, REQ-5).
    pub udp: u32,
    /// ICMP queries; at least 60 s (RFC 5508, REQ-2).
    pub icmp_query: u32,
    /// Any other protocol.
    pub other: u32,
    /// How long the port of an ended flow is kept from other guests (RFC 6888, REQ-8).
    pub port_hold_down: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: 7440,
            tcp_transitory: 240,
            udp: 300,
            icmp_query: 60,
            other: 600,
            port_hold_down: 120,
        }
    }
}

impl Timeouts {
    /// The idle time in seconds after which a flow of this protocol in this state ends.
    #[inline]
    #[must_use]
    pub const fn of(&self, ip_protocol: u8, state: State) -> u32 {
        match ip_protocol {
            protocol::TCP => match state {
                State::Established | State::FinInside | State::FinOutside => self.tcp_established,
                State::Opening | State::Answered | State::Closing | State::Reset => {
                    self.tcp_transitory
                }
            },
            protocol::UDP | protocol::UDP_LITE => self.udp,
            protocol::ICMP | protocol::ICMPV6 => self.icmp_query,
            _ => self.other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_satisfy_the_rfcs() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.of(protocol::TCP, State::Established), 7440);
        assert_eq!(timeouts.of(protocol::TCP, State::Opening), 240);
        assert_eq!(timeouts.of(protocol::TCP, State::Closing), 240);
        assert_eq!(timeouts.of(protocol::TCP, State::Reset), 240);
        // The value that RFC 4787 recommends; 120 s would do.
        assert_eq!(timeouts.of(protocol::UDP, State::Opening), 300);
        assert_eq!(timeouts.of(protocol::ICMP, State::Opening), 60);
        assert_eq!(timeouts.of(protocol::ICMPV6, State::Opening), 60);
        assert_eq!(timeouts.of(protocol::GRE, State::Opening), 600);
        assert_eq!(timeouts.port_hold_down, 120);
    }

    #[test]
    fn a_half_closed_connection_lives_like_an_established_one() {
        // The other half may still send for hours (RFC 5382, section 5).
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.of(protocol::TCP, State::FinInside), 7440);
        assert_eq!(timeouts.of(protocol::TCP, State::FinOutside), 7440);
    }
}
