//! An instance: what one `vnet run` owns on a host, and where others find it.
//!
//! ```text
//! /run/vnet/NAME/lock         held by the running daemon
//! /run/vnet/NAME/journal      what was changed on the host, for taking it back
//! /run/vnet/NAME/state.json   what runs: networks, uplinks, hooks, guests
//! /run/vnet/NAME/told.json    what it was told to run: definitions and settings
//! /run/vnet/NAME/control      the socket on which the daemon takes orders
//! BPFFS/vnet/NAME/maps/MAP    the pinned maps
//! BPFFS/vnet/NAME/links/…     the pinned links, which hold the programs
//! ```

pub mod journal;
pub mod lock;
mod namespace;
mod neighbours;
mod process;
mod socket;
pub mod state;
mod told;
pub mod undo;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

pub use journal::{Journal, JournalError, Undo};
pub use lock::{Lock, LockError, hold};
pub use neighbours::neighbours;
pub use process::ProcessId;
pub use socket::listen;
pub use state::State;
pub use told::{DefinitionText, Settings, Told};
pub use undo::{Outcome, Whose, retract, undo};

/// What there may be of an instance beside its lock and its journal.
const FILES: [&[&str]; 3] = [&state::FILES, &told::FILES, &[CONTROL]];
/// The daemon's socket.
const CONTROL: &str = "control";
/// The socket of whoever waits for `vnet confirm`, and the lock that only one of them holds.
const TRIAL: &str = "trial";
const TRIAL_LOCK: &str = "trial.lock";

const RUNTIME_ROOT: &str = "/run/vnet";

/// The name of an instance: one path component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

/// A name that cannot name an instance.
#[derive(Debug, thiserror::Error)]
#[error("an instance name has 1 to 32 letters, digits, `-` and `_`")]
pub struct InvalidName;

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = (1..=32).contains(&text.len());
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if fits && text.chars().all(allowed) { Ok(Self(text.to_owned())) } else { Err(InvalidName) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Name {
    /// The directory of the instance's files.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        Path::new(RUNTIME_ROOT).join(&self.0)
    }

    /// The directory of the instance's pins in a BPF file system.
    #[must_use]
    pub fn pin_directory(&self, bpffs: &Path) -> PathBuf {
        bpffs.join("vnet").join(&self.0)
    }

    /// The socket on which the daemon takes orders.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_directory().join(CONTROL)
    }

    /// The socket of whoever waits for `vnet confirm`.
    #[must_use]
    pub fn trial_socket(&self) -> PathBuf {
        self.runtime_directory().join(TRIAL)
    }

    /// The lock of whoever waits for `vnet confirm`.
    #[must_use]
    pub fn trial_lock(&self) -> PathBuf {
        self.runtime_directory().join(TRIAL_LOCK)
    }

    /// The name of the instance's filters in clsact.
    #[must_use]
    pub fn filter(&self) -> String {
        format!("vnet-{self}")
    }

    /// The pin of a map.
    #[must_use]
    pub fn map_pin(pins: &Path, map: &str) -> PathBuf {
        pins.join("maps").join(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_harmless_path_component() {
        for good in ["default", "rack-7", "A_1"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
