//! Loading the object with small tables, and its maps as typed values.

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader, Pod, maps};
use bytemuck::Pod as Bytes;
use vnet_common::names::map;

/// Slots of every table unless a rig has more, so that whole tables are read in a moment.
pub(crate) const SLOTS: u32 = 64;
/// Maps of ports: one for each external address and protocol.
const PORT_MAPS: u32 = 8;
/// Networks that have counters, unless a rig has more.
pub(crate) const NETWORKS: u32 = 4;

/// A value that crosses the border byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: bytemuck's `Pod` asks for more than aya's: any bytes are a value, and there is no padding.
unsafe impl<T: Bytes> Pod for Plain<T> {}

pub(crate) type Array<'a, V> = maps::Array<&'a maps::MapData, Plain<V>>;
pub(crate) type ArrayMut<'a, V> = maps::Array<&'a mut maps::MapData, Plain<V>>;
pub(crate) type PerCpuArray<'a, V> = maps::PerCpuArray<&'a maps::MapData, Plain<V>>;
pub(crate) type HashMap<'a, K, V> = maps::HashMap<&'a maps::MapData, Plain<K>, Plain<V>>;
pub(crate) type HashMapMut<'a, K, V> = maps::HashMap<&'a mut maps::MapData, Plain<K>, Plain<V>>;

/// Loads the object with room for so many networks and `slots` entries in the other tables; `log_level`
/// as `aya_log::Level`, 0 for none.
pub(crate) fn object(log_level: u8, networks: u32, slots: u32) -> Result<Ebpf> {
    use vnet_common::reason::{DropReason, Handover};
    let mut loader = EbpfLoader::new();
    for (name, entries) in [
        (map::NETWORKS, 2 * networks),
        (map::TRAFFIC, networks),
        (map::DROPS, networks * DropReason::PER_NETWORK),
        (map::HANDOVERS, networks * Handover::PER_NETWORK),
        (map::SESSIONS, slots),
        (map::FREE_SESSIONS, slots),
        (map::FLOWS, 2 * slots),
        (map::FLOWS_IPV6, 2 * slots),
        (map::MAPPINGS, slots),
        (map::EXTERNAL_PORTS, 2 * slots),
        (map::FORWARDS, 4 * SLOTS),
        (map::DEPARTURES, SLOTS),
        (map::PORT_MAPS, PORT_MAPS),
        (map::NETWORK_FLOWS, networks),
        (map::GUESTS, slots),
        (map::FRAGMENTS, slots),
        (map::FRAGMENTS_IPV6, slots),
        (map::GUARD_PORTS, SLOTS),
        (map::GUARD_LEARNED, SLOTS),
        (map::GUARD_MACS, SLOTS),
        (map::GUARD_ADDRESSES, SLOTS),
    ] {
        loader.map_max_entries(name, entries);
    }
    loader.override_global("AYA_LOG_LEVEL", &log_level, true);
    loader.load(vnet::object::object()?).context("cannot load the object")
}

pub(crate) fn array<'a, V: Bytes>(ebpf: &'a Ebpf, name: &str) -> Result<Array<'a, V>> {
    Ok(maps::Array::try_from(found(ebpf, name)?)?)
}

pub(crate) fn array_mut<'a, V: Bytes>(ebpf: &'a mut Ebpf, name: &str) -> Result<ArrayMut<'a, V>> {
    Ok(maps::Array::try_from(found_mut(ebpf, name)?)?)
}

pub(crate) fn per_cpu<'a, V: Bytes>(ebpf: &'a Ebpf, name: &str) -> Result<PerCpuArray<'a, V>> {
    Ok(maps::PerCpuArray::try_from(found(ebpf, name)?)?)
}

pub(crate) fn hash<'a, K: Bytes, V: Bytes>(
    ebpf: &'a Ebpf,
    name: &str,
) -> Result<HashMap<'a, K, V>> {
    Ok(maps::HashMap::try_from(found(ebpf, name)?)?)
}

pub(crate) fn hash_mut<'a, K: Bytes, V: Bytes>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<HashMapMut<'a, K, V>> {
    Ok(maps::HashMap::try_from(found_mut(ebpf, name)?)?)
}

pub(crate) fn found<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a maps::Map> {
    ebpf.map(name).with_context(|| format!("the object has no map {name}"))
}

pub(crate) fn found_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut maps::Map> {
    ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
}
