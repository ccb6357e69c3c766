//! The start: every change is in the journal before it is made.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use vnet_common::limits;

use crate::{
    datapath::{self, AttachMode, Datapath, Direction, Hook, KernelLog, LoadOptions},
    definition::{Difference, Network},
    guests::LeaseWatch,
    host::{self, Watch, bpffs, privileges},
    instance::{self, Journal, Lock, Name, Told, Undo, Whose},
    plan::{self, Plan, PlannedPort, Problem, Slots, Warning, beside::Surroundings},
    services::Supervisor,
};

use super::{
    Options, bridging,
    change::change_to,
    forwarding,
    in_force::InForce,
    migrate,
    pause::pause,
    ports,
    prepare::{Prepared, fitting_plan},
    serving,
    shortcut::Shortcut,
    standing::{Former, Standing, maps_of},
};

/// The running datapath.
pub(super) struct Running {
    pub instance: Name,
    pub attach: AttachMode,
    pub flow_limit: u32,
    /// Files and directories that definitions are read from again.
    pub paths: Vec<PathBuf>,
    pub definitions: Vec<Network>,
    pub told: Told,
    /// What the start has changed of what the instance was told before.
    pub differences: Vec<Difference>,
    /// The slots of the networks that packets see.
    pub slots: Slots,
    /// What is in place, but for what `Running::hooks` lacks of it.
    pub plan: Plan,
    /// Ports of earlier plans of whose guests it is not certain yet whether they have gone.
    pub leaving: Vec<PlannedPort>,
    /// What the host lacks of the definitions for now.
    pub problems: Vec<Problem>,
    /// Where the host differs from the definitions for now.
    pub warnings: Vec<Warning>,
    /// There only if guests' addresses depend on leases.
    pub leases: Vec<LeaseWatch>,
    pub lease_directory: PathBuf,
    pub services: Supervisor,
    /// What the process was told to do in any case: [`Options::create_bridges`] and
    /// [`Options::no_services`].
    pub create_bridges: bool,
    pub no_services: bool,
    pub watch: Watch,
    pub datapath: Datapath,
    /// There only if the programs log.
    pub kernel_log: Option<KernelLog>,
    pub hooks: Vec<Hook>,
    pub shortcut: Shortcut,
    pub journal: Journal,
    pub pins: PathBuf,
    pub started: u64,
    /// Whether something of the last change is still to be done.
    pub is_untidy: bool,
}

/// The programs and what holds them, before anything is planned.
pub(super) struct Loaded {
    flow_limit: u32,
    datapath: Datapath,
    journal: Journal,
    pins: PathBuf,
    hooks: Vec<Hook>,
    plan: Plan,
    slots: Slots,
}

/// Loads the programs, with new maps or with those of the programs that run. May be cancelled.
pub(super) async fn load(
    options: &Options,
    prepared: &Prepared,
    lock: &Lock,
) -> anyhow::Result<Loaded> {
    pause("prepared").await;
    privileges::raise_memlock_limit();
    let former = prepared.standing.former();
    let limit = former.map(|former| former.flow_limit).or(options.flow_limit);
    let load =
        LoadOptions { flow_limit: limit.unwrap_or(limits::DEFAULT_SESSIONS), log: options.log };
    match &prepared.standing {
        Standing::Fit(former) => take_over(load, former, lock).await,
        Standing::Nothing | Standing::Refused(_) => make(load, lock).await,
        Standing::Unfit(reason) => {
            log::warn!(
                "an earlier run of instance `{}` was killed: replacing it, because {reason}",
                lock.name()
            );
            make(load, lock).await
        }
    }
}

/// Puts the plan in place. To be cancelled only where everything is taken back afterwards.
pub(super) async fn start(
    options: &Options,
    prepared: Prepared,
    loaded: Loaded,
) -> anyhow::Result<Running> {
    let attach = prepared.standing.former().map_or(options.attach, Former::attach_mode);
    let Prepared {
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
    } = prepared;
    let Loaded { flow_limit, mut datapath, journal, pins, hooks, plan: former_plan, slots } =
        loaded;
    let kernel_log = options.log.map(|_| datapath.kernel_log()).transpose()?;

    let (xdp, hooks) = hooks.into_iter().partition(|hook| hook.spec.direction == Direction::Xdp);
    let shortcut = Shortcut::begin(xdp, &mut datapath)?;
    let mut running = Running {
        instance: options.instance.clone(),
        attach,
        flow_limit,
        paths: options.definitions.clone(),
        definitions,
        told,
        differences,
        slots,
        plan: former_plan,
        leaving: Vec::new(),
        problems,
        warnings,
        leases,
        lease_directory: options.leases.clone(),
        services: Supervisor::new(serving::directories(&options.instance)),
        create_bridges: options.create_bridges,
        no_services: options.no_services,
        watch,
        datapath,
        kernel_log,
        hooks,
        shortcut,
        journal,
        pins,
        started: unix_time(),
        is_untidy: false,
    };
    let mut failures = bring_up(&mut running, plan, in_force.as_ref()).await?;
    // Last, and so taken back first: without hooks the host would forward guests untranslated.
    match forwarding::enable(&mut running.journal, &running.plan) {
        Err(error) if standing.is_taken_over() => failures.push(format!("{error:#}")),
        enabled => enabled?,
    }
    pause("forwarding").await;
    let served = serving::serve_guests(&mut running).await;
    failures.extend(served.err().map(|error| format!("{error:#}")));
    pause("served").await;
    failures.extend(bridging::remove_unwanted(&mut running).await);
    running.leave_for_later(&failures);
    Ok(running)
}

