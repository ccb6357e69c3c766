//! What a rig's programs have been told, read back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use aya::maps::lpm_trie::LpmTrie;
use bytemuck::Zeroable as _;
use vnet_common::{
    address::Address,
    names::map,
    network::{Config, InterfaceKey, Network, SUBNET_KEY_LEADING_BITS, Subnet, SubnetKey, Uplink},
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
        for slot in 0..(networks.len() / 2) as u16 {
            let network = networks.get(&Network::index(slot, 0), 0)?.0;
            if network != Network::zeroed() {
                found.insert(slot, network);
            }
        }
        Ok(found)
    }

    /// The slot of each bridge's network.
    pub fn bridges(&self) -> Result<BTreeMap<u32, u16>> {
        let bridges = load::hash::<InterfaceKey, u32>(self.ebpf(), map::BRIDGES)?;
        let entry = |entry: Result<(Plain<InterfaceKey>, Plain<u32>), _>| {
            entry.map(|(key, slot)| (key.0.ifindex, slot.0 as u16)).map_err(anyhow::Error::from)
        };
        bridges.iter().map(entry).collect()
    }

    /// Uplinks by interface index.
    pub fn uplinks(&self) -> Result<BTreeMap<u32, Uplink>> {
        let uplinks = load::hash::<InterfaceKey, Uplink>(self.ebpf(), map::UPLINKS)?;
        let entry = |entry: Result<(Plain<InterfaceKey>, Plain<Uplink>), _>| {
            entry.map(|(key, uplink)| (key.0.ifindex, uplink.0)).map_err(anyhow::Error::from)
        };
        uplinks.iter().map(entry).collect()
    }

    /// Every prefix with its length in bits of its family.
    pub fn subnets_of_all(&self) -> Result<Vec<(IpAddr, u8, Subnet)>> {
        let found = load::found(self.ebpf(), map::SUBNETS)?;
        let subnets = LpmTrie::<_, Plain<SubnetKey>, Plain<Subnet>>::try_from(found)?;
        let mut all = Vec::new();
        for entry in &subnets {
            let (key, subnet) = entry?;
            let (length, data) = (key.prefix_len() - SUBNET_KEY_LEADING_BITS, key.data().0);
            // The other generation says the same.
            if data.generation != 0 {
                continue;
            }
            let address = data.address;
            let is_ipv4 = length >= Address::IPV4_PREFIX_BITS && address.is_ipv4();
            let leading = if is_ipv4 { Address::IPV4_PREFIX_BITS } else { 0 };
            all.push((address.to_addr(), (length - leading) as u8, subnet.0));
        }
        Ok(all)
    }
}
