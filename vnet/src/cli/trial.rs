//! `vnet try` and `vnet confirm`: definitions that are taken back unless somebody still reaches the host.

use std::{
    io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
};

use anyhow::Context as _;
use clap::Args;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigHandler, Signal, signal},
        termios::{FlushArg, tcflush},
    },
};
use serde::Serialize;
use vnet::{
    definition::Difference,
    instance::Name,
    supervise::{self, RunError},
};

use super::{
    Output, REFUSED,
    apply::{apply_told, text, told},
    guardian, print,
    run::{Start, refused},
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
    /// How the changes and what becomes of them are written; JSON has a line for each step
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// A step of a trial, as JSON has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "trial")]
enum Step<'a> {
    /// The definitions are in force until the time is over.
    Begun {
        /// What has changed.
        changes: &'a [Difference],
        timeout_seconds: u32,
    },
    /// They stay.
    Kept,
    /// What ran before is back.
    GoneBack,
    /// Something else has been applied meanwhile, which is left as it is.
    Superseded,
}

impl Step<'_> {
    fn print(&self) -> anyhow::Result<()> {
        print(&format!("{}\n", serde_json::to_string(self)?))
    }
}

/// Keep what `vnet try` has applied.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Name of the instance
    #[arg(long, default_value = "default", value_name = "NAME")]
    instance: Name,
}

impl Try {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { start, timeout, output } = self;
        let options = start.options(true);
        let told = match told(&options) {
            Ok(told) => told,
            Err(error) => return failed(error),
        };
        let Some(mut guardian) = Guardian::start(&options.instance, timeout)? else {
            return Ok(ExitCode::from(REFUSED));
        };
        let applied = apply_told(&options, &told);
        give_signals_back();
        let differences = match applied {
            Ok(differences) => differences,
            Err(RunError::Refused(refusal)) => {
                guardian.dismiss();
                return Ok(refused(&refusal.to_string()));
            }
            Err(error) => {
                // Whatever is in force now: the guardian goes back.
                drop(guardian.pipe.take());
                guardian.child.wait()?;
                return failed(error);
            }
        };
        if output == Output::Table {
            print(&text(&differences, output)?)?;
        }
        if differences.is_empty() {
            guardian.dismiss();
            if output == Output::Json {
                Step::Kept.print()?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        // It has gone already if somebody was quick to confirm.
        let _ = guardian.say("applied");
        let by_enter = io::stdin().is_terminal();
        if by_enter {
            // What was typed before the question is no answer.
            let _ = tcflush(io::stdin(), FlushArg::TCIFLUSH);
        }
        if output == Output::Json {
            Step::Begun { changes: &differences, timeout_seconds: timeout }.print()?;
        } else {
            let enter = if by_enter { "press Enter to keep it, or run" } else { "it is kept by" };
            print(&format!(
                "on trial for {timeout} s: {enter} `vnet confirm --instance {}`\n",
                options.instance
            ))?;
        }
        if by_enter && guardian.waits_for_enter() {
            let _ = guardian.say(supervise::CONFIRMED);
        }
        let code = guardian.child.wait()?.code().and_then(|code| u8::try_from(code).ok());
        let step = match code {
            Some(guardian::KEPT) => Step::Kept,
            Some(guardian::GONE_BACK) => Step::GoneBack,
            Some(guardian::OTHERS) => Step::Superseded,
            code => anyhow::bail!("the guardian has ended ({code:?}): see what runs"),
        };
        if output == Output::Json {
            step.print()?;
        }
        match step {
            Step::GoneBack => anyhow::bail!("not confirmed: what ran before is back"),
            Step::Superseded => {
                anyhow::bail!("not confirmed, but something else has been applied meanwhile")
            }
            Step::Kept | Step::Begun { .. } if output == Output::Table => print("kept\n")?,
            Step::Kept | Step::Begun { .. } => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Applying listens to signals, which then end this process no more.
fn give_signals_back() {
    for given in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the default action runs no code of ours.
        let _ = unsafe { signal(given, SigHandler::SigDfl) };
    }
}

/// The process that goes back.
struct Guardian {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// `None` if it refused, and has said why.
    fn start(instance: &Name, timeout: u32) -> anyhow::Result<Option<Self>> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut command = Command::new(program);
        command
            .args(["guardian", "--instance", &instance.to_string()])
            .args(["--timeout", &timeout.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the guardian process")?;
        let mut ready = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        if ready.is_empty() {
            child.wait()?;
            return Ok(None);
        }
        let pipe = child.stdin.take();
        Ok(Some(Self { child, pipe }))
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
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    let mut line = String::new();
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

fn failed(error: RunError) -> anyhow::Result<ExitCode> {
    match error {
        RunError::Refused(refusal) => Ok(refused(&refusal.to_string())),
        RunError::Failed(error) => Err(error),
    }
}
