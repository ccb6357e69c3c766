//! What is read of the host; nothing is changed.

use anyhow::Context as _;
use aya::programs::{SchedClassifier, TcAttachType};
use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};
use vnet_common::family::Family;

use crate::{
    bridges::Owner,
    definition::{ForwardMode, Network},
    host::{
        self, Link, LinkKind, Snapshot, bpffs,
        netfilter::{self, Ruleset},
        privileges,
        route::TABLE_MAIN,
        sysctl,
    },
    instance,
    plan::{
        self, Plan,
        beside::{self, Advice, Surroundings},
    },
    services::{
        self, LIBVIRT_DEFINITIONS, LibvirtBridges, Port, ServiceState,
        dnsmasq::{self, Directories},
    },
};

/// What the checks look at.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Why the process may not load and attach programs.
    pub missing_privileges: Option<String>,
    /// Whether the kernel has the tcx hooks.
    pub has_tcx: bool,
    /// Whether programs are compiled; `None` if the kernel does not say.
    pub jit: Option<String>,
    /// Whether a BPF file system is mounted.
    pub has_bpffs: bool,
    /// Parameters `net.bridge.bridge-nf-call-*` that are on.
    pub bridge_netfilter: Vec<String>,
    /// Tables of the older interface of iptables, which nft does not show.
    pub legacy_tables: Vec<String>,
    /// netfilter's rules, or why they are not known.
    pub rules: Option<Result<Ruleset, String>>,
    /// The host's links.
    pub links: Vec<Link>,
    /// What is wrong with the host's bonds.
    pub bonds: Vec<Advice>,
    /// What is in the way of the networks; of bonds it is not said again.
    pub advice: Vec<Advice>,
    /// Uplinks with a strict `rp_filter` by which the default route does not lead, of several uplinks.
    pub strict_uplinks: Vec<String>,
    /// The networks.
    pub networks: Vec<NetworkFacts>,
}

/// What the checks look at of one network.
#[derive(Debug, Clone)]
pub struct NetworkFacts {
    /// Its name.
    pub name: String,
    /// How it is connected.
    pub mode: ForwardMode,
    /// Its bridge.
    pub bridge: String,
    /// Who serves its guests; none if its definition asks for nothing.
    pub service: Option<Service>,
}

/// Who serves guests addresses and names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// A dnsmasq of vnet's, by its process.
    Vnet(u32),
    /// Somebody else, who listens there.
    Other(Port),
    /// libvirt, by its definition, when it starts the network.
    Libvirt(PathBuf),
    /// A dnsmasq that vnet is going to start.
    VnetLater,
    /// Nobody can: there is no such program.
    NoDnsmasq,
}

/// Reads the host, and what concerns the networks.
pub async fn gather(networks: &[Network], instance: &instance::Name) -> anyhow::Result<Facts> {
    let host = host::snapshot().await.context("cannot read the host's network")?;
    let on = |name: &String| sysctl::read(name).is_ok_and(|value| value == "1");
    let bridge_netfilter = ["iptables", "ip6tables", "arptables"]
        .map(|table| format!("net.bridge.bridge-nf-call-{table}"));
    let rules = netfilter::read().map_err(|error| error.to_string());
    let (mut advice, strict_uplinks) = if networks.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        let ports = sysctl::HostPorts::read()?;
        let plan = plan::plan(networks, &host, ports, &plan::Options::default()).plan;
        let around = Surroundings {
            neighbours: neighbours(networks, instance),
            ..Surroundings::with_rules(rules.as_ref().ok().cloned())
        };
        let advice = beside::advice(networks, &plan, &host, &around);
        (advice, strict_uplinks(&plan, &host))
    };
    let mut bonds: Vec<_> = advice.extract_if(.., |one| one.check == "bond").collect();
    for other in beside::bonds(&host) {
        if bonds.iter().all(|one| one.message != other.message) {
            bonds.push(other);
        }
    }
    Ok(Facts {
        missing_privileges: privileges::check().err().map(|error| error.to_string()),
        has_tcx: SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok(),
        jit: sysctl::read("net.core.bpf_jit_enable").ok(),
        has_bpffs: matches!(bpffs::find(), Ok(Some(_))),
        bridge_netfilter: bridge_netfilter.into_iter().filter(on).collect(),
        legacy_tables: legacy_tables(),
        rules: Some(rules),
        bonds,
        advice,
        strict_uplinks,
        networks: network_facts(networks, &host.links),
        links: host.links.into(),
    })
}

