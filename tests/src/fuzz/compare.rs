//! Counters and tables of the programs against those of the model.

use std::fmt::Write as _;

use vnet_common::flow::{
    FLAG_FORWARDED, FLAG_FROM_OUTSIDE, FLAG_HAIRPIN, FLAG_INSIDE_IS_HOST, FLAG_UNMAPPED,
};

use crate::model::{Counter, Endpoint, Model};
use crate::programs::{Counted, Tables};

/// What differs between counters.
pub(super) fn counters(expected: &[Counter], seen: &Counted) -> Option<String> {
    let mut wanted = Counted::new();
    let mut add = |name: String, amount: usize| *wanted.entry(name).or_default() += amount as u64;
    for counter in expected {
        match *counter {
            Counter::Drop(slot, reason) => add(format!("{slot} drop {}", reason.id()), 1),
            Counter::Handover(slot, reason) => add(format!("{slot} handover {}", reason.id()), 1),
            Counter::Outbound(slot, bytes) => {
                add(format!("{slot} outbound packets"), 1);
                add(format!("{slot} outbound bytes"), bytes);
            }
            Counter::Inbound(slot, bytes) => {
                add(format!("{slot} inbound packets"), 1);
                add(format!("{slot} inbound bytes"), bytes);
            }
        }
    }
    if wanted == *seen {
        return None;
    }
    let mut text = String::from("counters differ:\n");
    let names = wanted.keys().chain(seen.keys().filter(|name| !wanted.contains_key(*name)));
    for name in names {
        let (expected, seen) = (wanted.get(name).unwrap_or(&0), seen.get(name).unwrap_or(&0));
        if expected != seen {
            let _ = writeln!(text, "  {name}: expected {expected}, seen {seen}");
        }
    }
    Some(text)
}

/// A flow in the words of both sides.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    protocol: u8,
    inside: Endpoint,
    remote: Endpoint,
    external: Endpoint,
    network: u16,
    way: (u32, u32, std::net::IpAddr, bool),
    is_mapped: bool,
    is_hairpin: bool,
    /// From outside, answered, by a forward.
    opened: (bool, bool, bool),
    mtu: (usize, usize),
    state: &'static str,
    outbound: (u64, u64),
    inbound: (u64, u64),
}

/// What differs between the flows.
pub(super) fn tables(model: &Model, tables: &Tables) -> Option<String> {
    let mut expected: Vec<Line> = model
        .flows
        .iter()
        .map(|(_, flow)| Line {
            protocol: flow.protocol,
            inside: flow.inside,
            remote: flow.remote,
            external: flow.external,
            network: flow.network,
            way: (flow.bridge, flow.uplink, flow.next_hop, flow.bridge == 0),
            is_mapped: flow.is_mapped,
            is_hairpin: flow.is_hairpin,
            opened: (flow.is_from_outside, flow.is_answered, flow.is_forwarded),
            mtu: (flow.mtu_outbound, flow.mtu_inbound),
            state: flow.state.name(),
            outbound: flow.outbound,
            inbound: flow.inbound,
        })
        .collect();
    let mut seen: Vec<Line> = tables
        .live()
        .map(|(_, session)| Line {
            protocol: session.protocol,
            inside: (session.inside.to_addr(), session.inside_port.to_host()),
            remote: (session.remote.to_addr(), session.remote_port.to_host()),
            external: (session.external.to_addr(), session.external_port.to_host()),
            network: session.network,
            way: (
                session.bridge_ifindex,
                session.uplink_ifindex,
                session.next_hop.to_addr(),
                session.flags & FLAG_INSIDE_IS_HOST != 0,
            ),
            is_mapped: session.flags & FLAG_UNMAPPED == 0,
            is_hairpin: session.flags & FLAG_HAIRPIN != 0,
            opened: (
                session.flags & FLAG_FROM_OUTSIDE != 0,
                session.answered != 0,
                session.flags & FLAG_FORWARDED != 0,
            ),
            mtu: (session.mtu_outbound.into(), session.mtu_inbound.into()),
            state: vnet_common::tcp::State::from_byte(session.state).name(),
            outbound: (session.outbound.packets, session.outbound.bytes),
            inbound: (session.inbound.packets, session.inbound.bytes),
        })
        .collect();
    expected.sort();
    seen.sort();
    if expected == seen {
        return mappings(model, tables);
    }
    let mut text = String::from("flows differ:\n");
    for line in expected.iter().filter(|line| !seen.contains(line)) {
        let _ = writeln!(text, "  expected {line:?}");
    }
    for line in seen.iter().filter(|line| !expected.contains(line)) {
        let _ = writeln!(text, "  seen     {line:?}");
    }
    Some(text)
}

fn mappings(model: &Model, tables: &Tables) -> Option<String> {
    let mut expected = model.flows.mapped();
    let mut seen: Vec<_> = tables
        .mappings
        .iter()
        .map(|(key, mapping)| {
            let inside = (key.inside.to_addr(), key.inside_port.to_host());
            (key.protocol, inside, (key.external.to_addr(), mapping.external_port.to_host()))
        })
        .collect();
    expected.sort_unstable();
    seen.sort_unstable();
    if expected == seen {
        return None;
    }
    Some(format!("mappings differ:\n  expected {expected:?}\n  seen     {seen:?}"))
}
