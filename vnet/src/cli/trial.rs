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
use vnet::{
    instance::Name,
    supervise::{self, RunError},
};

use super::{
    REFUSED,
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
        let Self { start, timeout } = self;
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
        print(&text(&differences, super::Output::Table)?)?;
        if differences.is_empty() {
            guardian.dismiss();
            return Ok(ExitCode::SUCCESS);
        }
        // It has gone already if somebody was quick to confirm.
        let _ = guardian.say("applied");
        let by_enter = io::stdin().is_terminal();
        if by_enter {
            // What was typed before the question is no answer.
            let _ = tcflush(io::stdin(), FlushArg::TCIFLUSH);
        }
        let enter = if by_enter { "press Enter to keep it, or run" } else { "it is kept by" };
        print(&format!(
            "on trial for {timeout} s: {enter} `vnet confirm --instance {}`\n",
            options.instance
        ))?;
        if by_enter && guardian.waits_for_enter() {
            let _ = guardian.say(supervise::CONFIRMED);
        }
        match guardian.child.wait()?.code().and_then(|code| u8::try_from(code).ok()) {
            Some(guardian::KEPT) => {
                print("kept\n")?;
                Ok(ExitCode::SUCCESS)
            }
            Some(guardian::GONE_BACK) => {
                anyhow::bail!("not confirmed: what ran before is back")
            }
            Some(guardian::OTHERS) => {
                anyhow::bail!("not confirmed, but something else has been applied meanwhile")
            }
            code => anyhow::bail!("the guardian has ended ({code:?}): see what runs"),
        }
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
