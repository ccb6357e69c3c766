//! What was changed on the host, written down before it is changed, so that it can be taken back
//! by whoever finds the journal: the daemon itself, its janitor, or the next start.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Name;
use crate::host::{bpffs::BpfFs, qdisc, sysctl};

const FILE: &str = "journal";

/// How to take one change back. Each is harmless if the change was never made or is gone already.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// Give a sysctl its former value, if it still has the one that was set.
    Sysctl {
        /// Its name with dots.
        name: String,
        /// The value it had.
        former: String,
        /// The value it was given.
        given: String,
    },
    /// Unmount the BPF file system.
    Mount {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// Remove the pins, which lets go of links, programs and maps.
    Pins {
        /// The instance's directory.
        path: PathBuf,
    },
    /// Delete our filters at both hooks of an interface.
    Filters {
        /// Index of the interface.
        interface: u32,
    },
    /// Delete the clsact qdisc of an interface, if no filter of others is there.
    Clsact {
        /// Index of the interface.
        interface: u32,
    },
}

/// The name that our filters have in clsact.
pub const FILTER_NAME: &str = "vnet";

/// The journal of a running instance.
#[derive(Debug)]
pub struct Journal {
    file: File,
    written: BTreeSet<Undo>,
}

impl Journal {
    /// Begins an empty journal in an instance's directory.
    pub fn begin(name: &Name) -> io::Result<Self> {
        let path = name.runtime_directory().join(FILE);
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
        Ok(Self { file, written: BTreeSet::new() })
    }

    /// Writes down how to take a change back, before it is made.
    pub fn record(&mut self, undo: Undo) -> io::Result<()> {
        if self.written.contains(&undo) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&undo)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.written.insert(undo);
        Ok(())
    }
}

/// Whether an instance left a journal.
#[must_use]
pub fn exists(name: &Name) -> bool {
    name.runtime_directory().join(FILE).exists()
}

/// Takes every change back, the last one first, and removes the instance's files. Goes on after a
/// failure; returns the failures, after which the journal stays. An instance that left nothing is
/// fine.
pub async fn undo_all(name: &Name) -> Vec<String> {
    let failures = take_back_all(name).await;
    if failures.is_empty() {
        let directory = name.runtime_directory();
        for file in ["state.json.new", "state.json", FILE, "lock"] {
            let _ = fs::remove_file(directory.join(file));
        }
        let _ = fs::remove_dir(&directory);
        // The last instance takes the common directory along.
        let _ = directory.parent().map(fs::remove_dir);
    }
    failures
}

/// As [`undo_all`], but leaves the instance's files to the caller, who holds its lock.
pub async fn take_back_all(name: &Name) -> Vec<String> {
    let mut failures = Vec::new();
    match read(&name.runtime_directory().join(FILE)) {
        Ok(undos) => {
            for undo in undos.into_iter().rev() {
                if let Err(failure) = take_back(&undo).await {
                    failures.push(failure);
                }
            }
        }
        Err(error) => failures.push(format!("cannot read the journal: {error}")),
    }
    failures
}

fn read(path: &Path) -> io::Result<Vec<Undo>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // A line that was cut short belongs to a change that was not made.
    let lines = BufReader::new(file).lines().collect::<io::Result<Vec<_>>>()?;
    Ok(lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

async fn take_back(undo: &Undo) -> Result<(), String> {
    match undo {
        Undo::Sysctl { name, former, given } => {
            let current = sysctl::read(name).map_err(|error| error.to_string())?;
            if current.trim() == given {
                sysctl::write(name, former).map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        Undo::Mount { path } => {
            let mounted = BpfFs { path: path.clone(), mounted_here: true };
            mounted.release().map(|_| ()).map_err(|error| error.to_string())
        }
        Undo::Pins { path } => remove_pins(path)
            .map_err(|error| format!("cannot remove the pins below {}: {error}", path.display())),
        Undo::Filters { interface } => {
            for direction in [qdisc::Direction::Egress, qdisc::Direction::Ingress] {
                let deleted =
                    qdisc::delete_bpf_filters_named(*interface, direction, FILTER_NAME).await;
                absent_interface_is_fine(deleted.map(|_| ()))?;
            }
            Ok(())
        }
        Undo::Clsact { interface } => absent_interface_is_fine(delete_unused(*interface).await),
    }
}

async fn delete_unused(interface: u32) -> Result<(), qdisc::QdiscError> {
    for direction in [qdisc::Direction::Egress, qdisc::Direction::Ingress] {
        if !qdisc::list_bpf_filters(interface, direction).await?.is_empty() {
            return Ok(());
        }
    }
    qdisc::delete_clsact(interface).await.map(|_| ())
}

fn absent_interface_is_fine(result: Result<(), qdisc::QdiscError>) -> Result<(), String> {
    match result {
        Ok(()) | Err(qdisc::QdiscError::NoInterface { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn remove_pins(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The last instance takes the common directory along.
    let _ = path.parent().map(fs::remove_dir);
    Ok(())
}
