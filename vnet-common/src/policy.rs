//! The policy table: what becomes of a packet between two places.

use crate::family::Family;

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
    /// `mode='bridge'`: frames are the bridge's business, and no packet of its guests is judged here.
    Bridged = 4,
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
            4 => Self::Bridged,
            _ => Self::Isolated,
        }
    }
}

/// How a network is connected for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// For IPv4.
    pub ipv4: Mode,
    /// For IPv6: a NAT network without `<nat ipv6='yes'/>` is routed.
    pub ipv6: Mode,
}

impl Modes {
    /// The same for both families.
    #[must_use]
    pub const fn both(mode: Mode) -> Self {
        Self { ipv4: mode, ipv6: mode }
    }

    /// The mode of one family.
    #[inline]
    #[must_use]
    pub const fn of(self, family: Family) -> Mode {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
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
        /// Its modes.
        modes: Modes,
        /// The uplink that `<forward dev=…>` binds it to; 0 for any.
        forward_ifindex: u32,
        /// Whether its guests must not reach each other (`<port isolated='yes'/>`).
        isolated_ports: bool,
    },
    /// Any other interface of the host.
    Outside {
        /// Its index.
        ifindex: u32,
    },
    /// The host itself.
    Host,
}

/// Whether a packet opens a connection or answers in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It may be the first.
    New,
    /// The other side has opened it.
    Reply,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes as it is.
    Accept,
    /// It passes with an address of the interface that it leaves by as its source.
    Masquerade,
    /// vnet makes no verdict: the host's own stack and firewall decide.
    LeaveToHost,
    /// It is answered with an ICMP port-unreachable.
    Reject,
}

/// The verdict on a packet from one place to another.
///
/// The table is what libvirt's firewall rules do, measured; connections that those let out but
/// whose replies they refuse are rejected at once. Except where a connection is masqueraded, what
/// one side may open the other may, too, so that replies need no state.
#[inline]
#[must_use]
pub const fn verdict(
    source: Place,
    destination: Place,
    family: Family,
    connection: Connection,
) -> Verdict {
    match connection {
        Connection::New => opening(source, destination, family),
        Connection::Reply => match opening(destination, source, family) {
            Verdict::Masquerade => Verdict::Accept,
            verdict => verdict,
        },
    }
}

#[inline]
const fn opening(source: Place, destination: Place, family: Family) -> Verdict {
    let (source_mode, source_slot, source_bound, source_isolated) = match source {
        Place::Host => return Verdict::Accept,
        Place::Outside { ifindex } => return from_outside(ifindex, destination, family),
        Place::Network { slot, modes, forward_ifindex, isolated_ports } => {
            (modes.of(family), slot, forward_ifindex, isolated_ports)
        }
    };
    let out = match source_mode {
        Mode::Nat => Verdict::Masquerade,
        Mode::Route => Verdict::Accept,
        Mode::Open => Verdict::LeaveToHost,
        Mode::Isolated | Mode::Bridged => Verdict::Reject,
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
        Place::Network { slot, modes, forward_ifindex, .. } => {
            if slot == source_slot {
                return match source_mode {
                    _ if source_isolated => Verdict::Reject,
                    Mode::Open => Verdict::LeaveToHost,
                    _ => Verdict::Accept,
                };
            }
            // A network bound to an uplink talks to that uplink only, in both directions.
            if source_bound != 0 || forward_ifindex != 0 {
                return Verdict::Reject;
            }
            match (modes.of(family), out) {
                (Mode::Open, Verdict::Accept) => Verdict::LeaveToHost,
                (Mode::Route | Mode::Open, out) => out,
                _ => Verdict::Reject,
            }
        }
    }
}