/// What other instances run, but for networks of the same names: these are looked at as if they were to start.
fn neighbours(networks: &[Network], own: &instance::Name) -> Vec<instance::State> {
    let mut states = instance::neighbours(Some(own));
    for state in &mut states {
        state
            .networks
            .retain(|running| !networks.iter().any(|network| network.name.value == running.name));
    }
    states
}

/// The kernel takes the stricter of the interface's own value and that of `all`
/// (`IN_DEV_RPFILTER` in include/linux/inetdevice.h): 0 off, 1 strict, 2 loose.
fn strict_uplinks(plan: &Plan, host: &Snapshot) -> Vec<String> {
    let value = |interface: &str| {
        let name = sysctl::of_interface(Family::Ipv4, interface, "rp_filter");
        sysctl::read(&name).ok().and_then(|value| value.parse::<u8>().ok()).unwrap_or_default()
    };
    let of_all = value("all");
    // The filter asks where a packet to the sender would go, which only the first of several routes says.
    let defaults = host.routes.iter().filter(|route| {
        route.is_default() && route.destination.addr().is_ipv4() && route.table == TABLE_MAIN
    });
    let first = defaults.min_by_key(|route| route.priority);
    let has_default = |uplink: u32| {
        first.is_some_and(|route| route.hops.iter().any(|hop| hop.interface == Some(uplink)))
    };
    if plan.uplinks.len() == 1 {
        return Vec::new();
    }
    plan.uplinks
        .iter()
        .filter(|uplink| !has_default(uplink.ifindex) && value(&uplink.name).max(of_all) == 1)
        .map(|uplink| uplink.name.clone())
        .collect()
}

fn network_facts(networks: &[Network], links: &[Link]) -> Vec<NetworkFacts> {
    let served = instance::neighbours(None).into_iter().flat_map(served_by_instance);
    let served: Vec<ServiceState> = served.collect();
    let libvirt = LibvirtBridges::read(Path::new(LIBVIRT_DEFINITIONS));
    let facts = |network: &Network| {
        let bridge = network.bridge.name.as_ref()?.value.clone();
        Some(NetworkFacts {
            name: network.name.value.clone(),
            mode: network.forward.mode.value,
            service: service(network, &bridge, links, &served, &libvirt),
            bridge,
        })
    };
    networks.iter().filter_map(facts).collect()
}

fn served_by_instance(state: instance::State) -> Vec<ServiceState> {
    let Ok(name) = state.instance.parse::<instance::Name>() else { return Vec::new() };
    let directories = Directories::of_instance(&name.runtime_directory(), &state.instance);
    state.services.into_iter().map(|service| service.now(&directories)).collect()
}

fn service(
    network: &Network,
    bridge: &str,
    links: &[Link],
    served: &[ServiceState],
    libvirt: &LibvirtBridges,
) -> Option<Service> {
    let by_vnet = served.iter().find(|service| service.bridge == bridge);
    if let Some(process) = by_vnet.and_then(|service| service.process) {
        return Some(Service::Vnet(process));
    }
    let addresses: Vec<IpAddr> = network.ips.iter().map(|ip| ip.address.value).collect();
    // Without the bridge nobody serves it.
    if let Some(port) = services::taken_port(bridge, &addresses).ok().flatten() {
        return Some(Service::Other(port));
    }
    if !dnsmasq::is_wanted(network) {
        return None;
    }
    let alias =
        links.iter().find(|link| link.name == bridge).and_then(|link| link.alias.as_deref());
    let of_libvirt = libvirt.definition_of(bridge).filter(|_| !Owner::is_of_any(alias));
    Some(match of_libvirt {
        Some(definition) => Service::Libvirt(definition.to_owned()),
        None if dnsmasq::is_installed() => Service::VnetLater,
        None => Service::NoDnsmasq,
    })
}

/// A host without the older iptables has no such files.
fn legacy_tables() -> Vec<String> {
    let files = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];
    let names = files.map(|file| fs::read_to_string(file).unwrap_or_default());
    names.iter().flat_map(|names| names.lines()).map(str::to_owned).collect()
}

impl NetworkFacts {
    /// Whether its guests' packets pass vnet.
    pub(super) fn is_forwarded(&self) -> bool {
        self.mode.has_own_bridge() && self.mode != ForwardMode::Isolated
    }
}

impl Facts {
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn has_bonds(&self) -> bool {
        self.links.iter().any(|link| link.kind == LinkKind::Bond)
    }
}
