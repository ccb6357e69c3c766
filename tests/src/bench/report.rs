//! Figures for people and for programs.

use std::fmt;

use serde::Serialize;

pub use super::unit::Unit;
use super::{Benchmark, machine::Machine, unit::grouped};

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
    /// The median by that of the baseline, or the median of `ratios`; 1 for the baseline itself.
    pub ratio: f64,
    /// Each value by that of the baseline which was taken in turns with it, if they were taken so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ratios: Vec<f64>,
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
        Self { topic, subject, at: None, unit, values, baseline, ratio, ratios: Vec::new() }
    }

    /// Compared with the values of the baseline that were taken in turns with its own.
    #[must_use]
    pub fn paired(
        name: (impl Into<String>, impl Into<String>),
        unit: Unit,
        pairs: &[(f64, f64)],
        baseline: &str,
    ) -> Self {
        let values = pairs.iter().map(|(value, _)| *value).collect();
        let ratios: Vec<f64> = pairs.iter().map(|(value, baseline)| value / baseline).collect();
        let figure = Self::new(name, unit, values, (1.0, baseline));
        Self { ratio: median(&ratios), ratios, ..figure }
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
        spread(&self.values)
    }

    /// The ratio, and the smallest and the largest one if there are several.
    #[must_use]
    pub fn ratio_text(&self) -> String {
        let (smallest, largest) = spread(&self.ratios);
        if self.ratios.is_empty() {
            format!("{:.2}", self.ratio)
        } else {
            format!("{:.2} ({smallest:.2} to {largest:.2})", self.ratio)
        }
    }

    /// The smallest value and the largest one, with their unit.
    #[must_use]
    pub fn spread_text(&self) -> String {
        let (smallest, largest) = self.spread();
        format!("{} to {}", self.unit.text(smallest), self.unit.text(largest))
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
    /// What vnet was told: a subject of figures, or of all, and its arguments.
    pub settings: Vec<(&'static str, String)>,
    /// In the order in which they are told.
    pub figures: Vec<Figure>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

/// The figures under one head.
#[derive(Debug)]
pub struct Topic<'a> {
    /// The head.
    pub name: &'a str,
    /// In their order.
    pub figures: Vec<&'a Figure>,
}

impl Measured {
    /// The topics of the figures, in their order.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic<'_>> {
        let mut topics: Vec<Topic<'_>> = Vec::new();
        for figure in &self.figures {
            match topics.iter_mut().find(|topic| topic.name == figure.topic) {
                Some(topic) => topic.figures.push(figure),
                None => topics.push(Topic { name: &figure.topic, figures: vec![figure] }),
            }
        }
        topics
    }
}

impl<'a> Topic<'a> {
    /// Whether the figures have places on a scale.
    #[must_use]
    pub fn is_scale(&self) -> bool {
        self.figures.iter().all(|figure| figure.at.is_some())
    }

    /// Those whom the figures are of, each once, in their order.
    #[must_use]
    pub fn subjects(&self) -> Vec<&'a str> {
        each_once(self.figures.iter().map(|figure| &*figure.subject))
    }

    /// The places on the scale, each once, in their order.
    #[must_use]
    pub fn places(&self) -> Vec<&'a At> {
        each_once(self.figures.iter().filter_map(|figure| figure.at.as_ref()))
    }
}

fn each_once<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
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

    /// The machine, and how often figures were taken.
    pub(super) fn circumstances(&self) -> String {
        let rounds = match self.rounds {
            1 => "1 round".to_owned(),
            count => format!("medians of {count} rounds"),
        };
        format!("{}; {rounds}", self.machine)
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

fn spread(values: &[f64]) -> (f64, f64) {
    let fold = |with: fn(f64, f64) -> f64| values.iter().copied().reduce(with);
    (fold(f64::min).unwrap_or_default(), fold(f64::max).unwrap_or_default())
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.circumstances())?;
        for measured in &self.benchmarks {
            let id = measured.benchmark.id();
            writeln!(formatter)?;
            for (subject, arguments) in &measured.settings {
                writeln!(formatter, "{id}: {subject}: {arguments}")?;
            }
            for Topic { name, figures } in measured.topics() {
                writeln!(formatter, "\n{id}: {name}")?;
                let width = figures.iter().map(|figure| figure.name().len()).max().unwrap_or(0);
                for figure in figures {
                    writeln!(
                        formatter,
                        "  {:width$}  {:>11}  {:>23}  {:>20}  {}",
                        figure.name(),
                        figure.unit.text(figure.median()),
                        figure.spread_text(),
                        figure.ratio_text(),
                        figure.baseline,
                    )?;
                }
            }
            for note in &measured.notes {
                writeln!(formatter, "\n{id}: {note}")?;
            }
        }
        Ok(())
    }
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
    fn a_figure_knows_its_spread_and_its_reference() {
        let figure =
            Figure::new(("a", "b"), Unit::Nanoseconds, vec![3.0, 9.0, 6.0], (12.0, "of c"));
        assert!((figure.ratio - 0.5).abs() < 1e-9);
        assert!((figure.reference() - 12.0).abs() < 1e-9);
        assert_eq!(figure.spread(), (3.0, 9.0));
    }

    #[test]
    fn ratios_of_pairs_are_taken_one_by_one() {
        let pairs = [(20.0, 10.0), (90.0, 30.0), (40.0, 10.0)];
        let figure = Figure::paired(("a", "b"), Unit::Nanoseconds, &pairs, "of c");
        assert_eq!(figure.ratios, [2.0, 3.0, 4.0]);
        assert_eq!(figure.ratio_text(), "3.00 (2.00 to 4.00)");
        assert_eq!(figure.spread_text(), "20 ns to 90 ns");
    }
}
