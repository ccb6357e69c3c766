//! `vnet check`: are these definitions right?

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde::Serialize;
use vnet::definition::{self, Entry, Network, Report, Severity};

use super::{Output, REFUSED, print};

/// Check network definitions without touching the host.
///
/// Prints one line per network and exits with 0, or prints every problem and exits with 2.
#[derive(Debug, Args)]
pub struct Check {
    /// libvirt network XML, or directories of it
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// How the result is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    /// Also name settings that only bridges have which vnet makes
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Serialize)]
struct Json<'a> {
    networks: &'a [Network],
    diagnostics: Vec<Entry<'a>>,
}

impl Check {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let definition::Loaded { networks, report } = definition::load(&self.paths);
        match self.output {
            Output::Json => {
                let json = Json { networks: &networks, diagnostics: report.entries().collect() };
                print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
            }
            Output::Table => {
                let least = if self.verbose { Severity::Note } else { Severity::Warning };
                let _ = write!(io::stderr(), "{}{}", report.render(least), summary(&report));
                if !report.has_errors() {
                    print(&table(&networks))?;
                }
            }
        }
        Ok(if report.has_errors() { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
    }
}

/// Name, mode, bridge and subnets of each network, in columns.
fn table(networks: &[Network]) -> String {
    let rows: Vec<[String; 4]> = networks.iter().map(row).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2)];
    let mut table = String::new();
    for [name, mode, bridge, subnets] in &rows {
        let _ = writeln!(
            table,
            "{name:0$}  {mode:1$}  {bridge:2$}  {subnets}",
            widths[0], widths[1], widths[2]
        );
    }
    table
}

fn row(network: &Network) -> [String; 4] {
    let subnets: Vec<String> = network.subnets().map(|subnet| subnet.to_string()).collect();
    let bridge = network.bridge.name.as_ref().map(|name| name.value.clone());
    [
        network.name.value.replace(char::is_control, "\u{fffd}"),
        network.forward.mode.value.name().to_owned(),
        bridge.unwrap_or_else(|| "-".to_owned()),
        if subnets.is_empty() { "-".to_owned() } else { subnets.join(",") },
    ]
}

/// The line after the problems; empty if there are none.
fn summary(report: &Report) -> String {
    let count = |severity, one: &str| match report.count(severity) {
        0 => None,
        1 => Some(format!("1 {one}")),
        many => Some(format!("{many} {one}s")),
    };
    let counts: Vec<String> =
        [count(Severity::Error, "error"), count(Severity::Warning, "warning")]
            .into_iter()
            .flatten()
            .collect();
    if counts.is_empty() { String::new() } else { format!("\n{}\n", counts.join(", ")) }
}
