//! `vnet run` and `vnet apply`: make the datapath what the definitions say, follow the host's changes and
//! other definitions, and take it all down.

mod bridging;
mod change;
mod directories;
mod fitting;
mod follow;
mod forwarding;
mod hooks;
mod in_force;
mod janitor;
mod migrate;
mod narrowing;
mod neighbourhood;
mod obey;
mod pace;
mod pause;
mod ports;
mod prepare;
mod reload;
mod routes;
mod serve;
mod serving;
mod shortcut;
mod signals;
mod standing;
mod startup;
mod state;
mod stations;
mod surfaces;
mod switch;
mod trial;
mod watched;

use std::path::PathBuf;

pub use janitor::keep_watch;
pub use prepare::Refusal;
pub use trial::{CONFIRMED, Trial, TrialError, Word, confirm};

use crate::{
    control::Listener,
    datapath::AttachMode,
    definition::Difference,
    guests::watch::LIBVIRT_DIRECTORY,
    host::privileges,
    instance::{self, Lock, Name, Outcome, ProcessId, Told, Whose},
    notify,
    plan::XdpSetting,
    watch_definitions::DefinitionWatch,
};
use fitting::Candidates;
use janitor::Janitor;
use prepare::Request;
use signals::Signals;
use startup::Running;

/// What `vnet run` and `vnet apply` were told.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct Options {
    /// Files and directories of definitions.
    pub definitions: Vec<PathBuf>,
    /// The instance.
    pub instance: Name,
    /// Interfaces towards outside; none for all that the host's routes use.
    pub uplinks: Vec<String>,
    /// Where DHCP servers keep their leases.
    pub leases: PathBuf,
    /// How programs are attached.
    pub attach: AttachMode,
    /// Live flows of all guests; what a running datapath has, or the default, if it is not set.
    pub flow_limit: Option<u32>,
    /// What the programs log; `None` for nothing, which costs nothing.
    pub log: Option<log::Level>,
    /// Whether the datapath stays in place when the process ends.
    pub keep: bool,
    /// Whether bridges are made that the host does not have.
    pub create_bridges: bool,
    /// Whether guests are served addresses and names by somebody else in any case.
    pub no_services: bool,
    /// Whether packets may pass by the bridges; what a running datapath has, or yes, if it is not set.
    pub short_ways: Option<bool>,
    /// When XDP is used; what a running datapath has, or automatically, if it is not set.
    pub xdp: Option<XdpSetting>,
    /// Whether files of definitions are applied when they change, while a daemon runs.
    pub watch: bool,
}

/// Why `vnet run` or `vnet apply` ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The definitions or the host as it is do not allow it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A step failed; what was changed has been taken back.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Runs until SIGINT or SIGTERM. `ready` is called when every hook is in place.
pub async fn run(options: &Options, ready: impl FnOnce()) -> Result<(), RunError> {
    let mut signals = Signals::listen()?;
    // Before they are read, so that no change is lost.
    let watch = options.watch.then(|| DefinitionWatch::start(&options.definitions));
    let watch = watch.transpose().map_err(Refusal::Watch)?;
    let candidates = Candidates::read(options)?;
    let mut tenure = Tenure::begin(options)?;
    let result = async {
        let (mut request, ignored) = candidates.fitting(options).await?;
        go_on(options, &mut request.told.settings);
        let Some(mut running) = tenure.start(options, request, &mut signals).await? else {
            return Ok(());
        };
        let listener = Listener::bind(&options.instance)?;
        ready();
        tenure.leaves_nothing = !options.keep;
        Ok(serve::serve(&mut running, ignored, listener, watch, &mut signals).await?)
    };
    let result = result.await;
    let what =
        if tenure.leaves_nothing { "taking everything down" } else { "guests are served on" };
    notify::stopping(what);
    tenure.end().await;
    result
}

/// What is not said stays as it is in a datapath that is taken over, as `--max-flows` does.
fn go_on(options: &Options, settings: &mut instance::Settings) {
    let before = Told::read(&options.instance).ok().flatten().map(|told| told.settings);
    let Some(before) = before else { return };
    settings.short_ways = options.short_ways.unwrap_or(before.short_ways);
    settings.xdp = options.xdp.unwrap_or(before.xdp);
}

/// Makes the datapath what was told, and leaves it in place. What of the definitions has changed is
/// returned.
pub async fn apply(options: &Options, told: Told) -> Result<Vec<Difference>, RunError> {
    let mut signals = Signals::listen()?;
    let request = Request::examine(told)?;
    let mut tenure = Tenure::begin(options)?;
    let result = tenure.start(options, request, &mut signals).await;
    if matches!(result, Ok(Some(_))) {
        tenure.leaves_nothing = false;
    }
    let result = result.map(|running| {
        running.map(|mut running| {
            // Nobody else looks at all flows until a daemon does.
            if let Err(error) = running.datapath.sweep() {
                log::warn!("{error}");
            }
            running.differences
        })
    });
    tenure.end().await;
    match result? {
        Some(differences) => Ok(differences),
        None => Err(RunError::Failed(anyhow::anyhow!("interrupted"))),
    }
}

