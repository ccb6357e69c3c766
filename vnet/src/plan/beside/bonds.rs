//! Bonds: which modes and which monitoring work with guests' frames, and which with masqueraded packets.

use std::collections::BTreeMap;

use super::{Advice, Plan, lost_when_down};
use crate::host::{Bond, BondMode, Link, LinkKind, Snapshot};

/// What a bond carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Carries {
    /// Packets of the host's own MAC address: routed and masqueraded ones.
    Packets,
    /// Frames of guests' MAC addresses: it is below a bridge.
    Frames,
}

/// What is wrong with any bond of the host; none for one that is as it should be. What would be fatal for a
/// network's uplink is a warning here.
#[must_use]
pub fn bonds(host: &Snapshot) -> Vec<Advice> {
    let all = host.links.iter().filter(|link| link.kind == LinkKind::Bond);
    all.flat_map(|bond| {
        let is_bridged = host.links.iter().any(|port| {
            bond_below(port, host).is_some_and(|below| below.index == bond.index)
                && port.master.and_then(|master| host.link(master)).is_some_and(is_bridge)
        });
        let advice = judge(bond, if is_bridged { Carries::Frames } else { Carries::Packets }, host);
        advice.into_iter().map(move |one| Advice { is_fatal: one.is_fatal && is_bridged, ..one })
    })
    .collect()
}

/// As [`bonds`], of those that the plan's networks and uplinks use.
pub(super) fn of_plan(plan: &Plan, host: &Snapshot) -> Vec<Advice> {
    let networks = plan.networks.iter().filter_map(|network| network.bridge_ifindex);
    let uplinks = plan.uplinks.iter().map(|uplink| uplink.ifindex);
    let mut used = BTreeMap::new();
    for link in networks.chain(uplinks).filter_map(|index| host.link(index)) {
        if is_bridge(link) {
            let below = host.ports_of(link.index).filter_map(|port| bond_below(port, host));
            used.extend(below.map(|bond| (bond.index, Carries::Frames)));
        } else if let Some(bond) = bond_below(link, host) {
            used.entry(bond.index).or_insert(Carries::Packets);
        }
    }
    let bonds = used.into_iter().filter_map(|(index, carries)| Some((host.link(index)?, carries)));
    bonds.flat_map(|(bond, carries)| judge(bond, carries, host)).collect()
}

fn is_bridge(link: &Link) -> bool {
    link.kind == LinkKind::Bridge
}

/// The bond that an interface is, or that its VLAN is on.
fn bond_below<'a>(link: &'a Link, host: &'a Snapshot) -> Option<&'a Link> {
    match link.kind {
        LinkKind::Bond => Some(link),
        LinkKind::Vlan => link
            .parent
            .and_then(|parent| host.link(parent))
            .filter(|link| link.kind == LinkKind::Bond),
        _ => None,
    }
}

fn judge(link: &Link, carries: Carries, host: &Snapshot) -> Vec<Advice> {
    let (name, Some(bond)) = (&link.name, &link.bond) else { return Vec::new() };
    let mut advice = Vec::new();
    if let Some(reason) = fault_of_mode(bond.mode, carries) {
        let message = format!("bond `{name}` has mode {reason}; modes 1, 2 and 4 do not");
        advice.push(Advice::fatal("bond", message, other_mode(link, host)));
    }
    advice.extend(fault_of_monitoring(name, bond, carries));
    advice
}

/// Documentation/networking/bonding.rst, and `bond_do_alb_xmit` in `drivers/net/bonding/bond_alb.c` for what
/// becomes of source addresses. Red Hat supports bridges of guests on modes 1, 2 and 4 only.
fn fault_of_mode(mode: BondMode, carries: Carries) -> Option<String> {
    let (number, name, reason) = match (mode, carries) {
        (BondMode::BalanceRr, _) => (
            0,
            "balance-rr",
            "which sends a connection's packets by all slaves in turn, so that they overtake each other",
        ),
        (BondMode::Broadcast, _) => (
            3,
            "broadcast",
            "which sends everything by every slave, so that it arrives several times",
        ),
        (BondMode::BalanceTlb, Carries::Frames) => (
            5,
            "balance-tlb",
            "which puts its slaves' MAC addresses in the place of the guests', so that answers are lost",
        ),
        (BondMode::BalanceAlb, Carries::Frames) => (
            6,
            "balance-alb",
            "which puts its slaves' MAC addresses in the place of the guests', in their ARP answers as \
             well, so that answers are lost",
        ),
        (BondMode::BalanceTlb, Carries::Packets) => (
            5,
            "balance-tlb",
            "which sends by each slave with another MAC address, so that networks that expect one address \
             at one MAC address drop what comes from the others",
        ),
        (BondMode::BalanceAlb, Carries::Packets) => (
            6,
            "balance-alb",
            "which sends by each slave with another MAC address, and gives each neighbour another one in its \
             ARP answers, so that networks that expect one address at one MAC address drop what comes \
             from the others",
        ),
        _ => return None,
    };
    Some(format!("{number} ({name}), {reason}"))
}

fn fault_of_monitoring(name: &str, bond: &Bond, carries: Carries) -> Option<Advice> {
    if bond.arp_interval != 0 {
        let message = format!(
            "bond `{name}` watches its slaves by ARP, which does not work below a bridge: the bond has \
             no address to ask from, and the answers go to the bridge"
        );
        let mend = format!("ip link set {name} type bond arp_interval 0 miimon 100");
        return (carries == Carries::Frames).then(|| Advice::fatal("bond", message, mend));
    }
    (bond.miimon == 0).then(|| {
        let message = format!(
            "bond `{name}` does not watch its slaves, so that it goes on sending by a dead one"
        );
        let mend = format!("ip link set {name} type bond miimon 100");
        match carries {
            Carries::Frames => Advice::fatal("bond", message, mend),
            Carries::Packets => Advice::warning("bond", message, mend),
        }
    })
}

/// The kernel changes the mode of a bond that is down and has no slaves; what it takes from one that is down
/// is given back.
fn other_mode(bond: &Link, host: &Snapshot) -> String {
    let slaves: Vec<&str> = host.ports_of(bond.index).map(|slave| slave.name.as_str()).collect();
    let name = &bond.name;
    let mut commands = vec![format!("ip link set {name} down")];
    commands.extend(slaves.iter().map(|slave| format!("ip link set {slave} nomaster")));
    commands.push(format!("ip link set {name} type bond mode active-backup miimon 100"));
    commands.extend(
        slaves
            .iter()
            .map(|slave| format!("ip link set {slave} down && ip link set {slave} master {name}")),
    );
    commands.push(format!("ip link set {name} up"));
    commands.extend(lost_when_down::commands(bond, host));
    commands.join(" && ")
}
