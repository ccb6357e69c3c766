//! Loading the object: maps at their sizes, programs through the verifier.

use std::{fs, path::Path};

use aya::{Ebpf, EbpfLoader, maps::Map, programs::SchedClassifier};
use vnet_common::{limits, names, network::Config, port::PortRange};

use super::{DatapathError, tables::Generation};
use crate::{object, plan::GuardTables};

/// What is set when the object is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Live flows of all guests.
    pub flow_limit: u32,
    /// What the programs log; `None` for nothing, which costs nothing.
    pub log: Option<log::Level>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { flow_limit: limits::DEFAULT_SESSIONS, log: None }
    }
}

/// The loaded programs and their maps.
#[derive(Debug)]
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pub(super) config: Config,
    /// What packets see, and what they see next or have seen before.
    pub(super) generations: [Generation; 2],
    /// What the guard's maps say, beside what the programs have learned.
    pub(super) guard: GuardTables,
}

impl Datapath {
    /// Loads every program; nothing is attached yet.
    pub fn load(options: &LoadOptions) -> Result<Self, DatapathError> {
        let level = options.log.map_or(0, |level| level as u8);
        let limit = options.flow_limit;
        let mut loader = EbpfLoader::new();
        loader
            .override_global(aya_log::LEVEL, &level, true)
            .map_max_entries(names::map::SESSIONS, limit)
            .map_max_entries(names::map::FREE_SESSIONS, limit)
            .map_max_entries(names::map::MAPPINGS, limit)
            .map_max_entries(names::map::EXTERNAL_PORTS, limit)
            // A guest with an account has a flow.
            .map_max_entries(names::map::GUESTS, limit)
            // A flow has a key in each direction.
            .map_max_entries(names::map::FLOWS, limit.saturating_mul(2))
            .map_max_entries(names::map::FLOWS_IPV6, limit.saturating_mul(2));
        let mut ebpf = loader.load(object::object()?)?;
        for name in names::program::ALL {
            classifier(&mut ebpf, name)?
                .load()
                .map_err(|error| DatapathError::program(name, &error))?;
        }
        let config =
            Config { session_limit: limit, host_ports: PortRange::EMPTY, ..Config::default() };
        Ok(Self { ebpf, config, generations: Default::default(), guard: GuardTables::default() })
    }

    /// Pins every map in a directory, for other processes.
    pub fn pin_maps(&self, directory: &Path) -> Result<(), DatapathError> {
        let failed = |path: &Path, reason: String| DatapathError::Pin { path: path.into(), reason };
        fs::create_dir_all(directory).map_err(|error| failed(directory, error.to_string()))?;
        for name in names::map::ALL {
            let path = directory.join(name);
            let map = self.ebpf.map(name).ok_or(DatapathError::Missing(name))?;
            map_data(map)
                .ok_or(DatapathError::Missing(name))?
                .pin(&path)
                .map_err(|error| failed(&path, super::error::with_sources(&error)))?;
        }
        Ok(())
    }

    pub(super) fn classifier(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, DatapathError> {
        classifier(&mut self.ebpf, name)
    }
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing(name))?;
    program.try_into().map_err(|error| DatapathError::program(name, &error))
}

fn map_data(map: &Map) -> Option<&aya::maps::MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::Queue(data) => Some(data),
        _ => None,
    }
}
