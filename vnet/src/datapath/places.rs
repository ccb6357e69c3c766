//! Where a datapath is pinned, also while its flows are migrated.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use vnet_common::{migration::Phase, names};

use super::{DatapathError, error::with_sources, tables};

/// The name of a symbolic link beside the maps that says their layout.
const LAYOUT: &str = "LAYOUT";

/// Directories of pins below an instance's own.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The maps that programs use.
    pub maps: PathBuf,
    /// The maps that a migration makes, until they take the place of `maps`.
    pub next: PathBuf,
    /// What a migration needs besides.
    pub migration: PathBuf,
    /// The maps of before, once those of a migration have taken their place.
    pub former: PathBuf,
    /// The programs of `maps`.
    pub programs: PathBuf,
}

impl Places {
    pub fn of(pins: &Path) -> Self {
        let [maps, next, migration, former, programs] =
            ["maps", "next", "migration", "former", "programs"].map(|name| pins.join(name));
        Self { maps, next, migration, former, programs }
    }

    /// How far the migration is that a process has left, if one has.
    ///
    /// # Errors
    /// It cannot be told: its tables may have flows.
    pub fn phase(&self) -> Result<Option<Phase>, DatapathError> {
        let pin = self.migration.join(names::map::MIGRATION);
        let is_there = |path: &Path| path.try_exists().map_err(|error| failed(path, &error));
        if !is_there(&self.next)? || !is_there(&self.maps)? || !is_there(&pin)? {
            return Ok(None);
        }
        let map = MapData::from_pin(pin).map(Map::Array).and_then(Array::<_, u32>::try_from);
        let word = map.and_then(|map| map.get(&0, 0));
        Ok(Some(Phase::from_word(word.map_err(tables::failed(names::map::MIGRATION))?)))
    }

    /// Puts the maps of a migration in the place of the former ones, which are of no use any more. May be
    /// repeated.
    pub fn commit(&self) -> io::Result<()> {
        if self.maps.exists() && self.next.exists() {
            fs::rename(&self.maps, &self.former)?;
        }
        if self.next.exists() {
            fs::rename(&self.next, &self.maps)?;
        }
        remove(&self.migration)?;
        remove(&self.former)
    }

    /// Forgets a migration that has not begun to serve packets.
    pub fn forget(&self) -> io::Result<()> {
        remove(&self.next)?;
        remove(&self.migration)
    }

    /// Pins the maps that a migration takes as they are beside those that it makes.
    pub fn share_maps(&self) -> io::Result<()> {
        fs::create_dir_all(&self.next)?;
        fs::create_dir_all(&self.migration)?;
        for name in names::map::ALL {
            let pin = self.next.join(name);
            if names::map::OF_FLOWS.contains(&name) || pin.exists() {
                continue;
            }
            let former = self.maps.join(name);
            // It is made, and pinned, when the programs are loaded.
            if names::map::LATER.contains(&name) && !former.exists() {
                continue;
            }
            let map = MapData::from_pin(former).map_err(io::Error::other)?;
            map.pin(&pin).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Finishes a commit that a process has been killed at, so that the maps are where everybody looks for them.
pub fn finish_migration(pins: &Path) -> Result<(), DatapathError> {
    let places = Places::of(pins);
    if (!places.maps.exists() && places.next.exists()) || places.former.exists() {
        places.commit().map_err(|error| failed(pins, &error))?;
    }
    Ok(())
}

/// Whether packets meet the programs of a migration that is not over.
///
/// # Errors
/// It cannot be told.
pub fn is_migrating(pins: &Path) -> Result<bool, DatapathError> {
    Ok(Places::of(pins).phase()?.is_some_and(|phase| phase > Phase::Preparing))
}

/// Where the maps are whose flows a start goes on with: those that a migration has made, if one is under way.
///
/// # Errors
/// It cannot be told.
pub fn present_maps(pins: &Path) -> Result<PathBuf, DatapathError> {
    let places = Places::of(pins);
    let is_next = is_migrating(pins)? || !places.maps.exists();
    Ok(if is_next { places.next } else { places.maps })
}

/// The layout of the maps in a directory; `None` if they do not say.
#[must_use]
pub fn layout_of(maps: &Path) -> Option<u32> {
    fs::read_link(maps.join(LAYOUT)).ok()?.to_str()?.parse().ok()
}

/// Lets the maps in a directory say their layout. Those of layout 1 did not.
pub(super) fn mark(maps: &Path, layout: u32) -> io::Result<()> {
    if layout < 2 {
        return Ok(());
    }
    match symlink(layout.to_string(), maps.join(LAYOUT)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn failed(path: &Path, error: &dyn std::error::Error) -> DatapathError {
    DatapathError::Pin { path: path.into(), reason: with_sources(error) }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
