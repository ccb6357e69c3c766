//! What the tables of a datapath say that is taken over.

use aya::maps::{Array, HashMap, LpmTrie};
use bytemuck::Zeroable as _;
use vnet_common::{
    forward::{FORWARD_KEY_BYTES, Forward, ForwardKey},
    names,
    network::{Config, InterfaceKey, Network, SUBNET_KEY_LEADING_BITS, Subnet, SubnetKey, Uplink},
};

use super::{Datapath, DatapathError, tables::failed};
use crate::plan::Tables;

impl Datapath {
    /// Reads the epoch, and what both generations say.
    pub(super) fn read_generations(&mut self) -> Result<(), DatapathError> {
        let map: Array<_, Config> = self.map(names::map::CONFIG)?;
        self.config = map.get(&0, 0).map_err(failed(names::map::CONFIG))?;
        self.generations = <[_; 2]>::default();
        for generation in 0..2 {
            let mut tables = self.read_tables(generation)?;
            tables.host_ports = Some(self.config.host_ports);
            self.generations[generation as usize].tables = tables;
        }
        Ok(())
    }

    fn read_tables(&mut self, generation: u32) -> Result<Tables, DatapathError> {
        let mut tables = Tables::default();
        let map: Array<_, Network> = self.map(names::map::NETWORKS)?;
        for slot in 0..map.len() / 2 {
            let network = map.get(&(2 * slot + generation), 0);
            let network = network.map_err(failed(names::map::NETWORKS))?;
            if network != Network::zeroed() {
                tables.networks.insert(slot, network);
            }
        }
        let map: HashMap<_, InterfaceKey, u32> = self.map(names::map::BRIDGES)?;
        for entry in &map {
            let (key, slot) = entry.map_err(failed(names::map::BRIDGES))?;
            if key.generation == generation {
                tables.bridges.insert(key.ifindex, slot);
            }
        }
        let map: LpmTrie<_, SubnetKey, Subnet> = self.map(names::map::SUBNETS)?;
        for entry in &map {
            let (key, subnet) = entry.map_err(failed(names::map::SUBNETS))?;
            let (length, data) = (key.prefix_len(), key.data());
            if data.generation == generation {
                let prefix = bytemuck::cast(data.address.to_wire());
                let length = length.saturating_sub(SUBNET_KEY_LEADING_BITS);
                tables.subnets.insert((length, prefix), subnet);
            }
        }
        let map: HashMap<_, InterfaceKey, Uplink> = self.map(names::map::UPLINKS)?;
        for entry in &map {
            let (key, uplink) = entry.map_err(failed(names::map::UPLINKS))?;
            if key.generation == generation {
                tables.uplinks.insert(key.ifindex, uplink);
            }
        }
        let map: LpmTrie<_, [u8; FORWARD_KEY_BYTES], Forward> = self.map(names::map::FORWARDS)?;
        for entry in &map {
            let (key, forward) = entry.map_err(failed(names::map::FORWARDS))?;
            let mut data: ForwardKey = bytemuck::cast(key.data());
            if u32::from(data.generation) == generation {
                data.generation = 0;
                tables.forwards.insert((key.prefix_len(), bytemuck::cast(data)), forward);
            }
        }
        Ok(tables)
    }
}