#[inline]
const fn from_outside(ifindex: u32, destination: Place, family: Family) -> Verdict {
    match destination {
        Place::Host | Place::Outside { .. } => Verdict::Accept,
        Place::Network { modes, forward_ifindex, .. } => match modes.of(family) {
            Mode::Open => Verdict::LeaveToHost,
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
        with_modes(slot, Modes::both(mode), forward_ifindex)
    }

    const fn with_modes(slot: u16, modes: Modes, forward_ifindex: u32) -> Place {
        Place::Network { slot, modes, forward_ifindex, isolated_ports: false }
    }

    /// Rows and columns of the table: nat, nat dev=X, route, route dev=X, isolated, open, outside X,
    /// outside Y, host; sources and destinations are different networks.
    const fn places(first_slot: u16) -> [Place; 9] {
        [
            network(first_slot, Mode::Nat, 0),
            network(first_slot + 1, Mode::Nat, X),
            network(first_slot + 2, Mode::Route, 0),
            network(first_slot + 3, Mode::Route, X),
            network(first_slot + 4, Mode::Isolated, 0),
            network(first_slot + 5, Mode::Open, 0),
            Place::Outside { ifindex: X },
            Place::Outside { ifindex: Y },
            Place::Host,
        ]
    }

    /// A accept, M masquerade, L leave to the host, R reject.
    const TABLE: [&str; 9] = [
        "R R M R R M M M A",
        "R R R R R R M R A",
        "R R A R R L A A A",
        "R R R R R R A R A",
        "R R R R R R R R A",
        "R R L R R L L L A",
        "R R A A R L A A A",
        "R R A R R L A A A",
        "A A A A A A A A A",
    ];

    const fn letter(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Accept => "A",
            Verdict::Masquerade => "M",
            Verdict::LeaveToHost => "L",
            Verdict::Reject => "R",
        }
    }

    fn assert_table(
        family: Family,
        sources: [Place; 9],
        destinations: [Place; 9],
        table: [&str; 9],
    ) {
        for (source, row) in sources.into_iter().zip(table) {
            for (destination, cell) in destinations.into_iter().zip(row.split(' ')) {
                let found = letter(verdict(source, destination, family, Connection::New));
                assert_eq!(found, cell, "{source:?} to {destination:?}");
                // The reply goes the other way.
                let reply = letter(verdict(destination, source, family, Connection::Reply));
                assert_eq!(reply, if cell == "M" { "A" } else { cell }, "reply to {source:?}");
            }
        }
    }

    #[test]
    fn every_cell_is_as_the_table_says_for_ipv4_and_for_ipv6_with_nat() {
        for family in [Family::Ipv4, Family::Ipv6] {
            assert_table(family, places(1), places(11), TABLE);
        }
    }

    #[test]
    fn ipv6_of_a_nat_network_without_nat66_is_routed() {
        let plain = |mut places: [Place; 9]| {
            let modes = Modes { ipv4: Mode::Nat, ipv6: Mode::Route };
            for (index, bound) in [(0, 0), (1, X)] {
                let Place::Network { slot, .. } = places[index] else { unreachable!() };
                places[index] = with_modes(slot, modes, bound);
            }
            places
        };
        let mut table = TABLE;
        table[0] = "A R A R R L A A A";
        table[1] = "R R R R R R A R A";
        table[2] = "A R A R R L A A A";
        table[5] = "L R L R R L L L A";
        table[6] = "A A A A R L A A A";
        table[7] = "A R A R R L A A A";
        assert_table(Family::Ipv6, plain(places(1)), plain(places(11)), table);
        assert_table(Family::Ipv4, plain(places(1)), plain(places(11)), TABLE);
    }

    #[test]
    fn what_is_not_masqueraded_may_be_opened_from_both_sides() {
        let guests_and_outside = 0..8;
        for (row, source) in places(1).into_iter().enumerate().take(8) {
            for column in guests_and_outside.clone() {
                let destination = places(11)[column];
                let there = verdict(source, destination, Family::Ipv4, Connection::New);
                let back =
                    verdict(places(11)[column], places(1)[row], Family::Ipv4, Connection::New);
                if there != Verdict::Masquerade && back != Verdict::Masquerade {
                    assert_eq!(there, back, "{source:?} and {destination:?}");
                }
            }
        }
    }

    #[test]
    fn two_subnets_of_one_network_are_not_masqueraded() {
        for mode in [Mode::Nat, Mode::Route, Mode::Isolated] {
            for bound in [0, X] {
                let place = network(1, mode, bound);
                let found = verdict(place, place, Family::Ipv4, Connection::New);
                assert_eq!(found, Verdict::Accept);
            }
        }
        let open = network(1, Mode::Open, 0);
        assert_eq!(verdict(open, open, Family::Ipv6, Connection::New), Verdict::LeaveToHost);
    }

    #[test]
    fn guests_behind_isolated_ports_do_not_reach_each_other_by_way_of_the_host() {
        for mode in [Mode::Nat, Mode::Route, Mode::Isolated, Mode::Open] {
            let modes = Modes::both(mode);
            let place = Place::Network { slot: 1, modes, forward_ifindex: 0, isolated_ports: true };
            for connection in [Connection::New, Connection::Reply] {
                assert_eq!(verdict(place, place, Family::Ipv4, connection), Verdict::Reject);
            }
            let to_host = verdict(place, Place::Host, Family::Ipv4, Connection::New);
            assert_eq!(to_host, Verdict::Accept);
        }
    }

    #[test]
    fn an_unknown_mode_is_isolated() {
        assert_eq!(Mode::from_byte(77), Mode::Isolated);
        for mode in [Mode::Isolated, Mode::Nat, Mode::Route, Mode::Open, Mode::Bridged] {
            assert_eq!(Mode::from_byte(mode as u8), mode);
        }
    }
}
