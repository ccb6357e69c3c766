//! Taking the steps, and taking them back.

use std::io;

use nix::net::if_::if_nametoindex;
use vnet_common::family::Family;

use super::{Bridge, Step, removal};
use crate::{
    host::{
        NetlinkError,
        bridge::{self, Settings},
        sysctl::{self, SysctlError},
    },
    instance::{Journal, JournalError, Undo},
    notify,
};

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The kernel refused.
    #[error("cannot {step}: {source}")]
    Netlink {
        /// The step.
        step: String,
        /// Why.
        source: NetlinkError,
    },
    /// A parameter of the bridge.
    #[error("cannot {step}: {source}")]
    Sysctl {
        /// The step.
        step: String,
        /// Why.
        source: SysctlError,
    },
    /// Nothing is changed that cannot be taken back.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Takes the steps in their order. If one fails, those before it are taken back.
pub async fn apply(steps: &[Step], journal: &mut Journal) -> Result<(), BridgeError> {
    for (at, step) in steps.iter().enumerate() {
        notify::progress();
        if let Err(error) = take(step, journal).await {
            // The one that failed may be half done.
            for failure in undo(&steps[..=at]).await {
                log::error!("while taking bridges back: {failure}");
            }
            return Err(error);
        }
        log::info!("done: {step}");
    }
    Ok(())
}

/// Takes steps back, the last one first, and goes on after a failure. Returns what failed. What was
/// removed stays so.
pub async fn undo(steps: &[Step]) -> Vec<String> {
    let mut failures = Vec::new();
    for step in steps.iter().rev() {
        let undone = match step {
            Step::Make(made) => {
                let removed = removal::remove_if_unused(&made.name, made.mac, &made.alias);
                removed.await.map(drop)
            }
            Step::Configure { index, from, .. } => bridge::configure(*index, from).await,
            Step::AddAddress { index, address, .. } => {
                bridge::delete_address(*index, *address).await.map(drop)
            }
            Step::DeleteAddress { index, address, .. } => {
                bridge::add_address(*index, *address).await.map(drop)
            }
            Step::BringUp { .. } | Step::Remove { .. } => Ok(()),
        };
        failures.extend(undone.err().map(|error| error.to_string()));
    }
    failures
}

async fn take(step: &Step, journal: &mut Journal) -> Result<(), BridgeError> {
    let failed = |source| BridgeError::Netlink { step: step.to_string(), source };
    match step {
        Step::Make(bridge) => {
            journal.record(Undo::Bridge {
                name: bridge.name.clone(),
                mac: bridge.mac,
                alias: bridge.alias.clone(),
            })?;
            make(bridge, step).await
        }
        Step::Configure { index, to, .. } => bridge::configure(*index, to).await.map_err(failed),
        Step::BringUp { index, .. } => bridge::bring_up(*index).await.map_err(failed),
        Step::AddAddress { bridge, index, address } => {
            if address.addr().is_ipv6() {
                switch_ipv6(bridge, true, step)?;
            }
            bridge::add_address(*index, *address).await.map(drop).map_err(failed)
        }
        Step::DeleteAddress { index, address, .. } => {
            bridge::delete_address(*index, *address).await.map(drop).map_err(failed)
        }
        Step::Remove { index, .. } => bridge::delete(*index).await.map(drop).map_err(failed),
    }
}

async fn make(wanted: &Bridge, step: &Step) -> Result<(), BridgeError> {
    let failed = |source| BridgeError::Netlink { step: step.to_string(), source };
    let settings = Settings {
        mac: Some(wanted.mac),
        mtu: wanted.mtu,
        spanning_tree: Some(wanted.spanning_tree),
        // Not every kernel can, and off is what they begin with.
        vlan_filtering: wanted.vlan_filtering.then_some(true),
    };
    bridge::make(&wanted.name, &settings).await.map_err(failed)?;
    let index = if_nametoindex(wanted.name.as_str()).map_err(|error| {
        let source = io::Error::from(error);
        failed(NetlinkError::Socket { action: "find the bridge that was made", source })
    })?;
    // First, because it says whose the bridge is.
    bridge::set_alias(index, &wanted.alias).await.map_err(failed)?;
    if wanted.mtu.is_some() {
        let mtu = Settings { mtu: wanted.mtu, ..Settings::default() };
        bridge::configure(index, &mtu).await.map_err(failed)?;
    }
    let has_ipv6 = wanted.addresses.iter().any(|address| address.addr().is_ipv6());
    switch_ipv6(&wanted.name, has_ipv6, step)?;
    for address in &wanted.addresses {
        bridge::add_address(index, *address).await.map_err(failed)?;
    }
    bridge::bring_up(index).await.map_err(failed)
}

/// As libvirt does (`networkSetIPv6Sysctls` in `src/network/bridge_driver.c`): no IPv6 where the
/// definition has none, and never an address or a route of a guest's advertisements.
fn switch_ipv6(bridge: &str, on: bool, step: &Step) -> Result<(), BridgeError> {
    let settings: &[(&str, &str)] = if on {
        &[("accept_ra", "0"), ("autoconf", "0"), ("disable_ipv6", "0")]
    } else {
        &[("disable_ipv6", "1")]
    };
    for (parameter, value) in settings {
        let name = sysctl::of_interface(Family::Ipv6, bridge, parameter);
        match sysctl::write(&name, value) {
            // A kernel without IPv6.
            Err(SysctlError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            result => {
                result.map_err(|source| BridgeError::Sysctl { step: step.to_string(), source })?;
            }
        }
    }
    Ok(())
}
