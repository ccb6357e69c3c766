//! Notice of changed definitions, from inotify(7).
//!
//! A definition counts as changed when its writer is done: at the close of the file, or at the rename
//! of a new one over it, which is how libvirt writes (`virFileRewrite` in `src/util/virfile.c`). What
//! does not end in `.xml` or begins with a dot is no definition, as in
//! [`definition::load`](crate::definition::load): temporary files, backups and locks of editors.

mod inotify;
mod places;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::AddWatchFlags;
use tokio::time::{Instant, timeout_at};

use self::{
    inotify::{Event, Inotify},
    places::Places,
};

/// Several files often change together; they are told of together once nothing has happened this long.
const QUIET: Duration = Duration::from_millis(100);
/// How long a change may wait for others that follow it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A watch over files and directories of definitions.
#[derive(Debug)]
pub struct DefinitionWatch {
    inotify: Inotify,
    places: Places,
    /// What has changed and was not told of yet, and since when.
    changed: BTreeSet<PathBuf>,
    since: Option<Instant>,
}

impl DefinitionWatch {
    /// Watches what [`definition::load`](crate::definition::load) would read of these paths: files,
    /// and directories without their subdirectories (libvirt's `autostart/` has links to the same
    /// files). What is not there yet is watched once it is, and so is a directory that is made anew.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// No descriptor or no watch is left (`/proc/sys/fs/inotify`).
    pub fn start(paths: &[PathBuf]) -> io::Result<Self> {
        let inotify = Inotify::new()?;
        let mut watch =
            Self { inotify, places: Places::new(paths), changed: BTreeSet::new(), since: None };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits until definitions have changed, appeared or gone, and rest. Returns their paths; a path
    /// of [`DefinitionWatch::start`] itself if anything below it may have. May be cancelled: then the
    /// next call returns what this one would have.
    ///
    /// # Errors
    /// A directory cannot be watched any more, because no watch is left for example.
    pub async fn changed(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        loop {
            let Some(since) = self.since else {
                let events = self.inotify.read().await?;
                self.note(&events)?;
                continue;
            };
            let deadline = (Instant::now() + QUIET).min(since + PATIENCE);
            // However many more there are.
            let is_over = deadline <= Instant::now();
            if !is_over && let Ok(events) = timeout_at(deadline, self.inotify.read()).await {
                self.note(&events?)?;
                continue;
            }
            self.since = None;
            return Ok(std::mem::take(&mut self.changed));
        }
    }

    fn note(&mut self, events: &[Event]) -> io::Result<()> {
        let mut must_arm = false;
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.changed.extend(self.places.all());
                must_arm = true;
                continue;
            }
            let Some(directory) = self.places.directory_of(event.watch) else { continue };
            if event.mask.intersects(GONE) {
                self.places.forget(event.watch);
                must_arm = true;
                continue;
            }
            let Some(name) = &event.name else { continue };
            let path = directory.join(name);
            if event.mask.contains(AddWatchFlags::IN_ISDIR) {
                // Perhaps one that is waited for.
                must_arm |= self.places.is_above_or_at(&path);
                continue;
            }
            if !is_finished(event, &path) {
                continue;
            }
            let concerned = self.places.concerned(&path);
            // A link may lead elsewhere by now.
            must_arm |= !concerned.is_empty();
            self.changed.extend(concerned);
        }
        if must_arm {
            self.arm()?;
        }
        if !self.changed.is_empty() && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        Ok(())
    }

    /// Watches what there is by now. What has come while nobody watched counts as changed.
    fn arm(&mut self) -> io::Result<()> {
        let appeared = self.places.arm(&self.inotify)?;
        self.changed.extend(appeared);
        Ok(())
    }
}

const GONE: AddWatchFlags = AddWatchFlags::IN_IGNORED.union(AddWatchFlags::IN_MOVE_SELF);

/// A file that was made is told of when it is closed, but links are whole at once.
fn is_finished(event: &Event, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    if !event.mask.contains(AddWatchFlags::IN_CREATE) {
        return true;
    }
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

/// Whether a file of a directory is a definition by its name.
fn is_definition(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "xml")
        && !name.as_encoded_bytes().starts_with(b".")
}
