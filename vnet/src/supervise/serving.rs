//! What guests ask the host for: a dnsmasq at each bridge that wants one.

use std::path::Path;

use super::{ports, startup::Running, state};
use crate::{
    instance::{Journal, Name, Undo},
    services::{
        self, Change, Due, LIBVIRT_DEFINITIONS, LibvirtBridges, Supervisor, dnsmasq::Directories,
    },
};

/// Where the files of an instance's services are.
pub(super) fn directories(instance: &Name) -> Directories {
    Directories::of_instance(&instance.runtime_directory(), &instance.to_string())
}

/// Makes the services what the definitions say. One that cannot be had is said and tried again, and
/// no reason to end what else runs.
pub(super) async fn serve_guests(running: &mut Running) -> anyhow::Result<()> {
    let mut wanted = if running.told.settings.no_services {
        Vec::new()
    } else {
        services::plan(&running.definitions)
    };
    let libvirt = LibvirtBridges::read(Path::new(LIBVIRT_DEFINITIONS));
    for it in &mut wanted {
        *it = it.or_libvirt(&libvirt, |bridge| is_made_here(&running.journal, bridge));
    }
    if !wanted.is_empty() {
        let runtime = directories(&running.instance).runtime;
        running.journal.record(Undo::Services { runtime })?;
    }
    let changes = running.services.apply(&wanted).await;
    // The directory comes with the first service.
    ports::watch_again(&mut running.leases);
    told(running, &changes)
}

fn is_made_here(journal: &Journal, bridge: &str) -> bool {
    let mut entries = journal.entries().iter();
    entries.any(|undo| matches!(undo, Undo::Bridge { name, .. } if name == bridge))
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
