//! Everything that is checked before anything is changed.

use crate::{
    definition::{self, Network},
    host::{self, Watch, WatchOptions, privileges, sysctl},
    instance::{Lock, LockError, journal},
    plan::{self, Plan, Problem},
};

use super::Options;

/// What the checks leave for the start.
pub(super) struct Prepared {
    pub definitions: Vec<Network>,
    pub plan: Plan,
    /// Listens since before the host was read, so that no change is lost.
    pub watch: Watch,
    pub lock: Lock,
}

/// Why nothing was started; nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The definitions have errors; the text says which.
    #[error("{0}")]
    Definitions(String),
    /// The definitions do not fit the host.
    #[error("{}", problems_text(.0))]
    Plan(Vec<Problem>),
    /// The process may not do what it needs to.
    #[error(transparent)]
    Privileges(#[from] privileges::PrivilegeError),
    /// Another process runs the instance.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The host cannot be read.
    #[error("cannot read the host's network: {0}")]
    Host(#[from] host::NetlinkError),
    /// A parameter of the kernel cannot be read.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// An earlier run left something that cannot be removed.
    #[error("an earlier run left something behind: {0}")]
    Leftovers(String),
}

pub(super) async fn prepare(options: &Options) -> Result<Prepared, Refusal> {
    let definitions = load_definitions(options)?;
    privileges::check()?;
    let lock = Lock::take(&options.instance)?;
    take_leftovers_down(options).await?;
    let watch = host::watch(WatchOptions::default())?;
    let snapshot = host::snapshot().await?;
    let host_ports = sysctl::ip_local_port_range()?;
    let plan = plan::plan(&definitions, &snapshot, host_ports, &options.plan);
    let plan = plan.map_err(Refusal::Plan);
    if plan.is_err() {
        // Leaves no directory behind.
        journal::undo_all(&options.instance).await;
    }
    Ok(Prepared { definitions, plan: plan?, watch, lock })
}

fn load_definitions(options: &Options) -> Result<Vec<Network>, Refusal> {
    let loaded = definition::load(&options.definitions);
    let text = loaded.report.render(definition::Severity::Warning);
    if loaded.report.has_errors() {
        return Err(Refusal::Definitions(text));
    }
    for line in text.lines() {
        log::warn!("{line}");
    }
    Ok(loaded.networks)
}

/// A daemon that was killed leaves its datapath in place; this start replaces it.
async fn take_leftovers_down(options: &Options) -> Result<(), Refusal> {
    if !journal::exists(&options.instance) {
        return Ok(());
    }
    log::warn!("an earlier run of instance `{}` was killed: replacing it", options.instance);
    let failures = journal::take_back_all(&options.instance).await;
    if failures.is_empty() { Ok(()) } else { Err(Refusal::Leftovers(failures.join("; "))) }
}

fn problems_text(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\nerror: ")
}
