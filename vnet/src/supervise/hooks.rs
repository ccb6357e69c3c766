//! Which programs belong where, and keeping it so.

use std::collections::{HashMap, HashSet};

use vnet_common::names::{self, program};

use super::{change::OnFailure, pause::pause, startup::Running};
use crate::{
    datapath::{AttachMode, Attachment, DatapathError, Direction, Hook, HookSpec, Mechanism},
    host::Snapshot,
    instance::{self, JournalError, Undo},
    notify, object,
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
    for port in &plan.ports {
        let program = match port.guard {
            Some(_) => program::PORT_GUARD,
            None if !plan.short_ways => continue,
            // What an object of an earlier layout does not have.
            None if object::layout() != names::LAYOUT => continue,
            None => program::PORT_SHORTCUT,
        };
        hooks.push(HookSpec {
            ifindex: port.ifindex,
            interface: port.name.clone(),
            direction: Direction::Ingress,
            program,
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
                    Direction::Ingress | Direction::Xdp => program::BRIDGE_INGRESS,
                    Direction::Egress => program::BRIDGE_EGRESS,
                },
            });
        }
    }
    hooks
}

/// Whether a hook is where the packets of a network's guests come and go.
pub(super) fn is_at_bridge(hook: &HookSpec) -> bool {
    [program::BRIDGE_INGRESS, program::BRIDGE_EGRESS].contains(&hook.program)
}

fn uplink_program(uplink: &PlannedUplink, direction: Direction) -> &'static str {
    match (direction, uplink.raw) {
        (Direction::Ingress | Direction::Xdp, false) => program::UPLINK_INGRESS,
        (Direction::Egress, false) => program::UPLINK_EGRESS,
        (Direction::Ingress | Direction::Xdp, true) => program::UPLINK_INGRESS_RAW,
        (Direction::Egress, true) => program::UPLINK_EGRESS_RAW,
    }
}

/// Attaches a program, in the place of the one that is at its hook.
async fn attach(
    running: &mut Running,
    spec: HookSpec,
    at: Option<usize>,
) -> Result<(), DatapathError> {
    let (program, interface) = (spec.program, spec.ifindex);
    match try_to_attach(running, spec, at).await {
        // Guests come and go while this runs; the watch tells of it.
        Err(_) if is_at_port(program) && is_gone(interface) => Ok(()),
        result => result,
    }
}

/// A clsact qdisc at a guest's port keeps libvirt from limiting its rate by an `ingress` one, and stops its
/// queues for a moment when it comes (`qdisc_graft` in `net/sched/sch_api.c`). A short way is not worth that.
fn would_need_qdisc(running: &Running, spec: &HookSpec) -> bool {
    let is_clsact = |hook: &Hook| hook.mechanism == Mechanism::Clsact;
    spec.program == program::PORT_SHORTCUT
        && (running.attach == AttachMode::Clsact || running.hooks.iter().any(is_clsact))
}

fn is_at_port(program: &str) -> bool {
    [program::PORT_GUARD, program::PORT_SHORTCUT].contains(&program)
}

fn is_gone(ifindex: u32) -> bool {
    nix::net::if_::if_indextoname(ifindex).is_err()
}

async fn try_to_attach(
    running: &mut Running,
    spec: HookSpec,
    at: Option<usize>,
) -> Result<(), DatapathError> {
    let attachment = Attachment {
        mode: running.attach,
        pins: &running.pins,
        filter: &running.instance.filter(),
        journal: &mut running.journal,
    };
    let step = format!("attached-{}-{}", spec.program, spec.interface);
    let hook = running.datapath.attach(spec, attachment).await?;
    match at.and_then(|at| running.hooks.get_mut(at)) {
        Some(former) => *former = hook,
        None => running.hooks.push(hook),
    }
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
    let places: HashMap<_, usize> =
        running.hooks.iter().enumerate().map(|(at, hook)| (place(&hook.spec), at)).collect();
    for spec in wanted.iter().cloned() {
        notify::progress();
        let at = places.get(&place(&spec)).copied();
        let hook = at.and_then(|at| running.hooks.get_mut(at));
        if let Some(hook) = hook.filter(|hook| hook.spec.program == spec.program) {
            // A renamed interface keeps its programs.
            hook.spec.interface.clone_from(&spec.interface);
            if hook.is_lost {
                log::warn!(
                    "`{}` was taken off {} of `{}` by somebody: attaching it again",
                    spec.program,
                    spec.direction.name(),
                    spec.interface
                );
            } else if !hook.is_inherited {
                continue;
            }
        }
        if at.is_none() && would_need_qdisc(running, &spec) {
            continue;
        }
        log::log!(level, "attaching to {} of `{}`", spec.direction.name(), spec.interface);
        let is_needed = spec.program != program::PORT_SHORTCUT;
        if let Err(error) = attach(running, spec, at).await {
            if !is_needed {
                log::info!("packets of a port take the long way: {error}");
                continue;
            }
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
    let wanted: HashSet<_> = wanted.iter().map(|spec| (place(spec), spec.program)).collect();
    detach(running, on_failure.level(), |spec| !wanted.contains(&(place(spec), spec.program))).await
}

/// Looks whether hooks have been emptied by others, which the kernel sends no notice of. Whether some has.
pub(super) async fn find_lost(running: &mut Running) -> bool {
    let mut any = false;
    for hook in &mut running.hooks {
        hook.is_lost = !hook.is_inherited && !hook.is_attached().await;
        any |= hook.is_lost;
    }
    any
}

/// The interfaces both of whose hooks have our programs.
pub(super) fn attached_interfaces(running: &Running) -> HashSet<u32> {
    let at = |direction: Direction| {
        let hooks = running.hooks.iter().filter(move |hook| hook.spec.direction == direction);
        hooks.map(|hook| hook.spec.ifindex).collect::<HashSet<_>>()
    };
    &at(Direction::Egress) & &at(Direction::Ingress)
}

async fn detach(
    running: &mut Running,
    level: log::Level,
    which: impl Fn(&HookSpec) -> bool,
) -> Result<(), String> {
    let mut failures = Vec::new();
    let mut kept: Vec<Hook> = Vec::new();
    for hook in std::mem::take(&mut running.hooks) {
        notify::progress();
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
    let used: HashSet<u32> = running.hooks.iter().map(|hook| hook.spec.ifindex).collect();
    let is_unused = |interface: u32| !used.contains(&interface);
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

const fn place(spec: &HookSpec) -> (u32, Direction) {
    (spec.ifindex, spec.direction)
}
