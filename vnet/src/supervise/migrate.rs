//! Migrating the flows of a datapath of another layout or size, while it serves its guests.

use std::time::Duration;

use nix::net::if_::if_indextoname;
use vnet_common::{migration::Phase, names::program};

use super::{pause::pause, standing::Former};
use crate::{
    datapath::{self, Attachment, Direction, LoadOptions, Migration},
    instance::{Journal, Name},
};

/// Fragments that are under way when their flow is migrated follow their first by less.
const FRAGMENTS_UNDER_WAY: Duration = Duration::from_millis(200);

/// Afterwards the maps are of this version's layout and the size that is wanted, and so are the flows in them.
/// A process that is killed leaves a datapath that serves all flows, and the next one goes on from there.
pub(super) async fn migrate(
    load: &LoadOptions,
    former: &Former,
    journal: &mut Journal,
    name: &Name,
) -> anyhow::Result<()> {
    let Some(wanted) = &former.migration else { return Ok(()) };
    log::info!("migrating the flows, because {}", wanted.reason);
    let mut migration = Migration::begin(load, &former.pins, wanted.layout, &wanted.programs)?;
    pause("migration-prepared").await;
    migration.enter(Phase::Former)?;
    attach(&mut migration, former, journal, name).await?;
    pause("migration-attached").await;
    migration.enter(Phase::Shared)?;
    pause("migration-shared").await;
    migration.adopt()?;
    pause("migration-adopted").await;
    tokio::time::sleep(FRAGMENTS_UNDER_WAY).await;
    migration.adopt()?;
    migration.enter(Phase::Done)?;
    pause("migration-done").await;
    migration.adopt()?;
    migration.settle();
    let outcome = migration.commit()?;
    pause("migration-committed").await;
    log::info!("{} flows go on", outcome.migrated);
    let lost = outcome.without_room + outcome.in_conflict;
    if lost != 0 {
        log::warn!(
            "{lost} flows begin anew: {} found no room, {} another flow in their place",
            outcome.without_room,
            outcome.in_conflict
        );
    }
    Ok(())
}

/// Puts the programs of the migration in the place of the former ones.
async fn attach(
    migration: &mut Migration,
    former: &Former,
    journal: &mut Journal,
    name: &Name,
) -> anyhow::Result<()> {
    for hook in former.hooks(name) {
        let mut spec = hook.spec.clone();
        // It may have been renamed; one that has gone has taken its programs along.
        let Some(interface) =
            if_indextoname(spec.ifindex).ok().and_then(|it| it.into_string().ok())
        else {
            continue;
        };
        if spec.direction == Direction::Xdp {
            // During a migration all of it passes to TC, whichever program it is.
            spec.program = program::UPLINK_XDP;
        } else if !program::ALL.contains(&spec.program) {
            // Attached just before a process was killed, which had not written it down.
            let ids = hook.program_ids().await;
            let found = ids.into_iter().find_map(|id| datapath::name_of(&former.pins, id));
            let Some(found) = found else { continue };
            spec.program = found;
        }
        spec.interface = interface;
        let (place, ifindex) = (format!("{}-{}", spec.program, spec.interface), spec.ifindex);
        let attachment = Attachment {
            mode: former.attach_mode(),
            pins: &former.pins,
            filter: &name.filter(),
            journal,
        };
        match migration.datapath().attach(spec, attachment).await {
            Err(_) if if_indextoname(ifindex).is_err() => {}
            // XDP is never a reason to fail. What cannot be replaced is not to see other flows than TC.
            Err(error) if hook.spec.direction == Direction::Xdp => {
                log::warn!("{error}");
                hook.detach().await?;
            }
            attached => drop(attached?),
        }
        pause(&format!("migration-{place}")).await;
    }
    Ok(())
}
