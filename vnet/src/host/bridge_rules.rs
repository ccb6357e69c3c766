//! Whether somebody has rules for frames that a bridge forwards: then it has to see all of them.
//!
//! libvirt's nwfilter writes such rules with ebtables, which is nftables' family `bridge` or, in its old form,
//! tables of its own; `br_netfilter` shows a bridge's frames to the rules for IP packets.

use std::{fs, path::Path, sync::OnceLock};

use super::{
    netlink::NetlinkError,
    nftables::{self, Entries},
};

const NFPROTO_BRIDGE: u8 = 7;
/// `NFPROTO_INET`, `_IPV4`, `_ARP` and `_IPV6` of `include/uapi/linux/netfilter.h`.
const NFPROTO_OF_PACKETS: [u8; 4] = [1, 2, 3, 10];
/// Modules of the old ebtables, each with a table.
const EBTABLES: [&str; 3] = ["ebtable_filter", "ebtable_nat", "ebtable_broute"];

/// Which of a bridge's frames `br_netfilter` shows to the host's rules for packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Those of IPv4.
    pub iptables: bool,
    /// Those of IPv6.
    pub ip6tables: bool,
    /// Those of ARP.
    pub arptables: bool,
}

impl Calls {
    /// What both say.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            iptables: self.iptables && other.iptables,
            ip6tables: self.ip6tables && other.ip6tables,
            arptables: self.arptables && other.arptables,
        }
    }

    /// The first that is so, as settings are called that end like it.
    #[must_use]
    pub const fn first(self) -> Option<&'static str> {
        match self {
            Self { iptables: true, .. } => Some("iptables"),
            Self { ip6tables: true, .. } => Some("ip6tables"),
            Self { arptables: true, .. } => Some("arptables"),
            _ => None,
        }
    }
}

/// What there is for frames of bridges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Why every bridge has to see every frame; `None` if nothing makes all of them.
    pub of_all: Option<String>,
    /// What rules there are that `br_netfilter` shows frames to where a bridge asks for it
    /// (`nf_call_iptables` and its like of `ip link set BRIDGE type bridge`).
    pub for_packets: Calls,
}

/// What there is now.
pub async fn read() -> Result<Rules, NetlinkError> {
    let rules = |reason| Rules { of_all: Some(reason), for_packets: Calls::default() };
    if let Some(module) = legacy_ebtables() {
        return Ok(rules(format!("there may be rules of ebtables (module {module})")));
    }
    if let Some(table) = bridge_table().await? {
        return Ok(rules(format!("nftables has rules for bridges (table bridge {table})")));
    }
    // Without the module nobody shows anything.
    if !Path::new("/proc/sys/net/bridge").exists() {
        return Ok(Rules::default());
    }
    let for_packets = Calls {
        iptables: has_rules_for_packets(&NFPROTO_OF_PACKETS).await?,
        ip6tables: has_rules_for_packets(&[1, 10]).await?,
        arptables: has_rules_for_packets(&[3]).await?,
    };
    let shown = Calls {
        iptables: is_on("iptables"),
        ip6tables: is_on("ip6tables"),
        arptables: is_on("arptables"),
    };
    let reason = shown.and(for_packets).first().map(|name| {
        let sysctl = format!("net.bridge.bridge-nf-call-{name}");
        format!("{sysctl} shows its packets to the host's rules: `sysctl -w {sysctl}=0`")
    });
    Ok(Rules { of_all: reason, for_packets })
}

/// A module of the old ebtables that is loaded, or a part of the kernel.
fn legacy_ebtables() -> Option<&'static str> {
    static BUILT_IN: OnceLock<Option<&str>> = OnceLock::new();
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let is_loaded =
        |module: &&str| modules.lines().any(|line| line.split(' ').next() == Some(module));
    EBTABLES.into_iter().find(is_loaded).or_else(|| *BUILT_IN.get_or_init(built_in))
}

/// By `Documentation/kbuild/kbuild.rst`, what the kernel has without loading it.
fn built_in() -> Option<&'static str> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = fs::read_to_string(format!("/lib/modules/{}/modules.builtin", release.trim()));
    built_in_of(&list.unwrap_or_default())
}

fn built_in_of(list: &str) -> Option<&'static str> {
    let is_listed = |module: &&str| {
        let file = format!("/{module}.ko");
        list.lines().any(|line| line.ends_with(&file))
    };
    EBTABLES.into_iter().find(is_listed)
}

fn is_on(name: &str) -> bool {
    let path = format!("/proc/sys/net/bridge/bridge-nf-call-{name}");
    fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
}

/// A table of the family `bridge` that does something with frames.
async fn bridge_table() -> Result<Option<String>, NetlinkError> {
    let rules = nftables::entries(Entries::Rules, NFPROTO_BRIDGE, nftables::table_of).await?;
    let drops = |chain: &[u8]| nftables::table_of(chain).filter(|_| nftables::drops(chain));
    let chains = nftables::entries(Entries::Chains, NFPROTO_BRIDGE, drops).await?;
    Ok(rules.into_iter().chain(chains).min())
}

/// Whether anything looks at IP packets at netfilter's hooks, new or old.
async fn has_rules_for_packets(families: &[u8]) -> Result<bool, NetlinkError> {
    let legacy = ["ip_tables_names", "ip6_tables_names", "arp_tables_names"];
    let is_used = |name: &&str| {
        fs::read_to_string(format!("/proc/net/{name}")).is_ok_and(|text| !text.trim().is_empty())
    };
    if legacy.iter().any(is_used) {
        return Ok(true);
    }
    let at_hook = |chain: &[u8]| nftables::is_at_hook(chain).then_some(());
    for family in families {
        if !nftables::entries(Entries::Chains, *family, at_hook).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ebtables_may_be_a_part_of_the_kernel() {
        let list = "kernel/net/bridge/bridge.ko\nkernel/net/bridge/netfilter/ebtable_nat.ko\n";
        assert_eq!(built_in_of(list), Some("ebtable_nat"));
        assert_eq!(built_in_of("kernel/net/bridge/netfilter/ebtables.ko\n"), None);
    }
}
