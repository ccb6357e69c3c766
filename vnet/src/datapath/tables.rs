//! Filling the programs' tables: what packets do not see yet is written, then shown all at once.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, LpmTrie, MapError, lpm_trie::Key};
use bytemuck::Zeroable as _;
use vnet_common::{
    address::Address,
    flow::ExternalPort,
    forward::{FORWARD_KEY_BYTES, Forward, ForwardKey},
    names,
    network::{
        Config, InterfaceKey, Network, SUBNET_KEY_LEADING_BITS, Subnet, SubnetKey, Uplink,
        generation,
    },
    port_map::{PortMap, RESERVED_PORTS},
};

use super::{Datapath, DatapathError, grace};
use crate::plan::{ForwardPrefix, SubnetPrefix, Tables};

/// What one generation of the tables says.
#[derive(Debug, Default)]
pub(super) struct Generation {
    pub tables: Tables,
    /// Whether a write has failed half way: then they may say less than `tables`.
    is_torn: bool,
    /// Whether no run of a program reads it: it was not shown since the last grace period.
    is_unread: bool,
}

impl Datapath {
    /// Shows packets these tables, all at once, and starts a new epoch, in which every flow is judged
    /// anew. After a failure packets still see what they saw before.
    pub fn write(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let current = generation(self.config.epoch);
        let reserved = reserved_ports(tables);
        let are_others_reserved = self.reserved_ports()? != reserved;
        if self.tables_of(current) == Some(tables) && !are_others_reserved {
            return self.next_epoch();
        }
        let next = 1 - current;
        self.wait_until_unread(next);
        self.write_generation(next, tables)?;
        if are_others_reserved {
            self.write_reserved_ports(&reserved)?;
        }
        let former = self.config;
        if let Some(host_ports) = tables.host_ports {
            self.config.host_ports = host_ports;
        }
        self.config.epoch = next_epoch(former.epoch, next);
        if let Err(error) = self.write_config() {
            self.config = former;
            return Err(error);
        }
        for generation in &mut self.generations {
            generation.is_unread = false;
        }
        // Packets see the tables already; a map that stays only makes some searches longer.
        if let Err(error) = self.forget_port_maps(current, next, are_others_reserved) {
            log::warn!("maps of taken ports are out of date: {error}");
        }
        Ok(())
    }

    /// Makes the generation that packets do not see say the same as the one that they see, so that the
    /// next change writes no more than what it changes. To be called once nobody waits.
    pub fn catch_up(&mut self) -> Result<(), DatapathError> {
        let current = generation(self.config.epoch);
        let Some(tables) = self.tables_of(current).cloned() else { return Ok(()) };
        if self.tables_of(1 - current) == Some(&tables) {
            return Ok(());
        }
        self.wait_until_unread(1 - current);
        self.write_generation(1 - current, &tables)
    }

    /// What packets see; nothing if that is not certain.
    #[must_use]
    pub fn shown(&self) -> Tables {
        self.tables_of(generation(self.config.epoch)).cloned().unwrap_or_default()
    }

    /// Runs that began when a generation was shown last may still read it.
    fn wait_until_unread(&mut self, number: u32) {
        if let Some(generation) = self.generations.get_mut(number as usize)
            && !generation.is_unread
        {
            grace::wait_for_running_programs();
            generation.is_unread = true;
        }
    }

    /// Starts a new epoch: something outside of the tables has changed, such as a route.
    pub fn next_epoch(&mut self) -> Result<(), DatapathError> {
        let epoch = self.config.epoch;
        self.config.epoch = next_epoch(epoch, generation(epoch));
        self.write_config()
    }

    /// What packets see; `None` while nothing is certain.
    fn tables_of(&self, generation: u32) -> Option<&Tables> {
        let generation = self.generations.get(generation as usize)?;
        (!generation.is_torn).then_some(&generation.tables)
    }

    pub(super) fn write_config(&mut self) -> Result<(), DatapathError> {
        let config = self.config;
        let mut map: Array<_, Config> = self.map(names::map::CONFIG)?;
        map.set(0, config, 0).map_err(failed(names::map::CONFIG))
    }

