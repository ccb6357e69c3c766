//! Waiting for the confirmation of definitions that are on trial.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigHandler, Signal, signal},
};

use crate::instance::Name;

/// What confirms.
pub const CONFIRMED: &str = "confirmed";
/// How long somebody who has connected may take to say it.
const PATIENCE: Duration = Duration::from_secs(1);

/// A trial of an instance: at most one at a time.
#[derive(Debug)]
pub struct Trial {
    path: PathBuf,
    listener: UnixListener,
}

/// Another trial is under way, or there is no place for its socket.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// Only one can be gone back from.
    #[error("definitions of instance `{0}` are on trial: `vnet confirm` keeps them")]
    UnderWay(Name),
    /// The socket cannot be made.
    #[error("cannot listen at {path}: {source}")]
    Socket {
        /// Where.
        path: String,
        /// The error.
        source: io::Error,
    },
}

impl Trial {
    /// Begins to listen for `vnet confirm`. The calling process is not ended by a terminal any more.
    pub fn begin(instance: &Name) -> Result<Self, TrialError> {
        let path = instance.trial_socket();
        if UnixStream::connect(&path).is_ok() {
            return Err(TrialError::UnderWay(instance.clone()));
        }
        let listener = listen(&path)
            .map_err(|source| TrialError::Socket { path: path.display().to_string(), source })?;
        for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
            // SAFETY: ignoring a signal runs no code of ours.
            let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
        }
        Ok(Self { path, listener })
    }

    /// Waits for `confirmed` from the process that applies, or for `vnet confirm`. Not confirmed it is when
    /// that process ends, or when the time is over that begins with its word `applied`.
    #[must_use]
    pub fn is_confirmed(&self, words: &mut BufReader<File>, timeout: Duration) -> bool {
        let mut end: Option<Instant> = None;
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            let wait = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            });
            let mut polled = [
                PollFd::new(words.get_ref().as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            // Two words may have come at once.
            let has_more = !words.buffer().is_empty();
            match poll(&mut polled, if has_more { PollTimeout::ZERO } else { wait }) {
                Ok(0) if !has_more => continue,
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
                Ok(_) => {}
            }
            let [word, confirmation] = polled.map(|fd| fd.any().unwrap_or(false));
            if confirmation && self.is_told_so() {
                return true;
            }
            if word || has_more {
                let mut line = String::new();
                match words.read_line(&mut line) {
                    Ok(0) | Err(_) => return false,
                    Ok(_) if line.trim_end() == CONFIRMED => return true,
                    Ok(_) => end = Some(Instant::now() + timeout),
                }
            }
        }
    }
}

impl Trial {
    /// Whether somebody has connected to confirm, not only to see whether a trial is under way.
    fn is_told_so(&self) -> bool {
        let Ok((client, _)) = self.listener.accept() else { return false };
        let mut word = String::new();
        let read = client
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| client.take(CONFIRMED.len() as u64).read_to_string(&mut word));
        read.is_ok() && word == CONFIRMED
    }
}

/// Confirms what is on trial in an instance; whether anything was.
#[must_use]
pub fn confirm(instance: &Name) -> bool {
    UnixStream::connect(instance.trial_socket())
        .is_ok_and(|mut guardian| guardian.write_all(CONFIRMED.as_bytes()).is_ok())
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(path: &PathBuf) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}
