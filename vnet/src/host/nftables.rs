//! What nftables has in its tables, as netlink tells it (`include/uapi/linux/netfilter/nf_tables.h`).

use super::{
    netlink::{Connection, NetlinkError, Request, attributes, string, u32_at},
    snapshot::table,
};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES` of `include/uapi/linux/netfilter/nfnetlink.h`.
const NFTABLES: u16 = 10 << 8;
const NFT_MSG_NEWCHAIN: u16 = NFTABLES | 3;
const NFT_MSG_GETCHAIN: u16 = NFTABLES | 4;
const NFT_MSG_NEWRULE: u16 = NFTABLES | 6;
const NFT_MSG_GETRULE: u16 = NFTABLES | 7;
const NFPROTO_INET: u8 = 1;
const NFPROTO_NETDEV: u8 = 5;
const NF_INET_INGRESS: u32 = 5;
const NF_NETDEV_INGRESS: u32 = 0;
/// `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE` alike.
const TABLE: u16 = 1;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NF_DROP: u32 = 0;

/// What tables consist of.
#[derive(Clone, Copy)]
pub(super) enum Entries {
    Chains,
    Rules,
}

/// A chain that an interface's packets go through beside netfilter's hooks for IP packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceHook {
    /// The table's name.
    pub table: String,
    /// Whether it has packets that come in; else those that go out.
    pub is_ingress: bool,
    /// The interface's name, or how it begins.
    pub device: String,
    /// Whether all interfaces are meant whose names begin like that.
    pub is_prefix: bool,
}

impl DeviceHook {
    /// Whether packets of the interface with this name go through it.
    #[must_use]
    pub fn is_at(&self, name: &str) -> bool {
        name == self.device || self.is_prefix && name.starts_with(&self.device)
    }
}

/// The chains at interfaces: those of the family `netdev`, and those of `inet` at `ingress`.
pub async fn device_hooks() -> Result<Vec<DeviceHook>, NetlinkError> {
    let mut found = entries(Entries::Chains, NFPROTO_NETDEV, |chain| {
        Some(at_devices(chain, NF_NETDEV_INGRESS))
    })
    .await?;
    let others = |chain: &[u8]| {
        let mut hooks = at_devices(chain, NF_INET_INGRESS);
        hooks.retain(|hook| hook.is_ingress);
        Some(hooks)
    };
    found.extend(entries(Entries::Chains, NFPROTO_INET, others).await?);
    Ok(found.into_iter().flatten().collect())
}

/// What `parse` makes of the attributes of each entry of a family's tables; nothing on a kernel without
/// nftables, or without the family.
pub(super) async fn entries<T>(
    what: Entries,
    family: u8,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let action = "look at the tables of nftables";
    let (ask, answer) = match what {
        Entries::Chains => (NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN),
        Entries::Rules => (NFT_MSG_GETRULE, NFT_MSG_NEWRULE),
    };
    // struct nfgenmsg.
    let request = || Request { action, message_type: ask, flags: 0, body: vec![family, 0, 0, 0] };
    let mut is_restless = false;
    let dumped = async {
        let mut connection = Connection::open_of(NETLINK_NETFILTER, action)?;
        table(&mut connection, &mut is_restless, request, |kind, body| {
            // Kernels may answer for all families.
            let attributes_of = body.get(4..).filter(|_| kind == answer)?;
            parse(attributes_of).filter(|_| body.first() == Some(&family))
        })
        .await
    };
    match dumped.await {
        Err(error) if is_absence(&error) => Ok(Vec::new()),
        Ok(_) if is_restless => Err(NetlinkError::Restless { action }),
        dumped => dumped,
    }
}

/// A kernel without netfilter's netlink, without nftables, or without this family.
fn is_absence(error: &NetlinkError) -> bool {
    let number = match error {
        NetlinkError::Socket { source, .. } => source.raw_os_error(),
        error => error.errno(),
    };
    let absent = [libc::EPROTONOSUPPORT, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT];
    number.is_some_and(|number| absent.contains(&number))
}

/// The table of a chain or rule.
pub(super) fn table_of(entry: &[u8]) -> Option<String> {
    attributes(entry).find(|(kind, _)| *kind == TABLE).map(|(_, name)| string(name))
}

/// Whether packets get to a chain by one of netfilter's hooks.
pub(super) fn is_at_hook(chain: &[u8]) -> bool {
    attributes(chain).any(|(kind, _)| kind == NFTA_CHAIN_HOOK)
}

/// Whether a chain drops what no rule is for.
pub(super) fn drops(chain: &[u8]) -> bool {
    let mut all = attributes(chain);
    all.any(|(kind, policy)| {
        kind == NFTA_CHAIN_POLICY && u32_at(policy, 0).map(u32::from_be) == Some(NF_DROP)
    })
}

/// The interfaces of a chain.
fn at_devices(chain: &[u8], ingress: u32) -> Vec<DeviceHook> {
    const NFTA_HOOK_HOOKNUM: u16 = 1;
    const NFTA_HOOK_DEV: u16 = 3;
    const NFTA_HOOK_DEVS: u16 = 4;
    const NFTA_DEVICE_NAME: u16 = 1;
    const NFTA_DEVICE_PREFIX: u16 = 2;

    let (mut devices, mut number) = (Vec::new(), None);
    let hook = attributes(chain).find(|(kind, _)| *kind == NFTA_CHAIN_HOOK);
    for (kind, payload) in hook.into_iter().flat_map(|(_, hook)| attributes(hook)) {
        match kind {
            NFTA_HOOK_HOOKNUM => number = u32_at(payload, 0).map(u32::from_be),
            NFTA_HOOK_DEV => devices.push((string(payload), false)),
            NFTA_HOOK_DEVS => devices.extend(attributes(payload).filter_map(|(kind, name)| {
                let is_name = [NFTA_DEVICE_NAME, NFTA_DEVICE_PREFIX].contains(&kind);
                is_name.then(|| (string(name), kind == NFTA_DEVICE_PREFIX))
            })),
            _ => {}
        }
    }
    let table = table_of(chain).unwrap_or_default();
    let is_ingress = number == Some(ingress);
    let hook =
        |(device, is_prefix)| DeviceHook { table: table.clone(), is_ingress, device, is_prefix };
    let mut hooks: Vec<_> = devices.into_iter().map(hook).collect();
    // A single one is told in both ways.
    hooks.dedup();
    hooks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netlink::{push_attribute, push_nested, push_string};

    #[test]
    fn chain_at_interfaces_tells_them_one_by_one_or_by_how_they_begin() {
        let chain = |number: u32| {
            let (mut body, mut hook, mut devices) = (Vec::new(), Vec::new(), Vec::new());
            push_string(&mut body, TABLE, "shape");
            push_attribute(&mut hook, 1, &number.to_be_bytes());
            push_string(&mut devices, 1, "vnet0");
            push_string(&mut devices, 2, "tap");
            push_nested(&mut hook, 4, &devices);
            push_nested(&mut body, NFTA_CHAIN_HOOK, &hook);
            at_devices(&body, NF_NETDEV_INGRESS)
        };
        let hook = |is_ingress, device: &str, is_prefix| DeviceHook {
            table: "shape".to_owned(),
            is_ingress,
            device: device.to_owned(),
            is_prefix,
        };
        assert_eq!(chain(0), [hook(true, "vnet0", false), hook(true, "tap", true)]);
        assert_eq!(chain(1), [hook(false, "vnet0", false), hook(false, "tap", true)]);
        assert_eq!(at_devices(&[], 0), []);
        let at = |name| chain(0).iter().map(|hook| hook.is_at(name)).collect::<Vec<_>>();
        assert_eq!(
            (at("vnet0"), at("tap7"), at("vnet01")),
            (vec![true, false], vec![false, true], vec![false, false])
        );
    }

    #[test]
    fn protocol_that_the_kernel_does_not_have_has_no_rules() {
        let socket = |number| NetlinkError::Socket {
            action: "",
            source: std::io::Error::from_raw_os_error(number),
        };
        assert!(is_absence(&socket(libc::EPROTONOSUPPORT)));
        assert!(!is_absence(&socket(libc::ENOBUFS)));
        assert!(!is_absence(&NetlinkError::Restless { action: "" }));
    }
}
