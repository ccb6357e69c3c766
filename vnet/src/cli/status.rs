//! `vnet status`: what runs, and what became of the packets.

use std::process::ExitCode;

use clap::Args;
use vnet::{instance::Name, report};

use super::{Output, print};

/// Show what runs and what became of the packets.
///
/// Lists the attached programs, the networks with their traffic, the uplinks, what was dropped and
/// why, and what was left to the host's own stack. Works without the daemon.
///
/// JSON has every number in full; reasons that never occurred are left out.
#[derive(Debug, Args)]
pub struct Status {
    /// The instance to look at
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: Name,
    /// How the result is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl Status {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let status = report::status::read(&self.instance)?;
        match self.output {
            Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?,
            Output::Table => print(&status.table())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
