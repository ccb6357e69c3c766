//! What can go wrong with the kernel's side.

use std::path::PathBuf;

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use crate::{host::qdisc::QdiscError, instance::JournalError, object::NotBuilt};

/// Why the datapath could not be loaded, filled or attached.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// There are no programs to load.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// The object was refused.
    #[error(
        "cannot load the BPF object: {}; vnet needs Linux 5.15 or newer with CONFIG_BPF_SYSCALL, \
         and memory for its tables (`--max-flows` sets their size)",
        with_sources(.0)
    )]
    Object(#[from] EbpfError),
    /// The kernel's verifier or a missing feature refused a program.
    #[error(
        "the kernel refused the program `{program}` ({reason}); vnet needs Linux 5.15 or newer \
         with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and CONFIG_NET_CLS_BPF"
    )]
    Program {
        /// The program's name.
        program: &'static str,
        /// The error, with the end of the verifier's log.
        reason: String,
    },
    /// The object lacks something that this program knows by name.
    #[error("the BPF object has no `{0}`: build both together with `cargo xtask build`")]
    Missing(&'static str),
    /// A map operation failed.
    #[error("map `{map}`: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// The error of the system call.
        source: MapError,
    },
    /// A program could not be attached.
    #[error("cannot attach `{program}` to {direction} of `{interface}`: {reason}")]
    Attach {
        /// The program's name.
        program: &'static str,
        /// `ingress` or `egress`
        direction: &'static str,
        /// The interface's name.
        interface: String,
        /// The error of the system call.
        reason: String,
    },
    /// A clsact qdisc or filter could not be changed.
    #[error(transparent)]
    Qdisc(#[from] QdiscError),
    /// The expiry of flows failed.
    #[error("cannot run the program `sweep`: {0}")]
    Sweep(ProgramError),
    /// Flows of a former datapath could not be entered.
    #[error("cannot run the program `adopt`: {0}")]
    Adopt(ProgramError),
    /// A pin could not be made.
    #[error("cannot pin {}: {reason}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// The error.
        reason: String,
    },
    /// The journal could not be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl DatapathError {
    /// A refused program, with what the verifier said last.
    pub(super) fn program(program: &'static str, error: &ProgramError) -> Self {
        let reason = match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                let said = log.lines().rev().find(|line| {
                    let line = line.trim();
                    !line.is_empty()
                        && !["processed ", "verification time", "stack depth"]
                            .iter()
                            .any(|statistics| line.starts_with(statistics))
                });
                match said {
                    Some(line) => format!("{io_error}: {}", line.trim()),
                    None => io_error.to_string(),
                }
            }
            other => with_sources(other),
        };
        Self::Program { program, reason }
    }
}

/// An error and what caused it, in one line.
pub(super) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
