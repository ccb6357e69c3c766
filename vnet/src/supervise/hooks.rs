//! Which programs belong where, and keeping it so.

use vnet_common::names::program;

use super::{change::OnFailure, pause::pause, startup::Running};
use crate::{
    datapath::{Attachment, DatapathError, Direction, Hook, HookSpec},
    host::Snapshot,
    instance::{self, JournalError, Undo},
    plan::{Plan, PlannedUplink},
};

/// Every hook of a plan, in the order of attachment: first what keeps untranslated packets from
/// leaving, last what sends packets on their way.
pub(super) fn wanted(plan: &Plan) -> Vec<HookSpec> {
    let mut hooks = Vec::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        for uplink in &plan.uplinks {
            hooks.push(HookSpec {
                ifindex: uplink.ifindex,
                interface: uplink.name.clone(),
                direction,
                program: uplink_program(uplink, direction),
            });
        }
    }
    for port in plan.ports.iter().filter(|port| port.guard.is_some()) {
        hooks.push(HookSpec {
            ifindex: port.ifindex,
            interface: port.name.clone(),
            direction: Direction::Ingress,
            program: program::PORT_GUARD,
        });
    }
    for direction in [Direction::Egress, Direction::Ingress] {
        for network in &plan.networks {
            let bridge = network.bridge_ifindex.filter(|_| !network.is_bridged());
            let Some(ifindex) = bridge else { continue };
            hooks.push(HookSpec {
                ifindex,
                interface: network.bridge.clone(),
                direction,
                program: match direction {
                    Direction::Ingress => program::BRIDGE_INGRESS,
                    Direction::Egress => program::BRIDGE_EGRESS,
                },
            });
        }
    }
    hooks
}

fn uplink_program(uplink: &PlannedUplink, direction: Direction) -> &'static str {
    match (direction, uplink.raw) {
        (Direction::Ingress, false) => program::UPLINK_INGRESS,
        (Direction::Egress, false) => program::UPLINK_EGRESS,
        (Direction::Ingress, true) => program::UPLINK_INGRESS_RAW,
        (Direction::Egress, true) => program::UPLINK_EGRESS_RAW,
    }
}

async fn attach(running: &mut Running, spec: HookSpec) -> Result<(), DatapathError> {
    let place = (spec.program, spec.ifindex);
    match try_to_attach(running, spec).await {
        // Guests come and go while this runs; the watch tells of it.
        Err(_) if place.0 == program::PORT_GUARD && is_gone(place.1) => Ok(()),
        result => result,
    }
}

fn is_gone(ifindex: u32) -> bool {
    nix::net::if_::if_indextoname(ifindex).is_err()
}

async fn try_to_attach(running: &mut Running, spec: HookSpec) -> Result<(), DatapathError> {
    let attachment = Attachment {
        mode: running.attach,
        pins: &running.pins,
        filter: &running.instance.filter(),
        journal: &mut running.journal,
    };
    let step = format!("attached-{}-{}", spec.program, spec.interface);
    let hook = running.datapath.attach(spec, attachment).await?;
    // What was there has been replaced or had gone.
    running.hooks.retain(|other| !is_same_place(&other.spec, &hook.spec));
    running.hooks.push(hook);
    pause(&step).await;
    Ok(())
}

/// Attaches what is wanted anew, again what others have taken off, and in the place of programs of an
/// earlier process. Returns what failed; the first failure ends a change that is to be rolled back.
pub(super) async fn attach_missing(
    running: &mut Running,
    wanted: &[HookSpec],
    on_failure: OnFailure,
) -> Vec<String> {
    let mut failures = Vec::new();
    // Whoever asks for a change is told of it in other words.
    let level = on_failure.level();
    for spec in wanted.iter().cloned() {
        let at = running.hooks.iter().position(|hook| is_same(&hook.spec, &spec));
        if let Some(hook) = at.and_then(|at| running.hooks.get_mut(at)) {
            // A renamed interface keeps its programs.
            hook.spec.interface.clone_from(&spec.interface);
            if !hook.is_inherited {
                if hook.is_attached().await {
                    continue;
                }
                log::warn!(
                    "`{}` was taken off {} of `{}` by somebody: attaching it again",
                    spec.program,
                    spec.direction.name(),
                    spec.interface
                );
            }
        }
        log::log!(level, "attaching to {} of `{}`", spec.direction.name(), spec.interface);
        if let Err(error) = attach(running, spec).await {
            failures.push(error.to_string());
            if on_failure == OnFailure::RollBack {
                break;
            }
        }
    }
    failures
}

/// Takes off what is not wanted. Returns what failed, which stays known.
pub(super) async fn detach_unwanted(
    running: &mut Running,
    wanted: &[HookSpec],
    on_failure: OnFailure,
) -> Result<(), String> {
    detach(running, on_failure.level(), |spec| !wanted.iter().any(|wanted| is_same(spec, wanted)))
        .await
}

/// Whether some hook has been emptied by others.
pub(super) async fn any_is_lost(running: &Running) -> bool {
    for hook in &running.hooks {
        if !hook.is_attached().await {
            return true;
        }
    }
    false
}

/// Whether both hooks of an interface have our programs.
pub(super) fn are_attached(running: &Running, ifindex: u32) -> bool {
    [Direction::Egress, Direction::Ingress].into_iter().all(|direction| {
        running
            .hooks
            .iter()
            .any(|hook| (hook.spec.ifindex, hook.spec.direction) == (ifindex, direction))
    })
}

async fn detach(
    running: &mut Running,
    level: log::Level,
    which: impl Fn(&HookSpec) -> bool,
) -> Result<(), String> {
    let mut failures = Vec::new();
    let mut kept: Vec<Hook> = Vec::new();
    for hook in std::mem::take(&mut running.hooks) {
        if !which(&hook.spec) {
            kept.push(hook);
        } else if let Err(error) = hook.detach().await {
            failures.push(error.to_string());
            kept.push(hook);
        } else {
            let HookSpec { direction, interface, .. } = &hook.spec;
            log::log!(level, "detached from {} of `{interface}`", direction.name());
        }
    }
    running.hooks = kept;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// Removes qdiscs that were made for hooks which are gone. Returns what failed.
pub(super) async fn retract_qdiscs(running: &mut Running) -> Vec<String> {
    let hooks = &running.hooks;
    let is_unused = |interface: u32| !hooks.iter().any(|hook| hook.spec.ifindex == interface);
    let unused: Vec<Undo> = running
        .journal
        .entries()
        .iter()
        .filter(|undo| match undo {
            Undo::Filters { interface, .. } | Undo::Clsact { interface } => is_unused(*interface),
            _ => false,
        })
        .cloned()
        .collect();
    instance::retract(&mut running.journal, &unused).await
}

/// Forgets what was changed of interfaces that are gone, and with them the change.
pub(super) fn forget_gone(running: &mut Running, host: &Snapshot) -> Result<(), JournalError> {
    // Interfaces may be missing that are there.
    if host.interrupted {
        return Ok(());
    }
    running.journal.forget(|undo| match undo {
        Undo::Filters { interface, .. }
        | Undo::Clsact { interface }
        | Undo::IsolatedPort { interface }
        | Undo::PortVlans { interface, .. } => host.link(*interface).is_none(),
        _ => false,
    })
}

fn is_same(a: &HookSpec, b: &HookSpec) -> bool {
    is_same_place(a, b) && a.program == b.program
}

fn is_same_place(a: &HookSpec, b: &HookSpec) -> bool {
    (a.ifindex, a.direction) == (b.ifindex, b.direction)
}
