//! What was changed on the host, written down before it is changed, so that it can be taken back
//! by whoever finds the journal: the daemon itself, its janitor, or the next start.
//!
//! A file of JSON lines: whose it is, then one change after the other.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{Lock, Name, ProcessId, namespace};
use crate::host::{GatewayRoute, bridge_port::PortVlan};

const FILE: &str = "journal";
const NEW_EXTENSION: &str = "new";

/// How to take one change back. Each is harmless if the change was never made or is gone already.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// Give a sysctl its former value, if it still has the one that was set.
    Sysctl {
        /// Its name with dots, or with slashes.
        name: String,
        /// The value it had.
        former: String,
        /// The value it was given.
        given: String,
    },
    /// Once forwarding of a family is off again: give every interface its own `forwarding` that it
    /// had, and those that were made meanwhile what they would have been made with.
    Forwarding {
        /// Where the interfaces' parameters are, with slashes: `net/ipv6/conf`.
        conf: String,
        /// What `default` had.
        default: String,
        /// The indices of the interfaces that there were, and what each had.
        interfaces: Vec<(u32, String)>,
    },
    /// Delete a route.
    Route(GatewayRoute),
    /// Take the isolation off a bridge's port.
    IsolatedPort {
        /// Index of the port.
        interface: u32,
    },
    /// Give a bridge's port its former VLAN back.
    PortVlans {
        /// Index of the port.
        interface: u32,
        /// The VLANs that it was given.
        given: Vec<PortVlan>,
        /// The one that it had, if any.
        former: Option<PortVlan>,
    },
    /// Delete a bridge, unless it has ports by now: their guests would lose their network for good.
    Bridge {
        /// Its name.
        name: String,
        /// Its hardware address, by which one is known that has no alias yet.
        mac: [u8; 6],
        /// What says that it is ours.
        alias: String,
    },
    /// End every dnsmasq that is found by its files here, and remove these.
    Services {
        /// The directory: `services::dnsmasq::Directories::runtime`.
        runtime: PathBuf,
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
        /// The filters' name.
        name: String,
    },
    /// Delete the clsact qdisc of an interface, if no filter of others is there.
    Clsact {
        /// Index of the interface.
        interface: u32,
    },
}

/// The first line: whose journal it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// The daemon's process.
    #[serde(flatten)]
    pub process: ProcessId,
    /// Inode of the network namespace that it changes.
    pub namespace: u64,
}

/// The journal cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct JournalError {
    path: PathBuf,
    source: io::Error,
}

/// The journal of a running instance.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Length of the whole lines.
    length: u64,
    entries: Vec<Undo>,
    /// The same, to be found in.
    known: BTreeSet<Undo>,
}

impl Journal {
    /// Begins the calling process's journal, which replaces an earlier one.
    pub fn begin(lock: &Lock) -> Result<Self, JournalError> {
        let path = file_of(lock.name());
        let failed = |source| JournalError { path: path.clone(), source };
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
        let file = file.map_err(failed)?;
        let namespace = namespace::current().map_err(failed)?;
        let (entries, known) = (Vec::new(), BTreeSet::new());
        let mut journal = Self { path, file, length: 0, entries, known };
        let begun = journal.append(&Owner { process: ProcessId::current(), namespace });
        if begun.is_err() {
            // Nothing is to be taken back by it.
            let _ = fs::remove_file(&journal.path);
        }
        begun.map(|()| journal)
    }

    /// Goes on with the journal that an earlier process has left, as the calling process's own.
    pub fn take_over(lock: &Lock) -> Result<Self, JournalError> {
        let path = file_of(lock.name());
        let entries =
            read(lock.name()).map_err(|source| JournalError { path: path.clone(), source })?;
        Self::rewritten(path, entries.undos)
    }

    /// What has been written down, in that order.
    #[must_use]
    pub fn entries(&self) -> &[Undo] {
        &self.entries
    }

    /// Forgets changes that have been taken back.
    pub fn forget(&mut self, which: impl Fn(&Undo) -> bool) -> Result<(), JournalError> {
        if !self.entries.iter().any(&which) {
            return Ok(());
        }
        let mut kept = std::mem::take(&mut self.entries);
        let all = kept.clone();
        kept.retain(|undo| !which(undo));
        match Self::rewritten(self.path.clone(), kept) {
            Ok(journal) => *self = journal,
            Err(error) => {
                self.entries = all;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts a journal of the calling process in the place of the one that is there, at once or not at
    /// all.
    fn rewritten(path: PathBuf, entries: Vec<Undo>) -> Result<Self, JournalError> {
        let failed = |source| JournalError { path: path.clone(), source };
        let new = path.with_extension(NEW_EXTENSION);
        let written = || {
            let namespace = namespace::current()?;
            let mut text = Vec::new();
            write_line(&mut text, &Owner { process: ProcessId::current(), namespace })?;
            for undo in &entries {
                write_line(&mut text, undo)?;
            }
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            fs::rename(&new, &path)?;
            Ok((file, text.len() as u64))
        };
        let (file, length) = written().map_err(|source| {
            let _ = fs::remove_file(&new);
            failed(source)
        })?;
        let known = entries.iter().cloned().collect();
        Ok(Self { path, file, length, entries, known })
    }

    /// Writes down how to take a change back, before it is made.
    pub fn record(&mut self, undo: Undo) -> Result<(), JournalError> {
        if self.known.contains(&undo) {
            return Ok(());
        }
        self.append(&undo)?;
        self.known.insert(undo.clone());
        self.entries.push(undo);
        Ok(())
    }

    fn append(&mut self, entry: &impl Serialize) -> Result<(), JournalError> {
        let mut line = Vec::new();
        let written = write_line(&mut line, entry).and_then(|()| {
            self.file.write_all(&line)?;
            Ok(line.len() as u64)
        });
        match written {
            Ok(written) => {
                self.length += written;
                Ok(())
            }
            Err(source) => {
                // The next line must not continue half of this one.
                let _ = self.file.set_len(self.length);
                let _ = io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.length));
                Err(JournalError { path: self.path.clone(), source })
            }
        }
    }
}

fn write_line(text: &mut Vec<u8>, entry: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, entry)?;
    text.push(b'\n');
    Ok(())
}

