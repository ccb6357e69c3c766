//! The bridges of networks: those that the host lacks are made, and go with their networks.

use anyhow::Context as _;

use super::startup::Running;
use crate::{
    bridges::{self, Owner, Removed, Step},
    definition::Network,
    host::{self, Snapshot},
    instance::{self, Journal, Name, Settings, Undo},
};

fn owner(instance: &Name) -> Owner {
    Owner::of(&instance.to_string())
}

/// What has to be done so that every network has its bridge, if that is wanted.
pub(super) fn missing(
    instance: &Name,
    settings: &Settings,
    definitions: &[Network],
    host: &Snapshot,
) -> Vec<Step> {
    if settings.create_bridges {
        bridges::plan(definitions, host, &owner(instance))
    } else {
        Vec::new()
    }
}

/// Takes the steps and returns the host as it is then. Bridges of an earlier run are this one's from
/// here on.
pub(super) async fn make(
    instance: &Name,
    steps: &[Step],
    host: Snapshot,
    journal: &mut Journal,
) -> anyhow::Result<Snapshot> {
    for undo in bridges::of_owner(&host, &owner(instance)) {
        journal.record(undo)?;
    }
    if steps.is_empty() {
        return Ok(host);
    }
    bridges::apply(steps, journal).await?;
    let after = host::snapshot().await.context("cannot read the host's network");
    if after.is_err() {
        take_back(steps).await;
    }
    after
}

/// Takes the steps back after a failure of what came after them.
pub(super) async fn take_back(steps: &[Step]) {
    for failure in bridges::undo(steps).await {
        log::error!("while taking bridges back: {failure}");
    }
}

/// Makes bridges again that were made here and that somebody has deleted. Those that others have made
/// are for them to make again, as libvirt does when it starts a network.
pub(super) async fn make_again(running: &mut Running, host: &mut Snapshot) -> anyhow::Result<()> {
    // Bridges may be missing that are there.
    if host.interrupted {
        return Ok(());
    }
    let settings = &running.told.settings;
    let mut steps = missing(&running.instance, settings, &running.definitions, host);
    let entries = running.journal.entries();
    let was_made = |bridge: &bridges::Bridge| {
        entries.iter().any(|undo| matches!(undo, Undo::Bridge { name, .. } if *name == bridge.name))
    };
    steps.retain(|step| matches!(step, Step::Make(bridge) if was_made(bridge)));
    if steps.is_empty() {
        return Ok(());
    }
    bridges::apply(&steps, &mut running.journal).await?;
    *host = host::snapshot().await.context("cannot read the host's network")?;
    Ok(())
}

/// Deletes the bridges that were made for networks which have gone. Those that somebody is on stay.
pub(super) async fn remove_unwanted(running: &mut Running) -> Vec<String> {
    // Also those of an earlier run are in the journal by now.
    if !running.journal.entries().iter().any(|undo| matches!(undo, Undo::Bridge { .. })) {
        return Vec::new();
    }
    let host = match host::snapshot().await {
        Ok(host) => host,
        Err(error) => return vec![format!("cannot read the host's network: {error}")],
    };
    let removal = bridges::plan_removal(&running.definitions, &host, &owner(&running.instance));
    for kept in &removal.kept {
        log::warn!("{kept}");
    }
    let is_unwanted = |bridge: &str| {
        removal
            .steps
            .iter()
            .any(|step| matches!(step, Step::Remove { bridge: it, .. } if it == bridge))
    };
    let unwanted: Vec<Undo> = running
        .journal
        .entries()
        .iter()
        .filter(|undo| matches!(undo, Undo::Bridge { name, .. } if is_unwanted(name)))
        .cloned()
        .collect();
    for step in &removal.steps {
        log::info!("{step}");
    }
    instance::retract(&mut running.journal, &unwanted).await
}

/// Deletes the bridges of an instance that no journal names, because somebody was on them when their
/// networks went. Returns what failed.
pub(super) async fn remove_left_behind(instance: &Name) -> Vec<String> {
    let host = match host::snapshot().await {
        Ok(host) => host,
        Err(error) => return vec![format!("cannot read the host's network: {error}")],
    };
    let mut failures = Vec::new();
    for undo in bridges::of_owner(&host, &owner(instance)) {
        let Undo::Bridge { name, mac, alias } = undo else { continue };
        match bridges::remove_if_unused(&name, mac, &alias).await {
            Ok(Removed::Kept(kept)) => log::warn!("{kept}"),
            Ok(Removed::Yes | Removed::NotOurs) => {}
            Err(error) => failures.push(error.to_string()),
        }
    }
    failures
}
