//! Whether somebody has rules for frames that a bridge forwards: then it has to see all of them.
//!
//! libvirt's nwfilter writes such rules with ebtables, which is nftables' family `bridge` or, in its old form,
//! tables of its own; `br_netfilter` shows a bridge's frames to the rules for IP packets.

use std::{collections::BTreeSet, fs};

use super::netlink::{Connection, NetlinkError, Request, attributes, string, u32_at};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES` of `include/uapi/linux/netfilter/nfnetlink.h`.
const NFTABLES: u16 = 10 << 8;
/// `enum nf_tables_msg_types`
const NFT_MSG_NEWCHAIN: u16 = NFTABLES | 3;
const NFT_MSG_GETCHAIN: u16 = NFTABLES | 4;
const NFT_MSG_NEWRULE: u16 = NFTABLES | 6;
const NFT_MSG_GETRULE: u16 = NFTABLES | 7;
const NFPROTO_BRIDGE: u8 = 7;
/// `NFPROTO_INET`, `_IPV4`, `_ARP` and `_IPV6` of `include/uapi/linux/netfilter.h`.
const NFPROTO_OF_PACKETS: [u8; 4] = [1, 2, 3, 10];

/// Why bridges have to see every packet; `None` if nobody has rules for them.
pub async fn reason() -> Result<Option<String>, NetlinkError> {
    if let Some(module) = legacy_ebtables() {
        return Ok(Some(format!("there may be rules of ebtables (module {module})")));
    }
    if let Some(table) = bridge_table().await? {
        return Ok(Some(format!("nftables has rules for bridges (table bridge {table})")));
    }
    for (name, families) in
        [("iptables", &NFPROTO_OF_PACKETS[..]), ("ip6tables", &[1, 10]), ("arptables", &[3])]
    {
        let sysctl = format!("net.bridge.bridge-nf-call-{name}");
        if is_on(&sysctl) && has_rules_for_packets(families).await? {
            return Ok(Some(format!(
                "{sysctl} shows its packets to the host's rules: `sysctl -w {sysctl}=0`"
            )));
        }
    }
    Ok(None)
}

/// A module of the old ebtables whose table is loaded.
fn legacy_ebtables() -> Option<&'static str> {
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    ["ebtable_filter", "ebtable_nat", "ebtable_broute"]
        .into_iter()
        .find(|module| modules.lines().any(|line| line.split(' ').next() == Some(module)))
}

fn is_on(sysctl: &str) -> bool {
    let path = format!("/proc/sys/{}", sysctl.replacen('.', "/", 2));
    fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
}

/// A table of the family `bridge` that does something with frames.
async fn bridge_table() -> Result<Option<String>, NetlinkError> {
    let rules = tables(NFT_MSG_GETRULE, NFT_MSG_NEWRULE, NFPROTO_BRIDGE, |_| true).await?;
    let chains = tables(NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, NFPROTO_BRIDGE, drops).await?;
    Ok(rules.into_iter().chain(chains).next())
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
    for family in families {
        if !tables(NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, *family, is_at_hook).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The tables of a family that have entries of a kind that count.
async fn tables(
    ask: u16,
    answer: u16,
    family: u8,
    counts: impl Fn(&[u8]) -> bool,
) -> Result<BTreeSet<String>, NetlinkError> {
    // NFTA_CHAIN_TABLE and NFTA_RULE_TABLE alike.
    const TABLE: u16 = 1;
    let action = "look for rules of bridges";
    // struct nfgenmsg.
    let request = Request { action, message_type: ask, flags: 0, body: vec![family, 0, 0, 0] };
    let mut found = BTreeSet::new();
    let mut connection = Connection::open_of(NETLINK_NETFILTER, action)?;
    let dumped = connection
        .dump(request, |kind, body| {
            let Some(attributes_of) = body.get(4..).filter(|_| kind == answer) else { return };
            // Kernels may answer for all families.
            if body.first() != Some(&family) || !counts(attributes_of) {
                return;
            }
            let table = attributes(attributes_of).find(|(kind, _)| *kind == TABLE);
            found.extend(table.map(|(_, name)| string(name)));
        })
        .await;
    match dumped {
        // A kernel without nftables, or without this family.
        Err(error)
            if matches!(error.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)) =>
        {
            Ok(BTreeSet::new())
        }
        dumped => dumped.map(|_| found),
    }
}

const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NF_DROP: u32 = 0;

fn is_at_hook(chain: &[u8]) -> bool {
    attributes(chain).any(|(kind, _)| kind == NFTA_CHAIN_HOOK)
}

fn drops(chain: &[u8]) -> bool {
    let mut all = attributes(chain);
    all.any(|(kind, policy)| {
        kind == NFTA_CHAIN_POLICY && u32_at(policy, 0).map(u32::from_be) == Some(NF_DROP)
    })
}
