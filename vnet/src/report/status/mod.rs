//! What an instance runs, and what became of the packets.

mod table;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use serde::Serialize;
use vnet_common::{
    flow::Traffic,
    limits,
    names::map,
    network::NetworkTraffic,
    reason::{DropReason, Handover},
};

use super::{
    Counts, ReportError, daemon,
    pinned::{Counters, PinnedMaps},
    sessions::Sessions,
};
use crate::instance::{
    Name,
    state::{HookState, NetworkState, UplinkState},
};

/// What an instance runs, and what became of the packets since its maps were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The instance's name.
    pub instance: String,
    /// Version of vnet that started it.
    pub version: String,
    /// The daemon's process, or what it was.
    pub pid: u32,
    /// Whether the daemon runs. The datapath is in place either way.
    pub daemon_running: bool,
    /// When the instance started, in seconds of Unix time.
    pub started: u64,
    /// How long ago that was.
    pub uptime_seconds: u64,
    /// The flow table.
    pub flows: FlowTable,
    /// The attached programs, in the order of attachment.
    pub hooks: Vec<HookState>,
    /// The networks, by slot.
    pub networks: Vec<NetworkStatus>,
    /// The interfaces towards outside.
    pub uplinks: Vec<UplinkState>,
    /// What became of packets that belong to no network.
    pub no_network: Outcomes,
}

/// How full the flow table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowTable {
    /// Flows that packets may use.
    pub live: u64,
    /// Live flows that there may be.
    pub limit: u32,
    /// Flows that expiry has ended.
    pub expired: u64,
}

/// A network and its account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkStatus {
    /// What it is.
    #[serde(flatten)]
    pub network: NetworkState,
    /// Its live flows.
    pub flows: u64,
    /// From guests to outside.
    pub outbound: Counts,
    /// From outside to guests.
    pub inbound: Counts,
    /// What did not get through.
    #[serde(flatten)]
    pub outcomes: Outcomes,
}

/// Packets that vnet did not forward.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// Dropped, by reason. Reasons that never occurred are left out.
    pub drops: Vec<Outcome>,
    /// Left to the host's own stack, which is the normal way for such packets, by reason; likewise.
    pub handovers: Vec<Outcome>,
}

/// Packets that had one outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The reason's word.
    pub reason: &'static str,
    /// The reason in one sentence.
    pub description: &'static str,
    /// How many.
    pub packets: u64,
}

/// Reads the status of an instance.
pub fn read(name: &Name) -> Result<Status, ReportError> {
    let state = super::state(name)?;
    let running = daemon::is_running(&name.runtime_directory(), state.pid);
    let maps = PinnedMaps::of(&state);
    let sessions = Sessions::open(&maps)?;
    let counters = AllCounters::open(&maps)?;

    let (live, live_by_slot) = count(&sessions);
    let flows = FlowTable { live, limit: state.flow_limit, expired: sessions.expired };
    let flows_of = |slot: u16| live_by_slot.get(usize::from(slot)).copied().unwrap_or_default();
    let networks: Result<Vec<_>, _> = state
        .networks
        .iter()
        .map(|network| counters.network(network, flows_of(network.slot)))
        .collect();
    let networks = networks?;
    let no_network = counters.outcomes(NO_NETWORK)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(Status {
        instance: state.instance,
        version: state.version,
        pid: state.pid,
        daemon_running: running,
        started: state.started,
        uptime_seconds: now.as_secs().saturating_sub(state.started),
        flows,
        hooks: state.hooks,
        networks,
        uplinks: state.uplinks,
        no_network,
    })
}

impl Status {
    /// The status for people, 100 characters wide at most.
    #[must_use]
    pub fn table(&self) -> String {
        table::render(self)
    }
}

/// The slot of counters for packets of no network.
const NO_NETWORK: u16 = 0;

/// Live flows: all, and by the slot of their network.
fn count(sessions: &Sessions) -> (u64, Vec<u64>) {
    let mut by_slot = vec![0; limits::NETWORKS as usize];
    let mut all = 0;
    for session in sessions.live() {
        all += 1;
        if let Some(count) = by_slot.get_mut(usize::from(session.network)) {
            *count += 1;
        }
    }
    (all, by_slot)
}

struct AllCounters<'a> {
    traffic: Counters<'a, NetworkTraffic>,
    drops: Counters<'a, u64>,
    handovers: Counters<'a, u64>,
}

impl<'a> AllCounters<'a> {
    fn open(maps: &PinnedMaps<'a>) -> Result<Self, ReportError> {
        Ok(Self {
            traffic: maps.counters(map::TRAFFIC)?,
            drops: maps.counters(map::DROPS)?,
            handovers: maps.counters(map::HANDOVERS)?,
        })
    }

    fn network(&self, network: &NetworkState, flows: u64) -> Result<NetworkStatus, ReportError> {
        let mut sum = NetworkTraffic::default();
        for cpu in self.traffic.at(u32::from(network.slot))? {
            add(&mut sum.outbound, cpu.outbound);
            add(&mut sum.inbound, cpu.inbound);
        }
        Ok(NetworkStatus {
            network: network.clone(),
            flows,
            outbound: sum.outbound.into(),
            inbound: sum.inbound.into(),
            outcomes: self.outcomes(network.slot)?,
        })
    }

    fn outcomes(&self, slot: u16) -> Result<Outcomes, ReportError> {
        let mut outcomes = Outcomes::default();
        for reason in DropReason::ALL {
            let packets = self.drops.at(reason.counter(slot))?.into_iter().sum();
            outcomes.drops.push(Outcome {
                reason: reason.id(),
                description: reason.description(),
                packets,
            });
        }
        for reason in Handover::ALL {
            let packets = self.handovers.at(reason.counter(slot))?.into_iter().sum();
            outcomes.handovers.push(Outcome {
                reason: reason.id(),
                description: reason.description(),
                packets,
            });
        }
        outcomes.drops.retain(|outcome| outcome.packets > 0);
        outcomes.handovers.retain(|outcome| outcome.packets > 0);
        Ok(outcomes)
    }
}

fn add(sum: &mut Traffic, more: Traffic) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}
