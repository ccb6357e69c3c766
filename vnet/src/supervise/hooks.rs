//! Which programs belong where, and keeping it so.

use vnet_common::names::program;

use super::startup::Running;
use crate::{
    datapath::{DatapathError, Direction, HookSpec},
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
    for direction in [Direction::Egress, Direction::Ingress] {
        for network in &plan.networks {
            hooks.push(HookSpec {
                ifindex: network.bridge_ifindex,
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
    let mode = running.options.attach;
    let hook = running.datapath.attach(spec, mode, &running.pins, &mut running.journal).await?;
    running.hooks.push(hook);
    Ok(())
}

/// Takes off what the plan no longer has and attaches what it has anew.
pub(super) async fn reconcile(running: &mut Running) -> anyhow::Result<()> {
    let wanted = wanted(&running.plan);
    let is_wanted = |spec: &HookSpec| {
        // A renamed interface keeps its programs.
        wanted.iter().any(|hook| {
            (hook.ifindex, hook.direction, hook.program)
                == (spec.ifindex, spec.direction, spec.program)
        })
    };
    let (kept, gone): (Vec<_>, Vec<_>) =
        std::mem::take(&mut running.hooks).into_iter().partition(|hook| is_wanted(&hook.spec));
    running.hooks = kept;
    for hook in gone {
        log::info!("detached from {} of `{}`", hook.spec.direction.name(), hook.spec.interface);
        hook.detach().await?;
    }
    for spec in wanted {
        let has = running
            .hooks
            .iter()
            .any(|hook| (hook.spec.ifindex, hook.spec.direction) == (spec.ifindex, spec.direction));
        if !has {
            log::info!("attaching to {} of `{}`", spec.direction.name(), spec.interface);
            attach(running, spec).await?;
        }
    }
    write_state(running)
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
    Ok(state.write(&running.runtime_directory)?)
}

fn network_state(network: &crate::plan::PlannedNetwork) -> NetworkState {
    NetworkState {
        slot: network.slot,
        name: network.name.clone(),
        mode: format!("{:?}", network.mode).to_lowercase(),
        bridge: network.bridge.clone(),
        bridge_ifindex: network.bridge_ifindex,
        subnets: network.subnets.clone(),
    }
}

fn uplink_state(uplink: &PlannedUplink) -> UplinkState {
    UplinkState {
        interface: uplink.name.clone(),
        ifindex: uplink.ifindex,
        addresses: uplink.addresses.iter().map(|(address, _)| *address).collect(),
    }
}