    /// Makes a generation say what the tables say. After a failure it may say some of both; the next
    /// call mends that.
    fn write_generation(&mut self, number: u32, new: &Tables) -> Result<(), DatapathError> {
        let generation = self.generations.get_mut(number as usize).map(std::mem::take);
        let Generation { tables: mut old, is_torn, is_unread } = generation.unwrap_or_default();
        let change = Change { generation: number, is_torn, old: &old, new };
        let written = self.write_maps(&change);
        let is_torn = written.is_err();
        if is_torn {
            old.extend(new);
        } else {
            old = new.clone();
        }
        if let Some(generation) = self.generations.get_mut(number as usize) {
            *generation = Generation { tables: old, is_torn, is_unread };
        }
        written
    }

    fn write_maps(&mut self, change: &Change<'_>) -> Result<(), DatapathError> {
        let Change { generation, old, new, .. } = *change;
        let mut networks: Array<_, Network> = self.map(names::map::NETWORKS)?;
        let index = |slot: &u32| 2 * slot + generation;
        change
            .replace(
                (&old.networks, &new.networks),
                &mut networks,
                |networks, slot, network| networks.set(index(slot), network, 0),
                // Nothing that is there names it any more.
                |networks, slot| networks.set(index(slot), Network::zeroed(), 0),
            )
            .map_err(failed(names::map::NETWORKS))?;

        let of_interface = |ifindex: &u32| InterfaceKey { ifindex: *ifindex, generation };
        let mut bridges: HashMap<_, InterfaceKey, u32> = self.map(names::map::BRIDGES)?;
        change
            .replace(
                (&old.bridges, &new.bridges),
                &mut bridges,
                |bridges, bridge, slot| bridges.insert(of_interface(bridge), slot, 0),
                |bridges, bridge| bridges.remove(&of_interface(bridge)),
            )
            .map_err(failed(names::map::BRIDGES))?;

        let mut subnets: LpmTrie<_, SubnetKey, Subnet> = self.map(names::map::SUBNETS)?;
        change
            .replace(
                (&old.subnets, &new.subnets),
                &mut subnets,
                |subnets, prefix, subnet| {
                    subnets.insert(&subnet_key(generation, prefix), subnet, 0)
                },
                |subnets, prefix| subnets.remove(&subnet_key(generation, prefix)),
            )
            .map_err(failed(names::map::SUBNETS))?;

        let mut uplinks: HashMap<_, InterfaceKey, Uplink> = self.map(names::map::UPLINKS)?;
        change
            .replace(
                (&old.uplinks, &new.uplinks),
                &mut uplinks,
                |uplinks, ifindex, uplink| uplinks.insert(of_interface(ifindex), uplink, 0),
                |uplinks, ifindex| uplinks.remove(&of_interface(ifindex)),
            )
            .map_err(failed(names::map::UPLINKS))?;

        let mut forwards: LpmTrie<_, [u8; FORWARD_KEY_BYTES], Forward> =
            self.map(names::map::FORWARDS)?;
        change
            .replace(
                (&old.forwards, &new.forwards),
                &mut forwards,
                |forwards, prefix, forward| {
                    forwards.insert(&forward_key(generation, prefix), forward, 0)
                },
                |forwards, prefix| forwards.remove(&forward_key(generation, prefix)),
            )
            .map_err(failed(names::map::FORWARDS))
    }

    fn reserved_ports(&mut self) -> Result<PortMap, DatapathError> {
        let map: Array<_, PortMap> = self.map(names::map::RESERVED_PORTS)?;
        map.get(&RESERVED_PORTS, 0).map_err(failed(names::map::RESERVED_PORTS))
    }

    fn write_reserved_ports(&mut self, ports: &PortMap) -> Result<(), DatapathError> {
        let mut map: Array<_, PortMap> = self.map(names::map::RESERVED_PORTS)?;
        map.set(RESERVED_PORTS, *ports, 0).map_err(failed(names::map::RESERVED_PORTS))
    }