/// Bridges and programs, or with an error what there was before. Returns what failed of the rest.
async fn bring_up(
    running: &mut Running,
    mut plan: Plan,
    in_force: Option<&InForce>,
) -> anyhow::Result<Vec<String>> {
    let told = running.told.clone();
    // Anew, because leftovers of an earlier run have gone since the plan was made.
    let snapshot = host::snapshot().await.context("cannot read the host's network")?;
    let Running { instance, definitions, journal, .. } = &mut *running;
    let steps = bridging::missing(instance, &told.settings, definitions, &snapshot);
    let snapshot = bridging::make(instance, &steps, snapshot, journal).await?;
    pause("bridges").await;
    let changed = async {
        if !steps.is_empty() {
            let leases = &running.leases;
            let mut options = running.plan_options();
            options.slots = plan.slots();
            let around = Surroundings::read(&running.instance);
            let definitions = &running.definitions;
            plan = fitting_plan(definitions, &snapshot, leases, &options, in_force, &around)?.plan;
        }
        let mut seen = ports::seen_leases(&running.leases, &plan);
        seen.learned = running.datapath.learned_macs()?;
        plan.add_ports(&running.definitions, &snapshot, &seen);
        change_to(running, plan, Some(&told), &snapshot).await
    };
    let changed = changed.await;
    if changed.is_err() {
        bridging::take_back(&steps).await;
    }
    changed
}

impl Running {
    /// An error if something of the last change is still to be done.
    pub fn tidiness(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_untidy, "something of the last change is still to be done");
        Ok(())
    }

    /// Says what has failed without being a reason to go back. Following the host mends it.
    pub fn leave_for_later(&mut self, failures: &[String]) {
        for failure in failures {
            log::warn!("{failure}");
        }
        self.is_untidy = !failures.is_empty();
    }

    /// What its next plan depends on.
    pub fn plan_options(&self) -> plan::Options {
        plan::Options {
            uplinks: self.told.settings.uplinks.clone(),
            flow_limit: self.flow_limit,
            slots: self.slots.clone(),
        }
    }
}

/// Loads this program's objects with the maps of those that run, which go on meanwhile.
async fn take_over(load: LoadOptions, former: &Former, lock: &Lock) -> anyhow::Result<Loaded> {
    log::info!("going on with what an earlier run of instance `{}` has left", lock.name());
    // Before another one begins.
    datapath::finish_migration(&former.pins)?;
    if former.migration.is_some() {
        let mut journal = Journal::take_over(lock)?;
        migrate::migrate(&load, former, &mut journal, lock.name()).await?;
    }
    let mut datapath = Datapath::take_over(&load, &former.maps())?;
    datapath.pin_programs(&former.pins)?;
    pause("loaded").await;
    let journal = Journal::take_over(lock)?;
    let hooks = former.hooks(lock.name());
    pause("taken-over").await;
    let (pins, slots) = (former.pins.clone(), former.slots());
    let flow_limit = load.flow_limit;
    Ok(Loaded { flow_limit, datapath, journal, pins, hooks, plan: former.plan(), slots })
}

async fn make(load: LoadOptions, lock: &Lock) -> anyhow::Result<Loaded> {
    let mut datapath = Datapath::load(&load)?;
    pause("loaded").await;

    // As late as can be: it has served its guests all the time.
    take_leftovers_down(lock).await?;
    let mut journal = Journal::begin(lock)?;
    let bpffs = mount_bpffs(&mut journal)?;
    pause("mounted").await;

    let pins = lock.name().pin_directory(&bpffs);
    journal.record(Undo::Pins { path: pins.clone() })?;
    make_directory(&pins)?;
    datapath.pin_maps(&maps_of(&pins))?;
    datapath.pin_programs(&pins)?;
    pause("pinned").await;
    let (hooks, plan, slots) = (Vec::new(), Plan::empty(), Slots::default());
    Ok(Loaded { flow_limit: load.flow_limit, datapath, journal, pins, hooks, plan, slots })
}

/// A daemon that was killed leaves its datapath in place.
async fn take_leftovers_down(lock: &Lock) -> anyhow::Result<()> {
    let outcome = instance::undo(lock, Whose::Anybodys).await;
    for message in &outcome.damage {
        log::warn!("{message}");
    }
    if !outcome.failures.is_empty() {
        anyhow::bail!("an earlier run left something behind: {}", outcome.failures.join("; "));
    }
    Ok(())
}

fn mount_bpffs(journal: &mut Journal) -> anyhow::Result<PathBuf> {
    if let Some(path) = bpffs::find()? {
        return Ok(path);
    }
    journal.record(Undo::Mount { path: bpffs::DEFAULT_PATH.into() })?;
    Ok(bpffs::ensure()?.path)
}

/// Another instance that ends removes the common directory when it is empty.
fn make_directory(path: &Path) -> anyhow::Result<()> {
    let mut made = fs::create_dir_all(path);
    for _ in 0..100 {
        if !matches!(&made, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            break;
        }
        made = fs::create_dir_all(path);
    }
    made.with_context(|| format!("cannot make {}", path.display()))
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
