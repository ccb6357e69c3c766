//! The checks: pure functions of what was read.

use crate::{definition::ForwardMode, host::BondMode};

use super::{
    Finding,
    facts::{Facts, NetworkFacts},
    netfilter::{Chain, Ruleset},
};

/// Every check in the order of a start: the kernel, the host, each network.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = kernel(facts);
    findings.push(bridge_netfilter(facts));
    findings.extend(rules(facts));
    findings.extend(facts.bonds().flat_map(|bond| {
        bond.bond.iter().flat_map(|settings| bonding(&bond.name, settings)).collect::<Vec<_>>()
    }));
    for network in &facts.networks {
        findings.push(bridge(facts, network));
        findings.extend(dhcp(network));
    }
    findings
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![match &facts.missing_privileges {
        None => Finding::ok("privileges", "programs can be loaded and attached"),
        Some(reason) => Finding::fail("privileges", reason, "run it with sudo"),
    }];
    findings.push(if facts.has_tcx {
        Finding::ok("hooks", "the kernel has tcx: programs stay in place by links of their own")
    } else {
        Finding::ok("hooks", "the kernel has no tcx (Linux 6.6): filters of clsact are used")
    });
    findings.push(match facts.jit.as_deref() {
        Some("0") => Finding::warn(
            "jit",
            "the kernel interprets programs instead of compiling them: they are slow",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        _ => Finding::ok("jit", "programs are compiled"),
    });
    findings.push(if facts.has_bpffs {
        Finding::ok("bpffs", "a BPF file system is mounted")
    } else {
        Finding::ok("bpffs", "no BPF file system is mounted: vnet mounts one at /sys/fs/bpf")
    });
    findings
}

fn bridge_netfilter(facts: &Facts) -> Finding {
    if facts.bridge_netfilter.is_empty() {
        return Finding::ok("br_netfilter", "bridged packets do not pass netfilter");
    }
    let commands: Vec<String> =
        facts.bridge_netfilter.iter().map(|name| format!("sysctl -w {name}=0")).collect();
    Finding::warn(
        "br_netfilter",
        "packets between guests of one bridge pass the host's firewall, which may drop them",
        commands.join(" && "),
    )
}

fn rules(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.legacy_tables.is_empty() {
        findings.push(Finding::warn(
            "firewall",
            format!(
                "the older iptables has tables here ({}), which this cannot look into",
                facts.legacy_tables.join(", ")
            ),
            "look at `iptables-legacy-save` for rules about the networks' subnets",
        ));
    }
    let ruleset = match &facts.rules {
        Some(Ok(ruleset)) => ruleset,
        Some(Err(reason)) => {
            let mend = "install the package `nftables` to have the firewall looked at";
            findings.push(Finding::warn("firewall", reason, mend));
            return findings;
        }
        None => return findings,
    };
    findings.extend(ruleset.dropping.iter().map(|chain| forward_drop(chain, ruleset, facts)));
    if ruleset.dropping.is_empty() {
        findings.push(Finding::ok("forward", "no firewall drops what it does not know"));
    }
    if ruleset.has_firewalld() {
        findings.push(Finding::ok(
            "firewalld",
            "it runs; its zones judge what guests ask of the host itself, and mode `open`",
        ));
    }
    let translated = facts.networks.iter().filter_map(|network| translation(network, ruleset));
    let before = findings.len();
    findings.extend(translated);
    if findings.len() == before && facts.networks.iter().any(NetworkFacts::is_forwarded) {
        findings.push(Finding::ok("masquerade", "no other rules masquerade these networks"));
    }
    findings
}

