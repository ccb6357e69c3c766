//! The interfaces towards outside, and the addresses to masquerade to.

use std::collections::{BTreeSet, HashMap};

use vnet_common::limits;

use super::{Addresses, Options, PlannedUplink, Problem};
use crate::{
    definition,
    host::{self, Link, LinkKind, LinkLayer, Reach, Snapshot, UplinkCandidate},
};

pub(super) fn plan(
    definitions: &[definition::Network],
    host: &Snapshot,
    bridges: &[u32],
    options: &Options,
    problems: &mut Vec<Problem>,
) -> Vec<PlannedUplink> {
    let mut candidates: HashMap<u32, UplinkCandidate> = host::uplinks(host, bridges)
        .into_iter()
        .map(|candidate| (candidate.interface, candidate))
        .collect();
    // Those of definitions come on top; those of the command line are all that there are.
    let in_definitions = definitions.iter().flat_map(|definition| &definition.options.uplinks);
    let mut asked_for = HashMap::new();
    let names: BTreeSet<_> =
        options.uplinks.iter().chain(in_definitions.map(|uplink| &uplink.value)).collect();
    for name in names {
        match named_uplink(host, bridges, name, &mut candidates) {
            Ok(candidate) => drop(asked_for.insert(candidate.interface, candidate)),
            Err(problem) => problems.push(problem),
        }
    }
    if options.uplinks.is_empty() {
        candidates.retain(|_, candidate| !has_only_guests(candidate, host));
        asked_for.extend(candidates);
    }
    // What the programs cannot read is left out unless it was asked for, which was refused above.
    let mut uplinks: Vec<_> = asked_for.into_values().filter_map(planned_uplink).collect();
    uplinks.sort_by_key(|uplink| uplink.ifindex);
    uplinks
}

/// The addresses that an interface itself has to masquerade to.
pub(super) fn own_addresses(host: &Snapshot, interface: u32) -> Addresses {
    let ipv4 = host::uplink::own_ipv4(host, interface);
    let ipv6 = host::uplink::own_ipv6(host, interface);
    addresses(ipv4.map(|found| (found.address, found.subnet.prefix_len())), ipv6)
}

fn addresses(
    ipv4: impl IntoIterator<Item = (std::net::Ipv4Addr, u8)>,
    ipv6: impl IntoIterator<Item = ipnet::Ipv6Net>,
) -> Addresses {
    let ipv6 = ipv6.into_iter().map(|found| (found.addr(), found.prefix_len()));
    Addresses {
        ipv4: ipv4.into_iter().take(limits::ADDRESSES_PER_UPLINK).collect(),
        ipv6: ipv6.take(limits::ADDRESSES_PER_UPLINK).collect(),
    }
}

/// Whether a bridge that is no network's own leads to nothing but other guests or containers: it has
/// no default route and no port that could be a wire. Sending there would pass by the host's own
/// firewall, which may keep them apart.
fn has_only_guests(candidate: &UplinkCandidate, host: &Snapshot) -> bool {
    let is_wire = |port: &Link| {
        matches!(port.kind, LinkKind::Physical | LinkKind::Bond | LinkKind::Vlan)
            || matches!(&port.kind, LinkKind::Other(kind) if kind == "team")
    };
    host.link(candidate.interface).is_some_and(|link| link.kind == LinkKind::Bridge)
        && candidate.ipv4 != Reach::Default
        && candidate.ipv6 != Reach::Default
        && !host.ports_of(candidate.interface).any(is_wire)
}

fn named_uplink(
    host: &Snapshot,
    bridges: &[u32],
    name: &str,
    candidates: &mut HashMap<u32, UplinkCandidate>,
) -> Result<UplinkCandidate, Problem> {
    let link = host.link_named(name).ok_or(Problem::NoUplink { name: name.to_owned() })?;
    if bridges.contains(&link.index) {
        return Err(Problem::UplinkIsBridge { name: name.to_owned() });
    }
    if let Some(master) = link.master.and_then(|index| host.link(index))
        && link.port.as_ref().is_some_and(|port| !matches!(port, host::Port::Other(_)))
    {
        let master = master.name.clone();
        return Err(Problem::UplinkIsPort { name: name.to_owned(), master });
    }
    if !matches!(link.layer, LinkLayer::Ethernet | LinkLayer::RawIp) {
        return Err(Problem::UnsupportedLink { name: name.to_owned() });
    }
    // An uplink without a route yet is an uplink all the same: it may get one.
    Ok(candidates.remove(&link.index).unwrap_or_else(|| UplinkCandidate {
        interface: link.index,
        name: link.name.clone(),
        layer: link.layer,
        ipv4: Reach::Nothing,
        ipv6: Reach::Nothing,
        masquerade: Vec::new(),
        masquerade_ipv6: Vec::new(),
    }))
}

fn planned_uplink(candidate: UplinkCandidate) -> Option<PlannedUplink> {
    let raw = match candidate.layer {
        LinkLayer::Ethernet => false,
        LinkLayer::RawIp => true,
        LinkLayer::Other(_) => return None,
    };
    let ipv4 = candidate.masquerade.iter().map(|found| (found.address, found.subnet.prefix_len()));
    Some(PlannedUplink {
        ifindex: candidate.interface,
        raw,
        addresses: addresses(ipv4, candidate.masquerade_ipv6),
        name: candidate.name,
    })
}
