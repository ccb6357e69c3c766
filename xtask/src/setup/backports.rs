//! Packages that stay out because a relative of theirs is installed from Debian's backports: they
//! are taken from there, too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::execute::{apt_get, install_command};
use crate::{
    process::CommandExt as _,
    vm::archive::{self, KEYRING, MIRROR},
    workspace::Workspace,
};

/// Where the machine's own sources are.
const SOURCES: &str = "/etc/apt/sources.list.d";
/// What versions of packages from backports hold.
const MARK: &str = "~bpo";

/// Installs those of `packages` that only a backported package is in the way of from backports,
/// and the others as always.
///
/// # Errors
/// If nothing of that kind is in the way, or apt fails.
pub fn install(workspace: &Workspace, packages: &[String], log: &Path) -> Result<()> {
    let (blocked, others): (Vec<_>, Vec<_>) =
        packages.iter().cloned().partition(|package| meets_backports(package));
    if blocked.is_empty() {
        bail!("no package from backports is in the way");
    }
    if !others.is_empty() {
        install_command().args(&others).check_logged(log)?;
    }
    let suite = format!("{}-backports", codename()?);
    println!("xtask: installing {} (apt, {suite})", blocked.join(", "));
    let sources = sources(workspace, &suite)?;
    sources.direct(&mut apt_get(&["update"])).check_logged(log)?;
    sources
        .direct(&mut install_command())
        .args(["--target-release", suite.as_str()])
        .args(&blocked)
        .check_logged(log)
}

/// Whether the package would put out others, all of which are from backports.
fn meets_backports(package: &str) -> bool {
    let plan = apt_get(&["install", "--simulate", "--no-install-recommends", package]).probe();
    is_in_the_way(&plan.unwrap_or_default())
}

/// `plan`: what apt says that it would do.
fn is_in_the_way(plan: &str) -> bool {
    let mut removed = plan.lines().filter_map(|line| line.strip_prefix("Remv ")).peekable();
    removed.peek().is_some() && removed.all(|line| line.contains(MARK))
}

/// The machine's sources and one suite more, with lists of their own.
struct Sources {
    parts: PathBuf,
    lists: PathBuf,
}

impl Sources {
    fn direct<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .arg("-o")
            .arg(format!("Dir::Etc::SourceParts={}", self.parts.display()))
            .arg("-o")
            .arg(format!("Dir::State::Lists={}", self.lists.display()))
            // The user that root's apt downloads as may not reach the target directory.
            .args(["-o", "APT::Sandbox::User=root"])
    }
}

fn sources(workspace: &Workspace, suite: &str) -> Result<Sources> {
    let directory = workspace.log("backports")?;
    archive::remove_directory(&directory)?;
    let sources = Sources { parts: directory.join("parts"), lists: directory.join("lists") };
    archive::make_directory(&sources.parts)?;
    archive::make_directory(&sources.lists.join("partial"))?;
    for file in fs::read_dir(SOURCES).into_iter().flatten().filter_map(Result::ok) {
        fs::copy(file.path(), sources.parts.join(file.file_name()))
            .with_context(|| format!("cannot copy {}", file.path().display()))?;
    }
    let line = format!("deb [signed-by={KEYRING}] {MIRROR}/debian {suite} main\n");
    fs::write(sources.parts.join("backports.list"), line).context("cannot write backports.list")?;
    Ok(sources)
}

fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(str::to_owned)
        .context("/etc/os-release has no VERSION_CODENAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_of_backported_packages_alone_is_met_with_backports() {
        let backported = "Remv qemu-utils [1:10.0.2+ds-2+deb13u1~bpo12+1]\n";
        let own = "Remv rustup [1.27.1-3]\n";
        assert!(is_in_the_way(&format!("{backported}Inst qemu-system-x86 (1:7.2)\n")));
        assert!(!is_in_the_way(&format!("{backported}{own}")));
        assert!(!is_in_the_way("Inst nftables (1.0.6-2)\n"));
    }
}
