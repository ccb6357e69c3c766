//! The start: every change is in the journal before it is made.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use vnet_common::limits;

use crate::{
    datapath::{AttachMode, Datapath, Hook, KernelLog, LoadOptions},
    definition::{Difference, Network},
    guests::LeaseWatch,
    host::{self, Watch, bpffs, privileges},
    instance::{self, Journal, Lock, Name, Told, Undo, Whose},
    plan::{self, Plan, Problem, Slots, Warning},
    services::Supervisor,
};

use super::{
    Options, bridging,
    change::{OnFailure, change_to},
    forwarding,
    pause::pause,
    ports,
    prepare::{Prepared, fitting_plan},
    serving,
    standing::{Former, Standing, maps_of},
    state,
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
    pub journal: Journal,
    pub pins: PathBuf,
    pub started: u64,
}

/// The programs and what holds them, before anything is planned.
struct Base {
    datapath: Datapath,
    journal: Journal,
    pins: PathBuf,
    hooks: Vec<Hook>,
    plan: Plan,
    slots: Slots,
}

pub(super) async fn start(
    options: &Options,
    prepared: Prepared,
    lock: &Lock,
) -> anyhow::Result<Running> {
    pause("prepared").await;
    privileges::raise_memlock_limit();
    let former = prepared.standing.former();
    let limit = former.map(|former| former.flow_limit).or(options.flow_limit);
    let load =
        LoadOptions { flow_limit: limit.unwrap_or(limits::DEFAULT_SESSIONS), log: options.log };
    let attach = former.map_or(options.attach, Former::attach_mode);
    let base = match &prepared.standing {
        Standing::Fit(former) => take_over(&load, former, lock).await?,
        Standing::Nothing => make(&load, lock).await?,
        Standing::Unfit(reason) => {
            log::warn!(
                "an earlier run of instance `{}` was killed: replacing it, because {reason}",
                lock.name()
            );
            make(&load, lock).await?
        }
    };
    let Prepared { definitions, told, differences, plan, warnings, leases, watch, .. } = prepared;
    let Base { mut datapath, journal, pins, hooks, plan: former_plan, slots } = base;
    let kernel_log = options.log.map(|_| datapath.kernel_log()).transpose()?;

    let mut running = Running {
        instance: options.instance.clone(),
        attach,
        flow_limit: load.flow_limit,
        paths: options.definitions.clone(),
        definitions,
        told,
        differences,
        slots,
        plan: former_plan,
        problems: Vec::new(),
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
        journal,
        pins,
        started: unix_time(),
    };
    bring_up(&mut running, plan).await?;
    // Last, and so taken back first: without hooks the host would forward guests untranslated.
    forwarding::enable(&mut running.journal, &running.plan)?;
    pause("forwarding").await;
    serving::serve_guests(&mut running).await?;
    pause("served").await;
    for failure in bridging::remove_unwanted(&mut running).await {
        log::error!("{failure}");
    }
    state::write(&running)?;
    state::write_told(&running)?;
    pause("written").await;
    Ok(running)
}

/// Bridges and programs, or with an error what there was before.
async fn bring_up(running: &mut Running, mut plan: Plan) -> anyhow::Result<()> {
    // Anew, because leftovers of an earlier run have gone since the plan was made.
    let snapshot = host::snapshot().await.context("cannot read the host's network")?;
    let Running { instance, told, definitions, journal, .. } = &mut *running;
    let steps = bridging::missing(instance, &told.settings, definitions, &snapshot);
    let snapshot = bridging::make(instance, &steps, snapshot, journal).await?;
    pause("bridges").await;
    let changed = async {
        if !steps.is_empty() {
            let leases = &running.leases;
            let mut options = running.plan_options();
            options.slots = plan.slots();
            plan = fitting_plan(&running.definitions, &snapshot, leases, &options)?.0;
        }
        let mut seen = ports::seen_leases(&running.leases, &plan);
        seen.learned = running.datapath.learned_macs()?;
        plan.add_ports(&running.definitions, &snapshot, &seen);
        change_to(running, plan, &snapshot, OnFailure::RollBack).await
    };
    let changed = changed.await;
    if changed.is_err() {
        bridging::take_back(&steps).await;
    }
    changed
}

impl Running {
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
async fn take_over(load: &LoadOptions, former: &Former, lock: &Lock) -> anyhow::Result<Base> {
    log::info!("going on with what an earlier run of instance `{}` has left", lock.name());
    let datapath = Datapath::take_over(load, &former.maps())?;
    pause("loaded").await;
    let journal = Journal::take_over(lock)?;
    let hooks = former.hooks(lock.name());
    pause("taken-over").await;
    let (pins, slots) = (former.pins.clone(), former.slots());
    Ok(Base { datapath, journal, pins, hooks, plan: former.plan(), slots })
}

async fn make(load: &LoadOptions, lock: &Lock) -> anyhow::Result<Base> {
    let datapath = Datapath::load(load)?;
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
    pause("pinned").await;
    let (hooks, plan, slots) = (Vec::new(), Plan::empty(), Slots::default());
    Ok(Base { datapath, journal, pins, hooks, plan, slots })
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