/// What a journal says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    pub owner: Option<Owner>,
    pub undos: Vec<Undo>,
    /// Numbers, from 1, of lines that say nothing that is understood.
    pub damaged: Vec<usize>,
}

/// Whether an instance left a journal.
#[must_use]
pub fn exists(name: &Name) -> bool {
    file_of(name).exists()
}

/// What a journal says, if every line of it can be read.
///
/// # Errors
/// Why it is no use.
pub fn intact_entries(name: &Name) -> Result<Vec<Undo>, String> {
    let entries = read(name).map_err(|error| format!("its journal cannot be read: {error}"))?;
    if entries.owner.is_none() || !entries.damaged.is_empty() {
        return Err("its journal is damaged".to_owned());
    }
    Ok(entries.undos)
}

/// The journal's file.
pub(super) fn file_of(name: &Name) -> PathBuf {
    name.runtime_directory().join(FILE)
}

/// Removes the journal and the state of an instance that nothing is left of.
pub(super) fn forget(name: &Name) -> io::Result<()> {
    for file in super::FILES.iter().copied().flatten() {
        let _ = fs::remove_file(name.runtime_directory().join(file));
    }
    let _ = fs::remove_file(file_of(name).with_extension(NEW_EXTENSION));
    match fs::remove_file(file_of(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a journal; an absent one is empty.
pub(super) fn read(name: &Name) -> io::Result<Entries> {
    match fs::read(file_of(name)) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::default()),
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8]) -> Entries {
    let mut entries = Entries::default();
    for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        // A line that was cut short belongs to a change that was not made.
        let Some(line) = line.strip_suffix(b"\n") else { continue };
        if number == 1
            && let Ok(owner) = serde_json::from_slice(line)
        {
            entries.owner = Some(owner);
        } else if let Ok(undo) = serde_json::from_slice(line) {
            entries.undos.push(undo);
        } else {
            entries.damaged.push(number);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = r#"{"process":7,"namespace":4026531840}"#;
    const CLSACT: &str = r#"{"undo":"clsact","interface":4}"#;

    #[test]
    fn last_line_that_was_cut_short_is_a_change_that_was_not_made() {
        // A version that did not write it down has left it.
        let process = ProcessId { number: 7, started: 0 };
        let cut = format!("{OWNER}\n{CLSACT}\n{}", &CLSACT[..20]);
        let entries = parse(cut.as_bytes());
        assert_eq!(entries.owner, Some(Owner { process, namespace: 4_026_531_840 }));
        assert_eq!(entries.undos, [Undo::Clsact { interface: 4 }]);
        assert_eq!(entries.damaged, [0; 0]);
        assert_eq!(parse(b""), Entries::default());
        assert_eq!(parse(&OWNER.as_bytes()[..9]), Entries::default());
    }

    #[test]
    fn damaged_lines_are_numbered_and_the_others_are_still_understood() {
        let mut bytes = b"\xff\xfe\0\n".to_vec();
        bytes.extend(format!("{CLSACT}\n{{\"undo\":\"nothing\"}}\n{CLSACT}\n").bytes());
        let entries = parse(&bytes);
        assert_eq!(entries.owner, None);
        assert_eq!(entries.undos, [Undo::Clsact { interface: 4 }, Undo::Clsact { interface: 4 }]);
        assert_eq!(entries.damaged, [1, 3]);
    }

    #[test]
    fn every_change_is_read_as_it_was_written() {
        let undos = [
            Undo::Forwarding {
                conf: "net/ipv6/conf".to_owned(),
                default: "1".to_owned(),
                interfaces: vec![(1, "0".to_owned()), (7, "2".to_owned())],
            },
            Undo::Route(GatewayRoute {
                destination: "fd00:9::/48".parse().unwrap(),
                gateway: "fd00:122::9".parse().unwrap(),
                interface: 3,
                metric: 1,
            }),
        ];
        let lines: Vec<_> =
            undos.iter().map(|undo| serde_json::to_string(undo).unwrap() + "\n").collect();
        assert_eq!(
            lines.concat(),
            "{\"undo\":\"forwarding\",\"conf\":\"net/ipv6/conf\",\"default\":\"1\",\
             \"interfaces\":[[1,\"0\"],[7,\"2\"]]}\n\
             {\"undo\":\"route\",\"destination\":\"fd00:9::/48\",\"gateway\":\"fd00:122::9\",\
             \"interface\":3,\"metric\":1}\n"
        );
        assert_eq!(parse(lines.concat().as_bytes()).undos, undos);
    }
}
