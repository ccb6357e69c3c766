//! What runs already goes on where the host does not allow it any more: a host that changes must take no
//! network down, nor keep others from changing.

use std::collections::BTreeSet;

use super::{prepare::networks_of, standing::Former, startup::Running};
use crate::{
    definition::{self, Difference, Network},
    plan::Problem,
};

/// What runs already, as it was told.
#[derive(Debug, Clone)]
pub(super) struct InForce {
    pub definitions: Vec<Network>,
    pub uplinks: Vec<String>,
}

impl InForce {
    /// What the next process finds; none if it cannot be taken over.
    pub(super) fn of_former(former: Option<&Former>) -> Option<Self> {
        let told = former?.told.as_ref()?;
        let definitions = networks_of(Some(told));
        Some(Self { definitions, uplinks: told.settings.uplinks.clone() })
    }

    pub(super) fn of_running(running: &Running) -> Self {
        let definitions = running.definitions.clone();
        Self { definitions, uplinks: running.told.settings.uplinks.clone() }
    }

    /// Of the problems of definitions those that what runs does not have as it is, and the others.
    /// `own` are the problems of what runs.
    pub(super) fn part(
        &self,
        definitions: &[Network],
        problems: Vec<Problem>,
        own: &[Problem],
    ) -> (Vec<Problem>, Vec<Problem>) {
        let differences = definition::differences(&self.definitions, definitions);
        let different: BTreeSet<&str> = differences.iter().filter_map(name_of).collect();
        let is_same = |problem: &Problem| {
            problem.network().is_none_or(|network| !different.contains(network))
        };
        problems.into_iter().partition(|problem| !own.contains(problem) || !is_same(problem))
    }
}

fn name_of(difference: &Difference) -> Option<&str> {
    match difference {
        Difference::Added { name, .. }
        | Difference::Removed { name }
        | Difference::Changed { name, .. } => Some(name),
        Difference::Settings { .. } => None,
    }
}
