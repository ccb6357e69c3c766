//! What guests ask the host for: a dnsmasq at each bridge that wants one.

use super::{ports, startup::Running, state};
use crate::{
    instance::{Name, Undo},
    services::{self, Change, Due, Supervisor, dnsmasq::Directories},
};

/// Where the files of an instance's services are.
pub(super) fn directories(instance: &Name) -> Directories {
    Directories::of_instance(&instance.runtime_directory(), &instance.to_string())
}

/// Makes the services what the definitions say. One that cannot be had is said and tried again, and
/// no reason to end what else runs.
pub(super) async fn serve_guests(running: &mut Running) -> anyhow::Result<()> {
    let wanted = if running.told.settings.no_services {
        Vec::new()
    } else {
        services::plan(&running.definitions)
    };
    if !wanted.is_empty() {
        let runtime = directories(&running.instance).runtime;
        running.journal.record(Undo::Services { runtime })?;
    }
    let changes = running.services.apply(&wanted).await;
    // The directory comes with the first service.
    ports::watch_again(&mut running.leases);
    told(running, &changes)
}

/// Looks after a service that has ended, or that could not be had before.
pub(super) async fn tend(running: &mut Running, due: Due) -> anyhow::Result<()> {
    let changes = running.services.tend(due).await;
    told(running, &changes)
}

fn told(running: &Running, changes: &[Change]) -> anyhow::Result<()> {
    report(changes);
    if changes.is_empty() { Ok(()) } else { state::write(running) }
}

fn report(changes: &[Change]) {
    for change in changes {
        if change.what.is_bad() {
            log::error!("{change}");
        } else {
            log::info!("{change}");
        }
    }
}

/// Ends services of an instance that no journal names. Returns what failed.
pub(super) async fn end_left_behind(instance: &Name) -> Vec<String> {
    let directories = directories(instance);
    if !directories.runtime.exists() {
        return Vec::new();
    }
    let changes = Supervisor::new(directories).stop().await;
    changes.iter().filter(|it| it.what.is_bad()).map(ToString::to_string).collect()
}
