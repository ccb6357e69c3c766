//! `vnet apply`: make what runs equal to these definitions, and return.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use vnet::{
    control::{self, Answer, ControlError, Order},
    definition::Difference,
    instance::{LockError, Told, undo::check_namespace},
    supervise::{self, Refusal, RunError},
};

use super::{
    Output, print,
    run::{Start, refused},
    runtime,
};

/// How long a daemon may take from its lock to its socket.
const DAEMON_DEADLINE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(20);

/// Make what runs equal to these definitions, all of it or, with an error, nothing, and return.
///
/// Prints what has changed: `+` is a new network, `-` one that is gone, `~` one that is different. The
/// datapath stays in place, with a daemon that `vnet run` has started or without one.
#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    start: Start,
    /// Check everything and print what would change, but change nothing
    #[arg(long)]
    dry_run: bool,
    /// How the changes are written
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

impl Apply {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let Self { start, dry_run, output } = self;
        let options = start.options(true);
        let result = if dry_run {
            told(&options).and_then(|told| {
                let runtime = runtime().map_err(anyhow::Error::from)?;
                runtime.block_on(supervise::compare(&options, told))
            })
        } else {
            apply(&options)
        };
        match result {
            Ok(differences) => {
                print(&text(&differences, output)?)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(RunError::Refused(refusal)) => Ok(refused(&refusal.to_string())),
            Err(RunError::Failed(error)) => Err(error),
        }
    }
}

fn apply(options: &supervise::Options) -> Result<Vec<Difference>, RunError> {
    if options.definitions.is_empty() {
        let order = Order::ShortWays { on: options.short_ways, xdp: options.xdp };
        return give(options, &order);
    }
    apply_told(options, &told(options)?)
}

/// What is to run: uplinks that are not given stay as they are.
pub fn told(options: &supervise::Options) -> Result<Told, RunError> {
    if options.definitions.is_empty() {
        return as_before(options);
    }
    let mut told = supervise::told(options)?;
    let before = Told::read(&options.instance).ok().flatten();
    let settings = before.map(|before| before.settings).unwrap_or_default();
    if told.settings.uplinks.is_empty() {
        told.settings.uplinks = settings.uplinks;
    }
    if options.short_ways.is_none() {
        told.settings.short_ways = settings.short_ways;
    }
    if options.xdp.is_none() {
        told.settings.xdp = settings.xdp;
    }
    Ok(told)
}

/// What the instance was told, but for short ways and XDP.
fn as_before(options: &supervise::Options) -> Result<Told, RunError> {
    let before = Told::read(&options.instance).ok().flatten();
    let mut told = before.ok_or_else(|| {
        Refusal::Daemon(format!(
            "no definitions are given, and no instance `{}` runs",
            options.instance
        ))
    })?;
    let settings = &mut told.settings;
    settings.short_ways = options.short_ways.unwrap_or(settings.short_ways);
    settings.xdp = options.xdp.unwrap_or(settings.xdp);
    Ok(told)
}

/// By the daemon that runs the instance, else by this process.
pub fn apply_told(options: &supervise::Options, told: &Told) -> Result<Vec<Difference>, RunError> {
    give(options, &Order::Apply(told.clone()))
}

fn give(options: &supervise::Options, order: &Order) -> Result<Vec<Difference>, RunError> {
    check_namespace(&options.instance).map_err(Refusal::from)?;
    let start = Instant::now();
    loop {
        match control::send(&options.instance, order) {
            Ok(Answer::Applied(differences)) => return Ok(differences),
            Ok(Answer::Refused(reason)) => return Err(Refusal::Daemon(reason).into()),
            Ok(Answer::Failed(reason)) => return Err(anyhow::anyhow!(reason).into()),
            Err(ControlError::Nobody(_)) => {}
            Err(error @ ControlError::Broken { .. }) => {
                return Err(RunError::Failed(error.into()));
            }
        }
        let runtime = runtime().map_err(anyhow::Error::from)?;
        let told = match order {
            Order::Apply(told) => told.clone(),
            Order::ShortWays { .. } => as_before(options)?,
        };
        match runtime.block_on(supervise::apply(options, told)) {
            // A daemon that starts or ends at this moment, or another `vnet apply`.
            Err(RunError::Refused(Refusal::Lock(LockError::Running { .. })))
                if start.elapsed() < DAEMON_DEADLINE =>
            {
                std::thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}

/// The differences as they are printed.
pub fn text(differences: &[Difference], output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(differences)?),
        Output::Table if differences.is_empty() => "no changes\n".to_owned(),
        Output::Table => {
            differences.iter().flat_map(|line| [line.to_string(), "\n".to_owned()]).collect()
        }
    })
}
