//! The distribution's package manager.

use std::{collections::BTreeSet, process::Command};

use crate::process::{self, CommandExt as _};

/// What the machine installs packages with.
#[derive(Debug)]
pub enum Manager {
    Apt(Apt),
    Dnf,
    None,
}

/// What apt's lists say.
#[derive(Debug, Default)]
pub struct Apt {
    /// Those that it could install, of the packages asked for.
    pub known: BTreeSet<String>,
    /// Whether the lists were updated in this run, so that an unknown package does not exist.
    pub updated: bool,
}

impl Manager {
    /// Asks apt about `names`, if there is apt.
    pub fn detect<'a>(names: impl Iterator<Item = &'a str>, updated: bool) -> Self {
        if process::find_program("apt-get").is_some() {
            let policy = Command::new("apt-cache")
                .arg("policy")
                .args(names)
                .env("LC_ALL", "C")
                .probe()
                .unwrap_or_default();
            Self::Apt(Apt { known: candidates(&policy), updated })
        } else if process::find_program("dnf").is_some() {
            Self::Dnf
        } else {
            Self::None
        }
    }

    /// The command, without sudo, that installs `packages`.
    pub fn install_line(&self, packages: &[String]) -> String {
        let packages = packages.join(" ");
        match self {
            Self::Apt(_) => {
                format!("apt-get install -y --no-install-recommends --no-remove {packages}")
            }
            Self::Dnf => format!("dnf install -y {packages}"),
            Self::None => {
                format!("(install with your package manager, Fedora's names:) {packages}")
            }
        }
    }
}

impl Apt {
    pub fn knows(&self, package: &str) -> bool {
        self.known.contains(package)
    }
}

/// The packages with a candidate in the output of `apt-cache policy`.
fn candidates(policy: &str) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    let mut package = "";
    for line in policy.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = name;
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ")
            && version != "(none)"
        {
            known.insert(package.to_owned());
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_with_a_candidate_are_known() {
        let policy = "\
llvm-22-dev:
  Installed: (none)
  Candidate: 1:22.1.8-1~deb12u1
  Version table:
     1:22.1.8-1~deb12u1 500
        500 https://mirror.example/debian stable/main amd64 Packages
bpftool:
  Installed: (none)
  Candidate: (none)
  Version table:
curl:
  Installed: 7.88.1-10
  Candidate: 7.88.1-10
";
        assert_eq!(candidates(policy), ["curl", "llvm-22-dev"].map(String::from).into());
    }
}
