//! Building the BPF object.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{process::CommandExt as _, setup::Ready, workspace::Workspace};

/// ISA v3 has the atomics; the linker writes BTF when it is told to and there is debug info.
const RUSTC_FLAGS: [&str; 6] = ["-C", "debuginfo=2", "-C", "link-arg=--btf", "-C", "target-cpu=v3"];

/// Programs that only the benchmarks use.
const OF_BENCHMARKS: [&str; 2] = ["minimum", "generator"];

/// Compiles vnet-ebpf and puts the object where the host's build finds it.
pub fn build(workspace: &Workspace, ready: &Ready) -> Result<()> {
    let mut command = ready.toolchain.cargo(workspace);
    aim_at_bpf(command.arg("build"), workspace, ready).check()?;
    let built = target_directory(workspace).join("bpfel-unknown-none/release");
    for name in OF_BENCHMARKS {
        copy_if_different(&built.join(name), &workspace.bpf_object_of_benchmarks(name))?;
    }
    copy_if_different(&built.join("vnet-ebpf"), &workspace.bpf_object())
}

/// Clippy for the BPF target itself: the host's cannot compile BPF assembly.
pub fn lint(workspace: &Workspace, ready: &Ready) -> Result<()> {
    let mut command = ready.toolchain.clippy(workspace);
    aim_at_bpf(&mut command, workspace, ready).args(["--", "-D", "warnings"]).check()
}

fn aim_at_bpf<'a>(
    command: &'a mut Command,
    workspace: &Workspace,
    ready: &Ready,
) -> &'a mut Command {
    command
        .args(["--release", "--package", "vnet-ebpf", "--target", "bpfel-unknown-none"])
        .args(ready.toolchain.cargo_flags())
        .arg("--target-dir")
        .arg(target_directory(workspace))
        // Has precedence over RUSTFLAGS and configuration, which are the host's.
        .env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(&ready.linker))
}

/// Apart from the host's, so that the two builds do not wait for each other.
fn target_directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf")
}

fn encoded_flags(linker: &Path) -> OsString {
    let mut setting = OsString::from("linker=");
    setting.push(linker);
    let flags: Vec<&OsStr> =
        RUSTC_FLAGS.iter().map(OsStr::new).chain([OsStr::new("-C"), setting.as_os_str()]).collect();
    flags.join(OsStr::new("\u{1f}"))
}

/// An object that did not change keeps its time stamp, so that the host's crates are not rebuilt.
fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linker_with_a_space_in_its_path_is_one_flag() {
        let flags = encoded_flags(Path::new("/a b/bpf-linker"));
        let flags: Vec<_> = flags.to_str().unwrap().split('\u{1f}').collect();
        assert_eq!(flags.last().unwrap(), &"linker=/a b/bpf-linker");
        assert_eq!(flags.len(), 8);
    }
}
