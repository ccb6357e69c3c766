//! The policy table, asked at every hook with packets between every two places.

use anyhow::Result;
use vnet_common::{
    family::Family,
    flow::Direction::*,
    names::{FORWARDED_MARK, program},
    reason::{DropReason, Handover},
    tcp::flags::*,
};
use vnet_tests::programs::{modes::*, *};

/// From and to: nat, nat dev=X, route, route dev=X, isolated, open, outside X, outside Y, host; two
/// networks of one mode. A accept, M masquerade, L leave to the host, R reject.
const TABLE: [&str; 9] = [
    "R R M R R M M M A",
    "R R R R R R M R A",
    "R R A R R L A A A",
    "R R R R R R A R A",
    "R R R R R R R R A",
    "R R L R R L L L A",
    "R R A A R L A A A",
    "R R A R R L A A A",
    "A A A A A A A A A",
];

/// The same for IPv6 where the NAT networks have no `<nat ipv6='yes'/>`.
const WITHOUT_NAT66: [&str; 9] = [
    "A R A R R L A A A",
    "R R R R R R A R A",
    "A R A R R L A A A",
    "R R R R R R A R A",
    "R R R R R R R R A",
    "L R L R R L L L A",
    "A A A A R L A A A",
    "A R A R R L A A A",
    "A A A A A A A A A",
];

#[derive(Clone, Copy, Debug)]
enum Place {
    Network(ModeNetwork),
    Outside(&'static str),
    Host,
}

impl Place {
    /// The places of the table, with the first or the second network of each mode.
    fn all(second: bool) -> Vec<Self> {
        let networks = NETWORKS.into_iter().skip(usize::from(second)).step_by(2);
        let others = [Self::Outside("eth0"), Self::Outside("eth1"), Self::Host];
        networks.map(Self::Network).chain(others).collect()
    }

    /// The address of someone there; the host has its own on `eth1`.
    fn address(self, family: Family) -> String {
        let text = match (self, family) {
            (Self::Network(network), _) => return network.address(family, 10),
            (Self::Outside("eth0"), Family::Ipv4) => REMOTE,
            (Self::Outside("eth0"), Family::Ipv6) => REMOTE_6,
            (Self::Outside(_), Family::Ipv4) => "198.18.3.9",
            (Self::Outside(_), Family::Ipv6) => "2001:db8:1803::9",
            (Self::Host, Family::Ipv4) => "203.0.113.1",
            (Self::Host, Family::Ipv6) => "2001:db8:113::1",
        };
        text.to_owned()
    }

    /// The host's address on the interface towards it.
    fn gateway(self, family: Family) -> String {
        let text = match (self, family) {
            (Self::Network(network), _) => return network.address(family, 1),
            (Self::Outside("eth0"), Family::Ipv4) => EXTERNAL,
            (Self::Outside("eth0"), Family::Ipv6) => EXTERNAL_6,
            (_, Family::Ipv4) => "203.0.113.1",
            (_, Family::Ipv6) => "2001:db8:113::1",
        };
        text.to_owned()
    }

    fn interface(self) -> &'static str {
        match self {
            Self::Network(network) => network.bridge,
            Self::Outside(name) => name,
            Self::Host => "lo",
        }
    }

    fn origin(self) -> Origin<'static> {
        match self {
            Self::Host => Origin::Host,
            place => Origin::Interface(place.interface()),
        }
    }

    fn slot(self) -> u16 {
        match self {
            Self::Network(network) => network.slot,
            _ => 0,
        }
    }
}

/// TCP, UDP and ICMP from one place to another.
fn packets(from: Place, to: Place, family: Family) -> [Packet; 3] {
    let (source, destination) = (from.address(family), to.address(family));
    let at = |address: &str, port| match family {
        Family::Ipv4 => format!("{address}:{port}"),
        Family::Ipv6 => format!("[{address}]:{port}"),
    };
    let (inside, remote) = (at(&source, 20000), at(&destination, 80));
    [tcp(&inside, &remote, SYN), udp(&inside, &remote), echo_request(&inside, &destination)]
}

