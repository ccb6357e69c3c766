//! IP protocols by name.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// An IP protocol number, written as its name in IANA's registry in small letters if it is one that
/// guests use, else as the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol(pub u8);

/// A word that names no protocol.
#[derive(Debug, thiserror::Error)]
#[error("a protocol is `tcp`, `udp`, `icmp`, another name as in /etc/protocols, or a number")]
pub struct InvalidProtocol;

const NAMES: [(u8, &str); 12] = [
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipip"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (132, "sctp"),
    (136, "udplite"),
];

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => formatter.pad(name),
            None => self.0.fmt(formatter),
        }
    }
}

impl FromStr for Protocol {
    type Err = InvalidProtocol;

    fn from_str(text: &str) -> Result<Self, InvalidProtocol> {
        // /etc/protocols has this alias, and everybody says it.
        let text = if text.eq_ignore_ascii_case("icmpv6") { "ipv6-icmp" } else { text };
        let named = NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        match named {
            Some((number, _)) => Ok(Self(*number)),
            None => text.parse().map(Self).map_err(|_| InvalidProtocol),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_and_written() {
        for (text, number) in [
            ("tcp", 6),
            ("UDP", 17),
            ("47", 47),
            ("gre", 47),
            ("ipv6-icmp", 58),
            ("ICMPv6", 58),
            ("253", 253),
        ] {
            assert_eq!(text.parse::<Protocol>().unwrap(), Protocol(number));
        }
        assert_eq!(Protocol(6).to_string(), "tcp");
        assert_eq!(Protocol(253).to_string(), "253");
        for bad in ["", "256", "tpc", "-1"] {
            assert!(bad.parse::<Protocol>().is_err(), "{bad}");
        }
    }
}
