//! Short ways past the bridges: which ports packets may take them at, and which devices run XDP.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use vnet_common::{
    guard::Mac,
    limits,
    names::program,
    shortcut::{BridgePort, PORT_IS_UPLINK, PORT_JUDGED, PORT_SHORT, PORT_TAKES_XDP, XdpUplink},
};

use super::{
    Others, Plan, VlanOffloads, XdpFeatures, XdpPlace, XdpSetting, ports::is_guests, xdp::place,
};
use crate::host::{BridgePortSettings, Link, LinkKind, Snapshot, bridge_rules::Rules};

/// The entries of the maps of the short ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShortcutTables {
    /// Interface index to port.
    pub ports: BTreeMap<u32, BridgePort>,
    /// Slot of a network to its bridge's address.
    pub addresses: BTreeMap<u32, Mac>,
    /// Interface index at which frames of an uplink with XDP come in to that uplink.
    pub uplinks: BTreeMap<u32, XdpUplink>,
}

impl ShortcutTables {
    /// Whether these allow ways that others do not, so that those that flows know have to be looked for anew.
    #[must_use]
    pub fn is_wider_than(&self, others: &Self) -> bool {
        self.ports.iter().any(|(index, port)| port.allows_more_than(others.ports.get(index)))
            || self.addresses.iter().any(|(slot, mac)| others.addresses.get(slot) != Some(mac))
    }
}

/// What is known of the host beside its links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surfaces {
    /// What rules there are for frames of bridges.
    pub rules: Rules,
    /// What others have at interfaces, by their indices; nothing at those that are not named.
    pub others: BTreeMap<u32, Others>,
    /// What XDP the devices can do; none on kernels that do not tell (before Linux 6.3).
    pub xdp: Option<BTreeMap<u32, XdpFeatures>>,
    /// What devices for XDP do with VLAN tags.
    pub vlan: BTreeMap<u32, VlanOffloads>,
}

/// Why packets stay with a bridge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LongWay {
    /// The bridge's name.
    pub bridge: String,
    /// The port's name; none of all of them.
    pub port: Option<String>,
    /// Why.
    pub reason: String,
}

/// The short ways of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shortcuts {
    /// The entries of the maps.
    pub tables: ShortcutTables,
    /// What has to take the long way although it need not.
    pub long_ways: Vec<LongWay>,
    /// The devices for XDP.
    pub xdp: Vec<XdpPlace>,
}

impl fmt::Display for LongWay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bridge, port, reason } = self;
        write!(formatter, "packets take the long way through bridge `{bridge}`: ")?;
        match port {
            Some(port) => write!(formatter, "its port `{port}`: {reason}"),
            None => formatter.write_str(reason),
        }
    }
}

impl Shortcuts {
    /// The short ways that the host allows; none if they are off.
    #[must_use]
    pub fn of(plan: &Plan, host: &Snapshot, setting: XdpSetting, surfaces: &Surfaces) -> Self {
        let mut ways = Self::default();
        if !plan.short_ways {
            return ways;
        }
        for network in &plan.networks {
            let bridge = network.bridge_ifindex.and_then(|bridge| host.link(bridge));
            if let Some(mac) = bridge.and_then(|bridge| bridge.mac) {
                ways.tables.addresses.insert(u32::from(network.slot), Mac::from_bytes(mac));
            }
        }
        for bridge in bridges(plan, host) {
            let is_bridged = plan.networks.iter().any(|network| {
                network.bridge_ifindex == Some(bridge.index) && network.is_bridged()
            });
            ways.add_bridge(host, surfaces, bridge, is_bridged);
            if is_bridged {
                for port in host.ports_of(bridge.index).filter(|port| is_nic(port)) {
                    ways.xdp.push(place(port, program::BRIDGED_XDP, host, setting, surfaces));
                }
            }
        }
        for uplink in &plan.uplinks {
            if let Some(link) = host.link(uplink.ifindex) {
                let mut place = place(link, program::UPLINK_XDP, host, setting, surfaces);
                if uplink.raw {
                    place.refusal = Some("it has no Ethernet headers".to_owned());
                }
                ways.xdp.push(place);
            }
        }
        ways.add_uplinks(host);
        ways.xdp.sort_by_key(|place| place.ifindex);
        ways.long_ways.sort();
        ways.long_ways.dedup();
        ways
    }

    /// The devices at which frames of the uplinks with XDP come in.
    fn add_uplinks(&mut self, host: &Snapshot) {
        let has_xdp =
            |place: &&XdpPlace| place.program == program::UPLINK_XDP && place.refusal.is_none();
        let uplinks = self.xdp.iter().filter(has_xdp);
        for link in uplinks.filter_map(|place| host.link(place.ifindex)) {
            let Some(mac) = link.mac else { continue };
            let uplink = XdpUplink { ifindex: link.index, mac, reserved: [0; 2] };
            let devices = active_slaves(link, host).map(|slave| slave.index).chain([link.index]);
            self.tables.uplinks.extend(devices.map(|device| (device, uplink)));
        }
    }

