//! Which devices run XDP, and why others do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vnet_common::names::program;

use super::{
    Plan, Surfaces,
    shortcut::{bridges, is_nic, slaves},
};
use crate::host::{BondMode, Link, LinkKind, Snapshot};

/// When XDP is used (`--xdp`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpSetting {
    /// Where it pays.
    #[default]
    Auto,
    /// Wherever there is native XDP, for all packets.
    On,
    /// Nowhere.
    Off,
}

impl XdpSetting {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// What a NIC does with the VLAN tags of frames that come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VlanOffloads {
    /// It takes them off, so that XDP cannot see them (`rx-vlan-hw-parse`).
    pub strips: bool,
    /// It does so with service tags, of 802.1ad (`rx-vlan-stag-hw-parse`).
    pub strips_service: bool,
    /// It drops frames of VLANs that nobody here has (`rx-vlan-filter`), unless it is promiscuous.
    pub filters: bool,
}

impl VlanOffloads {
    /// The worst, for a NIC that does not tell.
    pub const UNTOLD: Self = Self { strips: true, strips_service: true, filters: false };
}

/// What XDP a device can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// It runs programs natively.
    pub native: bool,
    /// It takes frames that a program redirects to it.
    pub takes_frames: bool,
}

/// A device that may run XDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdpPlace {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The slaves of a bond, by which it runs, and their names.
    pub slaves: BTreeMap<u32, String>,
    /// The program.
    pub program: &'static str,
    /// Why it does not; none if it does.
    pub refusal: Option<String>,
}

/// The devices whose treatment of VLAN tags decides whether there is XDP.
#[must_use]
pub fn devices_for_xdp<'a>(plan: &Plan, host: &'a Snapshot) -> Vec<&'a Link> {
    let uplinks = plan.uplinks.iter().filter_map(|uplink| host.link(uplink.ifindex));
    let ports = bridges(plan, host).flat_map(|bridge| host.ports_of(bridge.index));
    let tops = uplinks.chain(ports.filter(|port| is_nic(port)));
    let devices = tops.flat_map(|top| slaves(top, host).chain([top]));
    devices.filter(|link| matches!(link.kind, LinkKind::Physical | LinkKind::Veth)).collect()
}

/// Whether a device runs a program.
pub(super) fn place(
    link: &Link,
    program: &'static str,
    host: &Snapshot,
    setting: XdpSetting,
    surfaces: &Surfaces,
) -> XdpPlace {
    let refusal = match setting {
        XdpSetting::Off => Some("--xdp off".to_owned()),
        XdpSetting::Auto | XdpSetting::On => {
            let asked = Asked { place: link, program, host, setting, surfaces };
            asked.refusal(link).or_else(|| {
                overtaken(link, program, host, surfaces).filter(|_| setting == XdpSetting::Auto)
            })
        }
    };
    let slaves = slaves(link, host).map(|slave| (slave.index, slave.name.clone())).collect();
    XdpPlace { ifindex: link.index, name: link.name.clone(), slaves, program, refusal }
}

/// What XDP would take packets away from.
fn overtaken(
    link: &Link,
    program: &'static str,
    host: &Snapshot,
    surfaces: &Surfaces,
) -> Option<String> {
    let others = surfaces.others.get(&link.index);
    // What comes after TC's program at an uplink does not see packets that are for guests anyway.
    let at_link = others.and_then(|others| match program {
        program::UPLINK_XDP => others.before.as_deref(),
        _ => others.inbound(),
    });
    let at_slave = || {
        slaves(link, host).find_map(|slave| {
            let what = surfaces.others.get(&slave.index)?.inbound()?;
            Some(format!("{what} at its slave `{}`", slave.name))
        })
    };
    let what = at_link.map(str::to_owned).or_else(at_slave)?;
    Some(format!("packets would pass by {what}: `--xdp on` does so"))
}

/// A place for XDP.
struct Asked<'a> {
    place: &'a Link,
    program: &'static str,
    host: &'a Snapshot,
    setting: XdpSetting,
    surfaces: &'a Surfaces,
}

impl Asked<'_> {
    /// Why a device, the place itself or a slave of it, cannot have XDP. `bond_xdp_check` in
    /// `drivers/net/bonding/bond_main.c` for the modes.
    fn refusal(&self, link: &Link) -> Option<String> {
        let on_request = self.setting == XdpSetting::On;
        match &link.kind {
            LinkKind::Physical if link.bus.as_deref() == Some("xen") && !on_request => Some(
                "frames between Xen's domains lack their checksums, unless the other end has \
                 `ethtool -K PEER tx off`: then `--xdp on`"
                    .to_owned(),
            ),
            LinkKind::Physical => self.without_driver(link).or_else(|| self.hidden_tags(link)),
            LinkKind::Veth if on_request => self.hidden_tags(link),
            LinkKind::Veth => Some(
                "frames from a veth lack their checksums, unless its peer has `ethtool -K PEER tx off`: \
                 then `--xdp on`"
                    .to_owned(),
            ),
            LinkKind::Bond => {
                let mode = link.bond.as_ref().and_then(|bond| mode_without_xdp(bond.mode));
                if let Some(mode) = mode {
                    return Some(format!("bonds of mode {mode} have no native XDP"));
                }
                slaves(link, self.host).find_map(|slave| {
                    let reason = self.refusal(slave)?;
                    Some(format!("its slave `{}`: {reason}", slave.name))
                })
            }
            LinkKind::Bridge => Some("bridges have no native XDP".to_owned()),
            LinkKind::Vlan => Some("VLAN devices have no native XDP".to_owned()),
            LinkKind::Tap | LinkKind::Tun => {
                Some("frames from a tap lack their checksums".to_owned())
            }
            _ => Some("devices of its kind have no native XDP".to_owned()),
        }
    }

    fn without_driver(&self, nic: &Link) -> Option<String> {
        let features = self.surfaces.xdp.as_ref()?.get(&nic.index)?;
        (!features.native).then(|| "its driver has no native XDP".to_owned())
    }

    /// Where tagged frames of others than the place's own could come to XDP without their tags. Below a bridge a NIC
    /// is promiscuous. A veth has no tags but those of VLAN devices at either end.
    fn hidden_tags(&self, nic: &Link) -> Option<String> {
        let offloads = self.surfaces.vlan.get(&nic.index)?;
        let what = match (offloads.strips, offloads.strips_service) {
            (false, false) => return None,
            (true, false) => "rxvlan off",
            (false, true) => "rx-vlan-stag-hw-parse off",
            (true, true) => "rxvlan off rx-vlan-stag-hw-parse off",
        };
        let is_parent = |link: &Link| {
            self.host.links.iter().any(|vlan| {
                vlan.kind == LinkKind::Vlan
                    && vlan.parent == Some(link.index)
                    && !vlan.parent_is_foreign
            })
        };
        let hears_all = nic.kind != LinkKind::Veth
            && (self.program == program::BRIDGED_XDP
                || !offloads.filters
                || nic.promiscuous
                || self.place.promiscuous);
        let is_tagged = hears_all || is_parent(nic) || is_parent(self.place);
        is_tagged.then(|| {
            let name = &nic.name;
            format!(
                "it takes VLAN tags off frames before XDP sees them: `ethtool -K {name} {what}`"
            )
        })
    }
}

fn mode_without_xdp(mode: BondMode) -> Option<&'static str> {
    match mode {
        BondMode::Broadcast => Some("3 (broadcast)"),
        BondMode::BalanceTlb => Some("5 (balance-tlb)"),
        BondMode::BalanceAlb => Some("6 (balance-alb)"),
        _ => None,
    }
}
