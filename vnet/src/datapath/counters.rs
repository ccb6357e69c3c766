//! The counters of networks.

use aya::{
    Pod,
    maps::{MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use bytemuck::Zeroable;
use vnet_common::{
    names::map,
    network::{Config, NetworkTraffic},
    reason::{DropReason, Handover},
};

use super::{Datapath, DatapathError, tables::failed};

impl Datapath {
    /// Begins anew to count for slots that other networks have got.
    pub fn forget_counters(&mut self, slots: &[u16]) -> Result<(), DatapathError> {
        // All are zero in maps that no packet has been counted in.
        if self.config.epoch == Config::default().epoch {
            return Ok(());
        }
        for slot in slots.iter().map(|slot| u32::from(*slot)) {
            self.clear::<NetworkTraffic>(map::TRAFFIC, slot, 1)?;
            self.clear::<u64>(map::DROPS, slot, DropReason::PER_NETWORK)?;
            self.clear::<u64>(map::HANDOVERS, slot, Handover::PER_NETWORK)?;
        }
        Ok(())
    }

    fn clear<V: Pod + Zeroable>(
        &mut self,
        name: &'static str,
        slot: u32,
        per_network: u32,
    ) -> Result<(), DatapathError> {
        let cpus = nr_cpus().map_err(|(_, source)| DatapathError::Map {
            map: name,
            source: MapError::IoError(source),
        })?;
        let mut counters: PerCpuArray<_, V> = self.map(name)?;
        for index in slot * per_network..(slot + 1) * per_network {
            let zero = PerCpuValues::try_from(vec![V::zeroed(); cpus]).map_err(|source| {
                DatapathError::Map { map: name, source: MapError::IoError(source) }
            })?;
            counters.set(index, zero, 0).map_err(failed(name))?;
        }
        Ok(())
    }
}
