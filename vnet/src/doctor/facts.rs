//! What is read of the host; nothing is changed.

use std::{
    fs,
    net::IpAddr,
    process::{Command, Stdio},
};

use aya::programs::{SchedClassifier, TcAttachType};
use ipnet::IpNet;

use super::Ruleset;
use crate::{
    definition::{ForwardMode, Network},
    host::{self, Link, LinkKind, NetlinkError, bpffs, privileges, sysctl},
    services::{self, Port, dnsmasq},
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
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Whether its definition asks for DHCP.
    pub wants_dhcp: bool,
    /// The service that somebody has for its guests.
    pub served: Option<Port>,
}

/// Reads the host, and what concerns the networks.
pub async fn gather(networks: &[Network]) -> Result<Facts, NetlinkError> {
    let host = host::snapshot().await?;
    let on = |name: &String| sysctl::read(name).is_ok_and(|value| value == "1");
    let bridge_netfilter = ["iptables", "ip6tables", "arptables"]
        .map(|table| format!("net.bridge.bridge-nf-call-{table}"));
    Ok(Facts {
        missing_privileges: privileges::check().err().map(|error| error.to_string()),
        has_tcx: SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok(),
        jit: sysctl::read("net.core.bpf_jit_enable").ok(),
        has_bpffs: matches!(bpffs::find(), Ok(Some(_))),
        bridge_netfilter: bridge_netfilter.into_iter().filter(on).collect(),
        legacy_tables: legacy_tables(),
        rules: Some(rules()),
        links: host.links,
        networks: networks.iter().filter_map(network_facts).collect(),
    })
}

fn network_facts(network: &Network) -> Option<NetworkFacts> {
    let bridge = network.bridge.name.as_ref()?.value.clone();
    let addresses: Vec<IpAddr> = network.ips.iter().map(|ip| ip.address.value).collect();
    Some(NetworkFacts {
        name: network.name.value.clone(),
        mode: network.forward.mode.value,
        subnets: network.subnets().collect(),
        wants_dhcp: dnsmasq::is_wanted(network) && network.ips.iter().any(|ip| ip.dhcp.is_some()),
        // Without the bridge nobody serves it.
        served: services::taken_port(&bridge, &addresses).ok().flatten(),
        bridge,
    })
}

fn rules() -> Result<Ruleset, String> {
    let output = Command::new("nft")
        .args(["-j", "list", "ruleset"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run nft: {error}"))?;
    if !output.status.success() {
        return Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ruleset::parse(&String::from_utf8_lossy(&output.stdout)).map_err(|error| error.to_string())
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

    pub(super) fn bonds(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.kind == LinkKind::Bond)
    }
}
