//! The rustc that compiles for BPF.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    process::{self, CommandExt as _},
    workspace::Workspace,
};

/// Packages of a rustc and its compiled core for BPF; the first set that apt has is installed.
/// Debian 12 has current ones besides its own old rustc: these.
pub const DISTRIBUTION_PACKAGES: [&[&str]; 2] =
    [&["rustc-web", "libstd-rust-web-dev-bpf"], &["rustc", "libstd-rust-dev-bpf"]];

/// The clippy of each of these sets.
pub const CLIPPY_PACKAGES: [&str; 2] = ["rust-web-clippy", "rust-clippy"];

/// Where the distribution's packages put it.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";

/// A rustc that was seen to compile for BPF, or has what it takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub kind: Kind,
    pub rustc: PathBuf,
    /// The major version of its LLVM; a linker needs the same or a newer one.
    pub llvm: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its core for BPF comes compiled.
    Distribution,
    /// It compiles core itself, from rust-src.
    Nightly,
}

/// What rustup's nightly lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nightly {
    Ready,
    NoSource,
    NotInstalled,
    NoRustup,
}

impl Toolchain {
    /// The cargo to build with, without the flags of [`Self::cargo_flags`].
    pub fn cargo(&self, workspace: &Workspace) -> Command {
        let mut command = match self.kind {
            // Any cargo drives any rustc; the one that runs us is recent enough for the workspace.
            Kind::Distribution => workspace.cargo(),
            // build-std is between one cargo and its own rustc.
            Kind::Nightly => workspace.cargo_at(&self.rustc.with_file_name("cargo")),
        };
        command.env("RUSTC", &self.rustc).env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTFLAGS");
        if self.kind == Kind::Distribution {
            // aya-ebpf uses unstable features of core.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// Its `cargo clippy`, to be called like [`Self::cargo`].
    pub fn clippy(&self, workspace: &Workspace) -> Command {
        let cargo = self.cargo(workspace);
        let mut command = workspace.cargo_at(&self.rustc.with_file_name("cargo-clippy"));
        for (name, value) in cargo.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env("CARGO", cargo.get_program()).arg("clippy");
        command
    }

    pub fn has_clippy(&self) -> bool {
        self.rustc.with_file_name("clippy-driver").exists()
    }

    /// What `cargo build` needs besides the target.
    pub fn cargo_flags(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Distribution => &[],
            Kind::Nightly => &["-Z", "build-std=core"],
        }
    }
}

/// The distribution's rustc, if it compiles an empty crate for BPF.
pub fn distribution(scratch: &Path) -> Option<Toolchain> {
    let rustc = PathBuf::from(DISTRIBUTION_RUSTC);
    let output = scratch.with_extension("rmeta");
    let source = scratch.with_extension("rs");
    std::fs::write(&source, "#![no_std]\n").ok()?;
    rustc_command(&rustc)
        .args(["--target", "bpfel-unknown-none", "--crate-type", "lib", "--crate-name", "probe"])
        .args(["--edition", "2024", "--emit", "metadata"])
        .arg("-o")
        .arg(&output)
        .arg(&source)
        .env("RUSTC_BOOTSTRAP", "1")
        .probe()?;
    let llvm = llvm_of(&rustc);
    Some(Toolchain { kind: Kind::Distribution, rustc, llvm })
}

/// Rustup's nightly, and what it lacks.
pub fn nightly() -> (Nightly, Option<Toolchain>) {
    if process::find_program("rustup").is_none() {
        return (Nightly::NoRustup, None);
    }
    let which = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", "rustc"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .probe();
    let Some(rustc) = which.map(|path| PathBuf::from(path.trim())) else {
        return (Nightly::NotInstalled, None);
    };
    let source = rustc.ancestors().nth(2).map(|root| root.join("lib/rustlib/src/rust/library"));
    if !source.is_some_and(|source| source.join("core").is_dir()) {
        return (Nightly::NoSource, None);
    }
    let llvm = llvm_of(&rustc);
    (Nightly::Ready, Some(Toolchain { kind: Kind::Nightly, rustc, llvm }))
}

fn rustc_command(rustc: &Path) -> Command {
    let mut command = Command::new(rustc);
    process::forget_outer_cargo(&mut command);
    command
}

fn llvm_of(rustc: &Path) -> Option<u32> {
    llvm_version(&rustc_command(rustc).arg("-vV").probe()?)
}

/// The major version in the output of `rustc -vV`.
fn llvm_version(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_of_rustc_is_read_from_its_verbose_version() {
        let version = "rustc 1.96.0\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_version(version), Some(22));
        assert_eq!(llvm_version("rustc 1.96.0\n"), None);
    }
}
