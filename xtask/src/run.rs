//! `run`: the demonstration, or vnet on the host's own bridges.

use std::{ffi::OsString, path::Path};

use anyhow::{Result, bail};

use crate::{
    process::CommandExt as _,
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
                    .map(|word| quoted(&word.to_string_lossy()))
                    .collect();
                words.join(" ")
            })
        }
    }
}

/// For a shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_when_they_need_it() {
        assert_eq!(quoted("--uplink=eth0"), "--uplink=eth0");
        assert_eq!(quoted("my net.xml"), "'my net.xml'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
