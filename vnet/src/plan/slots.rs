//! Which slot of the tables a network has.

use std::collections::{BTreeMap, BTreeSet};

use vnet_common::limits;

/// Slots by networks' names. Flows and counters know their network by its slot, so that a network keeps it
/// for as long as it is there, whatever becomes of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(BTreeMap<String, u16>);

impl Slots {
    /// Slots that networks have.
    pub fn of<'a>(networks: impl IntoIterator<Item = (&'a str, u16)>) -> Self {
        Self(networks.into_iter().map(|(name, slot)| (name.to_owned(), slot)).collect())
    }

    /// The slots in which other networks have other ones' places.
    #[must_use]
    pub fn taken_anew_by(&self, next: &Self) -> Vec<u16> {
        let is_new = |(name, slot): &(&String, &u16)| self.0.get(*name) != Some(*slot);
        next.0.iter().filter(is_new).map(|(_, slot)| *slot).collect()
    }

    /// A slot for each network: the one that it has, else the lowest that none has, and only when all
    /// have been taken one of a network that is going.
    pub(super) fn assign(&self, names: &[&str]) -> Vec<u16> {
        let kept = |name: &&str| self.0.get(*name).copied();
        let stays: BTreeSet<u16> = names.iter().filter_map(kept).collect();
        let had: BTreeSet<u16> = self.0.values().copied().collect();
        let never_had = (1..).filter(|slot| !had.contains(slot));
        let of_those_going =
            self.0.values().copied().filter(|slot| !stays.contains(slot)).collect::<Vec<_>>();
        let room = never_had.take_while(|slot| u32::from(*slot) < limits::NETWORKS);
        // More networks than there is room for are refused by their number.
        let beyond = limits::NETWORKS as u16..;
        let mut free = room.chain(of_those_going).chain(beyond);
        names.iter().map(|name| kept(name).or_else(|| free.next()).unwrap_or(u16::MAX)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_keep_their_slots_and_new_ones_get_unused_ones() {
        let none = Slots::default();
        assert_eq!(none.assign(&["a", "b", "c"]), [1, 2, 3]);
        let had = Slots::of([("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(had.assign(&["c", "b", "a"]), [3, 2, 1]);
        assert_eq!(had.assign(&["d", "c"]), [4, 3]);
    }

    #[test]
    fn slots_of_networks_that_go_are_given_when_there_are_no_others() {
        let all: Vec<(String, u16)> = (1..1024).map(|slot| (format!("n{slot}"), slot)).collect();
        let had = Slots::of(all.iter().map(|(name, slot)| (name.as_str(), *slot)));
        let mut names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        names[6] = "new";
        let slots = had.assign(&names);
        assert_eq!(slots, (1..1024).collect::<Vec<_>>());
    }
}
