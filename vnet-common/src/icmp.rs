//! What ICMP messages are to a NAT.

use crate::family::Family;

/// The kinds that RFC 5508 tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A query, with its identifier in bytes 4 and 5.
    Request,
    /// The answer to one.
    Reply,
    /// About another packet, which it quotes.
    Error,
    /// Neighbour and router discovery and redirects of IPv6, which no router forwards (RFC 4861).
    Neighbour,
    /// Anything else.
    Other,
}

/// The type of a message that tells a sender of a better way (RFC 792; RFC 4861, section 4.5).
#[inline]
#[must_use]
pub const fn redirect(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 5,
        Family::Ipv6 => 137,
    }
}

/// Where a redirect has the address that the better way is for, in bytes from its type on: IPv4 in the
/// header that it quotes, IPv6 in a field of its own.
pub const REDIRECTED_OFFSET: usize = 24;

/// The kind of a message by its type.
#[inline]
#[must_use]
pub const fn kind(family: Family, message_type: u8) -> Kind {
    match family {
        Family::Ipv4 => match message_type {
            // Echo, timestamp, information, address mask (RFC 792, RFC 950).
            8 | 13 | 15 | 17 => Kind::Request,
            0 | 14 | 16 | 18 => Kind::Reply,
            // Unreachable, source quench, time exceeded, parameter problem (RFC 792).
            3 | 4 | 11 | 12 => Kind::Error,
            _ => Kind::Other,
        },
        Family::Ipv6 => match message_type {
            128 => Kind::Request,
            129 => Kind::Reply,
            // Unreachable, too big, time exceeded, parameter problem (RFC 4443).
            1..=4 => Kind::Error,
            133..=137 => Kind::Neighbour,
            _ => Kind::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_the_rfcs() {
        let of = |family, kind_wanted| {
            (0..=u8::MAX).filter(move |number| kind(family, *number) == kind_wanted)
        };
        assert!(of(Family::Ipv4, Kind::Request).eq([8, 13, 15, 17]));
        assert!(of(Family::Ipv4, Kind::Reply).eq([0, 14, 16, 18]));
        assert!(of(Family::Ipv4, Kind::Error).eq([3, 4, 11, 12]));
        assert!(of(Family::Ipv6, Kind::Request).eq([128]));
        assert!(of(Family::Ipv6, Kind::Reply).eq([129]));
        assert!(of(Family::Ipv6, Kind::Error).eq([1, 2, 3, 4]));
        assert!(of(Family::Ipv6, Kind::Neighbour).eq(133..=137));
        assert!(of(Family::Ipv4, Kind::Neighbour).eq([]));
    }
}
