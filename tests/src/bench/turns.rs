//! What was taken of several ways of forwarding, in turns.

use super::{
    report::{Figure, Unit, median},
    site::Forwarding,
};

/// Of each way of forwarding what was taken, in the order in which it was.
pub(super) struct Turns<T> {
    of: Vec<(Forwarding, Vec<T>)>,
}

impl<T> Turns<T> {
    pub fn new(forwardings: &[Forwarding]) -> Self {
        Self { of: forwardings.iter().map(|of| (*of, Vec::new())).collect() }
    }

    pub fn push(&mut self, of: Forwarding, taken: T) {
        match self.of.iter_mut().find(|(other, _)| *other == of) {
            Some((_, all)) => all.push(taken),
            None => self.of.push((of, vec![taken])),
        }
    }

    /// Of each what is known of it.
    pub fn values(&self, of: Forwarding, value: impl Fn(&T) -> f64) -> Vec<f64> {
        let taken = self.of.iter().find(|(other, _)| *other == of);
        taken.map_or_else(Vec::new, |(_, taken)| taken.iter().map(value).collect())
    }

    /// Those of which something was taken.
    pub fn forwardings(&self) -> Vec<Forwarding> {
        self.of.iter().filter(|(_, taken)| !taken.is_empty()).map(|(of, _)| *of).collect()
    }

    /// Those that forward, each beside `nft masquerade`.
    pub fn compared(&self, topic: &str, unit: Unit, value: impl Fn(&T) -> f64) -> Vec<Figure> {
        let forwardings = self.forwardings().into_iter().filter(|of| of.forwards());
        compared(topic, unit, &forwardings.collect::<Vec<_>>(), |of| self.values(of, &value))
    }
}

/// Each beside `nft masquerade`.
pub(super) fn compared(
    topic: &str,
    unit: Unit,
    forwardings: &[Forwarding],
    values: impl Fn(Forwarding) -> Vec<f64>,
) -> Vec<Figure> {
    let baseline = Forwarding::Masquerade;
    let reference = (median(&values(baseline)), baseline.name());
    let figure = |of: &Forwarding| Figure::new((topic, of.name()), unit, values(*of), reference);
    forwardings.iter().map(figure).collect()
}
