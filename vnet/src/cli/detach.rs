//! `vnet detach`: take down what an instance left in place.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;
use vnet::{
    instance::{Lock, Name, journal},
    supervise,
};

use super::runtime;

/// Take down what a killed `vnet run` left in place, and leave the host as it was found.
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
}

impl Detach {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let lock = Lock::take(&self.instance)?;
        let failures = runtime()?.block_on(journal::undo_all(&self.instance));
        drop(lock);
        Ok(report(&failures))
    }
}

impl Janitor {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Ok(report(&runtime()?.block_on(supervise::keep_watch(&self.instance))))
    }
}

fn report(failures: &[String]) -> ExitCode {
    for failure in failures {
        let _ = writeln!(io::stderr(), "error: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
