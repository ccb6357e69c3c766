//! Where things are, and how cargo is called on them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::process::{self, CommandExt as _};

pub struct Workspace {
    pub root: PathBuf,
    /// Absolute, wherever `CARGO_TARGET_DIR` points.
    pub target: PathBuf,
    /// The cargo that runs us; of one toolchain, not rustup's proxy.
    cargo: PathBuf,
}

impl Workspace {
    pub fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in no workspace")?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
            // Cargo takes a relative one from the directory it was started in, which is ours.
            Some(directory) => env::current_dir()?.join(directory),
            None => root.join("target"),
        };
        let cargo = env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
        Ok(Self { root, target, cargo })
    }

    /// What `vnet/build.rs` embeds.
    pub fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/vnet-ebpf.o")
    }

    /// Where the benchmarks look for programs of theirs.
    pub fn bpf_object_of_benchmarks(&self, name: &str) -> PathBuf {
        self.target.join("bpf").join(name).with_extension("o")
    }

    /// Where our own tools are installed: the root of `cargo install --root`.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// A file for output that is only worth reading after a failure.
    pub fn log(&self, name: &str) -> Result<PathBuf> {
        let directory = self.target.join("xtask");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory.join(name))
    }

    /// A program that `cargo build` put into the target directory.
    pub fn host_program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// A program of the host's release build.
    pub fn release_program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The cargo (and so the rustc) that the user runs, in the workspace's root.
    pub fn cargo(&self) -> Command {
        self.cargo_at(&self.cargo)
    }

    /// Another toolchain's cargo, in the workspace's root.
    pub fn cargo_at(&self, cargo: &Path) -> Command {
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        process::forget_outer_cargo(&mut command);
        command
    }

    pub fn build_host(&self, release: bool) -> Result<()> {
        let mut command = self.cargo();
        command.args(["build", "--workspace", "--exclude", "vnet-ebpf"]);
        if release {
            command.arg("--release");
        }
        command.check()
    }
}
