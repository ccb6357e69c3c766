//! Files of definitions that have changed: each is applied if it can be, and else says what it said
//! before.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{RunError, directories::Directories, obey, prepare::network_in, startup::Running};
use crate::{
    definition::{self, Difference, Severity},
    instance::{DefinitionText, Told},
    notify,
    plan::beside::Surroundings,
};

/// Files that are not in force as they are.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// Those with errors of their own.
    invalid: BTreeSet<PathBuf>,
    /// Those that the host or other definitions do not allow for now, and what was said of them.
    refused: BTreeMap<PathBuf, String>,
    /// Where changed files are.
    pub directories: Directories,
}

impl Ignored {
    pub(super) fn add_invalid(&mut self, file: PathBuf) {
        self.invalid.insert(file);
    }

    pub(super) fn add_refused(&mut self, file: PathBuf, reason: String) {
        self.refused.insert(file, reason);
    }

    fn refuse(&mut self, file: &Path, reason: String) {
        if self.refused.get(file) != Some(&reason) {
            log::error!("{} is ignored for now: {reason}", file.display());
            self.refused.insert(file.to_owned(), reason);
        }
    }

    /// All files are in force as they are.
    pub(super) fn clear(&mut self) {
        self.invalid.clear();
        self.refused.clear();
    }

    pub(super) fn count(&self) -> usize {
        self.invalid.len() + self.refused.len()
    }

    /// Whether a change of the host may help.
    pub(super) fn waits_for_host(&self) -> bool {
        !self.refused.is_empty()
    }
}

/// A file and what it says; none if it has gone.
type Edit = (PathBuf, Option<String>);

/// Applies changed files, and those that were refused before: all together or, if that is refused, each
/// that can be.
pub(super) async fn apply_changed(
    running: &mut Running,
    changed: &BTreeSet<PathBuf>,
    ignored: &mut Ignored,
) {
    let mut files = BTreeSet::new();
    for path in changed {
        match files_of(path, &running.told, &mut ignored.directories) {
            Ok(found) => files.extend(found),
            Err(error) => log::error!("{error}; what was read of it before stays"),
        }
    }
    files.extend(ignored.refused.keys().cloned());
    let mut edits: Vec<Edit> = Vec::new();
    for file in files {
        match read(&file, &mut ignored.directories) {
            Ok(text) if text.as_deref() == text_of(&running.told, &file) => {
                ignored.invalid.remove(&file);
                ignored.refused.remove(&file);
            }
            Ok(text) => {
                ignored.invalid.remove(&file);
                edits.push((file, text));
            }
            Err(errors) => {
                log::error!("{} is ignored, what it said before stays:\n{errors}", file.display());
                ignored.refused.remove(&file);
                ignored.invalid.insert(file);
            }
        }
    }
    // What goes makes room for what comes.
    edits.sort_by_key(|(_, text)| text.is_some());
    if edits.is_empty() {
        return;
    }
    let around = Surroundings::read(&running.instance);
    while edits.len() > 1 {
        let refusal = match apply(running, &edits, &around).await {
            Ok(_) => {
                for (file, _) in &edits {
                    ignored.refused.remove(file);
                }
                return;
            }
            Err(RunError::Refused(refusal)) => refusal,
            Err(RunError::Failed(_)) => break,
        };
        let before = edits.len();
        edits.retain(|(file, text)| {
            let name = text.as_ref().and_then(|text| network_in(file, text));
            match name.and_then(|name| refusal.of_network(&name)) {
                Some(refusal) => {
                    ignored.refuse(file, refusal.to_string());
                    false
                }
                None => true,
            }
        });
        if edits.len() == before {
            break;
        }
    }
    for edit in edits {
        notify::progress();
        match apply(running, std::slice::from_ref(&edit), &around).await {
            Ok(_) => drop(ignored.refused.remove(&edit.0)),
            Err(RunError::Refused(refusal)) => ignored.refuse(&edit.0, refusal.to_string()),
            Err(RunError::Failed(error)) => ignored.refuse(&edit.0, format!("{error:#}")),
        }
    }
}

/// The definitions that a path stands for: a directory for those in it, now and in what was told.
fn files_of(
    path: &Path,
    told: &Told,
    directories: &mut Directories,
) -> Result<Vec<PathBuf>, String> {
    let known = told.definitions.iter().map(|it| &it.path);
    let known: Vec<_> = known.filter(|known| known.parent() == Some(path)).cloned().collect();
    if known.is_empty() && !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    // A directory that has gone takes no network along: it may be mounted again.
    let mut files = directories.files_in(path)?;
    files.extend(known);
    Ok(files)
}

/// What a file says, if it has no error; none if there is no such file.
fn read(file: &Path, directories: &mut Directories) -> Result<Option<String>, String> {
    if directories.is_gone(file)? {
        return Ok(None);
    }
    let loaded = definition::load(&[file.to_owned()]);
    if loaded.report.has_errors() {
        return Err(loaded.report.render(Severity::Warning));
    }
    let text = loaded.report.sources().iter().find_map(|(_, source)| source.text());
    Ok(text.map(str::to_owned))
}

fn text_of<'a>(told: &'a Told, file: &Path) -> Option<&'a str> {
    let known = told.definitions.iter().find(|it| it.path == file);
    known.map(|it| it.text.as_str())
}

async fn apply(
    running: &mut Running,
    edits: &[Edit],
    around: &Surroundings,
) -> Result<Vec<Difference>, RunError> {
    let mut told = running.told.clone();
    for (path, text) in edits {
        let known = told.definitions.iter().position(|it| it.path == *path);
        match (known, text) {
            (Some(at), Some(text)) => text.clone_into(&mut told.definitions[at].text),
            (Some(at), None) => drop(told.definitions.remove(at)),
            (None, Some(text)) => {
                told.definitions.push(DefinitionText { path: path.clone(), text: text.clone() });
            }
            (None, None) => {}
        }
    }
    obey::apply(running, told, around).await
}