fn forward_drop(chain: &Chain, ruleset: &Ruleset, facts: &Facts) -> Finding {
    let bridges = facts.networks.iter().filter(|network| network.is_forwarded());
    let bridges: Vec<&str> = bridges.map(|network| network.bridge.as_str()).collect();
    let bridges = if bridges.is_empty() { vec!["BRIDGE"] } else { bridges };
    let Chain { family, table, name } = chain;
    let place = if ruleset.has_docker_user(family) { "DOCKER-USER" } else { name };
    let set = bridges.join(", ");
    let commands = ["iifname", "oifname"]
        .map(|way| format!("nft insert rule {family} {table} {place} {way} '{{ {set} }}' accept"));
    Finding::warn(
        "forward",
        format!(
            "chain {name} of table {family} {table} drops what it does not know, as Docker sets it: \
             packets that vnet leaves to the host's stack (with IP options, or to be fragmented) are \
             lost, and all of networks in mode `open`"
        ),
        commands.join(" && "),
    )
}

fn translation(network: &NetworkFacts, ruleset: &Ruleset) -> Option<Finding> {
    let of_ours = network.mode == ForwardMode::Nat || network.mode == ForwardMode::Route;
    let rule = network.subnets.iter().find_map(|subnet| ruleset.translation_of(*subnet))?;
    let Chain { family, table, name } = &rule.chain;
    of_ours.then(|| {
        Finding::warn(
            "masquerade",
            format!(
                "network `{}`: chain {name} of table {family} {table} masquerades its guests, too: \
                 packets that vnet leaves to the host's stack get no replies",
                network.name
            ),
            format!(
                "if libvirt made it: `virsh net-edit {}`, <forward mode='open'/>, net-destroy and \
                 net-start it, and give vnet the definition with mode `{}`",
                network.name,
                network.mode.name()
            ),
        )
    })
}

/// Which modes work with a bridge, and with what monitoring.
pub(super) fn bonding(name: &str, bond: &crate::host::Bond) -> Vec<Finding> {
    let mut findings = Vec::new();
    let usable =
        matches!(bond.mode, BondMode::ActiveBackup | BondMode::BalanceXor | BondMode::Ieee8023Ad);
    if !usable {
        findings.push(Finding::fail(
            "bond",
            format!("bond `{name}`: its mode does not work with bridges; 1, 2 and 4 do"),
            format!("ip link set {name} down && ip link set {name} type bond mode active-backup"),
        ));
    }
    if bond.arp_interval != 0 {
        findings.push(Finding::fail(
            "bond",
            format!("bond `{name}`: ARP monitoring does not work below a bridge"),
            format!("ip link set {name} type bond arp_interval 0 miimon 100"),
        ));
    } else if bond.miimon == 0 {
        findings.push(Finding::fail(
            "bond",
            format!("bond `{name}`: no link monitoring, so that it never notices a dead slave"),
            format!("ip link set {name} type bond miimon 100"),
        ));
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok("bond", format!("bond `{name}`: mode and monitoring fit bridges")));
    }
    findings
}

fn bridge(facts: &Facts, network: &NetworkFacts) -> Finding {
    let NetworkFacts { name, bridge, .. } = network;
    match facts.link(bridge) {
        None => Finding::fail(
            "bridge",
            format!("network `{name}`: there is no bridge `{bridge}`"),
            format!("virsh net-start {name}"),
        ),
        Some(link) if !link.is_up() => Finding::fail(
            "bridge",
            format!("network `{name}`: bridge `{bridge}` is down"),
            format!("ip link set {bridge} up"),
        ),
        Some(_) => Finding::ok("bridge", format!("network `{name}`: `{bridge}` is up")),
    }
}

fn dhcp(network: &NetworkFacts) -> Option<Finding> {
    let NetworkFacts { name, .. } = network;
    match (&network.served, network.wants_dhcp) {
        (Some(port), _) => {
            Some(Finding::ok("dhcp", format!("network `{name}`: somebody serves {port}")))
        }
        (None, true) => Some(Finding::warn(
            "dhcp",
            format!("network `{name}`: nobody serves DHCP, which its definition has"),
            format!("virsh net-start {name}, or run a dnsmasq on `{}`", network.bridge),
        )),
        (None, false) => None,
    }
}
