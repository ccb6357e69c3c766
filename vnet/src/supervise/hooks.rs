//! Which programs belong where, and keeping it so.

use anyhow::Context as _;
use vnet_common::{names::program, policy::Mode};

use super::startup::Running;
use crate::{
    datapath::{Attachment, DatapathError, Direction, HookSpec},
    instance::{
        State,
        state::{HookState, NetworkState, UplinkState},
    },
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

pub(super) async fn attach(running: &mut Running, spec: HookSpec) -> Result<(), DatapathError> {
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
        mode: running.options.attach,
        pins: &running.pins,
        filter: &running.options.filter,
        journal: &mut running.journal,
    };
    let hook = running.datapath.attach(spec, attachment).await?;
    running.hooks.push(hook);
    Ok(())
}

/// Attaches what a plan has anew, and again what others have taken off. Returns what failed.
pub(super) async fn attach_missing(running: &mut Running, plan: &Plan) -> Vec<String> {
    let mut failures = Vec::new();
    for spec in wanted(plan) {
        let at = running.hooks.iter().position(|hook| is_same(&hook.spec, &spec));
        if let Some(hook) = at.and_then(|at| running.hooks.get_mut(at)) {
            // A renamed interface keeps its programs.
            hook.spec.interface.clone_from(&spec.interface);
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
        // In the place of another program, or of a link that holds nothing any more.
        let place = (spec.ifindex, spec.direction);
        if let Err(error) = detach(running, |spec| (spec.ifindex, spec.direction) == place).await {
            failures.push(error);
            continue;
        }
        log::info!("attaching to {} of `{}`", spec.direction.name(), spec.interface);
        if let Err(error) = attach(running, spec).await {
            failures.push(error.to_string());
        }
    }
    failures
}

/// Takes off what a plan does not have. Returns what failed, which stays known.
pub(super) async fn detach_unwanted(running: &mut Running, plan: &Plan) -> Result<(), String> {
    let wanted = wanted(plan);
    detach(running, |spec| !wanted.iter().any(|wanted| is_same(spec, wanted))).await
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

async fn detach(running: &mut Running, which: impl Fn(&HookSpec) -> bool) -> Result<(), String> {
    let mut failures = Vec::new();
    let mut kept = Vec::new();
    for hook in std::mem::take(&mut running.hooks) {
        if !which(&hook.spec) {
            kept.push(hook);
        } else if let Err(error) = hook.detach().await {
            failures.push(error.to_string());
            kept.push(hook);
        } else {
            log::info!("detached from {} of `{}`", hook.spec.direction.name(), hook.spec.interface);
        }
    }
    running.hooks = kept;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

fn is_same(a: &HookSpec, b: &HookSpec) -> bool {
    (a.ifindex, a.direction, a.program) == (b.ifindex, b.direction, b.program)
}

/// Tells other processes what runs.
pub(super) fn write_state(running: &Running) -> anyhow::Result<()> {
    let state = State {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: running.options.instance.clone(),
        pid: std::process::id(),
        started: running.started,
        pins: running.pins.clone(),
        flow_limit: running.options.flow_limit,
        networks: running.plan.networks.iter().map(network_state).collect(),
        uplinks: running.plan.uplinks.iter().map(uplink_state).collect(),
        hooks: running
            .hooks
            .iter()
            .map(|hook| HookState {
                interface: hook.spec.interface.clone(),
                ifindex: hook.spec.ifindex,
                direction: hook.spec.direction.name().to_owned(),
                program: hook.spec.program.to_owned(),
                program_id: hook.program_id,
                mechanism: hook.mechanism.name().to_owned(),
            })
            .collect(),
    };
    let directory = &running.runtime_directory;
    state
        .write(directory)
        .with_context(|| format!("cannot write the state to {}", directory.display()))
}

fn network_state(network: &crate::plan::PlannedNetwork) -> NetworkState {
    NetworkState {
        slot: network.slot,
        name: network.name.clone(),
        mode: mode_name(network.modes.ipv4).to_owned(),
        mode_ipv6: mode_name(network.modes.ipv6).to_owned(),
        bridge: network.bridge.clone(),
        bridge_ifindex: network.bridge_ifindex.unwrap_or(0),
        subnets: network.subnets.clone(),
        masquerade: network.masquerade.iter().collect(),
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Isolated => "isolated",
        Mode::Nat => "nat",
        Mode::Route => "route",
        Mode::Open => "open",
        Mode::Bridged => "bridge",
    }
}

fn uplink_state(uplink: &PlannedUplink) -> UplinkState {
    UplinkState {
        interface: uplink.name.clone(),
        ifindex: uplink.ifindex,
        addresses: uplink.addresses.iter().collect(),
    }
}
