//! A snapshot of all that a forwarding plane could leave behind on a host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use aya::programs::tc::{SchedClassifier, TcAttachType};
use serde_json::Value;

use super::error::{Error, Result, While};
use super::namespace::Namespace;

/// Attributes that change without anybody configuring anything.
const VOLATILE: &[&str] = &[
    // Timers of a bridge and of its ports.
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    // What a bridge learns from traffic.
    "fdb_n_learned",
    // Addresses of limited life.
    "valid_life_time",
    "preferred_life_time",
    // Counters.
    "stats",
    "stats64",
    "packets",
    "bytes",
    "drops",
    "overlimits",
    "requeues",
    "backlog",
    "qlen",
    "used",
    "expires",
];

/// Directories of settings that a forwarding plane may touch; all files in them are compared.
const SYSCTL_TREES: &[&str] = &[
    "/proc/sys/net/ipv4/conf",
    "/proc/sys/net/ipv6/conf",
    "/proc/sys/net/ipv4",
    "/proc/sys/net/ipv6",
    "/proc/sys/net/bridge",
    "/proc/sys/net/core",
];

/// Not the namespace's own, not a setting, or different by nature on each read.
const SYSCTL_SKIPPED: &[&str] =
    &["stable_secret", "tcp_fastopen_key", "flush", "nf_conntrack_count"];

const BPFFS: &str = "/sys/fs/bpf";

/// What a host looks like: links, addresses, routes, rules, qdiscs, filters, BPF programs at
/// interfaces, nftables rules, sysctls, and what is pinned. Counters and timers are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostState {
    facts: BTreeMap<String, BTreeSet<String>>,
}

impl HostState {
    /// Takes a snapshot of a namespace.
    pub fn read(namespace: &Namespace) -> Result<Self> {
        let mut facts = BTreeMap::new();
        for (name, command) in [
            ("link", "ip -d -j link"),
            ("address", "ip -j address"),
            ("IPv4 route", "ip -j -4 route show table all"),
            ("IPv6 route", "ip -j -6 route show table all"),
            ("IPv4 rule", "ip -j -4 rule"),
            ("IPv6 rule", "ip -j -6 rule"),
            ("qdisc", "tc -j qdisc"),
        ] {
            facts.insert(name.to_owned(), read_json(namespace, command)?);
        }
        let interfaces = namespace.enter(interfaces)??;
        for interface in &interfaces {
            for hook in ["ingress", "egress"] {
                // tc reports an error for a device that has no such hook: then it has no filter.
                let command = ["tc", "filter", "show", "dev", interface, hook];
                let filters = namespace.try_run(&command)?.stdout;
                let lines = filters.lines().map(str::to_owned).collect();
                facts.insert(format!("tc filter at {hook} of {interface}"), lines);
            }
        }
        facts.extend(namespace.enter(|| tcx_programs(&interfaces))?);
        let rules = namespace.nft_ruleset()?.lines().map(str::to_owned).collect();
        facts.insert("nftables".to_owned(), rules);
        facts.insert("sysctl".to_owned(), namespace.enter(sysctls)??);
        facts.insert(BPFFS.to_owned(), namespace.enter(pinned)??);
        facts.retain(|_, lines| !lines.is_empty());
        Ok(Self { facts })
    }

    /// What is in `self` (`-`) and not in `later` (`+`), one fact on a line; empty if equal.
    #[must_use]
    pub fn difference(&self, later: &Self) -> String {
        let none = BTreeSet::new();
        let names: BTreeSet<&String> = self.facts.keys().chain(later.facts.keys()).collect();
        let mut text = String::new();
        for name in names {
            let before = self.facts.get(name).unwrap_or(&none);
            let after = later.facts.get(name).unwrap_or(&none);
            // Writing to a string does not fail.
            for gone in before.difference(after) {
                let _ = writeln!(text, "- {name}: {gone}");
            }
            for new in after.difference(before) {
                let _ = writeln!(text, "+ {name}: {new}");
            }
        }
        text
    }
}

/// One fact for each element of a JSON array.
fn read_json(namespace: &Namespace, command: &str) -> Result<BTreeSet<String>> {
    let arguments: Vec<&str> = command.split(' ').collect();
    let printed = namespace.run(&arguments)?;
    // ip prints nothing at all for an empty list.
    let text = if printed.trim().is_empty() { "[]" } else { printed.as_str() };
    let array: Vec<Value> =
        serde_json::from_str(text).map_err(|_| Error::unexpected(command, printed.as_str()))?;
    Ok(array.into_iter().map(|element| without_volatile(element).to_string()).collect())
}

fn without_volatile(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(key, _)| !VOLATILE.contains(&key.as_str()))
            .map(|(key, value)| (key, without_volatile(value)))
            .collect(),
        Value::Array(array) => array.into_iter().map(without_volatile).collect(),
        other => other,
    }
}

fn interfaces() -> Result<Vec<String>> {
    let mut names = names_in(Path::new("/sys/class/net"))?;
    // A file of the bonding driver, not an interface.
    names.retain(|name| name != "bonding_masters");
    Ok(names)
}

fn tcx_programs(interfaces: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for interface in interfaces {
        for (hook, kind) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
            // Kernels before 6.6 have no tcx and refuse the question.
            let Ok((_, programs)) = SchedClassifier::query_tcx(interface, kind) else { continue };
            let programs = programs
                .iter()
                .map(|program| {
                    format!("program {} {}", program.id(), program.name_as_str().unwrap_or("?"))
                })
                .collect();
            found.insert(format!("tcx {hook} of {interface}"), programs);
        }
    }
    found
}

fn sysctls() -> Result<BTreeSet<String>> {
    let mut facts = BTreeSet::new();
    for tree in SYSCTL_TREES {
        let tree = Path::new(tree);
        if !tree.exists() {
            continue;
        }
        for name in names_in(tree)? {
            let entry = tree.join(&name);
            let files = if entry.is_dir() && tree.ends_with("conf") {
                names_in(&entry)?.into_iter().map(|file| entry.join(file)).collect()
            } else {
                vec![entry]
            };
            for file in files {
                let skipped = SYSCTL_SKIPPED.iter().any(|skipped| file.ends_with(skipped));
                // Some are write-only, some are directories of other subjects.
                if let (false, Ok(value)) = (skipped, fs::read_to_string(&file)) {
                    facts.insert(format!("{} = {}", file.display(), value.trim_end()));
                }
            }
        }
    }
    Ok(facts)
}

fn pinned() -> Result<BTreeSet<String>> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts")
        .during(|| "read /proc/thread-self/mounts".to_owned())?;
    let mut facts: BTreeSet<String> = mounts
        .lines()
        .filter(|mount| mount.split(' ').nth(1).is_some_and(|at| at.starts_with(BPFFS)))
        .map(|mount| format!("mounted: {mount}"))
        .collect();
    let mut directories = vec![Path::new(BPFFS).to_owned()];
    while let Some(directory) = directories.pop() {
        for name in names_in(&directory)? {
            let entry = directory.join(name);
            facts.insert(entry.display().to_string());
            if entry.is_dir() {
                directories.push(entry);
            }
        }
    }
    Ok(facts)
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let what = || format!("list {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).during(what)? {
        names.push(entry.during(what)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
