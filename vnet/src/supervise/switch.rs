//! Short ways and XDP switched, while everything else goes on as it is.

use anyhow::Context as _;
use vnet_common::names::program;

use super::{RunError, change::OnFailure, hooks, shortcut, startup::Running, state};
use crate::{
    definition::Difference,
    host,
    instance::Told,
    plan::{Plan, ShortcutTables, XdpSetting},
};

/// Switches what is said; with an error everything is as it was. Nothing is planned anew, and no definition
/// is looked at: what may be wrong with them does not matter here.
pub(super) async fn switch(
    running: &mut Running,
    on: Option<bool>,
    xdp: Option<XdpSetting>,
) -> Result<Vec<Difference>, RunError> {
    let mut told = running.told.clone();
    let settings = &mut told.settings;
    settings.short_ways = on.unwrap_or(settings.short_ways);
    settings.xdp = xdp.unwrap_or(settings.xdp);
    let Some(difference) = running.told.settings.difference(&told.settings) else {
        return Ok(Vec::new());
    };
    let before = running.shortcut.allowed.clone();
    let shown = running.datapath.shown_shortcut().clone();
    let mut plan = running.plan.clone();
    plan.short_ways = told.settings.short_ways;
    let mut failures = match show(running, &plan, &told, &shown).await {
        Ok(failures) => failures,
        Err(error) => return Err(go_back(running, &shown, before, error).await.into()),
    };
    failures.extend(state::commit(running).err().map(|error| format!("{error:#}")));
    running.plan = plan;
    running.told = told;
    let wanted = hooks::wanted(&running.plan);
    failures.extend(hooks::detach_unwanted(running, &wanted, OnFailure::RollBack).await.err());
    failures.extend(shortcut::settle(running, log::Level::Debug).await);
    let was_untidy = running.is_untidy;
    running.leave_for_later(&failures);
    // Nothing else was done anew.
    running.is_untidy |= was_untidy;
    log::info!("{difference}");
    Ok(vec![difference])
}

/// Everything that is a reason to go back. Returns what failed without being one.
async fn show(
    running: &mut Running,
    plan: &Plan,
    told: &Told,
    shown: &ShortcutTables,
) -> anyhow::Result<Vec<String>> {
    let host = host::snapshot().await.context("cannot read the host's network")?;
    let mut wanted = hooks::wanted(plan);
    wanted.retain(|spec| spec.program == program::PORT_SHORTCUT);
    let mut failures = hooks::attach_missing(running, &wanted, OnFailure::RollBack).await;
    failures.extend(shortcut::enter(running, plan, &host, told.settings.xdp).await?);
    if shown.is_wider_than(running.datapath.shown_shortcut()) {
        running.datapath.next_epoch()?;
    }
    state::stage(running, plan, Some(told))?;
    Ok(failures)
}

async fn go_back(
    running: &mut Running,
    shown: &ShortcutTables,
    before: shortcut::Allowed,
    error: anyhow::Error,
) -> anyhow::Error {
    if !before.is_on {
        running.shortcut.neighbourhood.features.forget();
    }
    running.shortcut.allowed = before;
    let wanted = hooks::wanted(&running.plan);
    let mut failures = Vec::new();
    failures.extend(hooks::detach_unwanted(running, &wanted, OnFailure::RollBack).await.err());
    let written = running.datapath.write_shortcut(shown);
    let epoch = running.datapath.next_epoch();
    failures.extend(written.err().map(|error| error.to_string()));
    failures.extend(epoch.err().map(|error| error.to_string()));
    if failures.is_empty() {
        return error;
    }
    error.context(format!("not everything is as it was: {}", failures.join("; ")))
}
