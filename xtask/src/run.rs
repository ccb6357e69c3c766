//! `run`: the demonstration, or vnet on the host's own bridges; `bench`: what is measured.

use std::{ffi::OsString, path::Path};

use anyhow::{Result, bail};

use crate::{
    process::{self, CommandExt as _},
    sudo::{self, Elevation},
    workspace::Workspace,
};

/// Becomes the program; both need root rights.
pub fn run(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    if arguments.is_empty() {
        return become_root_program(&workspace.host_program("vnet-demo"), &[]);
    }
    let mut all: Vec<OsString> = vec!["run".into()];
    all.extend_from_slice(arguments);
    become_root_program(&workspace.host_program("vnet"), &all)
}

/// Becomes the program that measures.
pub fn bench(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    become_root_program(&workspace.release_program("vnet-bench"), arguments)
}

fn become_root_program(program: &Path, arguments: &[OsString]) -> Result<()> {
    match sudo::interactive() {
        Elevation::None => std::process::Command::new(program).args(arguments).replace(),
        Elevation::Sudo { ask } => {
            sudo::wrapped(program.as_os_str(), ask).args(arguments).replace()
        }
        Elevation::Impossible => {
            bail!("this needs root rights, and sudo cannot give them; as root, run:\n{}", {
                let words: Vec<_> = std::iter::once(program.as_os_str())
                    .chain(arguments.iter().map(OsString::as_os_str))
                    .map(|word| process::quoted(&word.to_string_lossy()))
                    .collect();
                words.join(" ")
            })
        }
    }
}
