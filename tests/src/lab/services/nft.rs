//! The kernel's own NAT: the reference that vnet is compared with, and the proof that it is unused.

use crate::lab::error::{Error, Result, While};
use crate::lab::namespace::Namespace;

impl Namespace {
    /// What `nft list ruleset` prints; empty if there are no rules.
    pub fn nft_ruleset(&self) -> Result<String> {
        self.run(&["nft", "list", "ruleset"])
    }

    /// Loads a file of nft commands.
    pub fn nft(&self, commands: &str) -> Result<()> {
        self.run_with_input(&["nft", "-f", "-"], commands.as_bytes()).map(drop)
    }

    /// Number of connections that netfilter tracks; 0 if the kernel has no connection tracking.
    pub fn conntrack_count(&self) -> Result<u64> {
        const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
        let value = match self.enter(|| std::fs::read_to_string(PATH))? {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            value => value.during(|| format!("read {PATH}"))?,
        };
        value.trim_end().parse().map_err(|_| Error::unexpected(PATH, value))
    }

    /// Installs the rules that libvirt's nftables backend makes for a NAT network
    /// (`src/network/network_nftables.c`) and switches forwarding on. `uplink` limits them to one
    /// interface as `<forward dev='…'>` does.
    pub fn nft_masquerade(&self, bridge: &str, subnet: &str, uplink: Option<&str>) -> Result<()> {
        let oif = uplink.map_or(String::new(), |uplink| format!("oif \"{uplink}\""));
        let iif = uplink.map_or(String::new(), |uplink| format!("iif \"{uplink}\""));
        let masquerade = format!("ip saddr {subnet} ip daddr != {subnet} {oif} counter masquerade");
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.nft(&format!(
            r#"
table ip libvirt_network {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        counter jump guest_cross
        counter jump guest_input
        counter jump guest_output
    }}
    chain guest_output {{
        ip saddr {subnet} iif "{bridge}" {oif} counter accept
        iif "{bridge}" counter reject
    }}
    chain guest_input {{
        {iif} oif "{bridge}" ip daddr {subnet} ct state related,established counter accept
        oif "{bridge}" counter reject
    }}
    chain guest_cross {{
        iif "{bridge}" oif "{bridge}" counter accept
    }}
    chain guest_nat {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {subnet} {oif} ip daddr 224.0.0.0/24 counter return
        ip saddr {subnet} {oif} ip daddr 255.255.255.255/32 counter return
        meta l4proto tcp {masquerade} to :1024-65535
        meta l4proto udp {masquerade} to :1024-65535
        {masquerade}
    }}
}}
"#
        ))
    }
}
