//! `vnet matrix`: who may talk to whom.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use vnet::{
    definition, host,
    instance::Name,
    matrix::{self, Matrix, Target, TargetError},
    plan,
};

use super::{Output, REFUSED, print, runtime};

/// Show who may talk to whom.
///
/// First what libvirt's documentation compares the modes by, then every pair of networks, outside
/// and the host. Of a running instance, or of definitions. With `--probe`, real connections are
/// opened between network namespaces, and the exit code is 1 if they differ from the policy.
#[derive(Debug, Args)]
pub struct MatrixCommand {
    /// libvirt network XML, or directories of it, instead of a running instance
    #[arg(value_name = "FILE|DIR", conflicts_with = "instance")]
    definitions: Vec<PathBuf>,
    /// The instance to look at
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: Name,
    /// With definitions: interface towards outside; may be repeated [default: all that the host's
    /// routes use]
    #[arg(long = "uplink", value_name = "IF", requires = "definitions")]
    uplinks: Vec<String>,
    /// A network's name, `outside`, `outside:IF` or `host`, and a network namespace that stands for
    /// it: its name as in `ip netns`, or a path as /proc/PID/ns/net; may be repeated
    #[arg(long = "probe", value_name = "NAME=NETNS")]
    probes: Vec<String>,
    /// How the result is written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl MatrixCommand {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let matrix = if self.definitions.is_empty() {
            Matrix::of_instance(&self.instance)?
        } else {
            match of_definitions(&self.definitions, &self.uplinks)? {
                Some(matrix) => matrix,
                None => return Ok(ExitCode::from(REFUSED)),
            }
        };
        let measured = match measure(&matrix, &self.probes) {
            Ok(measured) => measured,
            Err(TargetError::Probe(error)) => return Err(error.into()),
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: {error}");
                return Ok(ExitCode::from(REFUSED));
            }
        };
        match self.output {
            Output::Json => {
                let json = matrix::json::Json::of(&matrix, measured.as_ref());
                print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
            }
            Output::Table => {
                let found = measured.as_ref().map(matrix::text::measured).unwrap_or_default();
                print(&format!("{}{found}", matrix::text::policy(&matrix)))?;
            }
        }
        let differs = measured.is_some_and(|measured| measured.differs());
        Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// The matrix that the definitions would have on this host; `None` if they have errors, which are
/// printed. Bridges need not be there yet.
fn of_definitions(paths: &[PathBuf], uplinks: &[String]) -> anyhow::Result<Option<Matrix>> {
    let definition::Loaded { networks, report } = definition::load(paths);
    if report.has_errors() {
        let _ = write!(io::stderr(), "{}", report.render(definition::Severity::Error));
        return Ok(None);
    }
    let snapshot =
        runtime()?.block_on(host::snapshot()).context("cannot read the host's network")?;
    let options = plan::Options { uplinks: uplinks.to_vec(), ..plan::Options::default() };
    let planned = plan::plan(&networks, &snapshot, host::sysctl::HostPorts::read()?, &options);
    Ok(Some(Matrix::of_plan(&planned.plan, &snapshot)))
}

fn measure(matrix: &Matrix, probes: &[String]) -> Result<Option<matrix::Comparison>, TargetError> {
    if probes.is_empty() {
        return Ok(None);
    }
    let targets: Result<Vec<Target>, _> =
        probes.iter().map(|probe| Target::parse(probe, matrix)).collect();
    let targets = targets?;
    let runtime = runtime().map_err(matrix::probe::ProbeError::Runtime)?;
    runtime.block_on(matrix::measure(matrix, &targets)).map(Some)
}