/// What [`apply`] would change, after all checks that it makes.
pub async fn compare(options: &Options, told: Told) -> Result<Vec<Difference>, RunError> {
    let request = Request::examine(told)?;
    privileges::check().map_err(Refusal::from)?;
    Ok(prepare::compare(options, &request).await?)
}

/// What an order to apply the definitions is made of.
pub fn told(options: &Options) -> Result<Told, RunError> {
    Ok(Request::read(&options.definitions, options.settings())?.told)
}

/// Takes down what an instance has left in place, and leaves the host as it was found.
pub async fn take_down(instance: &Name) -> anyhow::Result<()> {
    let lock = Lock::take(instance)?;
    let outcome = detach(lock).await;
    anyhow::ensure!(outcome.is_complete(), "{}", outcome.messages().collect::<Vec<_>>().join("; "));
    Ok(())
}

/// Takes down what the lock's instance has left in place, also what no journal names.
pub async fn detach(lock: Lock) -> Outcome {
    let mut outcome = instance::undo(&lock, Whose::Anybodys).await;
    if outcome.failures.is_empty() {
        outcome.failures.extend(serving::end_left_behind(lock.name()).await);
        outcome.failures.extend(bridging::remove_left_behind(lock.name()).await);
    }
    lock.release();
    outcome
}

/// A process's time with the instance's lock.
struct Tenure {
    lock: Lock,
    janitor: Janitor,
    /// Whether what is in place is taken down at the end.
    leaves_nothing: bool,
}

impl Tenure {
    fn begin(options: &Options) -> Result<Self, RunError> {
        privileges::check().map_err(Refusal::from)?;
        // Before the first change, which is the lock's file.
        let mut janitor = Janitor::start(&options.instance)?;
        match Lock::take(&options.instance) {
            Ok(lock) => Ok(Self { lock, janitor, leaves_nothing: true }),
            Err(error) => {
                janitor.dismiss();
                Err(Refusal::from(error).into())
            }
        }
    }

    /// `None` if a signal has come in between.
    async fn start(
        &mut self,
        options: &Options,
        request: Request,
        signals: &mut Signals,
    ) -> Result<Option<Running>, RunError> {
        let loaded = async {
            let prepared = prepare::prepare(options, request, &self.lock).await?;
            // From here on nothing that this process does may end what runs already.
            if prepared.standing.is_taken_over() {
                self.janitor.dismiss();
                self.leaves_nothing = false;
            }
            let loaded = startup::load(options, &prepared, &self.lock).await?;
            Ok::<_, RunError>((prepared, loaded))
        };
        let (prepared, loaded) = tokio::select! {
            loaded = loaded => loaded?,
            () = signals.stop() => return Ok(None),
        };
        let is_taken_over = prepared.standing.is_taken_over();
        let started = startup::start(options, prepared, loaded);
        // A change of what runs is made to its end; what is new is taken back.
        let running = if is_taken_over {
            started.await?
        } else {
            tokio::select! {
                started = started => started?,
                () = signals.stop() => return Ok(None),
            }
        };
        self.janitor.dismiss();
        Ok(Some(running))
    }

    /// The lock is held until nothing is left that is to go.
    async fn end(mut self) {
        if self.leaves_nothing {
            let outcome = instance::undo(&self.lock, Whose::Process(ProcessId::current())).await;
            for message in outcome.messages() {
                log::error!("while taking down: {message}");
            }
        }
        self.lock.release();
        self.janitor.dismiss();
    }
}

impl Options {
    /// To go on with an instance as it is.
    #[must_use]
    pub fn of_instance(instance: Name) -> Self {
        Self {
            definitions: Vec::new(),
            instance,
            uplinks: Vec::new(),
            leases: LIBVIRT_DIRECTORY.into(),
            attach: AttachMode::Auto,
            flow_limit: None,
            log: None,
            keep: true,
            create_bridges: false,
            no_services: false,
            short_ways: None,
            xdp: None,
            watch: false,
        }
    }

    fn settings(&self) -> instance::Settings {
        let default = instance::Settings::default();
        instance::Settings {
            uplinks: self.uplinks.clone(),
            leases: Some(self.leases.clone()),
            create_bridges: self.create_bridges,
            no_services: self.no_services,
            short_ways: self.short_ways.unwrap_or(default.short_ways),
            xdp: self.xdp.unwrap_or(default.xdp),
        }
    }
}
