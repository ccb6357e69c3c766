//! `vnet detach`: take down what an instance left in place.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;
use vnet::{
    host::privileges,
    instance::{Lock, LockError, Name, Outcome, ProcessId},
    supervise,
};

use super::{REFUSED, runtime};

/// Take down what `vnet apply`, `vnet run --keep` or a killed `vnet run` has left in place.
///
/// The host is then as it was found, but for DHCP leases in /var/lib/vnet, and bridges that guests are on.
#[derive(Debug, Args)]
pub struct Detach {
    /// Name of the instance
    #[arg(long, default_value = "default", value_name = "NAME")]
    instance: Name,
}

/// Waits for the end of the daemon that started it.
#[derive(Debug, Args)]
pub struct Janitor {
    #[arg(long, value_name = "NAME")]
    instance: Name,
    #[arg(long, value_name = "PROCESS")]
    daemon: ProcessId,
}

impl Detach {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if let Err(error) = privileges::check() {
            return Ok(refuse(&error.to_string()));
        }
        let lock = match Lock::take(&self.instance) {
            Ok(lock) => lock,
            Err(LockError::Running { name, holder }) => {
                return Ok(refuse(&format!(
                    "instance `{name}` is running (process {holder}): end that process \
                     first"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(report(&runtime()?.block_on(supervise::detach(lock))))
    }
}

impl Janitor {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Ok(report(&runtime()?.block_on(supervise::keep_watch(&self.instance, self.daemon))?))
    }
}

fn refuse(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {reason}");
    ExitCode::from(REFUSED)
}

fn report(outcome: &Outcome) -> ExitCode {
    for message in outcome.messages() {
        let _ = writeln!(io::stderr(), "error: {message}");
    }
    if outcome.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
