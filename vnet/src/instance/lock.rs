//! The lock that the running daemon holds.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::Name;

/// The lock of an instance; released when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
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
        let directory = name.runtime_directory();
        let path = directory.join("lock");
        let failed = |source| LockError::Io { path: path.display().to_string(), source };
        fs::create_dir_all(&directory).map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                return Err(LockError::Running { name: name.clone(), holder });
            }
            Err((_, error)) => return Err(failed(error.into())),
        };
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}
