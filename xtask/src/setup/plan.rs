//! What to do about what is missing: facts in, steps out.

use super::{
    Preference, linker,
    look::{Missing, MissingLinker, Sources, llvm_package},
    packages::{Apt, Manager},
    toolchain::{CLIPPY_PACKAGES, DISTRIBUTION_PACKAGES, Kind, Nightly},
    tools::Tool,
};

#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// To do now; then look again.
    Steps(Vec<Step>),
    /// Lines that the user has to run, each after the one before.
    Paste(Vec<String>),
    /// Nothing helps; the reason, and what the user can do.
    Impossible(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    UpdateLists,
    InstallPackages(Vec<String>),
    InstallNightly,
    AddRustSource,
    AddNightlyClippy,
    /// From source, on this version of LLVM.
    BuildLinker(u32),
    /// The release binary, through cargo-binstall.
    FetchLinker,
}

pub fn plan(missing: &Missing, sources: &Sources) -> Plan {
    let mut draft = Draft::default();
    let result = draft
        .toolchain(missing.toolchain, sources)
        .and_then(|()| draft.linker(missing, sources))
        .and_then(|()| draft.clippy(missing.clippy, sources))
        .and_then(|()| missing.tools.iter().try_for_each(|tool| draft.tool(tool, sources)));
    match result {
        Ok(()) => draft.finish(sources),
        Err(Stop::UpdateFirst) => Plan::Steps(vec![Step::UpdateLists]),
        Err(Stop::Impossible(reason)) => Plan::Impossible(reason),
    }
}

#[derive(Default)]
struct Draft {
    packages: Vec<String>,
    /// Whether a package is not in apt's lists, which may be old.
    guessed: bool,
    steps: Vec<Step>,
    paste: Vec<String>,
}

enum Stop {
    /// Whether a package exists is only known after `apt-get update`.
    UpdateFirst,
    Impossible(String),
}

impl Draft {
    fn toolchain(&mut self, wanted: Option<Preference>, sources: &Sources) -> Result<(), Stop> {
        let Some(wanted) = wanted else { return Ok(()) };
        let apt = sources.apt().filter(|_| wanted != Preference::Nightly);
        let packages = apt.and_then(|apt| {
            DISTRIBUTION_PACKAGES.into_iter().find(|set| set.iter().all(|name| apt.knows(name)))
        });
        let rustup = match (wanted, sources.nightly) {
            (Preference::Distribution, _) | (_, Nightly::NoRustup | Nightly::Ready) => None,
            (_, Nightly::NotInstalled) => Some(Step::InstallNightly),
            (_, Nightly::NoSource) => Some(Step::AddRustSource),
        };
        match (packages, rustup) {
            (Some(packages), _) if sources.root => self.install(packages),
            (None, _) if sources.root && apt.is_some_and(|apt| !apt.updated) => {
                return Err(Stop::UpdateFirst);
            }
            (_, Some(step)) => self.steps.push(step),
            (Some(packages), None) => self.install(packages),
            (None, None) if apt.is_some_and(|apt| !apt.updated) => {
                self.guessed = true;
                self.install(DISTRIBUTION_PACKAGES[0]);
            }
            (None, None) => return Err(Stop::Impossible(no_toolchain(wanted))),
        }
        Ok(())
    }

    fn linker(&mut self, missing: &Missing, sources: &Sources) -> Result<(), Stop> {
        let Some(MissingLinker { rustc_llvm }) = missing.linker else { return Ok(()) };
        let usable = linker::usable_llvm(rustc_llvm);
        let Some(first) = usable.first() else {
            return Err(Stop::Impossible(format!(
                "bpf-linker {} cannot read what this rustc's LLVM {} writes; \
                 use `--toolchain distribution` or an older nightly",
                linker::VERSION,
                rustc_llvm.unwrap_or_default()
            )));
        };
        if let Some(llvm) = usable.iter().find(|version| sources.llvm.contains(version)) {
            // A rustc that is still to come may have another LLVM.
            if missing.toolchain.is_none() {
                self.steps.push(Step::BuildLinker(*llvm));
            }
            return Ok(());
        }
        if let Some(apt) = sources.apt() {
            let known = usable.iter().map(|version| llvm_package(*version));
            if let Some(package) = known.into_iter().find(|name| apt.knows(name)) {
                self.packages.push(package);
                return Ok(());
            }
            if !apt.updated && sources.root {
                return Err(Stop::UpdateFirst);
            }
            if !apt.updated && !sources.binstall {
                self.guessed = true;
                self.packages.push(llvm_package(*first));
                return Ok(());
            }
        }
        if sources.binstall {
            self.steps.push(Step::FetchLinker);
        } else {
            self.paste.push(linker::release_line(&sources.tools.to_string_lossy()));
        }
        Ok(())
    }

    fn clippy(&mut self, of: Option<Kind>, sources: &Sources) -> Result<(), Stop> {
        match (of, sources.apt()) {
            (None, _) => {}
            (Some(Kind::Nightly), _) => self.steps.push(Step::AddNightlyClippy),
            (Some(Kind::Distribution), apt) => {
                let known = CLIPPY_PACKAGES
                    .into_iter()
                    .find(|name| apt.is_some_and(|apt| apt.knows(name)))
                    .ok_or_else(|| Stop::Impossible("apt has no package of it".to_owned()))?;
                self.packages.push(known.to_owned());
            }
        }
        Ok(())
    }

    fn tool(&mut self, tool: &Tool, sources: &Sources) -> Result<(), Stop> {
        match (tool.package(&sources.manager), sources.apt()) {
            (Some(package), _) => self.packages.push(package.to_owned()),
            (None, Some(apt)) if !apt.updated && sources.root => return Err(Stop::UpdateFirst),
            (None, Some(apt)) if !apt.updated => {
                self.guessed = true;
                self.packages.push(tool.apt[0].to_owned());
            }
            (None, _) => {
                return Err(Stop::Impossible(format!(
                    "apt has no package {}; install `{}` by hand",
                    tool.apt[0], tool.program
                )));
            }
        }
        Ok(())
    }

    fn install(&mut self, packages: &[&str]) {
        self.packages.extend(packages.iter().map(|name| (*name).to_owned()));
    }

    fn finish(mut self, sources: &Sources) -> Plan {
        if sources.root && sources.apt().is_some() && !self.packages.is_empty() {
            self.steps.insert(0, Step::InstallPackages(self.packages));
            return Plan::Steps(self.steps);
        }
        let sudo = if sources.root { "" } else { "sudo " };
        let mut lines = Vec::new();
        if self.guessed {
            lines.push(format!("{sudo}apt-get update"));
        }
        if !self.packages.is_empty() {
            lines.push(format!("{sudo}{}", sources.manager.install_line(&self.packages)));
        }
        lines.append(&mut self.paste);
        if lines.is_empty() { Plan::Steps(self.steps) } else { Plan::Paste(lines) }
    }
}

impl Sources {
    fn apt(&self) -> Option<&Apt> {
        match &self.manager {
            Manager::Apt(apt) => Some(apt),
            Manager::Dnf | Manager::None => None,
        }
    }
}

fn no_toolchain(wanted: Preference) -> String {
    match wanted {
        Preference::Auto | Preference::Nightly => {
            "install rustup (https://rustup.rs), then repeat".to_owned()
        }
        Preference::Distribution => {
            "this distribution has no such package; use `--toolchain nightly`".to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
