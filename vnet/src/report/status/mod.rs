//! What an instance runs, and what became of the packets.

mod limits;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use vnet_common::{
    address::Address,
    flow::{Phase, Traffic},
    names::map,
    network::NetworkTraffic,
    policy::Mode,
    reason::{DropReason, Handover},
};

pub use limits::{GuestLimit, Limit, Limits};

use super::{
    Counts, ReportError, daemon,
    pinned::{Counters, PinnedMaps},
    sessions::Sessions,
};
use crate::instance::{
    Name,
    state::{HookState, NetworkState, ShortcutState, UplinkState},
};
use crate::services::{ServiceState, dnsmasq::Directories};

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
    /// Who serves guests addresses and names, where their definitions ask for it.
    pub services: Vec<ServiceState>,
    /// The interfaces towards outside.
    pub uplinks: Vec<UplinkState>,
    /// What takes a short way past the bridges, and what does not.
    pub shortcut: ShortcutState,
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
    /// What it may use, if it is masqueraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
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

    let census = Census::of(&sessions);
    let flows = FlowTable { live: census.live, limit: state.flow_limit, expired: sessions.expired };
    let usage = limits::Usage::read(&maps, &census.guests)?;
    let entries = maps.networks()?;
    let slots_used = maps.array::<u64>(map::NETWORK_FLOWS)?;
    let network = |network: &NetworkState| -> Result<NetworkStatus, ReportError> {
        let slot = u32::from(network.slot);
        let entry = entries.at(network.slot)?;
        let used = slots_used.get(&slot, 0);
        let used = used.map_err(|error| maps.failed(map::NETWORK_FLOWS, error))?;
        let is_masqueraded = [entry.mode, entry.mode_ipv6].contains(&(Mode::Nat as u8));
        let limits = is_masqueraded.then(|| usage.against(network.slot, &entry, used));
        counters.network(network, census.flows_of(network.slot), limits)
    };
    let networks: Vec<_> = state.networks.iter().map(network).collect::<Result<_, _>>()?;
    let no_network = counters.outcomes(NO_NETWORK)?;
    let directories = Directories::of_instance(&name.runtime_directory(), &name.to_string());
    let services = state.services.into_iter().map(|service| service.now(&directories));
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
        services: services.collect(),
        uplinks: state.uplinks,
        shortcut: state.shortcut,
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

/// What one look at all sessions tells.
#[derive(Default)]
struct Census {
    /// Live flows.
    live: u64,
    /// Likewise, by the slot of their network.
    by_slot: HashMap<u16, u64>,
    /// Guests with flows, also with ended ones whose ports are held down, and their networks' slots.
    guests: HashMap<Address, u16>,
}

impl Census {
    fn of(sessions: &Sessions) -> Self {
        let mut census = Self::default();
        for session in sessions.held() {
            census.guests.insert(session.inside, session.network);
            if Phase::from_word(session.phase) == Phase::Live {
                census.live += 1;
                *census.by_slot.entry(session.network).or_default() += 1;
            }
        }
        census
    }

    fn flows_of(&self, slot: u16) -> u64 {
        self.by_slot.get(&slot).copied().unwrap_or_default()
    }
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

    fn network(
        &self,
        network: &NetworkState,
        flows: u64,
        limits: Option<Limits>,
    ) -> Result<NetworkStatus, ReportError> {
        let mut sum = NetworkTraffic::default();
        for cpu in self.traffic.at(u32::from(network.slot))? {
            add(&mut sum.outbound, cpu.outbound);
            add(&mut sum.inbound, cpu.inbound);
        }
        Ok(NetworkStatus {
            network: network.clone(),
            flows,
            limits,
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
