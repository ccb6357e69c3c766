//! Which directories have to be watched, for which definitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use nix::sys::inotify::WatchDescriptor;

use super::{inotify::Inotify, is_definition};

#[derive(Debug)]
pub(super) struct Places {
    paths: Vec<Watched>,
    /// Watched directories. One that is reached by two names has two here and one watch.
    directories: BTreeMap<PathBuf, WatchDescriptor>,
    /// Where links lead, and the definitions that are these links.
    targets: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// What there was when it was last looked at.
    was: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    File,
    Directory,
}

impl Kind {
    fn of(path: &Path) -> Self {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Self::Directory,
            Ok(_) => Self::File,
            Err(_) => Self::Absent,
        }
    }
}

impl Places {
    pub(super) fn new(paths: &[PathBuf]) -> Self {
        let watched = |path: &PathBuf| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Watched { was: Kind::of(&path), path }
        };
        let paths = paths.iter().map(watched).collect();
        Self { paths, directories: BTreeMap::new(), targets: BTreeMap::new() }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = PathBuf> {
        self.paths.iter().map(|watched| watched.path.clone())
    }

    pub(super) fn directory_of(&self, watch: WatchDescriptor) -> Option<PathBuf> {
        let found = self.directories.iter().find(|(_, other)| **other == watch);
        found.map(|(directory, _)| directory.clone())
    }

    pub(super) fn forget(&mut self, watch: WatchDescriptor) {
        self.directories.retain(|_, other| *other != watch);
    }

    /// Whether a path that is watched, or waited for, is this one or below it.
    pub(super) fn is_above_or_at(&self, path: &Path) -> bool {
        let paths = self.paths.iter().map(|watched| &watched.path);
        paths.chain(self.targets.keys()).any(|wanted| wanted.starts_with(path))
    }

    /// The definitions that a file with this path is.
    pub(super) fn concerned(&self, path: &Path) -> BTreeSet<PathBuf> {
        let mut concerned = self.targets.get(path).cloned().unwrap_or_default();
        let is_ours = |watched: &Watched| match watched.was {
            Kind::Directory => {
                path.parent() == Some(&watched.path) && path.file_name().is_some_and(is_definition)
            }
            Kind::Absent | Kind::File => path == watched.path,
        };
        if self.paths.iter().any(is_ours) {
            concerned.insert(path.to_owned());
        }
        concerned
    }

    /// Watches what there is by now. Returns the paths that have come or gone since the last time.
    pub(super) fn arm(&mut self, inotify: &Inotify) -> io::Result<BTreeSet<PathBuf>> {
        let mut changed = BTreeSet::new();
        loop {
            let before = self.directories.clone();
            self.arm_once(inotify, &mut changed)?;
            // Again, because directories may have come before somebody watched for them.
            if self.directories == before {
                return Ok(changed);
            }
        }
    }

    fn arm_once(&mut self, inotify: &Inotify, changed: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        let mut wanted = BTreeSet::new();
        self.targets.clear();
        for watched in &mut self.paths {
            let path = watched.path.clone();
            let kind = Kind::of(&path);
            if kind != watched.was {
                watched.was = kind;
                changed.insert(path.clone());
            }
            if kind == Kind::Directory {
                for entry in path.read_dir().into_iter().flatten().flatten() {
                    if is_definition(&entry.file_name()) {
                        follow_link(&entry.path(), &mut self.targets);
                    }
                }
                wanted.insert(path.clone());
            } else {
                follow_link(&path, &mut self.targets);
            }
            // For when it comes, goes, or is replaced.
            wanted.extend(path.parent().map(Path::to_owned));
        }
        wanted.extend(self.targets.keys().filter_map(|path| path.parent()).map(Path::to_owned));
        self.watch(&wanted, inotify, changed)
    }

    fn watch(
        &mut self,
        wanted: &BTreeSet<PathBuf>,
        inotify: &Inotify,
        changed: &mut BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        let mut armed = BTreeMap::new();
        for directory in wanted {
            // The nearest one that there is, if it is not there itself.
            for ancestor in directory.ancestors() {
                if armed.contains_key(ancestor) {
                    break;
                }
                // Asked for again although it may be watched: another may have its name by now.
                let Some(watch) = inotify.add(ancestor)? else { continue };
                if self.directories.get(ancestor) != Some(&watch) && !self.directories.is_empty() {
                    // What happened in it before is not known.
                    let below = self.paths.iter().filter(|it| it.path.starts_with(ancestor));
                    changed.extend(
                        below.filter(|it| it.was != Kind::Absent).map(|it| it.path.clone()),
                    );
                }
                armed.insert(ancestor.to_owned(), watch);
                break;
            }
        }
        for watch in self.directories.values() {
            if !armed.values().any(|other| other == watch) {
                inotify.remove(*watch);
            }
        }
        self.directories = armed;
        Ok(())
    }
}

/// Each link of a chain may change.
fn follow_link(link: &Path, targets: &mut BTreeMap<PathBuf, BTreeSet<PathBuf>>) {
    /// As many as the kernel follows (`MAXSYMLINKS` in `include/linux/namei.h`).
    const LONGEST_CHAIN: usize = 40;
    let mut at = link.to_owned();
    for _ in 0..LONGEST_CHAIN {
        let Ok(to) = at.read_link() else { return };
        let to = at.parent().map_or_else(|| to.clone(), |parent| parent.join(&to));
        // Without `..`, so that it is the path that events name.
        let parent = to.parent().and_then(|parent| parent.canonicalize().ok());
        at = match (parent, to.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => to,
        };
        targets.entry(at.clone()).or_default().insert(link.to_owned());
    }
}
