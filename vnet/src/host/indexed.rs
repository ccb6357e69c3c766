//! Lists that are looked up by what their entries are known by, so that a host with thousands of
//! interfaces is planned for in one pass.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::OnceLock,
};

use super::{InterfaceAddress, Link};

/// An entry of a table of the host.
pub trait Entry {
    /// Its number: of a link its own, of an address its interface's.
    fn number(&self) -> u32;
    /// The number of what it belongs to.
    fn owner(&self) -> Option<u32> {
        None
    }
    /// Its name.
    fn name(&self) -> Option<&str> {
        None
    }
}

/// A list of entries. Whatever changes it makes its index out of date, which the next look-up makes
/// anew.
#[derive(Debug, Clone)]
pub struct Indexed<T> {
    list: Vec<T>,
    index: OnceLock<Index>,
}

#[derive(Debug, Clone, Default)]
struct Index {
    numbers: HashMap<u32, Vec<usize>>,
    owners: HashMap<u32, Vec<usize>>,
    names: HashMap<String, usize>,
}

impl<T: Entry> Indexed<T> {
    /// The entries with a number, in the order of the list.
    pub fn numbered(&self, number: u32) -> impl Iterator<Item = &T> {
        self.at(self.index().numbers.get(&number))
    }

    /// The entries that belong to a number, in the order of the list.
    pub fn owned_by(&self, owner: u32) -> impl Iterator<Item = &T> {
        self.at(self.index().owners.get(&owner))
    }

    /// The first entry with a name.
    pub fn named(&self, name: &str) -> Option<&T> {
        self.index().names.get(name).and_then(|at| self.list.get(*at))
    }

    fn at<'a>(&'a self, places: Option<&'a Vec<usize>>) -> impl Iterator<Item = &'a T> {
        places.into_iter().flatten().filter_map(|at| self.list.get(*at))
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| {
            let mut index = Index::default();
            for (at, entry) in self.list.iter().enumerate() {
                index.numbers.entry(entry.number()).or_default().push(at);
                if let Some(owner) = entry.owner() {
                    index.owners.entry(owner).or_default().push(at);
                }
                if let Some(name) = entry.name() {
                    index.names.entry(name.to_owned()).or_insert(at);
                }
            }
            index
        })
    }
}

impl<T> Deref for Indexed<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.list
    }
}

impl<T> DerefMut for Indexed<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        self.index.take();
        &mut self.list
    }
}

impl<T> Default for Indexed<T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T> From<Vec<T>> for Indexed<T> {
    fn from(list: Vec<T>) -> Self {
        Self { list, index: OnceLock::new() }
    }
}

impl<T> From<Indexed<T>> for Vec<T> {
    fn from(indexed: Indexed<T>) -> Self {
        indexed.list
    }
}

impl<T: PartialEq> PartialEq for Indexed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl<T: Eq> Eq for Indexed<T> {}

impl Entry for Link {
    fn number(&self) -> u32 {
        self.index
    }

    fn owner(&self) -> Option<u32> {
        self.master
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Entry for InterfaceAddress {
    fn number(&self) -> u32 {
        self.interface
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Thing(u32, &'static str, Option<u32>);

    impl Entry for Thing {
        fn number(&self) -> u32 {
            self.0
        }

        fn owner(&self) -> Option<u32> {
            self.2
        }

        fn name(&self) -> Option<&str> {
            Some(self.1)
        }
    }

    #[test]
    fn look_ups_see_every_change_of_the_list() {
        let mut things = Indexed::from(vec![Thing(1, "a", None), Thing(2, "b", Some(1))]);
        assert_eq!(things.named("b"), Some(&Thing(2, "b", Some(1))));
        assert_eq!(things.owned_by(1).count(), 1);
        things.push(Thing(3, "c", Some(1)));
        things[1].1 = "d";
        assert_eq!(things.named("b"), None);
        assert_eq!(things.owned_by(1).map(|thing| thing.1).collect::<Vec<_>>(), ["d", "c"]);
        things.retain(|thing| thing.0 != 2);
        assert_eq!(things.numbered(2).count(), 0);
        assert_eq!(things.numbered(3).collect::<Vec<_>>(), [&Thing(3, "c", Some(1))]);
    }
}
