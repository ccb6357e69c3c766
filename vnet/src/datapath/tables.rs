//! Filling the programs' maps.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, LpmTrie, MapError, lpm_trie::Key};
use vnet_common::{
    names,
    network::{Config, Network, Subnet, Uplink},
};

use super::{Datapath, DatapathError};
use crate::plan::Tables;

impl Datapath {
    /// Makes the maps say what the tables say, then starts a new epoch, in which every flow is
    /// judged anew.
    pub fn write(&mut self, tables: &Tables) -> Result<(), DatapathError> {
        let old = std::mem::take(&mut self.tables);
        self.write_networks(&old, tables)?;
        self.write_subnets(&old, tables)?;
        self.write_uplinks(&old, tables)?;
        self.tables = tables.clone();
        if let Some(host_ports) = tables.host_ports {
            self.config.host_ports = host_ports;
        }
        self.next_epoch()
    }

    /// Starts a new epoch: something outside of the maps has changed, such as a route.
    pub fn next_epoch(&mut self) -> Result<(), DatapathError> {
        // Zero is no epoch.
        self.config.epoch = self.config.epoch.checked_add(1).unwrap_or(1);
        let config = self.config;
        let mut map: Array<_, Config> = self.map(names::map::CONFIG)?;
        map.set(0, config, 0).map_err(failed(names::map::CONFIG))
    }

    fn write_networks(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        let mut networks: Array<_, Network> = self.map(names::map::NETWORKS)?;
        // Slots that no bridge and no subnet names any more are never read.
        for (slot, network) in &new.networks {
            networks.set(*slot, network, 0).map_err(failed(names::map::NETWORKS))?;
        }
        let mut bridges: HashMap<_, u32, u32> = self.map(names::map::BRIDGES)?;
        replace(
            &old.bridges,
            &new.bridges,
            &mut bridges,
            |bridges, bridge, slot| bridges.insert(bridge, slot, 0),
            |bridges, bridge| bridges.remove(bridge),
        )
        .map_err(failed(names::map::BRIDGES))
    }

    fn write_subnets(&mut self, old: &Tables, new: &Tables) -> Result<(), DatapathError> {
        let mut subnets: LpmTrie<_, [u8; 16], Subnet> = self.map(names::map::SUBNETS)?;
        replace(
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
        let mut uplinks: HashMap<_, u32, Uplink> = self.map(names::map::UPLINKS)?;
        replace(
            &old.uplinks,
            &new.uplinks,
            &mut uplinks,
            |uplinks, ifindex, uplink| uplinks.insert(ifindex, uplink, 0),
            |uplinks, ifindex| uplinks.remove(ifindex),
        )
        .map_err(failed(names::map::UPLINKS))
    }

    pub(super) fn map<'a, T>(&'a mut self, name: &'static str) -> Result<T, DatapathError>
    where
        T: TryFrom<&'a mut aya::maps::Map, Error = MapError>,
    {
        let map = self.ebpf.map_mut(name).ok_or(DatapathError::Missing(name))?;
        T::try_from(map).map_err(failed(name))
    }
}

fn failed(map: &'static str) -> impl FnOnce(MapError) -> DatapathError {
    move |source| DatapathError::Map { map, source }
}

/// Writes what is new or another value, then removes what is gone.
fn replace<M, K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    map: &mut M,
    insert: impl Fn(&mut M, &K, &V) -> Result<(), MapError>,
    remove: impl Fn(&mut M, &K) -> Result<(), MapError>,
) -> Result<(), MapError> {
    for (key, value) in new.iter().filter(|(key, value)| old.get(key) != Some(value)) {
        insert(map, key, value)?;
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        remove(map, key)?;
    }
    Ok(())
}
