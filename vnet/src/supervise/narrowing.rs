//! Ports that may not be passed by any more: at once, before there is a new plan.

use std::collections::BTreeSet;

use vnet_common::shortcut::{BridgePort, PORT_TAKES_XDP};

use super::startup::Running;
use crate::{
    host::{NetlinkError, xdp::FeatureWatch},
    plan::XdpFeatures,
};

/// What is heard of devices.
#[derive(Default)]
pub(super) struct Features {
    watch: Option<FeatureWatch>,
    /// Kernels that do not tell do not change.
    is_untold: bool,
}

impl Features {
    /// Listens from now on, where the kernel tells.
    pub async fn listen(&mut self) {
        if self.watch.is_some() || self.is_untold {
            return;
        }
        match FeatureWatch::open().await {
            Ok(watch) => {
                self.is_untold = watch.is_none();
                self.watch = watch;
            }
            Err(error) => log::debug!("{error}"),
        }
    }

    /// Hears no more of it.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// A device and what it can do now; `None` if some was lost. May be cancelled.
    pub async fn next(&mut self) -> Result<Option<(u32, XdpFeatures)>, NetlinkError> {
        match &mut self.watch {
            Some(watch) => watch.next().await,
            None => std::future::pending().await,
        }
    }
}

/// Notes what a device can do now. Whether there has to be a new plan at once.
pub(super) fn note_features(
    running: &mut Running,
    change: Option<(u32, XdpFeatures)>,
) -> anyhow::Result<bool> {
    let Some((device, features)) = change else {
        return Ok(running.shortcut.neighbourhood.may_follow());
    };
    let planned = running.shortcut.allowed.surfaces.xdp.as_ref();
    if planned.and_then(|planned| planned.get(&device)) == Some(&features) {
        return Ok(false);
    }
    let tables = running.datapath.shown_shortcut();
    let port = tables.ports.get(&device);
    let takes_frames = port.is_some_and(|port| port.flags & PORT_TAKES_XDP != 0);
    if takes_frames && !features.takes_frames {
        narrow(running, |index, port| {
            if index == device {
                port.flags &= !PORT_TAKES_XDP;
            }
            true
        })?;
    }
    Ok(running.shortcut.neighbourhood.may_follow())
}

/// Notes that interfaces have gone, or have left their bridges. Whether there has to be a new plan at once: they may
/// be back, and planned for.
pub(super) fn note_left(running: &mut Running, left: &BTreeSet<u32>) -> anyhow::Result<bool> {
    if left.is_empty() {
        return Ok(false);
    }
    let stays = |index, port: &mut BridgePort| !left.contains(&index) && !left.contains(&port.port);
    let is_narrower = narrow(running, stays)?;
    Ok(is_narrower && running.shortcut.neighbourhood.may_follow())
}

/// Allows less: what `keep` says of each port. Packets look for their ways anew. Whether it is less.
fn narrow(
    running: &mut Running,
    mut keep: impl FnMut(u32, &mut BridgePort) -> bool,
) -> anyhow::Result<bool> {
    let mut tables = running.datapath.shown_shortcut().clone();
    tables.ports.retain(|index, port| keep(*index, port));
    if &tables == running.datapath.shown_shortcut() {
        return Ok(false);
    }
    let written = running.datapath.write_shortcut(&tables);
    // Whatever was written.
    running.datapath.note_move()?;
    written?;
    Ok(true)
}
