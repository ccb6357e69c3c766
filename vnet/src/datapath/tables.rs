//! Filling the programs' maps.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, LpmTrie, MapError, lpm_trie::Key};
use vnet_common::{
    flow::ExternalPort,
    forward::{FORWARD_KEY_BYTES, Forward, ForwardKey},
    names,
    network::{Config, Network, Subnet, Uplink},
    port_map::{PortMap, RESERVED_PORTS},
};

use super::{Datapath, DatapathError};
use crate::plan::Tables;

impl Datapath {
    /// Makes the maps say what the tables say, then starts a new epoch, in which every flow is
    /// judged anew. After a failure the maps may say some of both; the next call mends that.
    pub fn write(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let mut old = std::mem::take(&mut self.tables);
        let written = self.write_maps(&old, tables);
        self.tables_are_certain = written.is_ok();
        if written.is_ok() {
            self.tables = tables.clone();
        } else {
            old.extend(tables);
            self.tables = old;
        }
        if let Some(host_ports) = tables.host_ports {
            self.config.host_ports = host_ports;
        }
        // Also after a failure: what has changed so far holds for flows, too.
        let begun = self.next_epoch();
        written.and(begun)
    }

    fn write_maps(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        self.write_networks(old, new)?;
        self.write_subnets(old, new)?;
        self.write_uplinks(old, new)?;
        self.write_forwards(old, new)?;
        self.write_reserved_ports(old, new)?;
        self.forget_port_maps(old, new)
    }

    fn write_reserved_ports(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        if self.tables_are_certain && old.reserved_ports == new.reserved_ports {
            return Ok(());
        }
        let mut ports = Box::new(PortMap::EMPTY);
        new.reserved_ports.iter().cloned().flatten().for_each(|port| ports.take(port));
        let mut map: Array<_, PortMap> = self.map(names::map::RESERVED_PORTS)?;
        map.set(RESERVED_PORTS, *ports, 0).map_err(failed(names::map::RESERVED_PORTS))
    }

