//! Running other programs.

use std::{
    env,
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// How much of a log is shown after a failure.
const LOG_LINES: usize = 15;

/// A child ended with something else than success.
#[derive(Debug)]
pub struct ChildFailed {
    program: String,
    status: ExitStatus,
}

impl ChildFailed {
    /// What a shell would report: the exit code, or 128 + the signal.
    pub fn code(&self) -> u8 {
        let code = self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }

    /// A killed child could not explain itself.
    pub fn needs_message(&self) -> bool {
        self.status.signal().is_some()
    }
}

impl fmt::Display for ChildFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.program, self.status)
    }
}

impl std::error::Error for ChildFailed {}

pub trait CommandExt {
    /// Runs with our standard streams. Errors: [`ChildFailed`] unless it succeeds.
    fn check(&mut self) -> Result<()>;

    /// Runs silently, with everything it prints going to `log`; the error ends with the tail.
    fn check_logged(&mut self, log: &Path) -> Result<()>;

    /// Its standard output when it succeeds, nothing when it fails or does not exist.
    fn probe(&mut self) -> Option<String>;

    /// Becomes the program, so that signals and the exit code are its own; returns only on error.
    fn replace(&mut self) -> Result<()>;
}

impl CommandExt for Command {
    fn check(&mut self) -> Result<()> {
        let status = self.status().with_context(|| cannot_run(self))?;
        child_result(self, status)
    }

    fn check_logged(&mut self, log: &Path) -> Result<()> {
        let file =
            File::create(log).with_context(|| format!("cannot write to {}", log.display()))?;
        let second = file.try_clone().context("cannot duplicate a log file")?;
        let status = self
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(second)
            .status()
            .with_context(|| cannot_run(self))?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(log).unwrap_or_default();
        bail!(
            "{}: {status}; the end of {}:\n{}",
            line(self),
            log.display(),
            last_lines(&text, LOG_LINES)
        )
    }

    fn probe(&mut self) -> Option<String> {
        let output = self.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        if !output.status.success() {
            return None;
        }
        String::from_utf8(output.stdout).ok()
    }

    fn replace(&mut self) -> Result<()> {
        let error: io::Error = self.exec();
        Err(error).with_context(|| cannot_run(self))
    }
}

/// Ok, or the error that makes xtask end with the child's exit code.
pub fn child_result(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    Err(ChildFailed { program, status }.into())
}

/// Removes what `cargo run` and rustup's proxies set for us: it names the wrong package and the
/// libraries (LLVM among them) of the wrong toolchain.
pub fn forget_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if is_of_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        let kept = env::split_paths(&path).filter(|directory| !is_of_a_toolchain(directory));
        match env::join_paths(kept) {
            Ok(kept) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", kept),
            _ => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
}

/// Whether cargo or rustup added this library directory: build output, or rustc's own.
fn is_of_a_toolchain(directory: &Path) -> bool {
    directory.join("rustlib").is_dir()
        || ["rustlib", "deps", "debug", "release"]
            .iter()
            .any(|name| directory.components().any(|part| part.as_os_str() == *name))
}

fn is_of_outer_cargo(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(name, "CARGO" | "OUT_DIR" | "RUST_RECURSION_COUNT")
}

/// The first executable of that name on `PATH` or where non-root users have no `PATH` to.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn cannot_run(command: &Command) -> String {
    format!("cannot run {}", command.get_program().to_string_lossy())
}

fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

/// The last `count` lines that are not empty.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A word for a shell.
pub fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_of_a_child_is_kept_and_a_signal_becomes_128_plus_its_number() {
        let code = |status| ChildFailed { program: "x".into(), status }.code();
        assert_eq!(code(ExitStatus::from_raw(2 << 8)), 2);
        assert_eq!(code(ExitStatus::from_raw(2)), 130);
    }

    #[test]
    fn failed_command_shows_the_end_of_its_log() {
        let log = env::temp_dir().join(format!("xtask-log-{}", std::process::id()));
        let error = Command::new("sh")
            .args(["-c", "seq 1 100; exit 3"])
            .check_logged(&log)
            .unwrap_err()
            .to_string();
        fs::remove_file(&log).unwrap();
        assert!(error.ends_with("\n98\n99\n100"), "{error}");
        assert!(!error.contains("\n85\n"), "{error}");
    }

    #[test]
    fn words_are_quoted_for_a_shell_when_they_need_it() {
        assert_eq!(quoted("--uplink=eth0"), "--uplink=eth0");
        assert_eq!(quoted("my net.xml"), "'my net.xml'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn only_variables_that_name_this_package_are_forgotten() {
        assert!(is_of_outer_cargo(OsStr::new("CARGO_PKG_NAME")));
        assert!(is_of_outer_cargo(OsStr::new("CARGO_MANIFEST_DIR")));
        assert!(!is_of_outer_cargo(OsStr::new("CARGO_HOME")));
        assert!(!is_of_outer_cargo(OsStr::new("CARGO_TARGET_DIR")));
        assert!(!is_of_outer_cargo(OsStr::new("CARGO_NET_OFFLINE")));
    }
}
