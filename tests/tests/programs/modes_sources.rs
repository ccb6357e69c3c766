//! Sources that cannot be, at every hook, and guests that must not reach each other.

use anyhow::Result;
use vnet_common::{
    family::Family,
    flow::Direction::*,
    names::program,
    network::NETWORK_ISOLATED_PORTS,
    reason::{DropReason, Handover},
};
use vnet_tests::programs::{modes::*, *};

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn end(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn query(from: &str, to: &str) -> Packet {
    udp(&end(from, 20000), &end(to, 53))
}

fn remote(family: Family) -> &'static str {
    if family == Family::Ipv4 { REMOTE } else { REMOTE_6 }
}

/// Who is behind the other uplink.
fn beyond(family: Family) -> &'static str {
    if family == Family::Ipv4 { "198.18.3.9" } else { "2001:db8:1803::9" }
}

/// Addresses of the host: of its uplinks and of one that is none.
fn own_addresses(family: Family) -> [&'static str; 3] {
    match family {
        Family::Ipv4 => [EXTERNAL, "203.0.113.1", "10.99.0.1"],
        Family::Ipv6 => [EXTERNAL_6, "2001:db8:113::1", "2001:db8:99::1"],
    }
}

fn at(
    rig: &mut Rig,
    program: &'static str,
    interface: &str,
    from: &str,
    packet: &Packet,
) -> Result<Outcome> {
    rig.at(program, interface, Origin::Interface(from), &packet.frame())
}

