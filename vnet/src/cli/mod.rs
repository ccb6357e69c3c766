//! The command line: one file per subcommand.

mod apply;
mod check;
mod detach;
mod doctor;
mod flows;
mod guardian;
mod matrix;
mod run;
mod status;
mod trial;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};

/// The exit code of a command line or a definition that is refused.
const REFUSED: u8 = 2;

/// An eBPF forwarding plane for hosts that run virtual machines.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Apply(apply::Apply),
    Try(trial::Try),
    Confirm(trial::Confirm),
    Check(check::Check),
    Status(status::Status),
    Flows(flows::Flows),
    Matrix(matrix::MatrixCommand),
    Doctor(doctor::Doctor),
    Detach(detach::Detach),
    #[command(hide = true)]
    Janitor(detach::Janitor),
    #[command(hide = true)]
    Guardian(guardian::Guardian),
}

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("VNET_LOG", "info"))
        .format_timestamp(None)
        .format_target(false)
        // `--log` chooses what comes from there.
        .filter_module(vnet::datapath::KERNEL_LOG_TARGET, log::LevelFilter::Trace)
        .init();
    let result = match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::Apply(apply) => apply.run(),
        Command::Try(attempt) => attempt.run(),
        Command::Confirm(confirm) => Ok(confirm.run()),
        Command::Guardian(guardian) => guardian.run(),
        Command::Check(check) => check.run(),
        Command::Detach(detach) => detach.run(),
        Command::Janitor(janitor) => janitor.run(),
        Command::Status(status) => status.run(),
        Command::Flows(flows) => flows.run(),
        Command::Matrix(matrix) => matrix.run(),
        Command::Doctor(doctor) => doctor.run(),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// A runtime on this thread: everything that the host module does belongs to the thread's network
/// namespace.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Writes to standard output. A reader that has gone away (`| head`) is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