/// What an ICMP port-unreachable has for a code.
fn port_unreachable(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 3,
        Family::Ipv6 => 4,
    }
}

/// Asks for every cell of a table between two places that `is_met` there.
fn for_each_cell(
    without_nat66: bool,
    family: Family,
    table: [&str; 9],
    is_met: impl Fn(Place, Place) -> bool + Send + Sync,
    check: impl Fn(&mut Rig, Place, Place, &str, &Packet) -> Result<()> + Send + Sync,
) -> Result<()> {
    with_modes(|rig| {
        if without_nat66 {
            for slot in [1, 2, 3, 4] {
                rig.without_nat66(slot)?;
            }
        }
        // As many as there are packets.
        rig.set_icmp_tokens(1000)?;
        let mut cells = 0;
        for (from, row) in Place::all(false).into_iter().zip(table) {
            for (to, cell) in Place::all(true).into_iter().zip(row.split(' ')) {
                if !is_met(from, to) {
                    continue;
                }
                for packet in packets(from, to, family) {
                    println!("{family:?}: {from:?} to {to:?}: {cell}");
                    check(rig, from, to, cell, &packet)?;
                }
                cells += 1;
            }
        }
        assert!(cells >= 12, "{cells} cells");
        Ok(())
    })
}

/// Asks a hook all three tables: IPv4, IPv6 with NAT66, IPv6 without.
fn for_all_tables(
    is_met: impl Fn(Place, Place) -> bool + Copy + Send + Sync,
    check: impl Fn(&mut Rig, Family, Place, Place, &str, &Packet) -> Result<()> + Copy + Send + Sync,
) -> Result<()> {
    for (without_nat66, family, table) in [
        (false, Family::Ipv4, TABLE),
        (false, Family::Ipv6, TABLE),
        (true, Family::Ipv4, TABLE),
        (true, Family::Ipv6, WITHOUT_NAT66),
    ] {
        for_each_cell(without_nat66, family, table, is_met, |rig, from, to, cell, packet| {
            check(rig, family, from, to, cell, packet)
        })?;
    }
    Ok(())
}

/// A packet that goes on as it is, on both networks' accounts.
fn assert_forwarded(outcome: &Outcome, from: u16, to: u16, packet: &Packet) {
    let bytes = packet.frame().len() as u64;
    let mut moved = Counted::new();
    for (network, word) in [(from, "outbound"), (to, "inbound")] {
        if network != 0 {
            moved.insert(format!("{network} {word} packets"), 1);
            moved.insert(format!("{network} {word} bytes"), bytes);
        }
    }
    let mut forwarded = packet.clone();
    forwarded.ttl -= 1;
    outcome.assert(Verdict::Redirect, &forwarded.frame(), FORWARDED_MARK, &moved);
}

#[test]
fn every_cell_holds_at_the_ingress_of_bridges() -> Result<()> {
    let is_met = |from: Place, _: Place| from.slot() != 0;
    for_all_tables(is_met, |rig, family, from, to, cell, packet| {
        let bridge = from.interface();
        let outcome = rig.at(program::BRIDGE_INGRESS, bridge, from.origin(), &packet.frame())?;
        let slot = from.slot();
        match cell {
            "A" if matches!(to, Place::Host) => {
                outcome.assert_handed_over(slot, Handover::ToHost, packet);
            }
            "A" => assert_forwarded(&outcome, slot, to.slot(), packet),
            "M" => {
                let translated = packet.clone().from(&to.gateway(family)).ttl(63);
                let port = rig.tables()?.live().last().map(|(_, s)| s.external_port.to_host());
                let port = port.unwrap_or_default();
                // Another row's guest may have the port.
                let external = match family {
                    Family::Ipv4 => format!("{}:{port}", to.gateway(family)),
                    Family::Ipv6 => format!("[{}]:{port}", to.gateway(family)),
                };
                outcome.assert_redirected(slot, Outbound, &translated.from(&external));
            }
            "L" => outcome.assert_handed_over(slot, Handover::OpenNetwork, packet),
            _ => {
                let answer = unreachable(&from.gateway(family), port_unreachable(family), packet);
                outcome.assert_rejected(slot, DropReason::PolicyRejected, &answer);
            }
        }
        Ok(())
    })
}

