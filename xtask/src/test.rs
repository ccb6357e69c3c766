//! `test`: every test there is, and one line that counts them.

use std::{
    env,
    io::{self, BufRead, BufReader, IsTerminal as _, Write as _},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, CommandExt as _},
    record,
    sudo::{self, Elevation},
    vm,
    workspace::Workspace,
};

/// How daemons use XDP in tests that do not say it, with short ways on.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Xdp {
    /// Never
    Off,
    /// On every uplink, also on those of the lab
    On,
    /// Switched on and off while the tests run
    Random,
}

impl Xdp {
    /// Tells the tests.
    pub const VARIABLE: &str = "VNET_TEST_XDP";

    /// What it says to them.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Random => "random",
        }
    }
}

pub fn run(
    workspace: &Workspace,
    filters: &[String],
    records: bool,
    xdp: Option<Xdp>,
) -> Result<()> {
    let mut command = workspace.cargo();
    match sudo::silent() {
        Elevation::None => {}
        Elevation::Sudo { .. } => {
            command.arg("--config").arg(runner_setting()?);
        }
        Elevation::Impossible => {
            bail!(
                "the tests need root rights; let sudo know you, then repeat:\nsudo -v && cargo xtask test"
            )
        }
    }
    command.args(["test", "--no-fail-fast"]);
    if records {
        // Whatever it is filtered by: in a virtual machine that is the program's name.
        command.args(["--package", "vnet-tests", "--test", "vm_verifier"]);
    } else {
        command.args(["--workspace", "--exclude", "vnet-ebpf", "--"]).args(filters);
    }
    command
        // Tests that cannot run must fail, not skip: everything they need is here.
        .env("VNET_REQUIRE_ROOT", "1");
    if records {
        command.env(record::VARIABLE, "1").env("RUST_TEST_NOCAPTURE", "1");
    }
    match vm::real_guest::prepare(workspace) {
        Ok(directory) => drop(command.env(vm::real_guest::VARIABLE, directory)),
        // Elsewhere than on Debian and its like; the test tells whether it may be left out.
        Err(error) => eprintln!("xtask: no guest to boot: {error:#}"),
    }
    if let Some(xdp) = xdp {
        command.env(Xdp::VARIABLE, xdp.word());
    }
    if io::stdout().is_terminal() {
        command.arg("--color=always");
    }

    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut counts = Counts::default();
    counts.relay(BufReader::new(output))?;
    let status = child.wait().context("cannot wait for cargo test")?;

    println!("xtask: {counts} in {} s", started.elapsed().as_secs());
    process::child_result(&command, status)?;
    if records {
        record::write(workspace, &counts.told)?;
    }
    if counts.passed == 0 && !filters.is_empty() {
        bail!("no test has a name that contains `{}`", filters.join("` or `"));
    }
    Ok(())
}

/// Cargo's configuration that executes each test program through [`sudo::execute_as_root`].
pub fn runner_setting() -> Result<String> {
    let version = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .probe()
        .context("cannot ask rustc for the host's name")?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not name the host")?;
    let xtask = env::current_exe().context("cannot find our own program")?;
    let xtask = xtask.to_str().context("our own program's path is not UTF-8")?;
    Ok(format!("target.{host}.runner=[{xtask:?},\"as-root\"]"))
}

/// The sum of all `test result:` lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u32,
    failed: u32,
    ignored: u32,
    /// See [`record::told`].
    pub told: Vec<String>,
}

impl Counts {
    /// Prints what test programs print, and counts.
    pub fn relay(&mut self, output: impl BufRead) -> Result<()> {
        let mut stdout = io::stdout().lock();
        for line in output.split(b'\n') {
            let line = line.context("cannot read the output of the tests")?;
            self.add(&String::from_utf8_lossy(&line));
            stdout.write_all(&line)?;
            stdout.write_all(b"\n")?;
        }
        Ok(())
    }

    fn add(&mut self, line: &str) {
        self.told.extend(record::told(line).map(str::to_owned));
        let Some((_, result)) = line.split_once("test result: ") else { return };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) =
                (words.next().map(str::parse::<u32>), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(formatter, ", {} ignored", self.ignored)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_the_sum_over_all_test_programs() {
        let mut counts = Counts::default();
        counts.add("running 3 tests");
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s");
        counts.add("test result: \u{1b}[31mFAILED\u{1b}[m. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 12.50s");
        assert_eq!(counts, Counts { passed: 7, failed: 2, ignored: 1, told: Vec::new() });
        assert_eq!(counts.to_string(), "7 passed, 2 failed, 1 ignored");
    }

    #[test]
    fn a_test_that_prints_numbers_does_not_change_the_counts() {
        let mut counts = Counts::default();
        counts.add("5 passed; 9 failed");
        assert_eq!(counts, Counts::default());
    }
}
