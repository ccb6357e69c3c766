//! Figures for people and for programs.

use std::fmt;

use serde::Serialize;

use super::machine::Machine;

/// What values are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Nanoseconds.
    Nanoseconds,
    /// Packets per second.
    PacketsPerSecond,
}

/// Something that was measured several times, beside its baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What.
    pub name: String,
    /// What its values are counted in.
    pub unit: Unit,
    /// In the order in which they were taken.
    pub values: Vec<f64>,
    /// What it is compared with.
    pub baseline: String,
    /// The median by that of the baseline; 1 for the baseline itself.
    pub ratio: f64,
}

/// What a run has measured.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    figures: Vec<Figure>,
}

impl Report {
    /// Of this machine.
    #[must_use]
    pub fn of(figures: Vec<Figure>) -> Self {
        Self { machine: Machine::this(), figures }
    }
}

/// The middle value, or the mean of the two in the middle; 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match (sorted.get(upper), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(middle), 1) => *middle,
        (Some(middle), _) => f64::midpoint(sorted[upper - 1], *middle),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}\n", self.machine)?;
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        writeln!(
            formatter,
            "{:width$}  {:>10}  {:>21}  {:>7}",
            "figure", "median", "smallest to largest", "ratio"
        )?;
        for figure in &self.figures {
            let smallest = figure.values.iter().copied().fold(f64::INFINITY, f64::min);
            let largest = figure.values.iter().copied().fold(0.0, f64::max);
            writeln!(
                formatter,
                "{:width$}  {:>10}  {:>21}  {:>7.2}  {}",
                figure.name,
                figure.unit.text(median(&figure.values)),
                format!("{} to {}", figure.unit.text(smallest), figure.unit.text(largest)),
                figure.ratio,
                figure.baseline,
            )?;
        }
        Ok(())
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::Seconds => time(value),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::PacketsPerSecond => format!("{:.0} k/s", value / 1e3),
        }
    }
}

fn time(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
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
    fn times_have_their_unit() {
        assert_eq!(time(0.0362), "36.2 ms");
        assert_eq!(time(44.0), "44.00 s");
    }
}