    fn add_bridge(
        &mut self,
        host: &Snapshot,
        surfaces: &Surfaces,
        bridge: &Link,
        is_bridged: bool,
    ) {
        let none = Others::default();
        let others_at = |link: &Link| surfaces.others.get(&link.index).unwrap_or(&none);
        let mut say = |port: Option<&Link>, reason: String| {
            let (bridge, port) = (bridge.name.clone(), port.map(|port| port.name.clone()));
            self.long_ways.push(LongWay { bridge, port, reason });
        };
        // Frames of a network in mode `bridge` never come to the bridge's own device.
        let of_device = if is_bridged { &none } else { others_at(bridge) };
        let of_bridge = why_all(bridge, of_device, surfaces);
        if let Some(reason) = &of_bridge {
            say(None, reason.clone());
        } else if let Some(what) = &of_device.before {
            say(None, format!("what guests send meets {what}"));
        }
        let guests = host.ports_of(bridge.index).filter(|port| is_guests(port));
        let nics = host.ports_of(bridge.index).filter(|port| is_bridged && is_nic(port));
        for port in guests.chain(nics) {
            let active: Vec<_> = active_slaves(port, host).collect();
            if self.tables.ports.len() + active.len() >= limits::BRIDGE_PORTS as usize {
                return;
            }
            let why = why_one(port);
            let is_short = of_bridge.is_none() && why.is_none();
            let others = others_at(port);
            let after = others.after.as_ref();
            let of_slaves = || slaves(port, host).find_map(|slave| others_at(slave).out.as_ref());
            let out = others.out.as_ref().or_else(of_slaves);
            if let Some(reason) = why {
                say(Some(port), reason);
            } else if let Some(what) = after.filter(|_| !is_bridged && is_short) {
                say(Some(port), format!("what it sends meets {what}"));
            }
            let takes_frames = takes_frames(port, surfaces);
            if let Some(what) = out.filter(|_| is_short && takes_frames) {
                say(Some(port), format!("XDP leaves what is for it to TC, which has {what} there"));
            }
            let is_judged = !is_bridged && of_device.before.is_none() && after.is_none();
            let flag = |is_set, flag| if is_set { flag } else { 0 };
            let entry = BridgePort {
                bridge: bridge.index,
                port: port.index,
                flags: flag(is_short, PORT_SHORT)
                    | flag(takes_frames && out.is_none(), PORT_TAKES_XDP)
                    | flag(is_nic(port), PORT_IS_UPLINK)
                    | flag(is_judged, PORT_JUDGED),
                // From hundredths of a second.
                ageing_ms: bridge.ageing_time.unwrap_or_default().saturating_mul(10),
            };
            self.tables.ports.insert(port.index, entry);
            for slave in active {
                self.tables.ports.insert(slave.index, entry);
            }
        }
    }
}

/// The slaves of a bond.
pub(super) fn slaves<'a>(
    link: &Link,
    host: &'a Snapshot,
) -> impl Iterator<Item = &'a Link> + use<'a> {
    let bond = (link.kind == LinkKind::Bond).then_some(link.index);
    bond.into_iter().flat_map(|bond| host.ports_of(bond))
}

/// Those that it takes frames from: XDP of a bond runs for all, and sees their numbers.
fn active_slaves<'a>(link: &Link, host: &'a Snapshot) -> impl Iterator<Item = &'a Link> + use<'a> {
    let takes_all = link.bond.as_ref().is_some_and(|bond| bond.all_slaves_active);
    slaves(link, host).filter(move |slave| takes_all || slave.active_slave == Some(true))
}

/// The bridges of a plan's networks, each once.
pub(super) fn bridges<'a>(plan: &Plan, host: &'a Snapshot) -> impl Iterator<Item = &'a Link> {
    let indices: BTreeSet<u32> =
        plan.networks.iter().filter_map(|network| network.bridge_ifindex).collect();
    indices.into_iter().filter_map(|index| host.link(index))
}

/// Whether a port of a bridge leads out of the host by a device that may have native XDP.
pub(super) fn is_nic(port: &Link) -> bool {
    matches!(port.kind, LinkKind::Physical | LinkKind::Bond)
}

fn why_all(bridge: &Link, others: &Others, surfaces: &Surfaces) -> Option<String> {
    if bridge.vlan_filtering != Some(false) {
        return Some("it filters VLANs".to_owned());
    }
    if !bridge.is_up() {
        return Some("it is down".to_owned());
    }
    if let Some(reason) = &surfaces.rules.of_all {
        return Some(reason.clone());
    }
    if let Some(name) = bridge.netfilter_calls.and(surfaces.rules.for_packets).first() {
        let command = format!("ip link set {} type bridge nf_call_{name} 0", bridge.name);
        return Some(format!("it shows its packets to the host's rules: `{command}`"));
    }
    others.out.as_ref().map(|what| format!("what is for guests meets {what}"))
}

fn why_one(port: &Link) -> Option<String> {
    let Some(settings) = port.bridge_port else {
        return Some("its settings are not known".to_owned());
    };
    let BridgePortSettings { forwarding, isolated, learning, locked } = settings;
    let reasons = [
        (!forwarding, "the bridge does not let it forward"),
        (isolated, "it is isolated"),
        (!learning, "the bridge does not learn from it"),
        (locked, "it is locked"),
    ];
    reasons.into_iter().find_map(|(is_so, reason)| is_so.then(|| reason.to_owned()))
}

/// Kernels that do not tell: tun has taken frames since Linux 4.16; nobody knows of the rest.
fn takes_frames(port: &Link, surfaces: &Surfaces) -> bool {
    match &surfaces.xdp {
        Some(xdp) => xdp.get(&port.index).is_some_and(|features| features.takes_frames),
        None => port.kind == LinkKind::Tap,
    }
}
