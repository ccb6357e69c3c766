//! Everything that is checked before anything is changed.

use std::path::{Path, PathBuf};

use vnet_common::{family::Family, limits};

use crate::{
    bridges,
    definition::{self, Difference, Network},
    guests::LeaseWatch,
    host::{self, Snapshot, Watch, WatchOptions, privileges, sysctl},
    instance::{
        DefinitionText, Lock, LockError, Settings, State, Told,
        undo::{self, Elsewhere},
    },
    plan::{
        self, Plan, Planned, Problem, Warning,
        beside::{self, Surroundings},
    },
};

use super::{
    Options, bridging,
    in_force::InForce,
    ports, serving,
    standing::{self, Former, Standing},
};

/// Definitions that have no error, and the settings beside them.
#[derive(Debug)]
pub(super) struct Request {
    pub told: Told,
    pub definitions: Vec<Network>,
}

/// What the checks leave for the start.
pub(super) struct Prepared {
    pub standing: Standing,
    pub definitions: Vec<Network>,
    pub told: Told,
    pub differences: Vec<Difference>,
    pub plan: Plan,
    /// What the operator has been told.
    pub warnings: Vec<Warning>,
    /// Why what goes on would not be begun.
    pub problems: Vec<Problem>,
    /// What runs before.
    pub in_force: Option<InForce>,
    /// Listen since before the leases were read; none if nothing depends on leases.
    pub leases: Vec<LeaseWatch>,
    /// Listens since before the host was read, so that no change is lost.
    pub watch: Watch,
}

/// A plan that may be put in place.
pub(super) struct Fitting {
    pub plan: Plan,
    pub warnings: Vec<Warning>,
    /// What the host lacks of what runs already.
    pub problems: Vec<Problem>,
}

/// Why nothing was changed.
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
    /// What runs would be ended without need.
    #[error("{0}")]
    Standing(String),
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
    /// The same for definitions.
    #[error("cannot watch the definitions: {0}: `--no-watch` goes without it")]
    Watch(std::io::Error),
    /// The daemon that runs the instance says so.
    #[error("{0}")]
    Daemon(String),
    /// A parameter of the kernel cannot be read.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
}

impl Refusal {
    /// What is said of one network alone; none if nothing is.
    pub(super) fn of_network(&self, name: &str) -> Option<Self> {
        let Self::Plan(problems) = self else { return None };
        let about = problems.iter().filter(|problem| problem.network() == Some(name));
        let about: Vec<_> = about.cloned().collect();
        (!about.is_empty()).then_some(Self::Plan(about))
    }
}

/// The name of the network in a definition that has no error.
pub(super) fn network_in(path: &Path, text: &str) -> Option<String> {
    let networks = definition::load_text(path, text).networks;
    networks.into_iter().next().map(|network| network.name.value)
}

impl Request {
    /// Reads files and directories.
    pub fn read(paths: &[PathBuf], settings: Settings) -> Result<Self, Refusal> {
        let loaded = definition::load(paths);
        let texts = loaded.report.sources().iter().filter_map(|(_, source)| {
            let text = source.text()?.to_owned();
            Some(DefinitionText { path: absolute(source.path()), text })
        });
        let told = Told { definitions: texts.collect(), settings };
        Self::of(loaded, told)
    }

    /// Examines what was read elsewhere.
    pub fn examine(told: Told) -> Result<Self, Refusal> {
        let texts = told.definitions.iter();
        let loaded = definition::load_texts(
            texts.map(|definition| (definition.path.as_path(), definition.text.as_str())),
        );
        Self::of(loaded, told)
    }

    fn of(loaded: definition::Loaded, told: Told) -> Result<Self, Refusal> {
        let text = loaded.report.render(definition::Severity::Warning);
        if loaded.report.has_errors() {
            return Err(Refusal::Definitions(text));
        }
        for line in text.lines() {
            log::warn!("{line}");
        }
        Ok(Self { told, definitions: loaded.networks })
    }
}

pub(super) async fn prepare(
    options: &Options,
    request: Request,
    lock: &Lock,
) -> Result<Prepared, Refusal> {
    undo::check_namespace(lock.name())?;
    let standing = Standing::examine(options);
    if let Standing::Refused(reason) = standing {
        return Err(Refusal::Standing(reason));
    }
    let former = standing.former();
    let Request { told, definitions } = request;
    let plan_options = plan::Options {
        uplinks: told.settings.uplinks.clone(),
        ..plan::Options::of_start(options, former)
    };
    let watch = host::watch(WatchOptions::default())?;
    let snapshot = host::snapshot().await?;
    let steps = bridging::missing(&options.instance, &told.settings, &definitions, &snapshot);
    let snapshot = bridges::outlook(&steps, &snapshot);
    let ours = serving::directories(&options.instance).leases;
    let leases = watch_leases(&definitions, [&options.leases, &ours])?;
    let in_force = InForce::of_former(former);
    let around = Surroundings::read(&options.instance);
    let Fitting { plan, warnings, problems } =
        fitting_plan(&definitions, &snapshot, &leases, &plan_options, in_force.as_ref(), &around)?;
    say(&warnings);
    for problem in &problems {
        log::error!("{problem} (what runs goes on as it is)");
    }
    let before = former.and_then(|former| former.told.as_ref());
    let differences = differences(before, &told, &definitions);
    Ok(Prepared {
        standing,
        definitions,
        told,
        differences,
        plan,
        warnings,
        problems,
        in_force,
        leases,
        watch,
    })
}

