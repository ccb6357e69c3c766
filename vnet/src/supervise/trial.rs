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
    fcntl::Flock,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::instance::{self, Name};

/// What confirms.
pub const CONFIRMED: &str = "confirmed";
/// How long somebody who has connected may take to say it, and the guardian to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A trial of an instance: at most one at a time.
#[derive(Debug)]
pub struct Trial {
    path: PathBuf,
    listener: UnixListener,
    /// Held until the end, so that of two that begin at the same moment one wins.
    lock: Option<Flock<File>>,
    /// When the time is over; none before the definitions are in force.
    end: Option<Instant>,
}

/// What has come of a trial so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The definitions are in force: the time has begun.
    Applied,
    /// They are to stay.
    Confirmed,
    /// The time is over, or whoever tries them has gone.
    Over,
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
    /// Begins to listen for `vnet confirm`.
    pub fn begin(instance: &Name) -> Result<Self, TrialError> {
        let path = instance.trial_socket();
        let failed = |source| TrialError::Socket { path: path.display().to_string(), source };
        let Ok(lock) = instance::hold(&instance.trial_lock()).map_err(failed)? else {
            return Err(TrialError::UnderWay(instance.clone()));
        };
        let listener = instance::listen(&path).map_err(failed)?;
        Ok(Self { path, listener, lock: Some(lock), end: None })
    }

    /// Takes no confirmation any more. What is returned keeps others from beginning a trial until what ran
    /// before is back.
    #[must_use]
    pub fn end(mut self) -> Option<Flock<File>> {
        self.lock.take()
    }

    /// Waits for the next word of the process that applies, or for `vnet confirm`. The time begins with
    /// [`Word::Applied`].
    pub fn wait(&mut self, words: &mut BufReader<File>, timeout: Duration) -> Word {
        loop {
            let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Word::Over;
            }
            // Two words may have come at once.
            let has_more = !words.buffer().is_empty();
            let wait = match left {
                _ if has_more => PollTimeout::ZERO,
                None => PollTimeout::NONE,
                Some(left) => PollTimeout::try_from(left + Duration::from_millis(1))
                    .unwrap_or(PollTimeout::MAX),
            };
            let mut polled = [
                PollFd::new(words.get_ref().as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, wait) {
                Err(Errno::EINTR) => continue,
                Err(_) => return Word::Over,
                Ok(_) => {}
            }
            let [word, confirmation] = polled.map(|fd| fd.any().unwrap_or(false));
            if confirmation && self.is_told_so() {
                return Word::Confirmed;
            }
            if word || has_more {
                let mut line = String::new();
                match words.read_line(&mut line) {
                    Ok(0) | Err(_) => return Word::Over,
                    Ok(_) if line.trim_end() == CONFIRMED => return Word::Confirmed,
                    Ok(_) => {
                        self.end = Some(Instant::now() + timeout);
                        return Word::Applied;
                    }
                }
            }
        }
    }

    /// Whether somebody has connected to confirm, not only to see whether a trial is under way. Whoever
    /// has is answered.
    fn is_told_so(&self) -> bool {
        let Ok((mut client, _)) = self.listener.accept() else { return false };
        let mut word = [0; CONFIRMED.len()];
        let read =
            client.set_read_timeout(Some(PATIENCE)).and_then(|()| client.read_exact(&mut word));
        read.is_ok() && word == *CONFIRMED.as_bytes() && client.write_all(b"\n").is_ok()
    }
}

/// Confirms what is on trial in an instance; whether anything was, and is kept.
#[must_use]
pub fn confirm(instance: &Name) -> bool {
    let Ok(mut guardian) = UnixStream::connect(instance.trial_socket()) else { return false };
    let mut answer = [0];
    guardian
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| guardian.write_all(CONFIRMED.as_bytes()))
        .and_then(|()| guardian.read_exact(&mut answer))
        .is_ok()
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
