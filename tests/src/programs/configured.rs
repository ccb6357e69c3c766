//! What a rig's programs have been told, read back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use aya::maps::lpm_trie::LpmTrie;
use bytemuck::Zeroable as _;
use vnet_common::{
    address::Address,
    names::map,
    network::{Config, Network, Subnet, Uplink},
};

use super::load::{self, Plain};
use super::rig::Rig;

impl Rig {
    /// The settings.
    pub fn config(&self) -> Result<Config> {
        Ok(load::array::<Config>(self.ebpf(), map::CONFIG)?.get(&0, 0)?.0)
    }

    /// Networks by slot, slots without a bridge left out.
    pub fn networks(&self) -> Result<BTreeMap<u16, Network>> {
        let networks = load::array::<Network>(self.ebpf(), map::NETWORKS)?;
        let mut found = BTreeMap::new();
        for slot in 0..networks.len() {
            let network = networks.get(&slot, 0)?.0;
            if network != Network::zeroed() {
                found.insert(slot as u16, network);
            }
        }
        Ok(found)
    }

    /// The slot of each bridge's network.
    pub fn bridges(&self) -> Result<BTreeMap<u32, u16>> {
        let bridges = load::hash::<u32, u32>(self.ebpf(), map::BRIDGES)?;
        let entry = |entry: Result<(Plain<u32>, Plain<u32>), _>| {
            entry.map(|(ifindex, slot)| (ifindex.0, slot.0 as u16)).map_err(anyhow::Error::from)
        };
        bridges.iter().map(entry).collect()
    }

    /// Uplinks by interface index.
    pub fn uplinks(&self) -> Result<BTreeMap<u32, Uplink>> {
        let uplinks = load::hash::<u32, Uplink>(self.ebpf(), map::UPLINKS)?;
        let entry = |entry: Result<(Plain<u32>, Plain<Uplink>), _>| {
            entry.map(|(ifindex, uplink)| (ifindex.0, uplink.0)).map_err(anyhow::Error::from)
        };
        uplinks.iter().map(entry).collect()
    }

    /// Every prefix with its length in bits of its family.
    pub fn subnets_of_all(&self) -> Result<Vec<(IpAddr, u8, Subnet)>> {
        let found = load::found(self.ebpf(), map::SUBNETS)?;
        let subnets = LpmTrie::<_, [u8; 16], Plain<Subnet>>::try_from(found)?;
        let mut all = Vec::new();
        for entry in &subnets {
            let (key, subnet) = entry?;
            let address = Address::from_wire(bytemuck::cast(key.data()));
            let is_ipv4 = key.prefix_len() >= Address::IPV4_PREFIX_BITS && address.is_ipv4();
            let leading = if is_ipv4 { Address::IPV4_PREFIX_BITS } else { 0 };
            all.push((address.to_addr(), (key.prefix_len() - leading) as u8, subnet.0));
        }
        Ok(all)
    }
}
