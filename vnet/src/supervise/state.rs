//! Telling other processes what runs.

use std::collections::HashMap;

use anyhow::Context as _;
use vnet_common::policy::Mode;

use super::{hooks, startup::Running};
use crate::{
    instance::{
        State, Told,
        state::{GuestState, HookState, NetworkState, UplinkState},
    },
    object,
    plan::{Plan, PlannedNetwork, PlannedPort, PlannedUplink},
};

/// Writes down what will run when packets see a plan, and what the instance will have been told, where
/// nobody looks yet. What a full file system has no room for fails here.
pub(super) fn stage(running: &Running, plan: &Plan, told: Option<&Told>) -> anyhow::Result<()> {
    let attached: HashMap<_, _> = running.hooks.iter().map(|hook| (&hook.spec, hook)).collect();
    let wanted = hooks::wanted(plan);
    let hooks = wanted.iter().filter_map(|spec| attached.get(spec));
    let state = State {
        layout: object::layout(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: running.instance.to_string(),
        pid: std::process::id(),
        started: running.started,
        pins: running.pins.clone(),
        flow_limit: running.flow_limit,
        networks: plan.networks.iter().map(network_state).collect(),
        uplinks: plan.uplinks.iter().map(uplink_state).collect(),
        hooks: hooks
            .map(|hook| HookState {
                interface: hook.spec.interface.clone(),
                ifindex: hook.spec.ifindex,
                direction: hook.spec.direction.name().to_owned(),
                program: hook.spec.program.to_owned(),
                program_id: hook.program_id,
                mechanism: hook.mechanism.name().to_owned(),
            })
            .collect(),
        guests: plan.ports.iter().map(guest_state).collect(),
        services: running.services.states(),
        shortcut: running.shortcut.state(),
    };
    let directory = running.instance.runtime_directory();
    state
        .stage(&directory)
        .and_then(|()| told.map_or(Ok(()), |told| told.stage(&directory)))
        .with_context(|| format!("cannot write the state to {}", directory.display()))
}

/// Shows other processes what was staged.
pub(super) fn commit(running: &Running) -> anyhow::Result<()> {
    let directory = running.instance.runtime_directory();
    State::commit(&directory)
        .and_then(|()| Told::commit(&directory))
        .with_context(|| format!("cannot write the state to {}", directory.display()))
}

/// Writes down what runs.
pub(super) fn write(running: &Running) -> anyhow::Result<()> {
    stage(running, &running.plan, None)?;
    commit(running)
}

/// Writes down what the instance was told, where nothing else changes.
pub(super) fn write_told(running: &Running) -> anyhow::Result<()> {
    let directory = running.instance.runtime_directory();
    running
        .told
        .stage(&directory)
        .and_then(|()| Told::commit(&directory))
        .with_context(|| format!("cannot write the definitions to {}", directory.display()))
}

fn network_state(network: &PlannedNetwork) -> NetworkState {
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

fn guest_state(port: &PlannedPort) -> GuestState {
    GuestState {
        interface: port.name.clone(),
        ifindex: port.ifindex,
        network: port.network,
        mac: port.mac,
        addresses: port.addresses.clone(),
    }
}
