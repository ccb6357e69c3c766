//! Guests that have gone: their flows must not reach the next guest with the same address.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use aya::maps::HashMap;
use nix::time::{ClockId, clock_gettime};
use vnet_common::{
    address::Address,
    guard::{AddressHolder, AddressKey},
    names::map,
};

use super::{Datapath, DatapathError, tables::absent_is_fine};
use crate::definition::MacAddress;

/// An address that a guest was the first to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedAddress {
    /// Index of the port where it was learned.
    pub port: u32,
    /// The guest.
    pub mac: MacAddress,
    /// The address.
    pub address: IpAddr,
}

impl Datapath {
    /// Notes that guests have left these addresses. Their flows end with the next epoch: at their next
    /// packet or, without one, with the sweep that follows it. Of more than there is room for, the
    /// rest keep their flows.
    pub fn depart(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), DatapathError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let now = coarse_now();
        let mut departures: HashMap<_, Address, u64> = self.map(map::DEPARTURES)?;
        let mut count = 0;
        for address in addresses {
            match departures.insert(Address::from_addr(*address), now, 0) {
                Ok(()) => count += 1,
                Err(error) => {
                    log::warn!("flows of a guest that left {address} go on: {error}");
                }
            }
        }
        self.config.departures = self.config.departures.saturating_add(count);
        Ok(())
    }

    /// Forgets them, after a sweep over all flows.
    pub fn forget_departures(&mut self) -> Result<(), DatapathError> {
        if self.config.departures == 0 {
            return Ok(());
        }
        self.config.departures = 0;
        self.write_config()?;
        let mut departures: HashMap<_, Address, u64> = self.map(map::DEPARTURES)?;
        let addresses: Vec<_> = departures.keys().flatten().collect();
        for address in addresses {
            absent_is_fine(departures.remove(&address), map::DEPARTURES)?;
        }
        Ok(())
    }

    /// The addresses that the guard has learned at these ports, each with the port and the guest.
    pub fn addresses_learned_at(
        &mut self,
        ports: &BTreeSet<u32>,
    ) -> Result<Vec<LearnedAddress>, DatapathError> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let map: HashMap<_, AddressKey, AddressHolder> = self.map(map::GUARD_ADDRESSES)?;
        // A guest may learn while this runs, which ends the walk early: what is missed times out.
        let held = map.iter().flatten().filter(|(_, holder)| ports.contains(&holder.learned_at));
        let learned = held.map(|(key, holder)| LearnedAddress {
            port: holder.learned_at,
            mac: MacAddress(holder.mac.to_bytes()),
            address: key.address.to_addr(),
        });
        Ok(learned.collect())
    }
}

/// The programs' clock, in nanoseconds.
fn coarse_now() -> u64 {
    // The clock exists on every Linux; 0 would only leave flows to their timeouts.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}
