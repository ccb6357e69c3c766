//! `lint` and `docs`.

use anyhow::Result;

use crate::{bpf, process::CommandExt as _, setup::Ready, workspace::Workspace};

pub fn lint(workspace: &Workspace, ready: &Ready) -> Result<()> {
    println!("xtask: formatting");
    workspace.cargo().args(["fmt", "--all", "--check"]).check()?;

    println!("xtask: lints of the host's crates");
    workspace
        .cargo()
        .args(["clippy", "--workspace", "--exclude", "vnet-ebpf", "--all-targets"])
        .args(["--", "-D", "warnings"])
        .check()?;

    println!("xtask: lints of the BPF programs");
    bpf::lint(workspace, ready)
}

pub fn docs(workspace: &Workspace) -> Result<()> {
    workspace
        .cargo()
        .args(["doc", "--workspace", "--exclude", "vnet-ebpf", "--no-deps"])
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings")
        .check()
}
