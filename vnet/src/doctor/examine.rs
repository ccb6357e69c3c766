//! The checks: pure functions of what was read.

use vnet_common::family::Family;

use super::{
    Finding,
    facts::{Facts, NetworkFacts, Service},
};
use crate::host::{
    netfilter::{Chain, Ruleset},
    sysctl,
};

/// Every check in the order of a start: the kernel, the host, each network.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = kernel(facts);
    findings.push(bridge_netfilter(facts));
    findings.extend(rules(facts));
    findings.extend(facts.bonds.iter().map(Finding::of));
    if facts.bonds.is_empty() && facts.has_bonds() {
        findings.push(Finding::ok("bond", "modes and monitoring fit what the bonds carry"));
    }
    if !facts.networks.is_empty() {
        findings.extend(beside(facts));
        findings.extend(reverse_path_filter(facts));
    }
    for network in &facts.networks {
        findings.push(bridge(facts, network));
        findings.extend(dhcp(facts, network));
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

/// What is checked before a start, too.
fn beside(facts: &Facts) -> Vec<Finding> {
    let checks = [
        ("masquerade", "no other rules masquerade these networks"),
        ("subnet", "nobody else has the networks' subnets"),
        ("ports", "the host keeps no ports for itself that these networks need"),
        ("sockets", "no socket of the host waits at a forwarded port"),
    ];
    let looks_at_rules = matches!(facts.rules, Some(Ok(_)));
    let mut findings = Vec::new();
    for (check, good) in checks {
        let before = findings.len();
        findings.extend(facts.advice.iter().filter(|one| one.check == check).map(Finding::of));
        if findings.len() == before && (check != "masquerade" || looks_at_rules) {
            findings.push(Finding::ok(check, good));
        }
    }
    findings
}

/// Replies that vnet itself redirects never come to the filter, which is in the host's stack.
fn reverse_path_filter(facts: &Facts) -> Vec<Finding> {
    let strict = |uplink: &String| {
        let parameter = sysctl::of_interface(Family::Ipv4, uplink, "rp_filter");
        Finding::warn(
            "rp_filter",
            format!(
                "uplink `{uplink}` has a strict rp_filter and not the default route: of networks in mode `open`, \
                 and of packets that vnet leaves to the stack, the host drops what comes in there from \
                 addresses to which its route leads elsewhere"
            ),
            format!("sysctl -w {parameter}=2"),
        )
    };
    let findings: Vec<Finding> = facts.strict_uplinks.iter().map(strict).collect();
    if findings.is_empty() {
        return vec![Finding::ok("rp_filter", "it is in no packet's way")];
    }
    findings
}

fn bridge(facts: &Facts, network: &NetworkFacts) -> Finding {
    let NetworkFacts { name, bridge, .. } = network;
    match facts.link(bridge) {
        None => Finding::fail(
            "bridge",
            format!("network `{name}`: there is no bridge `{bridge}`"),
            if network.mode.has_own_bridge() {
                format!("virsh net-start {name}, or vnet makes it with --create-bridges")
            } else {
                format!("ip link add {bridge} type bridge && ip link set {bridge} up")
            },
        ),
        Some(link) if !link.is_up() => Finding::fail(
            "bridge",
            format!("network `{name}`: bridge `{bridge}` is down"),
            format!("ip link set {bridge} up"),
        ),
        Some(_) => Finding::ok("bridge", format!("network `{name}`: `{bridge}` is up")),
    }
}

fn dhcp(facts: &Facts, network: &NetworkFacts) -> Option<Finding> {
    let NetworkFacts { name, bridge, .. } = network;
    let ok = |what: String| Finding::ok("dhcp", format!("network `{name}`: {what}"));
    Some(match network.service.as_ref()? {
        Service::Vnet(process) => ok(format!("dnsmasq of vnet's serves it (process {process})")),
        Service::Other(port) => ok(format!("somebody else serves {port}: vnet starts no dnsmasq")),
        Service::VnetLater => ok("nobody serves it: vnet starts a dnsmasq for it".to_owned()),
        Service::Libvirt(_) if facts.link(bridge).is_none() => {
            ok("libvirt serves it as soon as it starts it".to_owned())
        }
        Service::Libvirt(definition) => Finding::warn(
            "dhcp",
            format!(
                "network `{name}`: `{bridge}` is libvirt's ({}), which does not serve it now",
                definition.display()
            ),
            format!(
                "virsh net-start {name}, once this `{bridge}` is deleted; or virsh net-undefine {name}, \
                 and vnet serves it"
            ),
        ),
        Service::NoDnsmasq => Finding::warn(
            "dhcp",
            format!(
                "network `{name}`: nobody serves it, and there is no dnsmasq that vnet could start"
            ),
            "install the package `dnsmasq-base` (`dnsmasq` on Fedora)",
        ),
    })
}
