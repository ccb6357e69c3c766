//! What masqueraded networks and their guests may use, and what they do use.

use std::{collections::HashMap, net::IpAddr};

use aya::maps::MapError;
use serde::Serialize;
use vnet_common::{
    address::Address,
    flow::{GUEST_GONE, GuestUsage},
    names::map,
    network::Network,
};

use crate::report::{ReportError, pinned::PinnedMaps};

/// The limits of a masqueraded network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Flows of all its guests, also ended ones whose port is held down.
    pub flows: Limit,
    /// Flows of the guest that has the most.
    pub guest_flows: GuestLimit,
    /// External ports of the guest that has the most, also those that are held down.
    pub guest_ports: GuestLimit,
    /// Flows that one guest may open in a second; none if any number.
    pub guest_new_flows_per_second: Option<u32>,
}

/// A limit and what is used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What is used.
    pub used: u64,
    /// What may be used.
    pub limit: u32,
}

/// A limit of each guest, and the guest that uses most of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GuestLimit {
    /// What it uses.
    pub used: u32,
    /// What each may use.
    pub limit: u32,
    /// The guest; none if nobody uses anything.
    pub guest: Option<IpAddr>,
}

/// What the guests of each network use.
pub(super) struct Usage {
    by_slot: HashMap<u16, Vec<GuestUsage>>,
}

impl Usage {
    /// Of guests with their network's slot.
    pub fn read(
        maps: &PinnedMaps<'_>,
        guests: &HashMap<Address, u16>,
    ) -> Result<Self, ReportError> {
        let accounts = maps.hash::<Address, GuestUsage>(map::GUESTS)?;
        let mut by_slot = HashMap::<u16, Vec<GuestUsage>>::new();
        for (guest, slot) in guests {
            match accounts.get(guest, 0) {
                Ok(usage) if usage.ports < GUEST_GONE => {
                    by_slot.entry(*slot).or_default().push(usage);
                }
                // Its last flow has ended since.
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(maps.failed(map::GUESTS, error)),
            }
        }
        Ok(Self { by_slot })
    }

    /// The limits of a network of which so many slots of the flow table are used.
    pub fn against(&self, slot: u16, network: &Network, used: u64) -> Limits {
        let most = |of: fn(&GuestUsage) -> u32, limit| {
            let guests = self.by_slot.get(&slot).into_iter().flatten();
            // Of guests that are equal the one with the lowest address.
            let most = guests
                .map(|usage| (of(usage), usage.inside.to_addr()))
                .filter(|(used, _)| *used > 0)
                .min_by_key(|(used, guest)| (u32::MAX - used, *guest));
            GuestLimit {
                used: most.map_or(0, |(used, _)| used),
                limit,
                guest: most.map(|(_, guest)| guest),
            }
        };
        Limits {
            flows: Limit { used, limit: network.flow_limit },
            guest_flows: most(|usage| usage.flows, network.flows_per_guest),
            guest_ports: most(|usage| usage.ports, network.ports_per_guest),
            guest_new_flows_per_second: Some(network.new_flows_per_second)
                .filter(|limit| *limit > 0),
        }
    }
}
