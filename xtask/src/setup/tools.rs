//! The programs that the lab's tests call, and the packages that hold them.

use super::packages::Manager;
use crate::process;

/// Whose tools are needed: each set holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ToolSet {
    None,
    /// What the demonstration calls.
    Demo,
    /// What the tests call.
    Tests,
}

/// A program and its package by distribution family.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    pub program: &'static str,
    /// The first one that apt knows is installed.
    pub apt: &'static [&'static str],
    pub dnf: &'static str,
    smallest_set: ToolSet,
}

const fn tool(
    program: &'static str,
    apt: &'static [&'static str],
    dnf: &'static str,
    smallest_set: ToolSet,
) -> Tool {
    Tool { program, apt, dnf, smallest_set }
}

pub const TOOLS: [Tool; 19] = [
    tool("ip", &["iproute2"], "iproute", ToolSet::Demo),
    tool("nft", &["nftables"], "nftables", ToolSet::Demo),
    tool("tcpdump", &["tcpdump"], "tcpdump", ToolSet::Demo),
    tool("iperf3", &["iperf3"], "iperf3", ToolSet::Demo),
    tool("socat", &["socat"], "socat", ToolSet::Demo),
    tool("ethtool", &["ethtool"], "ethtool", ToolSet::Demo),
    tool("ping", &["iputils-ping"], "iputils", ToolSet::Demo),
    tool("curl", &["curl"], "curl", ToolSet::Demo),
    tool("conntrack", &["conntrack"], "conntrack-tools", ToolSet::Demo),
    tool("dnsmasq", &["dnsmasq-base"], "dnsmasq", ToolSet::Tests),
    tool("strace", &["strace"], "strace", ToolSet::Tests),
    tool("busybox", &["busybox"], "busybox", ToolSet::Tests),
    // Ubuntu has no real package of that name.
    tool("bpftool", &["bpftool", "linux-tools-common"], "bpftool", ToolSet::Tests),
    tool("traceroute", &["traceroute"], "traceroute", ToolSet::Tests),
    tool("xmllint", &["libxml2-utils"], "libxml2", ToolSet::Tests),
    // libvirt's daemon without the package that starts it as a service, and what it calls: 4.6 MB of
    // packages, 15 MB on disk.
    tool("libvirtd", &["libvirt-daemon"], "libvirt-daemon", ToolSet::Tests),
    tool("virsh", &["libvirt-clients"], "libvirt-client", ToolSet::Tests),
    tool("iptables", &["iptables"], "iptables-nft", ToolSet::Tests),
    tool("qemu-system-x86_64", &["qemu-system-x86"], "qemu-system-x86-core", ToolSet::Tests),
];

impl ToolSet {
    fn holds(self, tool: &Tool) -> bool {
        self >= tool.smallest_set
    }

    /// Those of the set that are not on this machine.
    pub fn missing(self) -> Vec<&'static Tool> {
        TOOLS
            .iter()
            .filter(|tool| self.holds(tool) && process::find_program(tool.program).is_none())
            .collect()
    }
}

impl Tool {
    /// Its package; nothing when apt's lists do not have it.
    pub fn package(&self, manager: &Manager) -> Option<&'static str> {
        match manager {
            Manager::Apt(apt) => self.apt.iter().copied().find(|name| apt.knows(name)),
            Manager::Dnf | Manager::None => Some(self.dnf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_host_needs_no_tools_the_demo_some_and_the_tests_all() {
        let count = |set: ToolSet| TOOLS.iter().filter(|tool| set.holds(tool)).count();
        let sets = [ToolSet::None, ToolSet::Demo, ToolSet::Tests];
        assert_eq!(sets.map(count), [0, 9, 19]);
    }
}
