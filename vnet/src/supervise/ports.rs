//! Guests' ports: who is behind them, and what the bridge does with them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use futures::future::select_all;

use super::startup::Running;
use crate::{
    datapath::LearnedAddress,
    definition::Network,
    guests::{LeaseWatch, leases},
    host::{
        Port, Snapshot,
        bridge_port::{self, Changed, PortVlan},
    },
    instance::{self, Journal, Undo},
    plan::{Plan, PlannedPort, Seen},
};

/// Whether any network asks for its guests' leases.
pub(super) fn need_leases(definitions: &[Network]) -> bool {
    definitions.iter().any(|definition| definition.options.has_guard())
}

/// The leases of every network.
pub(super) fn seen_leases(watches: &[LeaseWatch], plan: &Plan) -> Seen {
    let mut seen = Seen { leases: BTreeMap::new(), learned: BTreeMap::new() };
    if watches.is_empty() {
        return seen;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for network in &plan.networks {
        let (name, bridge) = (&network.name, &network.bridge);
        let read = |watch: &LeaseWatch| leases::read(watch.directory(), name, bridge, now);
        seen.leases.insert(name.clone(), watches.iter().flat_map(read).collect());
    }
    seen
}

/// Waits for changed leases; for ever if none are asked for.
pub(super) async fn leases_changed(watches: &mut [LeaseWatch]) -> io::Result<()> {
    if watches.is_empty() {
        return std::future::pending().await;
    }
    select_all(watches.iter_mut().map(|watch| Box::pin(watch.changed()))).await.0
}

/// Watches directories that have appeared. Returns whether any has.
pub(super) fn watch_again(watches: &mut [LeaseWatch]) -> bool {
    let appeared: Vec<bool> = watches.iter_mut().map(LeaseWatch::try_again).collect();
    appeared.contains(&true)
}

/// Whether guests have shown themselves that are not in the plan yet, or the directory of leases has
/// appeared.
pub(super) fn any_is_new(running: &mut Running) -> bool {
    if watch_again(&mut running.leases) {
        return true;
    }
    let unknown = |port: &PlannedPort| port.guard.is_some() && port.mac.is_none();
    if !running.plan.ports.iter().any(unknown) {
        return false;
    }
    // An error shows when it is followed.
    let Ok(learned) = running.datapath.learned_macs() else { return true };
    let mut ports = running.plan.ports.iter();
    ports.any(|port| unknown(port) && learned.contains_key(&port.ifindex))
}

/// Ports of earlier plans that are not judged yet, and those of the last one with the addresses that were
/// learned there and the guests that had them.
pub(super) fn before(
    unjudged: &[PlannedPort],
    last: &[PlannedPort],
    learned: &[LearnedAddress],
) -> Vec<PlannedPort> {
    let mut before = unjudged.to_vec();
    let unjudged_at: HashSet<u32> = unjudged.iter().map(|port| port.ifindex).collect();
    for port in last {
        let mut port = port.clone();
        for one in learned.iter().filter(|one| one.port == port.ifindex) {
            port.mac.get_or_insert(one.mac);
            port.addresses.push(one.address);
        }
        if !unjudged_at.contains(&port.ifindex) || !unjudged.contains(&port) {
            before.push(port);
        }
    }
    before
}

/// Isolates the ports of a plan that are not, and gives them their VLANs. Returns what failed.
pub(super) async fn set_up(journal: &mut Journal, plan: &Plan, host: &Snapshot) -> Vec<String> {
    let mut failures = Vec::new();
    for port in plan.ports.iter().filter(|port| port.isolated) {
        let link = host.link(port.ifindex).and_then(|link| link.port.as_ref());
        if link == Some(&Port::Bridge { isolated: false }) {
            failures.extend(isolate(journal, port).await.err().map(|error| error.to_string()));
        }
    }
    if plan.ports.iter().any(|port| !port.vlans.is_empty()) {
        failures
            .extend(set_vlans(journal, plan, host).await.err().map(|error| format!("{error:#}")));
    }
    failures
}

async fn isolate(journal: &mut Journal, port: &PlannedPort) -> anyhow::Result<()> {
    journal.record(Undo::IsolatedPort { interface: port.ifindex })?;
    if bridge_port::set_isolated(port.ifindex, true).await? == Changed::Yes {
        log::info!("isolated port `{}`", port.name);
    }
    Ok(())
}

async fn set_vlans(journal: &mut Journal, plan: &Plan, host: &Snapshot) -> anyhow::Result<()> {
    let current: HashMap<_, _> = bridge_port::vlans().await?.into_iter().collect();
    for port in plan.ports.iter().filter(|port| !port.vlans.is_empty()) {
        let of_port = current.get(&port.ifindex).map_or(&[] as &[_], Vec::as_slice);
        let link = host.link(port.ifindex);
        let bridge = link.and_then(|link| link.master).and_then(|bridge| host.link(bridge));
        let default = bridge.and_then(|bridge| bridge.default_vlan).map(own_vlan);
        // Other VLANs than the bridge's default are somebody's decision: libvirt's, since version 11.
        if of_port != default.as_slice() || port.vlans == of_port {
            continue;
        }
        journal.record(Undo::PortVlans {
            interface: port.ifindex,
            given: port.vlans.clone(),
            former: default,
        })?;
        if replace_vlans(port.ifindex, default, &port.vlans).await? == Changed::Yes {
            log::info!("port `{}` has the VLANs of its network", port.name);
        }
    }
    Ok(())
}

/// Gives ports back what they had where the plan leaves them alone. Returns what failed.
pub(super) async fn retract_unwanted(running: &mut Running, host: &Snapshot) -> Vec<String> {
    // Ports may be missing that are there.
    if host.interrupted {
        return Vec::new();
    }
    let ports: HashMap<_, _> = running.plan.ports.iter().map(|port| (port.ifindex, port)).collect();
    let planned = |interface: u32, wanted: &dyn Fn(&PlannedPort) -> bool| {
        ports.get(&interface).is_some_and(|port| wanted(port))
    };
    let unwanted: Vec<Undo> = running
        .journal
        .entries()
        .iter()
        .filter(|undo| match undo {
            Undo::IsolatedPort { interface } => !planned(*interface, &|port| port.isolated),
            Undo::PortVlans { interface, given, .. } => {
                !planned(*interface, &|port| port.vlans == *given)
            }
            _ => false,
        })
        .cloned()
        .collect();
    instance::retract(&mut running.journal, &unwanted).await
}

/// As a bridge gives it to a new port.
const fn own_vlan(id: u16) -> PortVlan {
    PortVlan { id, pvid: true, untagged: true }
}

async fn replace_vlans(
    port: u32,
    former: Option<PortVlan>,
    new: &[PortVlan],
) -> anyhow::Result<Changed> {
    let changed = bridge_port::add_vlans(port, new).await?;
    let stays = |former: &PortVlan| new.iter().any(|vlan| vlan.id == former.id);
    match former.filter(|former| !stays(former)) {
        Some(former) if changed == Changed::Yes => {
            Ok(bridge_port::delete_vlans(port, &[former]).await?)
        }
        _ => Ok(changed),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use super::*;
    use crate::{definition::MacAddress, host::sysctl::HostPorts, plan::GuardTables};

    const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);

    fn port(ifindex: u32, mac: Option<MacAddress>, addresses: &[&str]) -> PlannedPort {
        PlannedPort {
            ifindex,
            name: format!("vnet{ifindex}"),
            network: 1,
            mac,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            guard: None,
            isolated: false,
            vlans: Vec::new(),
        }
    }

    fn plan(ports: &[PlannedPort]) -> Plan {
        Plan {
            networks: Vec::new(),
            uplinks: Vec::new(),
            forwards: Vec::new(),
            own: Vec::new(),
            host_ports: HostPorts { ephemeral: 32768..=60999, reserved: Vec::new() },
            ports: ports.to_vec(),
            guard: GuardTables::default(),
            short_ways: false,
        }
    }

    fn learned(port: u32, address: &str) -> LearnedAddress {
        LearnedAddress { port, mac: MAC, address: address.parse().unwrap() }
    }

    fn texts(departed: &BTreeSet<IpAddr>) -> Vec<String> {
        departed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn guest_that_went_while_ports_were_read_in_part_is_judged_when_all_are_read() {
        let (one, two) = (port(5, Some(MAC), &["192.168.122.5"]), port(6, None, &[]));
        // The first reading lacks both, the second has one of them again.
        let unjudged = before(&[], &[one.clone(), two.clone()], &[learned(5, "fd00::5")]);
        let again = before(&unjudged, &[], &[]);
        assert_eq!(again, unjudged);
        assert_eq!(
            texts(&plan(std::slice::from_ref(&two)).departed(&again)),
            ["192.168.122.5", "fd00::5"]
        );
        // The port is there: its guest has only not been learned again.
        let found = [port(5, None, &[]), two.clone()];
        assert_eq!(texts(&plan(&found).departed(&again)), [""; 0]);
        // What stays as it was is remembered once.
        let ports = [one, two];
        let twice = before(&before(&[], &ports, &[]), &ports, &[]);
        assert_eq!(twice, ports);
    }

    #[test]
    fn learned_addresses_stay_with_a_guest_that_has_moved_to_another_port() {
        let addresses = [learned(5, "192.168.122.5"), learned(5, "fd00::5")];
        let left = before(&[], &[port(5, Some(MAC), &[])], &addresses);
        assert_eq!(texts(&plan(&[port(7, Some(MAC), &[])]).departed(&left)), [""; 0]);
        let departed = plan(&[port(7, None, &[])]).departed(&left);
        assert_eq!(texts(&departed), ["192.168.122.5", "fd00::5"]);
        // It was learned after the last plan was made.
        let left = before(&[], &[port(5, None, &[])], &addresses);
        assert_eq!(texts(&plan(&[port(7, Some(MAC), &[])]).departed(&left)), [""; 0]);
        assert_eq!(texts(&plan(&[port(7, None, &[])]).departed(&left)).len(), 2);
    }
}