#[test]
fn guest_has_an_address_of_its_own_network_and_none_of_the_hosts() -> Result<()> {
    with_modes(|rig| {
        for family in FAMILIES {
            // Open networks are not judged: see below.
            for network in NETWORKS.into_iter().take(10) {
                let others = NETWORKS.into_iter().filter(|other| other.slot != network.slot);
                let mut sources: Vec<String> = others
                    .flat_map(|other| [10, 1].map(|host| other.address(family, host)))
                    .collect();
                sources.push(network.address(family, 1));
                sources.push(remote(family).to_owned());
                sources.extend(own_addresses(family).map(str::to_owned));
                let more = match family {
                    Family::Ipv4 => ["0.0.0.0", "127.0.0.1", "224.0.0.1"],
                    Family::Ipv6 => ["::1", "ff02::1", "2001:db8:ffff::1"],
                };
                sources.extend(more.map(str::to_owned));
                for source in sources {
                    let packet = query(&source, beyond(family));
                    let (bridge, slot) = (network.bridge, network.slot);
                    let outcome = at(rig, program::BRIDGE_INGRESS, bridge, bridge, &packet)?;
                    outcome.assert_dropped(slot, DropReason::SpoofedSource);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn guest_of_an_open_network_has_no_address_of_another_network_nor_of_the_host() -> Result<()> {
    with_modes(|rig| {
        let open = network_of(OPEN);
        for family in FAMILIES {
            for network in NETWORKS.into_iter().take(10) {
                for host in [10, 1] {
                    let packet = query(&network.address(family, host), remote(family));
                    let outcome =
                        at(rig, program::BRIDGE_INGRESS, open.bridge, open.bridge, &packet)?;
                    outcome.assert_dropped(OPEN, DropReason::SpoofedSource);
                }
            }
            for own in own_addresses(family) {
                let packet = query(own, remote(family));
                let outcome = at(rig, program::BRIDGE_INGRESS, open.bridge, open.bridge, &packet)?;
                outcome.assert_dropped(OPEN, DropReason::SpoofedSource);
            }
            // What it routes for is not ours to know.
            let packet = query(remote(family), beyond(family));
            let outcome = at(rig, program::BRIDGE_INGRESS, open.bridge, open.bridge, &packet)?;
            outcome.assert_handed_over(OPEN, Handover::OpenNetwork, &packet);
        }
        Ok(())
    })
}

#[test]
fn nobody_outside_has_an_address_of_a_network_or_of_the_host() -> Result<()> {
    with_modes(|rig| {
        for family in FAMILIES {
            let targets = [
                network_of(ROUTED).address(family, 10),
                network_of(OPEN).address(family, 10),
                network_of(NETWORK).address(family, 10),
                own_addresses(family)[0].to_owned(),
                network_of(ROUTED).address(family, 1),
            ];
            for target in &targets {
                for network in NETWORKS {
                    let hosts = if network.slot < OPEN { &[10_u8, 1][..] } else { &[1] };
                    for &host in hosts {
                        let packet = query(&network.address(family, host), target);
                        let outcome = rig.from_outside(&packet)?;
                        outcome.assert_dropped(network.slot, DropReason::SpoofedSource);
                    }
                }
                for own in own_addresses(family) {
                    let outcome = rig.from_outside(&query(own, target))?;
                    outcome.assert_dropped(0, DropReason::SpoofedSource);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn address_of_an_open_network_comes_from_elsewhere_to_open_networks_and_the_host_alone()
-> Result<()> {
    with_modes(|rig| {
        for family in FAMILIES {
            let source = network_of(OPEN).address(family, 10);
            for slot in [NETWORK, NAT_BOUND, ROUTED, ROUTED_BOUND, ISOLATED] {
                let packet = query(&source, &network_of(slot).address(family, 10));
                let outcome = rig.from_outside(&packet)?;
                outcome.assert_dropped(OPEN, DropReason::SpoofedSource);
                for from in ["eth0", "eth1", "vpn0"] {
                    let bridge = network_of(slot).bridge;
                    let outcome = at(rig, program::BRIDGE_EGRESS, bridge, from, &packet)?;
                    outcome.assert_dropped(slot, DropReason::SpoofedSource);
                }
            }
            let packet = query(&source, &network_of(OPEN + 1).address(family, 10));
            rig.from_outside(&packet)?.assert_handed_over(OPEN + 1, Handover::OpenNetwork, &packet);
            let bridge = network_of(OPEN + 1).bridge;
            let outcome = at(rig, program::BRIDGE_EGRESS, bridge, "eth0", &packet)?;
            outcome.assert_passed(&packet);
            let packet = query(&source, own_addresses(family)[0]);
            rig.from_outside(&packet)?.assert_handed_over(0, Handover::NoFlow, &packet);
        }
        Ok(())
    })
}

#[test]
fn what_the_stack_brings_to_guests_has_a_source_of_where_it_came_from() -> Result<()> {
    with_modes(|rig| {
        for family in FAMILIES {
            for to in NETWORKS.into_iter().take(10) {
                let target = to.address(family, 10);
                for network in NETWORKS.into_iter().take(10) {
                    for from in ["eth0", "vpn0", "virbr11"] {
                        let packet = query(&network.address(family, 10), &target);
                        let outcome = at(rig, program::BRIDGE_EGRESS, to.bridge, from, &packet)?;
                        outcome.assert_dropped(to.slot, DropReason::SpoofedSource);
                    }
                }
                for own in own_addresses(family) {
                    // Where there are hooks of ours, only the host's own rules can have set it.
                    let packet = query(own, &target);
                    let outcome = at(rig, program::BRIDGE_EGRESS, to.bridge, "vpn0", &packet)?;
                    outcome.assert_dropped(to.slot, DropReason::SpoofedSource);
                }
                let packet = query(remote(family), &target);
                let outcome = at(rig, program::BRIDGE_EGRESS, to.bridge, "virbr5", &packet)?;
                outcome.assert_dropped(to.slot, DropReason::SpoofedSource);
            }
        }
        Ok(())
    })
}

#[test]
fn what_the_stack_sends_outside_has_a_source_of_where_it_came_from() -> Result<()> {
    with_modes(|rig| {
        for family in FAMILIES {
            for network in NETWORKS.into_iter().take(10) {
                // A guest's address from elsewhere is on its network's account.
                for from in ["eth1", "virbr11"] {
                    let packet = query(&network.address(family, 10), remote(family));
                    let outcome = at(rig, program::UPLINK_EGRESS, "eth0", from, &packet)?;
                    outcome.assert_dropped(network.slot, DropReason::SpoofedSource);
                }
                let packet = query(remote(family), remote(family));
                let outcome = at(rig, program::UPLINK_EGRESS, "eth0", network.bridge, &packet)?;
                outcome.assert_dropped(network.slot, DropReason::SpoofedSource);
            }
        }
        Ok(())
    })
}

/// Two guests of each network that has only one subnet, and of one that has two.
fn neighbours(slot: u16, family: Family) -> [(String, String); 2] {
    let network = network_of(slot);
    let guest = network.address(family, 10);
    let other_subnet = match family {
        Family::Ipv4 => "10.1.0.5",
        Family::Ipv6 => "fd00:a1::5",
    };
    let second = if slot == NETWORK { other_subnet.to_owned() } else { guest.clone() };
    [(guest, second.clone()), (second, network.address(family, 10))]
}

#[test]
fn guests_behind_isolated_ports_do_not_reach_each_other_by_way_of_the_host() -> Result<()> {
    with_modes(|rig| {
        rig.set_icmp_tokens(1000)?;
        for slot in [NETWORK, NAT_BOUND, ROUTED, ROUTED_BOUND, ISOLATED, OPEN] {
            rig.set_network(slot, |network| network.flags |= NETWORK_ISOLATED_PORTS)?;
            let network = network_of(slot);
            let bridge = network.bridge;
            for family in FAMILIES {
                let code = if family == Family::Ipv4 { 3 } else { 4 };
                let gateway = network.address(family, 1);
                for (from, to) in neighbours(slot, family) {
                    let packet = query(&from, &to);
                    let answer = unreachable(&gateway, code, &packet);
                    let outcome = at(rig, program::BRIDGE_INGRESS, bridge, bridge, &packet)?;
                    outcome.assert_rejected(slot, DropReason::IsolatedPort, &answer);
                    // The kernel may prefer the address of the sender's own subnet there.
                    let outcome = at(rig, program::BRIDGE_EGRESS, bridge, bridge, &packet)?;
                    let near = if family == Family::Ipv4 { "10.1.0.1" } else { "fd00:a1::1" };
                    let nearer = unreachable(near, code, &packet);
                    let answer = if outcome.frame == nearer { nearer } else { answer };
                    outcome.assert_rejected(slot, DropReason::IsolatedPort, &answer);
                }
                let packet = query(&network.address(family, 10), &gateway);
                let outcome = at(rig, program::BRIDGE_INGRESS, bridge, bridge, &packet)?;
                outcome.assert_handed_over(slot, Handover::ToHost, &packet);
                let back = query(&gateway, &network.address(family, 10));
                let outcome =
                    rig.at(program::BRIDGE_EGRESS, bridge, Origin::Host, &back.frame())?;
                outcome.assert_passed(&back);
            }
        }
        // Outside they are as before.
        let packet = query(GUEST, REMOTE);
        let outcome = rig.from_guest(&packet)?;
        outcome.assert_redirected(NETWORK, Outbound, &packet.from(EXTERNAL).ttl(63));
        Ok(())
    })
}
