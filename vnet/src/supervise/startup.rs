//! The start: every change is in the journal before it is made.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    datapath::{AttachMode, Datapath, Hook, KernelLog},
    definition::Network,
    guests::LeaseWatch,
    host::{self, Watch, bpffs, privileges},
    instance::{self, Journal, Lock, Undo, Whose, journal},
    plan::{self, Plan, PlannedPort, Problem, Tables, Warning},
};

use super::{Options, forwarding, hooks, ports, prepare::Prepared, routes};

/// The running datapath.
pub(super) struct Running {
    pub options: RunningOptions,
    pub definitions: Vec<Network>,
    /// What is in place, but for what `Running::hooks` lacks of it.
    pub plan: Plan,
    /// Ports of earlier plans of whose guests it is not certain yet whether they have gone.
    pub leaving: Vec<PlannedPort>,
    /// What the host lacks of the definitions for now.
    pub problems: Vec<Problem>,
    /// Where the host differs from the definitions for now.
    pub warnings: Vec<Warning>,
    /// There only if guests' addresses depend on leases.
    pub leases: Option<LeaseWatch>,
    pub watch: Watch,
    pub datapath: Datapath,
    /// There only if the programs log.
    pub kernel_log: Option<KernelLog>,
    pub hooks: Vec<Hook>,
    pub journal: Journal,
    pub pins: PathBuf,
    pub runtime_directory: PathBuf,
    pub started: u64,
}

/// What of the options matters after the start.
pub(super) struct RunningOptions {
    pub instance: String,
    /// The name of the instance's filters.
    pub filter: String,
    pub plan: plan::Options,
    pub attach: AttachMode,
    pub flow_limit: u32,
}

pub(super) async fn start(
    options: &Options,
    prepared: Prepared,
    lock: &Lock,
) -> anyhow::Result<Running> {
    let Prepared { definitions, plan, warnings, leases, watch } = prepared;
    pause("prepared").await;

    privileges::raise_memlock_limit();
    let mut datapath = Datapath::load(&options.load)?;
    let kernel_log = options.load.log.map(|_| datapath.kernel_log()).transpose()?;
    datapath.write(&Tables::of(&plan))?;
    datapath.enter_guard(&plan.guard)?;
    pause("loaded").await;

    // As late as can be: it has served its guests all the time.
    take_leftovers_down(lock).await?;
    let mut journal = Journal::begin(lock)?;
    let bpffs = mount_bpffs(&mut journal)?;
    pause("mounted").await;

    let pins = options.instance.pin_directory(&bpffs);
    journal.record(Undo::Pins { path: pins.clone() })?;
    make_directory(&pins)?;
    datapath.pin_maps(&pins.join("maps"))?;
    pause("pinned").await;

    let mut running = Running {
        options: RunningOptions {
            instance: options.instance.to_string(),
            filter: options.instance.filter(),
            plan: options.plan.clone(),
            attach: options.attach,
            flow_limit: options.load.flow_limit,
        },
        definitions,
        plan,
        leaving: Vec::new(),
        problems: Vec::new(),
        warnings,
        leases,
        watch,
        datapath,
        kernel_log,
        hooks: Vec::new(),
        journal,
        pins,
        runtime_directory: options.instance.runtime_directory(),
        started: unix_time(),
    };
    for spec in hooks::wanted(&running.plan) {
        let step = format!("attached-{}-{}", spec.program, spec.interface);
        hooks::attach(&mut running, spec).await?;
        pause(&step).await;
    }
    set_up_ports_and_routes(&mut running).await?;
    // Last, and so taken back first: without hooks the host would forward guests untranslated.
    forwarding::enable(&mut running.journal, &running.plan)?;
    pause("forwarding").await;

    hooks::write_state(&running)?;
    pause("attached").await;
    Ok(running)
}

/// What cannot be set up is tried again with the next change of the host.
async fn set_up_ports_and_routes(running: &mut Running) -> anyhow::Result<()> {
    let has_routes = running.plan.networks.iter().any(|network| !network.routes.is_empty());
    let has_settings = |port: &PlannedPort| port.isolated || !port.vlans.is_empty();
    if !has_routes && !running.plan.ports.iter().any(has_settings) {
        return Ok(());
    }
    // Anew, because leftovers of an earlier run have gone since the plan was made.
    let snapshot = host::snapshot().await.context("cannot read the host's network")?;
    let (journal, plan) = (&mut running.journal, &running.plan);
    let mut failures = ports::set_up(journal, plan, &snapshot).await;
    failures.extend(routes::add_missing(journal, plan, &snapshot).await);
    for failure in failures {
        log::warn!("{failure}");
    }
    Ok(())
}

/// A daemon that was killed leaves its datapath in place; this start replaces it.
async fn take_leftovers_down(lock: &Lock) -> anyhow::Result<()> {
    if !journal::exists(lock.name()) {
        return Ok(());
    }
    log::warn!("an earlier run of instance `{}` was killed: replacing it", lock.name());
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

/// Where tests stop the start to see what its death leaves: with `VNET_PAUSE_AT=STEP` it says so
/// and waits for its end, or for SIGUSR1 to go on.
async fn pause(step: &str) {
    if std::env::var_os("VNET_PAUSE_AT").is_none_or(|wanted| wanted != step) {
        return;
    }
    let resume = signal(SignalKind::user_defined1());
    eprintln!("paused at {step}");
    match resume {
        Ok(mut resume) => drop(resume.recv().await),
        Err(_) => std::future::pending().await,
    }
}
