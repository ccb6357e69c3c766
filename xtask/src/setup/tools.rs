//! The programs that the lab's tests call, and the packages that hold them.

use super::packages::Manager;
use crate::process;

/// Whose tools are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolSet {
    None,
    /// What the demonstration calls.
    Demo,
    /// What the tests call.
    All,
}

/// A program and its package by distribution family.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    pub program: &'static str,
    /// The first one that apt knows is installed.
    pub apt: &'static [&'static str],
    pub dnf: &'static str,
    in_demo: bool,
}

const fn tool(
    program: &'static str,
    apt: &'static [&'static str],
    dnf: &'static str,
    in_demo: bool,
) -> Tool {
    Tool { program, apt, dnf, in_demo }
}

pub const TOOLS: [Tool; 12] = [
    tool("ip", &["iproute2"], "iproute", true),
    tool("nft", &["nftables"], "nftables", true),
    tool("tcpdump", &["tcpdump"], "tcpdump", true),
    tool("iperf3", &["iperf3"], "iperf3", true),
    tool("socat", &["socat"], "socat", true),
    tool("ethtool", &["ethtool"], "ethtool", true),
    tool("ping", &["iputils-ping"], "iputils", true),
    tool("curl", &["curl"], "curl", true),
    tool("conntrack", &["conntrack"], "conntrack-tools", true),
    tool("dnsmasq", &["dnsmasq-base"], "dnsmasq", false),
    // Ubuntu has no real package of that name.
    tool("bpftool", &["bpftool", "linux-tools-common"], "bpftool", false),
    tool("traceroute", &["traceroute"], "traceroute", false),
];

impl ToolSet {
    fn holds(self, tool: &Tool) -> bool {
        match self {
            Self::None => false,
            Self::Demo => tool.in_demo,
            Self::All => true,
        }
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
    fn demo_needs_fewer_tools_than_the_tests_and_a_real_host_none() {
        let count = |set: ToolSet| TOOLS.iter().filter(|tool| set.holds(tool)).count();
        assert_eq!((count(ToolSet::None), count(ToolSet::Demo), count(ToolSet::All)), (0, 9, 12));
    }
}
