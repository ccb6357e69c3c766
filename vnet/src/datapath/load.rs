//! Loading the object: maps at their sizes, programs through the verifier.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapInfo},
    programs::{SchedClassifier, Xdp},
};
use vnet_common::{limits, names, network::Config, port::PortRange};

use super::{
    DatapathError,
    error::with_sources,
    places::{self, Places},
    shortcut::Shortcut,
    tables::Generation,
};
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
    /// What the maps of the short ways say.
    pub(super) shortcut: Shortcut,
}

/// Maps whose sizes follow the limit of flows.
const SIZED_BY_FLOWS: [&str; 7] = [
    names::map::SESSIONS,
    names::map::FREE_SESSIONS,
    names::map::MAPPINGS,
    names::map::EXTERNAL_PORTS,
    names::map::GUESTS,
    names::map::FLOWS,
    names::map::FLOWS_IPV6,
];

/// The limit of flows of the maps of a layout that are pinned in a directory.
///
/// # Errors
/// Why this program's object can neither use them nor migrate what they say.
pub fn flow_limit_of(directory: &Path, layout: u32) -> Result<u32, String> {
    let object = object::object().map_err(|error| error.to_string())?;
    let object = aya_obj::Object::parse(object).map_err(|error| error.to_string())?;
    let mut limit = 0;
    for name in names::map::ALL {
        let is_later = names::map::LATER.contains(&name);
        let Some(ours) = object.maps.get(name) else {
            if is_later {
                continue;
            }
            return Err(format!("the object has no `{name}`"));
        };
        // It is made when it is missing.
        if is_later && !directory.join(name).exists() {
            continue;
        }
        let theirs = MapInfo::from_pin(directory.join(name))
            .map_err(|error| format!("`{name}`: {}", with_sources(&error)))?;
        let kind = theirs.map_type().map(|kind| kind as u32).ok();
        let sizes = (theirs.key_size(), theirs.value_size());
        let is_migrated = layout != object::layout() && names::map::OF_FLOWS.contains(&name);
        if is_migrated && name != names::map::SESSIONS {
            continue;
        }
        if kind != Some(ours.map_type()) || sizes != (ours.key_size(), ours.value_size()) {
            return Err(format!("`{name}` has another layout"));
        }
        if name == names::map::SESSIONS {
            limit = theirs.max_entries();
        } else if !SIZED_BY_FLOWS.contains(&name) && theirs.max_entries() != ours.max_entries() {
            return Err(format!("`{name}` has another size"));
        }
    }
    Ok(limit)
}

impl Datapath {
    /// Loads every program with new maps; nothing is attached yet.
    pub fn load(options: &LoadOptions) -> Result<Self, DatapathError> {
        Self::load_with(options, |_| None)
    }

    /// Loads every program with the maps that are pinned in a directory, which other programs use, and
    /// reads what these say. [`flow_limit_of`] has found them fit.
    pub fn take_over(options: &LoadOptions, directory: &Path) -> Result<Self, DatapathError> {
        let mut datapath = Self::load_with(options, |name| {
            names::map::ALL.contains(&name).then(|| directory.join(name))
        })?;
        datapath.read_generations()?;
        datapath.read_guard()?;
        datapath.read_shortcut()?;
        Ok(datapath)
    }

    /// Loads every program with the maps that a migration makes, pinned, and with those of the datapath
    /// before it.
    pub(super) fn load_for_migration(
        options: &LoadOptions,
        places: &Places,
    ) -> Result<Self, DatapathError> {
        let mut datapath = Self::load_object(options, true, |name| {
            let former = names::map::FORMER.iter().find(|(ours, _)| *ours == name);
            match name {
                names::map::MIGRATION | names::map::FORMER_PROGRAMS => {
                    Some(places.migration.join(name))
                }
                _ if names::map::ALL.contains(&name) => Some(places.next.join(name)),
                _ => former.map(|(_, theirs)| places.maps.join(theirs)),
            }
        })?;
        let name = names::program::ADOPT;
        datapath.classifier(name)?.load().map_err(|error| DatapathError::program(name, &error))?;
        Ok(datapath)
    }

