//! Figures for people and for programs.

use std::fmt;

use serde::Serialize;

use super::{Benchmark, machine::Machine};

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

/// Something that was measured several times, beside its baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured: the head of a table and of a plot.
    pub topic: String,
    /// Of whom: a row, a bar, a line.
    pub subject: String,
    /// Where on a scale, as of how many flows; the name of the scale is the table's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// What its values are counted in.
    pub unit: Unit,
    /// In the order in which they were taken.
    pub values: Vec<f64>,
    /// What it is compared with.
    pub baseline: String,
    /// The median by that of the baseline; 1 for the baseline itself.
    pub ratio: f64,
}

/// A place on a scale.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct At {
    /// How many.
    pub count: f64,
    /// Of what.
    pub of: &'static str,
}

impl Figure {
    /// Compared with a value of the baseline.
    #[must_use]
    pub fn new(
        (topic, subject): (impl Into<String>, impl Into<String>),
        unit: Unit,
        values: Vec<f64>,
        (reference, baseline): (f64, &str),
    ) -> Self {
        let (topic, subject, baseline) = (topic.into(), subject.into(), baseline.to_owned());
        let ratio = median(&values) / reference;
        Self { topic, subject, at: None, unit, values, baseline, ratio }
    }

    /// At a place on a scale.
    #[must_use]
    pub fn at(mut self, count: f64, of: &'static str) -> Self {
        self.at = Some(At { count, of });
        self
    }

    /// The middle value.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// The smallest value and the largest one.
    #[must_use]
    pub fn spread(&self) -> (f64, f64) {
        let fold = |with: fn(f64, f64) -> f64| self.values.iter().copied().reduce(with);
        (fold(f64::min).unwrap_or_default(), fold(f64::max).unwrap_or_default())
    }

    /// The value that it is compared with.
    #[must_use]
    pub fn reference(&self) -> f64 {
        self.median() / self.ratio
    }

    /// The subject, and where on the scale.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.at {
            None => self.subject.clone(),
            Some(At { count, of }) => format!("{}, {} {of}", self.subject, grouped(*count)),
        }
    }
}

/// What one benchmark has measured.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Which.
    #[serde(serialize_with = "by_id")]
    pub benchmark: Benchmark,
    /// In the order in which they are told.
    pub figures: Vec<Figure>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

impl Measured {
    /// The figures of each topic, in their order.
    #[must_use]
    pub fn topics(&self) -> Vec<(&str, Vec<&Figure>)> {
        let mut topics: Vec<(&str, Vec<&Figure>)> = Vec::new();
        for figure in &self.figures {
            match topics.iter_mut().find(|(topic, _)| *topic == figure.topic) {
                Some((_, figures)) => figures.push(figure),
                None => topics.push((&figure.topic, vec![figure])),
            }
        }
        topics
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn by_id<S: serde::Serializer>(benchmark: &Benchmark, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(benchmark.id())
}

/// What a run has measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(super) machine: Machine,
    /// How often each figure was taken.
    pub(super) rounds: usize,
    pub(super) benchmarks: Vec<Measured>,
}

impl Report {
    /// Of this machine, which was looked at before the first figure was taken.
    #[must_use]
    pub fn of(machine: Machine, rounds: usize, benchmarks: Vec<Measured>) -> Self {
        Self { machine, rounds, benchmarks }
    }
}

/// The middle value, or the mean of the two in the middle; 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that a share of the others is below, between the two nearest; 0 of none.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place among values that are in memory"
)]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (low, rest) = (sorted[place as usize], place.fract());
    let high = sorted[(place.ceil() as usize).min(last)];
    low + (high - low) * rest
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}; {}", self.machine, rounds(self.rounds))?;
        for measured in &self.benchmarks {
            for (topic, figures) in measured.topics() {
                writeln!(formatter, "\n{}: {topic}", measured.benchmark.id())?;
                let width = figures.iter().map(|figure| figure.name().len()).max().unwrap_or(0);
                for figure in figures {
                    let (smallest, largest) = figure.spread();
                    writeln!(
                        formatter,
                        "  {:width$}  {:>11}  {:>23}  {:>7.2}  {}",
                        figure.name(),
                        figure.unit.text(figure.median()),
                        format!("{} to {}", figure.unit.text(smallest), figure.unit.text(largest)),
                        figure.ratio,
                        figure.baseline,
                    )?;
                }
            }
            for note in &measured.notes {
                writeln!(formatter, "\n{}: {note}", measured.benchmark.id())?;
            }
        }
        Ok(())
    }
}

/// How often figures were taken.
pub(super) fn rounds(count: usize) -> String {
    if count == 1 { "1 round".to_owned() } else { format!("medians of {count} rounds") }
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
    if value < 1e6 { format!("{:.0} k", value / 1e3) } else { format!("{:.2} M", value / 1e6) }
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
    fn median_is_in_the_middle() {
        let cases: [(&[f64], f64); 3] =
            [(&[], 0.0), (&[3.0, 1.0, 2.0], 2.0), (&[4.0, 1.0, 3.0, 2.0], 2.5)];
        for (values, middle) in cases {
            assert!((median(values) - middle).abs() < f64::EPSILON, "{values:?}");
        }
    }

    #[test]
    fn quantile_is_between_its_neighbours() {
        let values: Vec<f64> = (0..=1000).map(f64::from).collect();
        assert!((quantile(&values, 0.999) - 999.0).abs() < 1e-9);
        assert!((quantile(&[1.0, 2.0], 0.75) - 1.75).abs() < 1e-9);
    }

    #[test]
    fn values_have_their_unit() {
        assert_eq!(Unit::Seconds.text(0.0362), "36.2 ms");
        assert_eq!(Unit::Seconds.text(44.0), "44.00 s");
        assert_eq!(Unit::Nanoseconds.text(512.4), "512 ns");
        assert_eq!(Unit::Nanoseconds.text(51_240.0), "51.2 µs");
        assert_eq!(Unit::PacketsPerSecond.text(1_234_567.0), "1.23 M packets/s");
        assert_eq!(Unit::BitsPerSecond.text(12.34e9), "12.3 Gbit/s");
    }

    #[test]
    fn numbers_have_commas() {
        let texts = [1.0, 100.0, 1024.0, 1_048_576.0].map(grouped);
        assert_eq!(texts, ["1", "100", "1,024", "1,048,576"]);
    }

    #[test]
    fn a_figure_knows_its_spread_and_its_reference() {
        let figure =
            Figure::new(("a", "b"), Unit::Nanoseconds, vec![3.0, 9.0, 6.0], (12.0, "of c"));
        assert!((figure.ratio - 0.5).abs() < 1e-9);
        assert!((figure.reference() - 12.0).abs() < 1e-9);
        assert_eq!(figure.spread(), (3.0, 9.0));
    }
}
