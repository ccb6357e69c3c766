//! `vnet run`: bring the datapath up, follow the host's changes, take it all down.

mod follow;
mod forwarding;
mod hooks;
mod janitor;
mod ports;
mod prepare;
mod routes;
mod serve;
mod signals;
mod startup;

use std::path::PathBuf;

pub use janitor::keep_watch;
pub use prepare::Refusal;

use crate::{
    datapath::{AttachMode, LoadOptions},
    definition::Network,
    host::privileges,
    instance::{self, Lock, Name, Whose},
    plan,
};
use janitor::Janitor;
use signals::Signals;

/// What `vnet run` was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files and directories of definitions.
    pub definitions: Vec<PathBuf>,
    /// The instance.
    pub instance: Name,
    /// What is set beside the definitions.
    pub plan: plan::Options,
    /// Where DHCP servers keep their leases.
    pub leases: PathBuf,
    /// How programs are attached.
    pub attach: AttachMode,
    /// How the object is loaded.
    pub load: LoadOptions,
}

/// Why `vnet run` ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The definitions or the host as it is do not allow it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A step of the start failed; what was changed has been taken back.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Runs until SIGINT or SIGTERM. `ready` is called when every hook is in place.
pub async fn run(options: &Options, ready: impl FnOnce()) -> Result<(), RunError> {
    let mut signals = Signals::listen()?;
    let definitions = prepare::load_definitions(options)?;
    privileges::check().map_err(Refusal::from)?;
    // Before the first change, which is the lock's file.
    let mut janitor = Janitor::start(&options.instance)?;
    let lock = match Lock::take(&options.instance) {
        Ok(lock) => lock,
        Err(error) => {
            janitor.dismiss();
            return Err(Refusal::from(error).into());
        }
    };
    let result = bring_up_and_serve(options, definitions, &lock, &mut signals, ready, &mut janitor);
    let result = result.await;
    // The lock is held until nothing is left.
    let outcome = instance::undo(&lock, Whose::Process(std::process::id())).await;
    for message in outcome.messages() {
        log::error!("while taking down: {message}");
    }
    lock.release();
    janitor.dismiss();
    result
}

async fn bring_up_and_serve(
    options: &Options,
    definitions: Vec<Network>,
    lock: &Lock,
    signals: &mut Signals,
    ready: impl FnOnce(),
    janitor: &mut Janitor,
) -> Result<(), RunError> {
    let started = async {
        let prepared = prepare::prepare(options, definitions, lock).await?;
        Ok::<_, RunError>(startup::start(options, prepared, lock).await?)
    };
    let mut running = tokio::select! {
        started = started => started?,
        () = signals.stop() => return Ok(()),
    };
    janitor.dismiss();
    ready();
    Ok(serve::serve(&mut running, signals).await?)
}
