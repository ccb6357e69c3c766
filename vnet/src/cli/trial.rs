//! `vnet try` and `vnet confirm`: definitions that are taken back unless somebody still reaches the host.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vnet::{
    instance::{Name, Told},
    supervise::{self, RunError},
};

use super::{
    REFUSED,
    apply::{apply_told, text},
    print,
    run::{Start, refused},
    runtime,
};

/// Apply definitions, and go back to what ran before unless that is confirmed in time.
///
/// Confirmed is it by Enter here, or by `vnet confirm` from anywhere, such as a new login. What ran before
/// also comes back when this process or its terminal goes.
#[derive(Debug, Args)]
pub struct Try {
    #[command(flatten)]
    start: Start,
    /// Seconds to wait for the confirmation
    #[arg(long, default_value_t = 120, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
}

/// Keep what `vnet try` has applied.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Name of the instance
    #[arg(long, default_value = "default", value_name = "NAME")]
    instance: Name,
}

/// Goes back unless it is told otherwise.
#[derive(Debug, Args)]
pub struct Guardian {
    #[arg(long, value_name = "NAME")]
    instance: Name,
    #[arg(long, value_name = "SECONDS")]
    timeout: u32,
}

impl Try {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { start, timeout } = self;
        let options = start.options(true);
        let told = match supervise::told(&options) {
            Ok(told) => told,
            Err(error) => return failed(error),
        };
        let before = Told::read(&options.instance).context("cannot read what runs")?;
        let Some(mut guardian) = Running::start(&options.instance, timeout, before.as_ref())?
        else {
            return Ok(ExitCode::from(REFUSED));
        };
        let differences = match apply_told(&options, told) {
            Ok(differences) => differences,
            Err(error) => {
                guardian.dismiss();
                return failed(error);
            }
        };
        print(&text(&differences, super::Output::Table)?)?;
        if differences.is_empty() {
            guardian.dismiss();
            return Ok(ExitCode::SUCCESS);
        }
        // It has gone already if somebody was quick to confirm.
        let _ = guardian.say("applied");
        print(&format!(
            "on trial for {timeout} s: press Enter to keep it, or run `vnet confirm --instance {}`\n",
            options.instance
        ))?;
        if guardian.waits_for_enter() {
            let _ = guardian.say(supervise::CONFIRMED);
        }
        if guardian.child.wait()?.success() {
            print("kept\n")?;
            Ok(ExitCode::SUCCESS)
        } else {
            anyhow::bail!("not confirmed: what ran before is back")
        }
    }
}

/// The process that goes back.
struct Running {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Running {
    /// `None` if it refused, and has said why.
    fn start(instance: &Name, timeout: u32, before: Option<&Told>) -> anyhow::Result<Option<Self>> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut command = Command::new(program);
        command
            .args(["guardian", "--instance", &instance.to_string()])
            .args(["--timeout", &timeout.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal of the terminal is this process's alone.
            .process_group(0);
        let mut child = command.spawn().context("cannot start the guardian process")?;
        let pipe = child.stdin.take();
        let mut running = Self { child, pipe };
        running.say(&serde_json::to_string(&before)?)?;
        let mut ready = String::new();
        if let Some(stdout) = running.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        if ready.is_empty() {
            running.child.wait()?;
            return Ok(None);
        }
        Ok(Some(running))
    }

    fn say(&mut self, word: &str) -> io::Result<()> {
        self.pipe.as_mut().map_or(Ok(()), |pipe| writeln!(pipe, "{word}"))
    }

    fn dismiss(&mut self) {
        // One that has gone already needs no word.
        let _ = self.say(supervise::CONFIRMED);
        let _ = self.child.wait();
    }

    /// Whether Enter came before the guardian's end.
    fn waits_for_enter(&mut self) -> bool {
        let mut stdin = io::stdin().lock();
        loop {
            let mut polled = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::from(100_u16)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => {
                    let mut line = String::new();
                    // Nobody types into a closed input.
                    return stdin.read_line(&mut line).is_ok_and(|length| length > 0);
                }
                Err(_) => return false,
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
        }
    }
}

impl Confirm {
    pub fn run(&self) -> ExitCode {
        if supervise::confirm(&self.instance) {
            ExitCode::SUCCESS
        } else {
            refused(&format!("nothing is on trial in instance `{}`", self.instance))
        }
    }
}

impl Guardian {
    /// Success means that what was applied is kept.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let timeout = Duration::from_secs(self.timeout.into());
        let mut words = BufReader::new(File::from(io::stdin().as_fd().try_clone_to_owned()?));
        let mut first = String::new();
        words.read_line(&mut first)?;
        let before: Option<Told> = serde_json::from_str(&first)?;
        let trial = match supervise::Trial::begin(&self.instance) {
            Ok(trial) => trial,
            Err(error) => return Ok(refused(&error.to_string())),
        };
        print("watching\n")?;
        if trial.is_confirmed(&mut words, timeout) {
            return Ok(ExitCode::SUCCESS);
        }
        log::warn!("not confirmed: going back to what ran before");
        match before {
            Some(told) => {
                apply_told(&supervise::Options::of_instance(self.instance.clone()), told)?;
            }
            None => runtime()?.block_on(supervise::take_down(&self.instance))?,
        }
        Ok(ExitCode::FAILURE)
    }
}

fn failed(error: RunError) -> anyhow::Result<ExitCode> {
    match error {
        RunError::Refused(refusal) => Ok(refused(&refusal.to_string())),
        RunError::Failed(error) => Err(error),
    }
}
