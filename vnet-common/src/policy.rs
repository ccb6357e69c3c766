//! The policy table: what becomes of a new flow between two places.

/// How a network is connected: libvirt's `<forward mode=…>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// No `<forward>`.
    Isolated = 0,
    /// `mode='nat'`
    Nat = 1,
    /// `mode='route'`
    Route = 2,
    /// `mode='open'`
    Open = 3,
}

impl Mode {
    /// Takes the byte of a network; an unknown one is [`Mode::Isolated`], so that doubt closes.
    #[inline]
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Nat,
            2 => Self::Route,
            3 => Self::Open,
            _ => Self::Isolated,
        }
    }
}

/// Where a packet comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A network of a definition.
    Network {
        /// Its slot: equal slots are the same network.
        slot: u16,
        /// Its mode.
        mode: Mode,
        /// The uplink that `<forward dev=…>` binds it to; 0 for any.
        forward_ifindex: u32,
    },
    /// Any other interface of the host.
    Outside {
        /// Its index.
        ifindex: u32,
    },
    /// The host itself.
    Host,
}

/// What becomes of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes as it is.
    Accept,
    /// It passes with the uplink's address as source.
    Masquerade,
    /// It is answered with an ICMP port-unreachable.
    Reject,
}

/// The verdict on a new flow.
///
/// The table is what libvirt's firewall rules do, measured; connections that those let out but
/// whose replies they refuse are rejected at once.
#[inline]
#[must_use]
pub const fn verdict(source: Place, destination: Place) -> Verdict {
    let (source_mode, source_slot, source_bound) = match source {
        Place::Host => return Verdict::Accept,
        Place::Outside { ifindex } => return from_outside(ifindex, destination),
        Place::Network { slot, mode, forward_ifindex } => (mode, slot, forward_ifindex),
    };
    let out = match source_mode {
        Mode::Nat => Verdict::Masquerade,
        Mode::Route | Mode::Open => Verdict::Accept,
        Mode::Isolated => Verdict::Reject,
    };
    match destination {
        Place::Host => Verdict::Accept,
        Place::Outside { ifindex } => {
            if source_bound == 0 || source_bound == ifindex {
                out
            } else {
                Verdict::Reject
            }
        }
        Place::Network { slot, mode, forward_ifindex } => {
            if slot == source_slot {
                return Verdict::Accept;
            }
            // A network bound to an uplink talks to that uplink only, in both directions.
            match mode {
                Mode::Route | Mode::Open if source_bound == 0 && forward_ifindex == 0 => out,
                _ => Verdict::Reject,
            }
        }
    }
}

const fn from_outside(ifindex: u32, destination: Place) -> Verdict {
    match destination {
        Place::Host | Place::Outside { .. } => Verdict::Accept,
        Place::Network { mode, forward_ifindex, .. } => match mode {
            Mode::Open => Verdict::Accept,
            Mode::Route if forward_ifindex == 0 || forward_ifindex == ifindex => Verdict::Accept,
            _ => Verdict::Reject,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: u32 = 7;
    const Y: u32 = 8;

    const fn network(slot: u16, mode: Mode, forward_ifindex: u32) -> Place {
        Place::Network { slot, mode, forward_ifindex }
    }

    /// Rows and columns of the table: nat, nat dev=X, route, route dev=X, isolated, open, outside X,
    /// outside Y, host.
    const SOURCES: [Place; 9] = [
        network(1, Mode::Nat, 0),
        network(2, Mode::Nat, X),
        network(3, Mode::Route, 0),
        network(4, Mode::Route, X),
        network(5, Mode::Isolated, 0),
        network(6, Mode::Open, 0),
        Place::Outside { ifindex: X },
        Place::Outside { ifindex: Y },
        Place::Host,
    ];
    const DESTINATIONS: [Place; 9] = [
        network(11, Mode::Nat, 0),
        network(12, Mode::Nat, X),
        network(13, Mode::Route, 0),
        network(14, Mode::Route, X),
        network(15, Mode::Isolated, 0),
        network(16, Mode::Open, 0),
        Place::Outside { ifindex: X },
        Place::Outside { ifindex: Y },
        Place::Host,
    ];
    const TABLE: [&str; 9] = [
        "R R M R R M M M A",
        "R R R R R R M R A",
        "R R A R R A A A A",
        "R R R R R R A R A",
        "R R R R R R R R A",
        "R R A R R A A A A",
        "R R A A R A A A A",
        "R R A R R A A A A",
        "A A A A A A A A A",
    ];

    #[test]
    fn every_cell_is_as_the_table_says() {
        for (source, row) in SOURCES.into_iter().zip(TABLE) {
            for (destination, cell) in DESTINATIONS.into_iter().zip(row.split(' ')) {
                let expected = match cell {
                    "A" => Verdict::Accept,
                    "M" => Verdict::Masquerade,
                    _ => Verdict::Reject,
                };
                assert_eq!(verdict(source, destination), expected, "{source:?} to {destination:?}");
            }
        }
    }

    #[test]
    fn two_subnets_of_one_network_are_not_masqueraded() {
        for mode in [Mode::Nat, Mode::Route, Mode::Isolated, Mode::Open] {
            assert_eq!(verdict(network(1, mode, 0), network(1, mode, 0)), Verdict::Accept);
        }
    }

    #[test]
    fn an_unknown_mode_is_isolated() {
        assert_eq!(Mode::from_byte(77), Mode::Isolated);
    }
}
