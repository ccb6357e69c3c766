//! `lint` and `docs`.

use anyhow::Result;

use crate::{process::CommandExt as _, workspace::Workspace};

pub fn lint(workspace: &Workspace) -> Result<()> {
    println!("xtask: formatting");
    workspace.cargo().args(["fmt", "--all", "--check"]).check()?;

    println!("xtask: lints of the host's crates");
    workspace
        .cargo()
        .args(["clippy", "--workspace", "--exclude", "vnet-ebpf", "--all-targets"])
        .args(["--", "-D", "warnings"])
        .check()?;

    println!("xtask: lints of the BPF programs");
    // Clippy has no BPF target on stable. For the host the crate type-checks the same, if panics
    // abort, as they do in the release profile.
    workspace
        .cargo()
        .args(["clippy", "--package", "vnet-ebpf", "--release", "--", "-D", "warnings"])
        .check()
}

pub fn docs(workspace: &Workspace) -> Result<()> {
    workspace
        .cargo()
        .args(["doc", "--workspace", "--exclude", "vnet-ebpf", "--no-deps"])
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings")
        .check()
}
