//! What can go wrong while a lab is built or used.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// The result of every call into the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the lab itself, or of a program that ran in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// The error of the kernel.
        source: io::Error,
    },
    /// A program ended with a status other than 0.
    #[error("`{command}` in namespace `{namespace}`: {status}\n{stdout}{stderr}")]
    Command {
        /// The whole command line.
        command: String,
        /// Name of the namespace it ran in.
        namespace: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard output.
        stdout: String,
        /// What it wrote to its standard error.
        stderr: String,
    },
    /// A condition did not become true in time.
    #[error("not within {deadline:?}: {what}\n{seen}")]
    Deadline {
        /// The condition.
        what: String,
        /// How long it was given.
        deadline: Duration,
        /// What was there instead.
        seen: String,
    },
    /// A program or the kernel answered something that makes no sense here.
    #[error("{what}: {seen}")]
    Unexpected {
        /// What was asked.
        what: String,
        /// The answer.
        seen: String,
    },
}

impl Error {
    pub(crate) fn unexpected(what: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::Unexpected { what: what.into(), seen: seen.into() }
    }
}

/// Names what was being done when a system call failed.
pub(crate) trait While<T> {
    /// Turns the error into [`Error::System`]; `what` is only called on failure.
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> While<T> for std::result::Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System { what: what(), source: source.into() })
    }
}
