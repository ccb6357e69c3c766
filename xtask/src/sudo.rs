//! Root rights for the programs that need them, never for the builds.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal as _},
    os::unix::fs::MetadataExt as _,
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::{self, CommandExt as _};

/// Whether the effective user is root.
pub fn is_root() -> bool {
    // A process owns its own directory in /proc with its effective user id.
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// How a program of ours gets root rights.
pub enum Elevation {
    /// We are root.
    None,
    /// Through sudo; it may ask for a password if there is a terminal.
    Sudo { ask: bool },
    /// There is no sudo, or it would ask and nobody could answer.
    Impossible,
}

/// For a program in the foreground: sudo may ask.
pub fn interactive() -> Elevation {
    if is_root() {
        Elevation::None
    } else if process::find_program("sudo").is_none() {
        Elevation::Impossible
    } else if io::stdin().is_terminal() {
        Elevation::Sudo { ask: true }
    } else {
        silent()
    }
}

/// For many programs whose output we read: sudo must not ask.
pub fn silent() -> Elevation {
    if is_root() {
        Elevation::None
    } else if Command::new("sudo").args(["-n", "true"]).probe().is_some() {
        Elevation::Sudo { ask: false }
    } else {
        Elevation::Impossible
    }
}

/// The body of `xtask as-root`.
pub fn execute_as_root(command: &[OsString]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no program is given")?;
    wrapped(program, false).args(arguments).replace()
}

/// `sudo … program`, with the variables that tests and vnet read.
pub fn wrapped(program: &OsStr, ask: bool) -> Command {
    let mut command = Command::new("sudo");
    if !ask {
        command.arg("-n");
    }
    // sudo's own ways to keep variables need a permission; `env` does not.
    command.arg("env");
    for (name, value) in kept_variables() {
        let mut assignment = name;
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

/// The variables that tests and vnet read.
pub fn kept_variables() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| is_kept(name))
}

fn is_kept(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    ["VNET_", "CARGO_", "RUST_"].iter().any(|prefix| name.starts_with(prefix))
        || matches!(name, "PATH" | "LD_LIBRARY_PATH" | "TERM" | "NO_COLOR" | "CI")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_user_agrees_with_id() {
        let id = Command::new("id").arg("-u").probe().unwrap();
        assert_eq!(is_root(), id.trim() == "0");
    }

    #[test]
    fn sudo_gets_the_program_after_the_variables() {
        let command = wrapped(OsStr::new("/bin/true"), false);
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(command.get_program(), "sudo");
        assert_eq!(arguments[..2], ["-n", "env"]);
        assert_eq!(arguments.last().unwrap(), &"/bin/true");
        assert!(arguments.iter().any(|argument| argument.as_encoded_bytes().starts_with(b"PATH=")));
    }
}
