//! Values as people read them.

use serde::Serialize;

/// What values are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Nanoseconds.
    Nanoseconds,
    /// Packets per second.
    PacketsPerSecond,
    /// Connections per second.
    ConnectionsPerSecond,
    /// Bits per second.
    BitsPerSecond,
    /// Nanoseconds of CPU time for a KiB.
    NanosecondsPerKibibyte,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// A value with its unit.
    #[must_use]
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Seconds => time(value * 1e9),
            Self::Nanoseconds => time(value),
            Self::PacketsPerSecond => format!("{} packets/s", scaled(value)),
            Self::ConnectionsPerSecond => format!("{}/s", scaled(value)),
            Self::BitsPerSecond => format!("{:.1} Gbit/s", value / 1e9),
            Self::NanosecondsPerKibibyte => format!("{value:.0} ns/KiB"),
            Self::Bytes if value >= 1e7 => format!("{:.0} MB", value / 1e6),
            Self::Bytes => format!("{value:.0} B"),
        }
    }

    /// Whether a larger value is the better one.
    #[must_use]
    pub const fn larger_is_better(self) -> bool {
        matches!(self, Self::PacketsPerSecond | Self::ConnectionsPerSecond | Self::BitsPerSecond)
    }
}

fn time(nanoseconds: f64) -> String {
    let amount = nanoseconds.abs();
    if amount < 1e4 {
        format!("{nanoseconds:.0} ns")
    } else if amount < 1e6 {
        format!("{:.1} µs", nanoseconds / 1e3)
    } else if amount < 1e9 {
        format!("{:.1} ms", nanoseconds / 1e6)
    } else {
        format!("{:.2} s", nanoseconds / 1e9)
    }
}

fn scaled(value: f64) -> String {
    if value < 1e4 {
        format!("{:.1} k", value / 1e3)
    } else if value < 1e6 {
        format!("{:.0} k", value / 1e3)
    } else {
        format!("{:.2} M", value / 1e6)
    }
}

/// A whole number with commas.
pub(super) fn grouped(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_unit() {
        assert_eq!(Unit::Seconds.text(0.0362), "36.2 ms");
        assert_eq!(Unit::Seconds.text(44.0), "44.00 s");
        assert_eq!(Unit::Nanoseconds.text(512.4), "512 ns");
        assert_eq!(Unit::Nanoseconds.text(51_240.0), "51.2 µs");
        assert_eq!(Unit::PacketsPerSecond.text(1_234_567.0), "1.23 M packets/s");
        assert_eq!(Unit::ConnectionsPerSecond.text(4_321.0), "4.3 k/s");
        assert_eq!(Unit::BitsPerSecond.text(12.34e9), "12.3 Gbit/s");
    }

    #[test]
    fn numbers_have_commas() {
        let texts = [1.0, 100.0, 1024.0, 1_048_576.0].map(grouped);
        assert_eq!(texts, ["1", "100", "1,024", "1,048,576"]);
    }
}
