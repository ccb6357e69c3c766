//! Looking at the machine: what is there, and where the rest could come from.

use std::{fmt, path::PathBuf};

use anyhow::Result;

use super::{
    Needs, Preference, Ready,
    linker::{self, LLVM_VERSIONS, Linker},
    packages::Manager,
    toolchain::{self, CLIPPY_PACKAGES, DISTRIBUTION_PACKAGES, Kind, Nightly, Toolchain},
    tools::{TOOLS, Tool},
};
use crate::{process, workspace::Workspace};

/// What is on this machine and fits.
pub struct Present {
    toolchain: Option<Toolchain>,
    linker: Option<PathBuf>,
    missing_tools: Vec<&'static Tool>,
}

/// What has to be installed.
#[derive(Debug, Default)]
pub struct Missing {
    pub toolchain: Option<Preference>,
    pub linker: Option<MissingLinker>,
    /// The clippy of the toolchain that is there.
    pub clippy: Option<Kind>,
    pub tools: Vec<&'static Tool>,
}

#[derive(Debug, Default)]
pub struct MissingLinker {
    /// The LLVM of the rustc whose bitcode it will read, if that is there.
    pub rustc_llvm: Option<u32>,
}

/// Where things can come from.
#[derive(Debug)]
pub struct Sources {
    pub root: bool,
    pub manager: Manager,
    pub nightly: Nightly,
    /// LLVM versions that a linker can be built on without installing one.
    pub llvm: Vec<u32>,
    pub binstall: bool,
    /// Where our own tools belong, for a line to paste.
    pub tools: PathBuf,
}

pub fn present(workspace: &Workspace, needs: &Needs) -> Result<Present> {
    let scratch = workspace.log("probe")?;
    let distribution = match needs.preference {
        Preference::Nightly => None,
        Preference::Auto | Preference::Distribution => toolchain::distribution(&scratch),
    };
    // Asking rustup takes longer than all the rest, so only if it matters.
    let nightly = match needs.preference {
        Preference::Auto if distribution.is_some() => None,
        Preference::Distribution => None,
        Preference::Auto | Preference::Nightly => toolchain::nightly().1,
    };
    let toolchain = distribution.or(nightly);
    let rustc_llvm = toolchain.as_ref().and_then(|toolchain| toolchain.llvm);
    let linker = first_fitting(linker::installed(workspace), rustc_llvm);
    Ok(Present { toolchain, linker, missing_tools: needs.tools.missing() })
}

fn first_fitting(linkers: Vec<Linker>, rustc_llvm: Option<u32>) -> Option<PathBuf> {
    linkers.into_iter().find(|linker| linker.fits(rustc_llvm)).map(|linker| linker.path)
}

pub fn sources(workspace: &Workspace, root: bool, lists_updated: bool) -> Sources {
    let llvm_packages = LLVM_VERSIONS.map(llvm_package);
    let names = DISTRIBUTION_PACKAGES
        .into_iter()
        .flatten()
        .copied()
        .chain(CLIPPY_PACKAGES)
        .chain(TOOLS.iter().flat_map(|tool| tool.apt.iter().copied()))
        .chain(llvm_packages.iter().map(String::as_str));
    Sources {
        root,
        manager: Manager::detect(names, lists_updated),
        nightly: toolchain::nightly().0,
        llvm: linker::llvm_prefixes(),
        binstall: process::find_program("cargo-binstall").is_some(),
        tools: workspace.tools(),
    }
}

pub fn llvm_package(version: u32) -> String {
    format!("llvm-{version}-dev")
}

impl Present {
    pub fn missing(&self, needs: &Needs) -> Missing {
        let rustc_llvm = self.toolchain.as_ref().and_then(|toolchain| toolchain.llvm);
        Missing {
            toolchain: self.toolchain.is_none().then_some(needs.preference),
            linker: self.linker.is_none().then_some(MissingLinker { rustc_llvm }),
            clippy: self
                .toolchain
                .as_ref()
                .filter(|toolchain| needs.clippy && !toolchain.has_clippy())
                .map(|toolchain| toolchain.kind),
            tools: self.missing_tools.clone(),
        }
    }

    /// Nothing as long as the toolchain or the linker is missing.
    pub fn into_ready(self) -> Option<Ready> {
        Some(Ready { toolchain: self.toolchain?, linker: self.linker? })
    }
}

impl Missing {
    pub fn is_nothing(&self) -> bool {
        self.toolchain.is_none()
            && self.linker.is_none()
            && self.clippy.is_none()
            && self.tools.is_empty()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let toolchain = self.toolchain.map(|preference| match preference {
            Preference::Auto => "a rustc for BPF",
            Preference::Distribution => "the distribution's rustc for BPF",
            Preference::Nightly => "rustup's nightly with rust-src",
        });
        let linker = self.linker.as_ref().map(|_| "bpf-linker");
        let clippy = self.clippy.map(|_| "clippy for BPF");
        let tools = self.tools.iter().map(|tool| tool.program);
        let names: Vec<_> =
            toolchain.into_iter().chain(linker).chain(clippy).chain(tools).collect();
        formatter.write_str(&names.join(", "))
    }
}
