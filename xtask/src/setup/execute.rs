//! Doing one step of the plan, announced by one line.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{backports, linker, plan::Step};
use crate::{process::CommandExt as _, workspace::Workspace};

pub fn step(workspace: &Workspace, step: &Step) -> Result<()> {
    let log = workspace.log("setup.log")?;
    match step {
        Step::UpdateLists => update_lists(&log),
        Step::InstallPackages(packages) => install_packages(workspace, packages, &log),
        Step::InstallNightly => {
            println!("xtask: installing nightly with rust-src (rustup)");
            rustup(&["toolchain", "install", "nightly", "--profile", "minimal"])
                .args(["--component", "rust-src"])
                .check_logged(&log)
        }
        Step::AddRustSource => {
            println!("xtask: installing rust-src of nightly (rustup)");
            rustup(&["component", "add", "rust-src", "--toolchain", "nightly"]).check_logged(&log)
        }
        Step::AddNightlyClippy => {
            println!("xtask: installing clippy of nightly (rustup)");
            rustup(&["component", "add", "clippy", "--toolchain", "nightly"]).check_logged(&log)
        }
        Step::BuildLinker(llvm) => build_linker(workspace, *llvm, &log),
        Step::FetchLinker => {
            println!("xtask: installing bpf-linker {} (cargo-binstall)", linker::VERSION);
            workspace
                .cargo()
                .args(["binstall", "--no-confirm", "--force", "--root"])
                .arg(workspace.tools())
                .arg(format!("bpf-linker@{}", linker::VERSION))
                .check_logged(&log)
        }
    }
}

fn update_lists(log: &Path) -> Result<()> {
    println!("xtask: updating the package lists (apt)");
    apt_get(&["update"]).check_logged(log)
}

fn install_packages(workspace: &Workspace, packages: &[String], log: &Path) -> Result<()> {
    println!("xtask: installing {} (apt)", packages.join(", "));
    let install = || install_command().args(packages).check_logged(log);
    if install().is_ok() {
        return Ok(());
    }
    // Old lists name versions that the mirror no longer has.
    update_lists(log)?;
    let Err(error) = install() else { return Ok(()) };
    backports::install(workspace, packages, log).map_err(|also| {
        error.context(format!(
            "apt cannot install the packages (`--toolchain nightly` needs no rustc-web; {also})"
        ))
    })
}

/// To be followed by packages.
pub fn install_command() -> Command {
    // Another program's installation at the same time is waited for; a package that would
    // have to go (rustup's, say, for the distribution's rustc) stays.
    let mut command = apt_get(&["install", "-y", "--no-install-recommends", "--no-remove"]);
    command.args(["-o", "DPkg::Lock::Timeout=300"]);
    command
}

/// `cargo install` with the LLVM of Debian's packages, into the target directory.
fn build_linker(workspace: &Workspace, llvm: u32, log: &Path) -> Result<()> {
    println!("xtask: building bpf-linker {} on LLVM {llvm} (about a minute)", linker::VERSION);
    workspace
        .cargo()
        .args(["install", "bpf-linker", "--locked", "--force", "--version", linker::VERSION])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(workspace.tools())
        .env("LLVM_PREFIX", linker::llvm_prefix(llvm))
        .env_remove("RUSTFLAGS")
        // So that it builds in a directory that is removed afterwards.
        .env_remove("CARGO_TARGET_DIR")
        .check_logged(log)
}

pub fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

fn rustup(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(arguments).env_remove("RUSTUP_TOOLCHAIN");
    command
}
