//! The demonstration: what `cargo xtask run` without arguments shows.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, io};

use vnet_tests::demo;

/// Where programs for root are; `su` of Debian leaves them out of `PATH`.
const ROOT_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

fn main() -> ExitCode {
    match prepare() {
        Ok(vnet) => demo::run(&vnet),
        Err(reason) => {
            eprintln!("vnet-demo: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The vnet to demonstrate, or why nothing can be shown.
fn prepare() -> Result<PathBuf, String> {
    let this = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    if env::args_os().count() > 1 {
        return Err(
            "takes no arguments; on this host's own bridges: cargo xtask run -- FILE".into()
        );
    }
    if !nix::unistd::geteuid().is_root() {
        let command = format!("sudo {}", this.display());
        return Err(format!("namespaces and BPF programs need root rights; run: {command}"));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(wider) = with_root_directories(&path) {
        let error: io::Error = Command::new(&this).env("PATH", wider).exec();
        return Err(format!("cannot run {} again: {error}", this.display()));
    }
    let missing = demo::missing_programs(&path);
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(format!(
            "not installed: {missing}; `cargo xtask setup` installs what is missing"
        ));
    }
    let vnet = this.with_file_name("vnet");
    if vnet.is_file() {
        Ok(vnet)
    } else {
        Err(format!("{} is not there; build it: cargo xtask build", vnet.display()))
    }
}

/// `path` with the directories that it lacks; nothing if it lacks none.
fn with_root_directories(path: &OsString) -> Option<OsString> {
    let mut directories: Vec<PathBuf> = env::split_paths(path).collect();
    let known = directories.len();
    for directory in ROOT_DIRECTORIES.map(Path::new) {
        if !directories.iter().any(|other| other == directory) {
            directories.push(directory.to_owned());
        }
    }
    if directories.len() == known { None } else { env::join_paths(directories).ok() }
}