    /// Removes the maps of taken ports that are of no use any more: of addresses that are gone, and where
    /// forwards are gone, whose ports count as taken there; all, if other ports are reserved. Who holds a port is said by another table, so
    /// that a new map costs a few steps and nothing else.
    fn forget_port_maps(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        let are_stale = !self.tables_are_certain || old.reserved_ports != new.reserved_ports;
        if (&old.networks, &old.uplinks, &old.forwards)
            == (&new.networks, &new.uplinks, &new.forwards)
            && !are_stale
        {
            return Ok(());
        }
        let gone = old.forwards.keys().filter(|key| !new.forwards.contains_key(*key));
        let gone: BTreeSet<_> = gone
            .map(|(_, key)| bytemuck::cast::<_, ForwardKey>(*key))
            .map(|key| (key.external.to_wire(), key.protocol))
            .collect();
        let mut port_maps: HashMap<_, ExternalPort, PortMap> = self.map(names::map::PORT_MAPS)?;
        let keys: Vec<_> = port_maps.keys().filter_map(Result::ok).collect();
        for key in keys {
            let forgotten = are_stale || gone.contains(&(key.external.to_wire(), key.protocol));
            if !forgotten && new.masquerades_to(key.external) {
                continue;
            }
            match port_maps.remove(&key) {
                Err(error) if !is_absent(&error) => {
                    return Err(failed(names::map::PORT_MAPS)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a new epoch: something outside of the maps has changed, such as a route.
    pub fn next_epoch(&mut self) -> Result<(), DatapathError> {
        // Zero is no epoch.
        self.config.epoch = self.config.epoch.checked_add(1).unwrap_or(1);
        self.write_config()
    }

    pub(super) fn write_config(&mut self) -> Result<(), DatapathError> {
        let config = self.config;
        let mut map: Array<_, Config> = self.map(names::map::CONFIG)?;
        map.set(0, config, 0).map_err(failed(names::map::CONFIG))
    }

    fn write_networks(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        let certain = self.tables_are_certain;
        let mut networks: Array<_, Network> = self.map(names::map::NETWORKS)?;
        replace(
            certain,
            &old.networks,
            &new.networks,
            &mut networks,
            |networks, slot, network| networks.set(*slot, network, 0),
            // Slots that no bridge and no subnet names any more are never read.
            |_, _| Ok(()),
        )
        .map_err(failed(names::map::NETWORKS))?;
        let mut bridges: HashMap<_, u32, u32> = self.map(names::map::BRIDGES)?;
        replace(
            certain,
            &old.bridges,
            &new.bridges,
            &mut bridges,
            |bridges, bridge, slot| bridges.insert(bridge, slot, 0),
            HashMap::remove,
        )
        .map_err(failed(names::map::BRIDGES))
    }

    fn write_subnets(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        let certain = self.tables_are_certain;
        let mut subnets: LpmTrie<_, [u8; 16], Subnet> = self.map(names::map::SUBNETS)?;
        replace(
            certain,
            &old.subnets,
            &new.subnets,
            &mut subnets,
            |subnets, (length, prefix), subnet| {
                subnets.insert(&Key::new(*length, *prefix), subnet, 0)
            },
            |subnets, (length, prefix)| subnets.remove(&Key::new(*length, *prefix)),
        )
        .map_err(failed(names::map::SUBNETS))
    }

    fn write_uplinks(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        let certain = self.tables_are_certain;
        let mut uplinks: HashMap<_, u32, Uplink> = self.map(names::map::UPLINKS)?;
        replace(
            certain,
            &old.uplinks,
            &new.uplinks,
            &mut uplinks,
            |uplinks, ifindex, uplink| uplinks.insert(ifindex, uplink, 0),
            HashMap::remove,
        )
        .map_err(failed(names::map::UPLINKS))
    }

    fn write_forwards(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        let certain = self.tables_are_certain;
        let mut forwards: LpmTrie<_, [u8; FORWARD_KEY_BYTES], Forward> =
            self.map(names::map::FORWARDS)?;
        replace(
            certain,
            &old.forwards,
            &new.forwards,
            &mut forwards,
            |forwards, (length, prefix), forward| {
                forwards.insert(&Key::new(*length, *prefix), forward, 0)
            },
            |forwards, (length, prefix)| forwards.remove(&Key::new(*length, *prefix)),
        )
        .map_err(failed(names::map::FORWARDS))
    }

    pub(super) fn map<'a, T>(&'a mut self, name: &'static str) -> Result<T, DatapathError>
    where
        T: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
    {
        let map = self.ebpf.map_mut(name).ok_or(DatapathError::Missing(name))?;
        T::try_from(map).map_err(failed(name))
    }
}

pub(super) fn failed(map: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source }
}

/// Writes what is new or another value, then removes what is gone. If it is not certain that the
/// map says what `old` says, everything is written, and what is to be removed may be absent.
fn replace<M, K: Ord, V: PartialEq>(
    certain: bool,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    map: &mut M,
    insert: impl Fn(&mut M, &K, &V) -> Result<(), MapError>,
    remove: impl Fn(&mut M, &K) -> Result<(), MapError>,
) -> Result<(), MapError> {
    for (key, value) in new.iter().filter(|(key, value)| !certain || old.get(key) != Some(value)) {
        insert(map, key, value)?;
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        match remove(map, key) {
            Err(error) if certain || !is_absent(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Map = BTreeMap<u32, u32>;

    fn write(certain: bool, old: &Map, new: &Map, map: &mut Map, room: usize) -> bool {
        let insert = |map: &mut Map, key: &u32, value: &u32| {
            if map.len() >= room && !map.contains_key(key) {
                return Err(MapError::OutOfBounds { index: *key, max_entries: 0 });
            }
            map.insert(*key, *value);
            Ok(())
        };
        let remove =
            |map: &mut Map, key: &u32| map.remove(key).map(drop).ok_or(MapError::KeyNotFound);
        replace(certain, old, new, map, insert, remove).is_ok()
    }

    #[test]
    fn map_is_mended_after_a_write_that_failed_half_way() {
        let old = Map::from([(1, 10), (2, 20)]);
        let mut map = old.clone();
        let mut failed = Map::from([(1, 11), (3, 30), (4, 40)]);
        assert!(!write(true, &old, &failed, &mut map, 3));
        assert_eq!(map, Map::from([(1, 11), (2, 20), (3, 30)]));

        let new = Map::from([(1, 10), (2, 20)]);
        failed.extend(old);
        assert!(write(false, &failed, &new, &mut map, 3));
        assert_eq!(map, new);
    }

    #[test]
    fn only_what_has_changed_is_written() {
        let old = Map::from([(1, 10), (2, 20), (3, 30)]);
        let new = Map::from([(1, 10), (2, 21), (4, 40)]);
        let mut calls = Vec::new();
        let insert = |calls: &mut Vec<(u32, Option<u32>)>, key: &u32, value: &u32| {
            calls.push((*key, Some(*value)));
            Ok(())
        };
        let remove = |calls: &mut Vec<(u32, Option<u32>)>, key: &u32| {
            calls.push((*key, None));
            Ok(())
        };
        replace(true, &old, &new, &mut calls, insert, remove).unwrap();
        assert_eq!(calls, [(2, Some(21)), (4, Some(40)), (3, None)]);
        calls.clear();
        replace(true, &new, &new, &mut calls, insert, remove).unwrap();
        assert_eq!(calls, []);
    }
}
