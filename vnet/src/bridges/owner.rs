//! Whose a bridge is, and what follows from it.

use std::fs;

/// The longest alias that the kernel takes (`IFALIASZ` in `include/uapi/linux/if.h`), in bytes.
const LONGEST_ALIAS: usize = 255;

/// An instance on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The instance's name.
    pub instance: String,
    /// What tells this host from others, so that two never give their bridges the same address.
    pub machine: String,
}

impl Owner {
    /// The instance of this name on this host; see machine-id(5).
    #[must_use]
    pub fn of(instance: &str) -> Self {
        let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Self { instance: instance.to_owned(), machine: machine.trim().to_owned() }
    }

    /// What the alias of this network's bridge is, if we have made it.
    #[must_use]
    pub fn alias(&self, network: &str) -> String {
        let mut alias = self.prefix() + network;
        while alias.len() > LONGEST_ALIAS {
            alias.pop();
        }
        alias
    }

    /// Whether a bridge with this alias is one that this instance has made.
    #[must_use]
    pub fn is_of(&self, alias: Option<&str>) -> bool {
        alias.is_some_and(|alias| alias.starts_with(&self.prefix()))
    }

    /// Whether any instance has made a bridge with this alias.
    #[must_use]
    pub fn is_of_any(alias: Option<&str>) -> bool {
        let instance = alias.and_then(|alias| alias.strip_prefix("vnet "));
        instance.is_some_and(|rest| rest.contains(": network "))
    }

    fn prefix(&self) -> String {
        format!("vnet {}: network ", self.instance)
    }

    /// The hardware address of the network's bridge unless its definition has one: the same in each
    /// run, because guests and their operating systems know networks by that of the gateway. libvirt
    /// chooses one at random under the same prefix, and keeps it in the definition
    /// (`virNetworkSetBridgeMacAddr` in `src/conf/virnetworkobj.c`).
    #[must_use]
    pub fn mac(&self, network: &str) -> [u8; 6] {
        let bytes = self.machine.bytes().chain([0]).chain(network.bytes());
        // FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [.., high, middle, low] = (hash ^ (hash >> 24)).to_be_bytes();
        [0x52, 0x54, 0x00, high, middle, low]
    }
}