impl plan::Options {
    /// What the plan of a start depends on.
    pub(super) fn of_start(options: &Options, former: Option<&Former>) -> Self {
        let limit = former.map(|former| former.flow_limit).or(options.flow_limit);
        Self {
            uplinks: options.uplinks.clone(),
            flow_limit: limit.unwrap_or(limits::DEFAULT_SESSIONS),
            slots: former.map(Former::slots).unwrap_or_default(),
        }
    }
}

/// What would change.
pub(super) async fn compare(
    options: &Options,
    request: &Request,
) -> Result<Vec<Difference>, Refusal> {
    let standing = Standing::examine(options);
    match &standing {
        Standing::Unfit(reason) => {
            log::warn!("what runs will be replaced, and flows begin anew, because {reason}");
        }
        Standing::Refused(reason) => return Err(Refusal::Standing(reason.clone())),
        Standing::Fit(former) => {
            if let Some(wanted) = &former.migration {
                log::info!("flows will be migrated, because {}", wanted.reason);
            }
        }
        Standing::Nothing => {}
    }
    let slots = State::read(&options.instance).ok().flatten();
    let slots = slots.map(|state| standing::slots_of(&state)).unwrap_or_default();
    let plan_options = plan::Options {
        uplinks: request.told.settings.uplinks.clone(),
        flow_limit: options.flow_limit.unwrap_or(limits::DEFAULT_SESSIONS),
        slots,
    };
    let snapshot = host::snapshot().await?;
    let Request { told, definitions } = request;
    let steps = bridging::missing(&options.instance, &told.settings, definitions, &snapshot);
    let snapshot = bridges::outlook(&steps, &snapshot);
    let in_force = InForce::of_former(standing.former());
    let around = Surroundings::read(&options.instance);
    let fitting =
        fitting_plan(definitions, &snapshot, &[], &plan_options, in_force.as_ref(), &around)?;
    say(&fitting.warnings);
    for problem in &fitting.problems {
        log::warn!("{problem} (what runs goes on as it is)");
    }
    let before = Told::read(&options.instance).ok().flatten();
    let mut told = told.clone();
    if let Some(before) = &before {
        // A daemon may have been started with them.
        told.settings.create_bridges |= before.settings.create_bridges;
        told.settings.no_services |= before.settings.no_services;
    }
    Ok(differences(before.as_ref(), &told, definitions))
}

/// The plan of definitions that fit the host as it is, but for what runs already.
pub(super) fn fitting_plan(
    definitions: &[Network],
    snapshot: &Snapshot,
    leases: &[LeaseWatch],
    options: &plan::Options,
    in_force: Option<&InForce>,
    around: &Surroundings,
) -> Result<Fitting, Refusal> {
    let mut fitting = examine(definitions, snapshot, leases, options, around)?;
    let found = std::mem::take(&mut fitting.problems);
    let (fatal, tolerated) = match in_force {
        Some(in_force) if !found.is_empty() => {
            let options = plan::Options { uplinks: in_force.uplinks.clone(), ..options.clone() };
            let own = examine(&in_force.definitions, snapshot, leases, &options, around)?.problems;
            in_force.part(definitions, found, &own)
        }
        _ => (found, Vec::new()),
    };
    if !fatal.is_empty() {
        return Err(Refusal::Plan(fatal));
    }
    Ok(Fitting { problems: tolerated, ..fitting })
}

fn examine(
    definitions: &[Network],
    snapshot: &Snapshot,
    leases: &[LeaseWatch],
    options: &plan::Options,
    around: &Surroundings,
) -> Result<Fitting, Refusal> {
    let host_ports = sysctl::HostPorts::read()?;
    let Planned { mut plan, mut problems, mut warnings } =
        plan::plan(definitions, snapshot, host_ports, options);
    plan.add_ports(definitions, snapshot, &ports::seen_leases(leases, &plan));
    if sysctl::forwarding(Family::Ipv6)? == Some(false) {
        problems.extend(plan::routes_lost_by_forwarding(&plan, snapshot));
    }
    for advice in beside::advice(definitions, &plan, snapshot, around) {
        if advice.is_fatal {
            problems.push(Problem::Beside(advice));
        } else {
            warnings.push(Warning::Beside(advice));
        }
    }
    Ok(Fitting { plan, warnings, problems })
}

/// Tells the operator.
pub(super) fn say(warnings: &[Warning]) {
    for warning in warnings {
        log::warn!("{warning}");
    }
}

pub(super) fn watch_leases(
    definitions: &[Network],
    directories: [&PathBuf; 2],
) -> Result<Vec<LeaseWatch>, Refusal> {
    if !ports::need_leases(definitions) {
        return Ok(Vec::new());
    }
    let watch = |directory: &PathBuf| LeaseWatch::start(directory).map_err(Refusal::Leases);
    directories.into_iter().map(watch).collect()
}

/// What an instance is told that differs from what it was told.
fn differences(before: Option<&Told>, told: &Told, definitions: &[Network]) -> Vec<Difference> {
    let mut found = definition::differences(&networks_of(before), definitions);
    found.extend(before.and_then(|before| before.settings.difference(&told.settings)));
    found
}

/// The networks that an instance was told to run; none if it was not told any that this version reads.
pub(super) fn networks_of(told: Option<&Told>) -> Vec<Network> {
    let texts = told.map(|told| told.definitions.as_slice()).unwrap_or_default().iter();
    let texts = texts.map(|definition| (definition.path.as_path(), definition.text.as_str()));
    definition::load_texts(texts).networks
}

/// Whoever reads it later has another working directory.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn problems_text(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\nerror: ")
}
