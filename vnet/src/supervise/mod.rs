//! `vnet run`: bring the datapath up, follow the host's changes, take it all down.

mod hooks;
mod janitor;
mod prepare;
mod serve;
mod startup;

use std::path::PathBuf;

pub use janitor::keep_watch;
pub use prepare::Refusal;

use crate::{
    datapath::{AttachMode, LoadOptions},
    instance::Name,
    plan,
};

/// What `vnet run` was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files and directories of definitions.
    pub definitions: Vec<PathBuf>,
    /// The instance.
    pub instance: Name,
    /// What is set beside the definitions.
    pub plan: plan::Options,
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
    let mut signals = serve::Signals::listen()?;
    let prepared = tokio::select! {
        prepared = prepare::prepare(options) => prepared?,
        () = signals.stop() => return Ok(()),
    };
    let mut janitor = janitor::Janitor::start(&options.instance)?;
    let started = tokio::select! {
        started = startup::start(options, prepared) => started.map(Some),
        () = signals.stop() => Ok(None),
    };
    let result = match started {
        Ok(Some(mut running)) => {
            janitor.dismiss();
            ready();
            serve::serve(&mut running, &mut signals).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    take_down(&options.instance, janitor).await;
    result.map_err(RunError::Failed)
}

/// Takes back everything that the journal names.
async fn take_down(instance: &Name, mut janitor: janitor::Janitor) {
    for failure in crate::instance::journal::undo_all(instance).await {
        log::error!("while taking down: {failure}");
    }
    janitor.dismiss();
}
