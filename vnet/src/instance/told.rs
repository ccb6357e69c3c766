//! What an instance was told to run: its definitions and settings, as they were read.
//!
//! Files change and are deleted; this is what a change is compared with, and what is gone back to.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Name, state};
use crate::{
    definition::{Difference, Setting},
    plan::XdpSetting,
};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether packets may pass by the bridges.
    #[serde(default)]
    pub short_ways: bool,
    /// When XDP is used; with short ways only.
    #[serde(default)]
    pub xdp: XdpSetting,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            uplinks: Vec::new(),
            leases: None,
            create_bridges: false,
            no_services: false,
            short_ways: true,
            xdp: XdpSetting::default(),
        }
    }
}

impl Settings {
    /// What others have differently, but for where leases are.
    #[must_use]
    pub fn difference(&self, new: &Self) -> Option<Difference> {
        let (old, new) = (self.texts(), new.texts());
        let settings: Vec<_> = old
            .into_iter()
            .zip(new)
            .filter(|((_, old), (_, new))| old != new)
            .map(|((path, old), (_, new))| Setting { path: path.to_owned(), old, new })
            .collect();
        (!settings.is_empty()).then_some(Difference::Settings { settings })
    }

    fn texts(&self) -> [(&'static str, Option<String>); 5] {
        let uplinks = (!self.uplinks.is_empty()).then(|| self.uplinks.join(", "));
        let yes = |is_set: bool| is_set.then(|| "yes".to_owned());
        [
            ("uplinks", uplinks),
            ("create-bridges", yes(self.create_bridges)),
            ("no-services", yes(self.no_services)),
            ("short-ways", Some(on_or_off(self.short_ways).to_owned())),
            ("xdp", Some(self.xdp.name().to_owned())),
        ]
    }
}

const fn on_or_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

impl Told {
    /// What an instance was told; `None` if there is no such instance.
    pub fn read(name: &Name) -> io::Result<Option<Self>> {
        state::read(name, FILE)
    }

    /// Writes it into an instance's directory, where nobody looks.
    pub fn stage(&self, directory: &Path) -> io::Result<()> {
        state::stage(directory, NEW_FILE, self)
    }

    /// Shows what was staged.
    pub fn commit(directory: &Path) -> io::Result<()> {
        state::commit(directory, FILE, NEW_FILE)
    }
}
