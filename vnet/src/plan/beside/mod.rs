//! What of the host is in the networks' way beside their bridges: other routes, other instances, bonds,
//! sockets, ports that the host keeps, and rules of others. But for
//! [`Surroundings`], pure functions of what was read.

mod bonds;
mod collisions;
mod lost_when_down;
mod ports;
mod surroundings;
mod translation;

use std::fmt;

pub use bonds::bonds;
pub use surroundings::Surroundings;

use super::Plan;
use crate::{definition::Network, host::Snapshot};

/// What is in the way, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What it is about: `subnet`, `bond`, `ports`, `sockets` or `masquerade`.
    pub check: &'static str,
    /// The network that it keeps from running; none if it is not one alone.
    pub network: Option<String>,
    /// Whether the definitions cannot run so.
    pub is_fatal: bool,
    /// What was found.
    pub message: String,
    /// A command, or what to do.
    pub mend: String,
}

/// Everything that is in the way of a plan.
#[must_use]
pub fn advice(
    definitions: &[Network],
    plan: &Plan,
    host: &Snapshot,
    around: &Surroundings,
) -> Vec<Advice> {
    let mut advice = collisions::with_routes(plan, host);
    advice.extend(collisions::with_neighbours(plan, &around.neighbours));
    advice.extend(bonds::of_plan(plan, host));
    advice.extend(ports::of_masquerading(definitions, plan, around));
    advice.extend(ports::of_forwards(plan, around));
    let rules = around.rules.iter();
    advice.extend(rules.flat_map(|rules| translation::translations(definitions, rules)));
    advice
}

impl Advice {
    fn fatal(check: &'static str, message: String, mend: impl Into<String>) -> Self {
        Self { check, network: None, is_fatal: true, message, mend: mend.into() }
    }

    fn of(self, network: &str) -> Self {
        Self { network: Some(network.to_owned()), ..self }
    }

    fn warning(check: &'static str, message: String, mend: impl Into<String>) -> Self {
        Self { check, network: None, is_fatal: false, message, mend: mend.into() }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; what mends it: {}", self.message, self.mend)
    }
}
