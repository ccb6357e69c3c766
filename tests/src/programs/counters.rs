//! Every counter of the datapath, and which of them moved.

use std::collections::BTreeMap;

use anyhow::Result;
use aya::Ebpf;
use vnet_common::{
    names::map,
    network::NetworkTraffic,
    reason::{DropReason, Handover},
};

use super::load;

/// Counters by name, such as `1 drop malformed` with the network's slot in front; none is zero.
pub type Counted = BTreeMap<String, u64>;

/// The counters that are expected to have moved.
#[must_use]
pub fn counted(expected: &[(&str, u64)]) -> Counted {
    expected.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
}

/// All counters, summed over the CPUs.
pub(crate) fn read(ebpf: &Ebpf) -> Result<Counted> {
    let mut all = Counted::new();
    let drops = load::per_cpu::<u64>(ebpf, map::DROPS)?;
    for index in 0..drops.len() {
        let (network, number) = (index / DropReason::PER_NETWORK, index % DropReason::PER_NETWORK);
        let name = match DropReason::ALL.get(number as usize) {
            Some(reason) => reason.id().to_owned(),
            None => format!("unnamed reason {number}"),
        };
        add(&mut all, format!("{network} drop {name}"), sum(&drops, index)?);
    }
    let handovers = load::per_cpu::<u64>(ebpf, map::HANDOVERS)?;
    for index in 0..handovers.len() {
        let (network, number) = (index / Handover::PER_NETWORK, index % Handover::PER_NETWORK);
        let name = match Handover::ALL.get(number as usize) {
            Some(handover) => handover.id().to_owned(),
            None => format!("unnamed reason {number}"),
        };
        add(&mut all, format!("{network} handover {name}"), sum(&handovers, index)?);
    }
    let traffic = load::per_cpu::<NetworkTraffic>(ebpf, map::TRAFFIC)?;
    for network in 0..traffic.len() {
        let values = traffic.get(&network, 0)?;
        let total = |of: fn(&NetworkTraffic) -> u64| values.iter().map(|one| of(&one.0)).sum();
        let mut add = |what: &str, value| add(&mut all, format!("{network} {what}"), value);
        add("outbound packets", total(|traffic| traffic.outbound.packets));
        add("outbound bytes", total(|traffic| traffic.outbound.bytes));
        add("inbound packets", total(|traffic| traffic.inbound.packets));
        add("inbound bytes", total(|traffic| traffic.inbound.bytes));
    }
    Ok(all)
}

/// What was counted between two readings.
pub(crate) fn moved(before: &Counted, after: &Counted) -> Counted {
    let mut moved = Counted::new();
    for (name, value) in after {
        add(&mut moved, name.clone(), value - before.get(name).copied().unwrap_or(0));
    }
    moved
}

fn sum(array: &load::PerCpuArray<'_, u64>, index: u32) -> Result<u64> {
    Ok(array.get(&index, 0)?.iter().map(|value| value.0).sum())
}

fn add(counted: &mut Counted, name: String, value: u64) {
    if value != 0 {
        counted.insert(name, value);
    }
}
