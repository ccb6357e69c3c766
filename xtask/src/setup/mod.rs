//! Finding or installing what the other verbs need: look, plan, do, until nothing is missing.

mod backports;
mod execute;
mod linker;
mod look;
mod packages;
mod plan;
mod toolchain;
mod tools;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;

use self::{plan::Plan, toolchain::Kind};
pub use self::{toolchain::Toolchain, tools::ToolSet};
use crate::{process, sudo, workspace::Workspace};

/// Lists, packages, toolchain, linker: nothing needs more rounds than this.
const MAX_ROUNDS: usize = 6;

/// Which rustc compiles the BPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preference {
    /// The distribution's if it is there or can be installed, else nightly
    Auto,
    /// The distribution's packages: a stable rustc with a compiled core for BPF
    Distribution,
    /// Rustup's nightly, which compiles core for BPF from its source
    Nightly,
}

/// What a verb needs.
pub struct Needs {
    pub preference: Preference,
    pub tools: ToolSet,
    /// Whether the toolchain's clippy is needed, too.
    pub clippy: bool,
    /// Whether missing things may be installed.
    pub install: bool,
    /// Whether to name what was found, too.
    pub verbose: bool,
}

/// What builds the BPF object.
pub struct Ready {
    pub toolchain: Toolchain,
    pub linker: PathBuf,
}

pub fn ensure(workspace: &Workspace, needs: &Needs) -> Result<Ready> {
    let mut lists_updated = false;
    for _ in 0..MAX_ROUNDS {
        let present = look::present(workspace, needs)?;
        let missing = present.missing(needs);
        if missing.is_nothing()
            && let Some(ready) = present.into_ready()
        {
            if needs.verbose {
                ready.describe();
            }
            return Ok(ready);
        }
        if !needs.install {
            bail!("missing: {missing}; `cargo xtask setup` installs it");
        }
        let sources = look::sources(workspace, sudo::is_root(), lists_updated);
        match plan::plan(&missing, &sources) {
            Plan::Steps(steps) => {
                for step in &steps {
                    execute::step(workspace, step)?;
                    lists_updated |= matches!(step, plan::Step::UpdateLists);
                }
            }
            Plan::Paste(lines) => {
                bail!("missing: {missing}; this installs it:\n{}", lines.join(" && "))
            }
            Plan::Impossible(reason) => bail!("missing: {missing}; {reason}"),
        }
    }
    bail!("what was installed cannot be used; `cargo xtask setup --verbose` names what is found")
}

impl Ready {
    fn describe(&self) {
        let core = match self.toolchain.kind {
            Kind::Distribution => "its core compiled",
            Kind::Nightly => "its core from rust-src",
        };
        println!("xtask: found {} ({core})", self.toolchain.rustc.display());
        println!("xtask: found {}", self.linker.display());
        for tool in tools::TOOLS {
            if let Some(path) = process::find_program(tool.program) {
                println!("xtask: found {}", path.display());
            }
        }
    }
}
