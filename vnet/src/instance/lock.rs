//! The lock that the running daemon holds.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{Name, journal};

const FILE: &str = "lock";

/// How often the lock file may be removed by others while it is being taken.
const ATTEMPTS: u32 = 100;

/// The lock of an instance; released when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock {
    name: Name,
    file: Flock<File>,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error(
        "instance `{name}` is already running (process {holder}): stop it, or start this one with \
         `--instance OTHER`"
    )]
    Running {
        /// The instance.
        name: Name,
        /// The process that holds the lock, as it wrote itself.
        holder: String,
    },
    /// The file system failed.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The error of the system call.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock, making the instance's directory if needed.
    pub fn take(name: &Name) -> Result<Self, LockError> {
        let path = name.runtime_directory().join(FILE);
        let failed = |source| LockError::Io { path: path.display().to_string(), source };
        let file = match hold(&path).map_err(failed)? {
            Ok(file) => file,
            Err(mut file) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                return Err(LockError::Running { name: name.clone(), holder });
            }
        };
        let mut lock = Self { name: name.clone(), file };
        if let Err(error) = lock.sign() {
            lock.release();
            return Err(failed(error));
        }
        Ok(lock)
    }

    /// The instance that it is the lock of.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Lets go of the lock and removes the instance's files, but for a journal that there still is
    /// something to do for.
    pub fn release(self) {
        if journal::exists(&self.name) {
            return;
        }
        let directory = self.name.runtime_directory();
        for file in super::FILES.iter().copied().flatten().copied().chain([
            super::TRIAL,
            super::TRIAL_LOCK,
            FILE,
        ]) {
            let _ = fs::remove_file(directory.join(file));
        }
        let _ = fs::remove_dir(&directory);
        // The last instance takes the common directory along.
        let _ = directory.parent().map(fs::remove_dir);
    }

    /// Writes down who holds it.
    fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }
}

/// Locks a file, which is made with its directory if needed. The file without the lock if somebody else
/// holds that.
pub fn hold(path: &Path) -> io::Result<Result<Flock<File>, File>> {
    for _ in 0..ATTEMPTS {
        let Some(file) = open(path)? else { continue };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its last holder may have removed it since it was opened: that lock is nobody's.
            Ok(file) if is_at(&file, path) => return Ok(Ok(file)),
            Ok(_) => {}
            Err((file, Errno::EWOULDBLOCK)) => return Ok(Err(file)),
            Err((_, error)) => return Err(error.into()),
        }
    }
    Err(io::Error::other("it is being removed again and again"))
}

/// `None` if the directory has been removed meanwhile.
fn open(path: &Path) -> io::Result<Option<File>> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    let opened = made.and_then(|()| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
    });
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(theirs)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())
}