#[test]
fn every_cell_holds_at_the_egress_of_bridges() -> Result<()> {
    let is_met = |_: Place, to: Place| to.slot() != 0;
    for_all_tables(is_met, |rig, family, from, to, cell, packet| {
        let bridge = to.interface();
        let outcome = rig.at(program::BRIDGE_EGRESS, bridge, from.origin(), &packet.frame())?;
        match cell {
            "A" | "L" => outcome.assert_passed(packet),
            "M" => {
                let translated = packet.clone().from(&to.gateway(family));
                outcome.assert_translated(from.slot(), Outbound, &translated);
            }
            _ => {
                // Before 6.7 the kernel does not tell the address that is nearer.
                let gateways = [from.gateway(family), to.gateway(family)];
                let answers =
                    gateways.map(|gateway| unreachable(&gateway, port_unreachable(family), packet));
                let nearer = usize::from(outcome.frame != answers[0]);
                let answer = &answers[nearer];
                outcome.assert_rejected(to.slot(), DropReason::PolicyRejected, answer);
            }
        }
        Ok(())
    })
}

#[test]
fn every_cell_holds_at_the_ingress_of_uplinks() -> Result<()> {
    let is_met = |from: Place, to: Place| {
        matches!(from, Place::Outside(_)) && !matches!(to, Place::Outside(_))
    };
    for_all_tables(is_met, |rig, family, from, to, cell, packet| {
        let uplink = from.interface();
        let outcome = rig.at(program::UPLINK_INGRESS, uplink, from.origin(), &packet.frame())?;
        let slot = to.slot();
        match cell {
            "A" if matches!(to, Place::Host) => {
                outcome.assert_handed_over(0, Handover::NoFlow, packet);
            }
            "A" => assert_forwarded(&outcome, 0, slot, packet),
            "L" => outcome.assert_handed_over(slot, Handover::OpenNetwork, packet),
            _ => {
                let answer = unreachable(&from.gateway(family), port_unreachable(family), packet);
                outcome.assert_rejected(slot, DropReason::PolicyRejected, &answer);
            }
        }
        Ok(())
    })
}

#[test]
fn every_cell_holds_at_the_egress_of_uplinks() -> Result<()> {
    let is_met = |_: Place, to: Place| matches!(to, Place::Outside(_));
    for_all_tables(is_met, |rig, family, from, to, cell, packet| {
        let uplink = to.interface();
        let outcome = rig.at(program::UPLINK_EGRESS, uplink, from.origin(), &packet.frame())?;
        match cell {
            "A" | "L" => outcome.assert_passed(packet),
            "M" => {
                let port = rig.tables()?.live().last().map(|(_, s)| s.external_port.to_host());
                let port = port.unwrap_or_default();
                let external = match family {
                    Family::Ipv4 => format!("{}:{port}", to.gateway(family)),
                    Family::Ipv6 => format!("[{}]:{port}", to.gateway(family)),
                };
                let translated = packet.clone().from(&external);
                outcome.assert_translated(from.slot(), Outbound, &translated);
            }
            _ => outcome.assert_dropped(from.slot(), DropReason::PolicyRejected),
        }
        Ok(())
    })
}

#[test]
fn gateways_of_other_networks_are_the_host_from_everywhere() -> Result<()> {
    with_modes(|rig| {
        for family in [Family::Ipv4, Family::Ipv6] {
            for from in Place::all(false) {
                for to in Place::all(true) {
                    let Place::Network(network) = to else { continue };
                    if matches!(from, Place::Host) {
                        continue;
                    }
                    let packet = &packets(from, to, family)[1];
                    let packet = packet.clone().to(&network.address(family, 1));
                    let (hook, slot) = match from {
                        Place::Network(network) => (program::BRIDGE_INGRESS, network.slot),
                        _ => (program::UPLINK_INGRESS, network.slot),
                    };
                    let outcome = rig.at(hook, from.interface(), from.origin(), &packet.frame())?;
                    outcome.assert_handed_over(slot, Handover::ToHost, &packet);
                }
            }
        }
        Ok(())
    })
}