    /// Removes the maps of taken ports that are of no use any more: of addresses that are gone, and where
    /// forwards are gone, whose ports count as taken there; all, if other ports are reserved. Who holds a port is said by another table, so
    /// that a new map costs a few steps and nothing else.
    fn forget_port_maps(
        &mut self,
        former: u32,
        current: u32,
        are_stale: bool,
    ) -> Result<(), DatapathError> {
        let [former, current] = [former, current].map(|number| number as usize & 1);
        let (old, new) = (&self.generations[former].tables, &self.generations[current].tables);
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
        let new = new.clone();
        let mut port_maps: HashMap<_, ExternalPort, PortMap> = self.map(names::map::PORT_MAPS)?;
        let keys: Vec<_> = port_maps.keys().filter_map(Result::ok).collect();
        for key in keys {
            let forgotten = are_stale || gone.contains(&(key.external.to_wire(), key.protocol));
            if !forgotten && new.masquerades_to(key.external) {
                continue;
            }
            absent_is_fine(port_maps.remove(&key), names::map::PORT_MAPS)?;
        }
        Ok(())
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

fn reserved_ports(tables: &Tables) -> PortMap {
    let mut ports = PortMap::EMPTY;
    tables.reserved_ports.iter().cloned().flatten().for_each(|port| ports.take(port));
    ports
}

/// The first epoch after another one that shows a generation. Zero is no epoch.
fn next_epoch(epoch: u32, shown: u32) -> u32 {
    let step = if generation(epoch) == shown { 2 } else { 1 };
    match epoch.wrapping_add(step) {
        0 => 2,
        next => next,
    }
}

fn subnet_key(generation: u32, (length, prefix): &SubnetPrefix) -> Key<SubnetKey> {
    let address = Address::from_wire(bytemuck::cast(*prefix));
    Key::new(SUBNET_KEY_LEADING_BITS + length, SubnetKey { generation, address })
}

fn forward_key(generation: u32, (length, prefix): &ForwardPrefix) -> Key<[u8; FORWARD_KEY_BYTES]> {
    let key: ForwardKey = bytemuck::cast(*prefix);
    Key::new(*length, bytemuck::cast(ForwardKey { generation: generation as u8, ..key }))
}

/// What a generation is to say instead of what it says.
#[derive(Clone, Copy)]
struct Change<'a> {
    generation: u32,
    /// See [`Generation::is_torn`].
    is_torn: bool,
    old: &'a Tables,
    new: &'a Tables,
}

impl Change<'_> {
    /// Removes what is gone, which makes room, then writes what is new or another value. If it is not certain that the
    /// map says what `old` says, everything is written, and what is to be removed may be absent.
    fn replace<M, K: Ord, V: PartialEq>(
        &self,
        (old, new): (&BTreeMap<K, V>, &BTreeMap<K, V>),
        map: &mut M,
        insert: impl Fn(&mut M, &K, &V) -> Result<(), MapError>,
        remove: impl Fn(&mut M, &K) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        replace(!self.is_torn, old, new, map, insert, remove)
    }
}

fn replace<M, K: Ord, V: PartialEq>(
    certain: bool,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    map: &mut M,
    insert: impl Fn(&mut M, &K, &V) -> Result<(), MapError>,
    remove: impl Fn(&mut M, &K) -> Result<(), MapError>,
) -> Result<(), MapError> {
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        match remove(map, key) {
            Err(error) if certain || !is_absent(&error) => return Err(error),
            _ => {}
        }
    }
    for (key, value) in new.iter().filter(|(key, value)| !certain || old.get(key) != Some(value)) {
        insert(map, key, value)?;
    }
    Ok(())
}

/// The result of a removal from a map, where what is not there need not be removed.
pub(super) fn absent_is_fine(
    result: Result<(), MapError>,
    map: &'static str,
) -> Result<(), DatapathError> {
    match result {
        Err(error) if !is_absent(&error) => Err(failed(map)(error)),
        _ => Ok(()),
    }
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

    #[test]
    fn epochs_show_the_generation_that_is_wanted_and_are_never_0() {
        assert_eq!(next_epoch(7, 1), 9);
        assert_eq!(next_epoch(7, 0), 8);
        assert_eq!(next_epoch(u32::MAX, 0), 2);
        assert_eq!(next_epoch(u32::MAX, 1), 1);
        assert_eq!(next_epoch(u32::MAX - 1, 0), 2);
        assert_eq!(next_epoch(u32::MAX - 1, 1), u32::MAX);
    }

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
        // What is gone has made room, but not enough.
        assert!(!write(true, &old, &failed, &mut map, 2));
        assert_eq!(map, Map::from([(1, 11), (3, 30)]));

        let new = Map::from([(1, 10), (2, 20)]);
        failed.extend(old);
        assert!(write(false, &failed, &new, &mut map, 2));
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
        assert_eq!(calls, [(3, None), (2, Some(21)), (4, Some(40))]);
        calls.clear();
        replace(true, &new, &new, &mut calls, insert, remove).unwrap();
        assert_eq!(calls, []);
    }
}
