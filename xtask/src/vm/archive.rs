//! Debian's package archive, whatever distribution this machine has: its own lists, nothing
//! installed, everything below `target/vm`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, CommandExt as _},
    workspace::Workspace,
};

pub const MIRROR: &str = "http://deb.debian.org";
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where kernels are looked for: Debian 12's first, small lists before large ones.
pub const SUITES: [Suite; 7] = [
    Suite("bookworm-security"),
    Suite("bookworm"),
    Suite("trixie-backports"),
    Suite("trixie"),
    Suite("bullseye-security"),
    Suite("bullseye"),
    Suite("sid"),
];

/// A part of the archive with lists of its own.
#[derive(Clone, Copy, Debug)]
pub struct Suite(pub &'static str);

pub struct Archive {
    /// Everything that was ever fetched.
    pub directory: PathBuf,
    log: PathBuf,
}

impl Archive {
    pub fn new(workspace: &Workspace) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if process::find_program(program).is_none() {
                bail!("`{program}` is missing: the kernels are packages of Debian's");
            }
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: install the package debian-archive-keyring");
        }
        let directory = workspace.target.join("vm");
        make_directory(&directory)?;
        Ok(Self { directory, log: workspace.log("vm-fetch.log")? })
    }

    /// A shell and the basic commands in one static program.
    pub fn busybox(&self) -> Result<PathBuf> {
        let program = self.directory.join("busybox");
        if !program.exists() {
            let suite = Suite("bookworm");
            self.update(suite)?;
            let unpacked = self.fetch(suite, &["busybox-static".to_owned()])?;
            let inside = ["bin/busybox", "usr/bin/busybox"].map(|path| unpacked.join(path));
            let inside = inside
                .iter()
                .find(|path| path.is_file())
                .context("the package busybox-static has no busybox")?;
            fs::rename(inside, &program).context("cannot move busybox")?;
            remove_directory(&unpacked)?;
        }
        Ok(program)
    }

    /// Brings the suite's lists up to date.
    pub fn update(&self, suite: Suite) -> Result<()> {
        let state = self.state(suite);
        for name in ["lists/partial", "cache/archives/partial"] {
            make_directory(&state.join(name))?;
        }
        let part = if suite.0.ends_with("-security") { "debian-security" } else { "debian" };
        let source =
            format!("deb [arch=amd64 signed-by={KEYRING}] {MIRROR}/{part} {} main\n", suite.0);
        fs::write(state.join("sources.list"), source).context("cannot write sources.list")?;
        println!("xtask: updating the package lists of Debian's {} (apt)", suite.0);
        self.apt(suite, "apt-get").arg("update").check_logged(&self.log)
    }

    /// Names of packages that begin with `prefix`, by the lists as last updated.
    pub fn names(&self, suite: Suite, prefix: &str) -> Vec<String> {
        let names = self.apt(suite, "apt-cache").args(["pkgnames", prefix]).probe();
        names.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Downloads packages and unpacks them all into a new directory, which the caller removes.
    pub fn fetch(&self, suite: Suite, packages: &[String]) -> Result<PathBuf> {
        println!("xtask: fetching {} (Debian's {})", packages.join(", "), suite.0);
        let directory = self.directory.join("unpacked").join(packages.join("_"));
        remove_directory(&directory)?;
        make_directory(&directory)?;
        self.apt(suite, "apt-get")
            .arg("download")
            .args(packages)
            .current_dir(&directory)
            .check_logged(&self.log)?;
        let files: Vec<_> = fs::read_dir(&directory)
            .context("cannot list what was downloaded")?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        for file in &files {
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(file)
                .arg(&directory)
                .check_logged(&self.log)?;
            fs::remove_file(file).context("cannot remove a package")?;
        }
        Ok(directory)
    }

    fn state(&self, suite: Suite) -> PathBuf {
        self.directory.join("apt").join(suite.0)
    }

    /// An apt that knows this suite alone and nothing of what is installed.
    fn apt(&self, suite: Suite, program: &str) -> Command {
        let state = self.state(suite);
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for (option, path) in [
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::SourceList", "sources.list"),
        ] {
            command.arg("-o").arg(format!("{option}={}", state.join(path).display()));
        }
        command
            .args(["-o", "Dir::Etc::SourceParts=-", "-o", "Dir::State::Status=/dev/null"])
            .args(["-o", "Acquire::Languages=none"])
            .args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"])
            // The user that root's apt downloads as may not reach the target directory.
            .args(["-o", "APT::Sandbox::User=root"]);
        command
    }
}

pub fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

pub fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
