//! Everything that is checked before anything is changed.

use vnet_common::family::Family;

use crate::{
    definition::{self, Network},
    guests::LeaseWatch,
    host::{self, Watch, WatchOptions, privileges, sysctl},
    instance::{
        Lock, LockError,
        undo::{self, Elsewhere},
    },
    plan::{self, Plan, Planned, Problem, Warning},
};

use super::{Options, ports};

/// What the checks leave for the start.
pub(super) struct Prepared {
    pub definitions: Vec<Network>,
    pub plan: Plan,
    /// What the operator has been told.
    pub warnings: Vec<Warning>,
    /// Listens since before the leases were read; none if nothing depends on leases.
    pub leases: Option<LeaseWatch>,
    /// Listens since before the host was read, so that no change is lost.
    pub watch: Watch,
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
    /// An earlier run left its programs where they are out of reach.
    #[error(transparent)]
    Elsewhere(#[from] Elsewhere),
    /// The host cannot be read.
    #[error("cannot read the host's network: {0}")]
    Host(#[from] host::NetlinkError),
    /// inotify has no room, for example.
    #[error("cannot watch the DHCP leases: {0}")]
    Leases(std::io::Error),
    /// A parameter of the kernel cannot be read.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
}

pub(super) async fn prepare(
    options: &Options,
    definitions: Vec<Network>,
    lock: &Lock,
) -> Result<Prepared, Refusal> {
    undo::check_namespace(lock)?;
    let watch = host::watch(WatchOptions::default())?;
    let snapshot = host::snapshot().await?;
    let host_ports = sysctl::HostPorts::read()?;
    let Planned { mut plan, mut problems, warnings } =
        plan::plan(&definitions, &snapshot, host_ports, &options.plan);
    let leases = ports::need_leases(&definitions)
        .then(|| LeaseWatch::start(&options.leases).map_err(Refusal::Leases))
        .transpose()?;
    plan.add_ports(&definitions, &snapshot, &ports::seen_leases(leases.as_ref(), &plan));
    if sysctl::forwarding(Family::Ipv6)? == Some(false) {
        problems.extend(plan::routes_lost_by_forwarding(&plan, &snapshot));
    }
    if !problems.is_empty() {
        return Err(Refusal::Plan(problems));
    }
    for warning in &warnings {
        log::warn!("{warning}");
    }
    Ok(Prepared { definitions, plan, warnings, leases, watch })
}

pub(super) fn load_definitions(options: &Options) -> Result<Vec<Network>, Refusal> {
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

fn problems_text(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\nerror: ")
}
