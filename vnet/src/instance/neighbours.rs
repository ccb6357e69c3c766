//! The other instances of a host.

use std::fs;

use super::{Name, RUNTIME_ROOT, State, journal, namespace};

/// What the instances but this one run in the calling thread's network namespace, whether or not their
/// daemons live. What cannot be read is left out: it is somebody else's.
#[must_use]
pub fn neighbours(own: Option<&Name>) -> Vec<State> {
    let Ok(here) = namespace::current() else { return Vec::new() };
    let entries = fs::read_dir(RUNTIME_ROOT).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<Name>().ok());
    let others = names.filter(|name| own != Some(name));
    let is_here = |name: &Name| {
        journal::read(name)
            .is_ok_and(|entries| entries.owner.is_some_and(|owner| owner.namespace == here))
    };
    let mut states: Vec<State> =
        others.filter(is_here).filter_map(|name| State::read(&name).ok().flatten()).collect();
    states.sort_by(|one, other| one.instance.cmp(&other.instance));
    states
}
