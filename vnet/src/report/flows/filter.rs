//! Which flows to show, and in which order.

use std::{cmp::Reverse, net::IpAddr};

use clap::ValueEnum;

use super::{Flow, ReportError};
use crate::{instance::State, report::Protocol};

/// Which flows to show, and in which order. The default is all, the largest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of the guest with this address.
    pub guest: Option<IpAddr>,
    /// Only those of the network with this name.
    pub network: Option<String>,
    /// Only those of this protocol.
    pub protocol: Option<Protocol>,
    /// The order.
    pub sort: Sort,
    /// Only the first so many.
    pub limit: Option<usize>,
}

/// What comes first. Equal ones follow in the order of their inside ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Most bytes of both directions.
    #[default]
    Bytes,
    /// Most packets of both directions.
    Packets,
    /// Oldest.
    Age,
    /// Longest without a packet.
    Idle,
    /// Lowest inside address and port.
    Guest,
}

impl Filter {
    /// A network that does not exist is a mistake, not an empty list.
    pub(super) fn check(&self, state: &State) -> Result<(), ReportError> {
        let Some(network) = &self.network else { return Ok(()) };
        if state.networks.iter().any(|known| known.name == *network) {
            return Ok(());
        }
        Err(ReportError::NoNetwork {
            instance: state.instance.clone(),
            network: network.clone(),
            known: state.networks.iter().map(|known| known.name.clone()).collect(),
        })
    }

    pub(super) fn apply(&self, flows: impl Iterator<Item = Flow>) -> Vec<Flow> {
        let mut chosen: Vec<Flow> = flows.filter(|flow| self.passes(flow)).collect();
        chosen.sort_unstable_by_key(|flow| {
            let first = match self.sort {
                Sort::Bytes => u128::from(flow.outbound.bytes) + u128::from(flow.inbound.bytes),
                Sort::Packets => {
                    u128::from(flow.outbound.packets) + u128::from(flow.inbound.packets)
                }
                Sort::Age => flow.age.as_nanos(),
                Sort::Idle => flow.idle.as_nanos(),
                Sort::Guest => 0,
            };
            (Reverse(first), flow.inside, flow.protocol.0, flow.remote, flow.outside)
        });
        chosen.truncate(self.limit.unwrap_or(usize::MAX));
        chosen
    }

    fn passes(&self, flow: &Flow) -> bool {
        self.guest.is_none_or(|guest| guest.to_canonical() == flow.inside.address)
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.network.as_ref().is_none_or(|network| *network == flow.network)
    }
}