    fn load_with(
        options: &LoadOptions,
        pin: impl Fn(&'static str) -> Option<PathBuf>,
    ) -> Result<Self, DatapathError> {
        Self::load_object(options, false, pin)
    }

    /// With maps at their pins, which are made where they are missing.
    fn load_object(
        options: &LoadOptions,
        migrates: bool,
        pin: impl Fn(&'static str) -> Option<PathBuf>,
    ) -> Result<Self, DatapathError> {
        let migrates = u8::from(migrates);
        let level = options.log.map_or(0, |level| level as u8);
        let limit = options.flow_limit;
        let mut loader = EbpfLoader::new();
        let beside = [names::map::MIGRATION, names::map::FORMER_PROGRAMS];
        let former = names::map::FORMER.map(|(name, _)| name);
        for name in names::map::ALL.into_iter().chain(beside).chain(former) {
            if let Some(path) = pin(name) {
                loader.map_pin_path(name, path);
            }
        }
        loader
            // What it is in an object of before there were migrations is what it is without one.
            .override_global("MIGRATES", &migrates, migrates != 0)
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
            if is_absent_later(&ebpf, name) {
                continue;
            }
            classifier(&mut ebpf, name)?
                .load()
                .map_err(|error| DatapathError::program(name, &error))?;
        }
        for name in names::program::XDP {
            if is_absent_later(&ebpf, name) {
                continue;
            }
            // Packets go by TC then; attaching it says so, too.
            if let Err(error) = xdp(&mut ebpf, name)?.load() {
                log::warn!("{}", DatapathError::program(name, &error));
            }
        }
        let config =
            Config { session_limit: limit, host_ports: PortRange::EMPTY, ..Config::default() };
        Ok(Self {
            ebpf,
            config,
            generations: <[Generation; 2]>::default(),
            guard: GuardTables::default(),
            shortcut: Shortcut::default(),
        })
    }

    /// Pins every map in a directory, for other processes.
    pub fn pin_maps(&self, directory: &Path) -> Result<(), DatapathError> {
        let failed = |path: &Path, reason: String| DatapathError::Pin { path: path.into(), reason };
        fs::create_dir_all(directory).map_err(|error| failed(directory, error.to_string()))?;
        for name in names::map::ALL {
            let path = directory.join(name);
            let Some(map) = self.ebpf.map(name) else {
                if names::map::LATER.contains(&name) {
                    continue;
                }
                return Err(DatapathError::Missing(name));
            };
            map_data(map)
                .ok_or(DatapathError::Missing(name))?
                .pin(&path)
                .map_err(|error| failed(&path, with_sources(&error)))?;
        }
        places::mark(directory, object::layout())
            .map_err(|error| failed(directory, error.to_string()))
    }

    /// Pins every program, for a process that migrates the flows, in the place of those that were pinned.
    pub fn pin_programs(&mut self, pins: &Path) -> Result<(), DatapathError> {
        let directory = Places::of(pins).programs;
        fs::create_dir_all(&directory).map_err(|error| places::failed(&directory, &error))?;
        for name in names::program::ALL {
            let path = directory.join(name);
            let _ = fs::remove_file(&path);
            if is_absent_later(&self.ebpf, name) {
                continue;
            }
            let pinned = self.classifier(name)?.pin(&path);
            pinned.map_err(|error| places::failed(&path, &error))?;
        }
        Ok(())
    }

    /// What the guard's maps say, beside what the programs have learned.
    #[must_use]
    pub const fn guard(&self) -> &GuardTables {
        &self.guard
    }

    pub(super) fn classifier(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, DatapathError> {
        classifier(&mut self.ebpf, name)
    }

    pub(super) fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, DatapathError> {
        xdp(&mut self.ebpf, name)
    }
}

/// Whether an object of an earlier layout lacks a program that came later.
fn is_absent_later(ebpf: &Ebpf, name: &str) -> bool {
    let is_later = names::program::XDP.contains(&name) || name == names::program::PORT_SHORTCUT;
    is_later && object::layout() != names::LAYOUT && ebpf.program(name).is_none()
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf.program_mut(name).ok_or(DatapathError::Missing(name))?;
    program.try_into().map_err(|error| DatapathError::program(name, &error))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DatapathError> {
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
        | Map::DevMapHash(data)
        | Map::Queue(data) => Some(data),
        _ => None,
    }
}
