//! Opening the maps that an instance has pinned.

use std::{io, path::PathBuf};

use aya::{
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    pin::PinError,
};

use vnet_common::{
    names::map,
    network::{self, Config, Network},
};

use super::ReportError;
use crate::instance::{Name, State};

/// The pinned maps of an instance.
pub struct PinnedMaps<'a> {
    state: &'a State,
}

impl<'a> PinnedMaps<'a> {
    pub const fn of(state: &'a State) -> Self {
        Self { state }
    }

    /// Opens a map as whatever it is.
    pub fn data(&self, map: &'static str) -> Result<MapData, ReportError> {
        let path = Name::map_pin(&self.state.pins, map);
        MapData::from_pin(&path).map_err(|error| self.not_opened(map, path, error))
    }

    /// Reads the only element of an array.
    pub fn single<V: aya::Pod>(&self, map: &'static str) -> Result<V, ReportError> {
        let array: Array<MapData, V> = self.typed(map)?;
        array.get(&0, 0).map_err(|error| self.failed(map, error))
    }

    /// Opens an array.
    pub fn array<V: aya::Pod>(&self, map: &'static str) -> Result<Array<MapData, V>, ReportError> {
        self.typed(map)
    }

    /// Opens a hash table.
    pub fn hash<K: aya::Pod, V: aya::Pod>(
        &self,
        map: &'static str,
    ) -> Result<HashMap<MapData, K, V>, ReportError> {
        self.typed(map)
    }

    /// Opens the networks as packets see them.
    pub fn networks(&self) -> Result<Networks<'a>, ReportError> {
        let config: Config = self.single(map::CONFIG)?;
        Ok(Networks {
            maps: Self { state: self.state },
            array: self.typed(map::NETWORKS)?,
            generation: network::generation(config.epoch),
        })
    }

    /// Opens an array of counters.
    pub fn counters<V: aya::Pod>(&self, map: &'static str) -> Result<Counters<'a, V>, ReportError> {
        Ok(Counters { maps: Self { state: self.state }, map, array: self.typed(map)? })
    }

    /// The map is not what this program was compiled for.
    pub fn differs(&self, map: &'static str, difference: String) -> ReportError {
        ReportError::OtherLayout {
            instance: self.state.instance.clone(),
            theirs: self.state.version.clone(),
            map,
            difference,
        }
    }

    /// A system call on the map failed.
    pub fn refused(&self, map: &'static str, source: io::Error) -> ReportError {
        ReportError::Kernel { instance: self.state.instance.clone(), map, source }
    }

    fn typed<M>(&self, map: &'static str) -> Result<M, ReportError>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        let opened = Map::from_map_data(self.data(map)?).and_then(M::try_from);
        opened.map_err(|error| self.failed(map, error))
    }

    fn not_opened(&self, map: &'static str, path: PathBuf, error: MapError) -> ReportError {
        let error = into_io(error);
        match error.kind() {
            io::ErrorKind::NotFound => {
                ReportError::NoMap { instance: self.state.instance.clone(), path }
            }
            io::ErrorKind::PermissionDenied => ReportError::NotPermitted { path },
            _ => self.refused(map, error),
        }
    }

    /// In aya's errors "expected" is what the map has, and the other what the caller asked for.
    pub fn failed(&self, map: &'static str, error: MapError) -> ReportError {
        match error {
            MapError::InvalidKeySize { size, expected } => {
                self.differs(map, format!("keys of {expected} bytes, not {size}"))
            }
            MapError::InvalidValueSize { size, expected } => {
                self.differs(map, format!("values of {expected} bytes, not {size}"))
            }
            MapError::OutOfBounds { index, max_entries } => {
                self.differs(map, format!("{max_entries} elements, none at {index}"))
            }
            MapError::InvalidMapType { map_type } => {
                self.differs(map, format!("a map of type {map_type}"))
            }
            other => self.refused(map, into_io(other)),
        }
    }
}

/// The networks of the current generation.
pub struct Networks<'a> {
    maps: PinnedMaps<'a>,
    array: Array<MapData, Network>,
    generation: u32,
}

impl Networks<'_> {
    /// The one in a slot.
    pub fn at(&self, slot: u16) -> Result<Network, ReportError> {
        let network = self.array.get(&Network::index(slot, self.generation), 0);
        network.map_err(|error| self.maps.failed(map::NETWORKS, error))
    }
}

/// An array that every CPU has for itself.
pub struct Counters<'a, V: aya::Pod> {
    maps: PinnedMaps<'a>,
    map: &'static str,
    array: PerCpuArray<MapData, V>,
}

impl<V: aya::Pod> Counters<'_, V> {
    /// An element of each CPU.
    pub fn at(&self, index: u32) -> Result<Vec<V>, ReportError> {
        let values = self.array.get(&index, 0);
        let values = values.map_err(|error| self.maps.failed(self.map, error))?;
        Ok(values.to_vec())
    }
}

fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error)
        | MapError::PinError { error: PinError::SyscallError(error), .. } => error.io_error,
        MapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}
