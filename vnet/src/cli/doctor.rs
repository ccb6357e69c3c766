//! `vnet doctor`: what on this host stands in the way?

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use vnet::{
    definition::{self, Severity},
    doctor::{self, Level},
    instance::Name,
};

use super::{Output, REFUSED, print, runtime};

/// Say what on this host stands in vnet's way, and the command that mends it. Changes nothing.
///
/// Exits with 0 if there is nothing that keeps vnet from working, else with 1.
#[derive(Debug, Args)]
pub struct Doctor {
    /// libvirt network XML, or directories of it, to look at what concerns these networks
    #[arg(value_name = "FILE|DIR")]
    definitions: Vec<PathBuf>,
    /// The instance that is to run them: what others run is held against them
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: Name,
    /// How the findings are written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl Doctor {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut networks = Vec::new();
        if !self.definitions.is_empty() {
            let loaded = definition::load(&self.definitions);
            if loaded.report.has_errors() {
                let _ = write!(io::stderr(), "{}", loaded.report.render(Severity::Error));
                return Ok(ExitCode::from(REFUSED));
            }
            networks = loaded.networks;
        }
        let facts = runtime()?.block_on(doctor::gather(&networks, &self.instance));
        let findings = doctor::examine(&facts?);
        print(&match self.output {
            Output::Table => doctor::text(&findings),
            Output::Json => serde_json::to_string_pretty(&findings)? + "\n",
        })?;
        let has_failed = findings.iter().any(|finding| finding.level == Level::Fail);
        Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
