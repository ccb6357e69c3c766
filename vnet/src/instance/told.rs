//! What an instance was told to run: its definitions and settings, as they were read.
//!
//! Files change and are deleted; this is what a change is compared with, and what is gone back to.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Name, state};

const FILE: &str = "told.json";
const NEW_FILE: &str = "told.json.new";
/// Everything that may be left of it.
pub(super) const FILES: [&str; 2] = [NEW_FILE, FILE];

/// Definitions and settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The files, in the order in which they were given.
    pub definitions: Vec<DefinitionText>,
    /// What is set beside them.
    pub settings: Settings,
}

/// A definition's file as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionText {
    /// What diagnostics call it.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// What is set beside the definitions; what is not given has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Names of the interfaces towards outside; empty for all that the host's routes use.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// Where DHCP servers keep their leases.
    #[serde(default)]
    pub leases: Option<PathBuf>,
    /// Whether bridges are made that the host does not have.
    #[serde(default)]
    pub create_bridges: bool,
    /// Whether guests are served addresses and names by somebody else in any case.
    #[serde(default)]
    pub no_services: bool,
}

impl Told {
    /// What an instance was told; `None` if there is no such instance.
    pub fn read(name: &Name) -> io::Result<Option<Self>> {
        match fs::read(name.runtime_directory().join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it down, at once or not at all.
    pub fn write(&self, name: &Name) -> io::Result<()> {
        state::replace(&name.runtime_directory(), FILE, NEW_FILE, self)
    }
}
