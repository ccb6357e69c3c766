//! Guests of NAT networks that speak with guests of routed and open ones: with an address of that
//! network's bridge, where their answers arrive.

use anyhow::Result;
use vnet_common::{
    family::Family,
    flow::Direction::*,
    names::{INBOUND_MARK, program},
    network::SUBNET_IS_HOST,
    policy::Mode,
    reason::{DropReason, Handover},
    tcp::flags::*,
};
use vnet_tests::programs::{modes::*, *};

/// A NAT guest, its network's gateway, a guest of a network that it is masqueraded to, and the gateway
/// there.
struct Ends {
    network: ModeNetwork,
    guest: String,
    gateway: String,
    peer: String,
    external: String,
}

/// Both kinds of networks that are masqueraded to, in both families.
fn all_ends() -> Vec<Ends> {
    let nat = network_of(NETWORK);
    let mut all = Vec::new();
    for slot in [ROUTED, OPEN] {
        for family in [Family::Ipv4, Family::Ipv6] {
            let network = network_of(slot);
            all.push(Ends {
                network,
                guest: nat.address(family, 10),
                gateway: nat.address(family, 1),
                peer: network.address(family, 10),
                external: network.address(family, 1),
            });
        }
    }
    all
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

impl Ends {
    fn packets(&self) -> [Packet; 3] {
        let (guest, peer) = (at(&self.guest, 20000), at(&self.peer, 80));
        [tcp(&guest, &peer, SYN), udp(&guest, &peer), echo_request(&guest, &self.peer)]
    }

    /// The peer's answers to the packets, as it sends them.
    fn answers(&self) -> [Packet; 3] {
        let (external, peer) = (at(&self.external, 20000), at(&self.peer, 80));
        [tcp(&peer, &external, SYN | ACK), udp(&peer, &external), echo_reply(&self.peer, &external)]
    }

    /// A packet of the peer's at the ingress of its bridge.
    fn send_from_peer(&self, rig: &mut Rig, packet: &Packet) -> Result<Outcome> {
        let bridge = self.network.bridge;
        rig.at(program::BRIDGE_INGRESS, bridge, Origin::Interface(bridge), &packet.frame())
    }

    /// A packet that the stack sends to the peer.
    fn to_peer(&self, rig: &mut Rig, origin: Origin<'_>, packet: &Packet) -> Result<Outcome> {
        rig.at(program::BRIDGE_EGRESS, self.network.bridge, origin, &packet.frame())
    }
}

#[test]
fn guest_goes_out_with_the_bridges_address_and_gets_its_answers() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            for (packet, answer) in ends.packets().into_iter().zip(ends.answers()) {
                let translated = packet.clone().from(&ends.external).ttl(63);
                rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
                let back = answer.clone().to(&ends.guest).ttl(63);
                let outcome = ends.send_from_peer(rig, &answer)?;
                outcome.assert_redirected(NETWORK, Inbound, &back);
            }
            let tables = rig.tables()?;
            let ifindex = rig.ifindex(ends.network.bridge)?;
            assert_eq!(tables.live().count(), 3);
            for (_, session) in tables.live() {
                assert_eq!(session.uplink_ifindex, ifindex);
                assert_eq!((session.network, session.next_hop), (NETWORK, address(&ends.peer)));
                assert_eq!((session.outbound.packets, session.inbound.packets), (1, 1));
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn same_flow_goes_through_the_stack() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            for (packet, answer) in ends.packets().into_iter().zip(ends.answers()) {
                let forwarded = packet.clone().ttl(63);
                let translated = forwarded.clone().from(&ends.external);
                let virbr0 = Origin::Interface("virbr0");
                let outcome = ends.to_peer(rig, virbr0, &forwarded)?;
                outcome.assert_translated(NETWORK, Outbound, &translated);
                let outcome = ends.to_peer(rig, virbr0, &forwarded)?;
                outcome.assert_translated(NETWORK, Outbound, &translated);
                let back = answer.clone().to(&ends.guest).ttl(63);
                let outcome = ends.send_from_peer(rig, &answer)?;
                outcome.assert_redirected(NETWORK, Inbound, &back);
                // The bridge takes the flow over.
                let direct = packet.clone().from(&ends.external).ttl(63);
                rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &direct);
            }
            assert_eq!(rig.tables()?.live().count(), 3);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn packet_of_the_peer_that_belongs_to_no_flow_is_the_hosts() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            rig.from_guest(&ends.packets()[1])?;
            let (peer, external) = (at(&ends.peer, 80), at(&ends.external, 20001));
            for packet in [
                udp(&peer, &external),
                tcp(&peer, &at(&ends.external, 20000), SYN),
                echo_request(&at(&ends.peer, 7), &ends.external),
                echo_reply(&ends.peer, &external),
                raw(&ends.peer, &ends.external, 47),
            ] {
                let outcome = ends.send_from_peer(rig, &packet)?;
                outcome.assert_handed_over(ends.network.slot, Handover::ToHost, &packet);
            }
            assert_eq!(rig.tables()?.only().inbound.packets, 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn peer_does_not_see_the_network_behind_the_masquerade() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            rig.from_guest(&ends.packets()[1])?;
            let packet = udp(&at(&ends.peer, 80), &at(&ends.guest, 20000));
            let slot = ends.network.slot;
            let outcome = ends.send_from_peer(rig, &packet)?;
            let code = if packet.source.is_ipv6() { 4 } else { 3 };
            let answer = unreachable(&ends.external, code, &packet);
            outcome.assert_rejected(slot, DropReason::PolicyRejected, &answer);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn errors_about_such_a_flow_are_translated_in_both_directions() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            let kinds: &[(u8, u8)] = if ends.guest.contains(':') {
                &[(1, 4), (2, 0), (3, 0)]
            } else {
                &[(3, 3), (3, 4), (11, 0)]
            };
            for (packet, answer) in ends.packets().into_iter().zip(ends.answers()) {
                rig.from_guest(&packet)?;
                let seen = packet.clone().from(&ends.external).ttl(63);
                let received = answer.clone().to(&ends.guest).ttl(63);
                for &kind in kinds {
                    let error = icmp_error(&ends.peer, &ends.external, kind, &seen, 60);
                    let sent = packet.clone().ttl(63);
                    let told = icmp_error(&ends.peer, &ends.guest, kind, &sent, 60).ttl(63);
                    let outcome = ends.send_from_peer(rig, &error)?;
                    outcome.assert_redirected(NETWORK, Inbound, &told);

                    let error = icmp_error(&ends.guest, &ends.peer, kind, &received, 60);
                    let answer = answer.clone().ttl(63);
                    let told = icmp_error(&ends.external, &ends.peer, kind, &answer, 60);
                    let outcome = rig.from_guest(&error)?;
                    outcome.assert_redirected(NETWORK, Outbound, &told.clone().ttl(63));
                    let outcome = ends.to_peer(rig, Origin::Interface("virbr0"), &error)?;
                    outcome.assert_translated(NETWORK, Outbound, &told);
                    // From the host, which was bringing the answer to the guest.
                    let own = icmp_error(&ends.external, &ends.peer, kind, &received, 60);
                    ends.to_peer(rig, Origin::Host, &own)?.assert_passed_as(&told);
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn error_of_the_peer_about_no_flow_is_the_hosts() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            let kind = if ends.guest.contains(':') { (1, 4) } else { (3, 3) };
            let about = udp(&at(&ends.external, 20000), &at(&ends.peer, 80));
            let error = icmp_error(&ends.peer, &ends.external, kind, &about, 60);
            let outcome = ends.send_from_peer(rig, &error)?;
            outcome.assert_handed_over(ends.network.slot, Handover::ToHost, &error);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn answer_needs_the_flows_own_bridge_and_peer() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            rig.from_guest(&ends.packets()[1])?;
            // The answer from another network's guest who says to be the peer.
            let answer = &ends.answers()[1];
            let other = network_of(ROUTED + 1).bridge;
            let origin = Origin::Interface(other);
            let outcome = rig.at(program::BRIDGE_INGRESS, other, origin, &answer.frame())?;
            outcome.assert_dropped(ROUTED + 1, DropReason::SpoofedSource);
            assert_eq!(rig.tables()?.only().inbound.packets, 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn networks_that_are_bound_to_an_uplink_do_not_meet() -> Result<()> {
    with_modes(|rig| {
        for family in [Family::Ipv4, Family::Ipv6] {
            let code = if family == Family::Ipv6 { 4 } else { 3 };
            let guest = network_of(NETWORK).address(family, 10);
            let bound = network_of(ROUTED_BOUND);
            let packet = udp(&at(&guest, 20000), &at(&bound.address(family, 10), 80));
            let answer = unreachable(&network_of(NETWORK).address(family, 1), code, &packet);
            let outcome = rig.from_guest(&packet)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &answer);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn flow_ends_when_the_peers_network_changes_its_mode() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            rig.from_guest(&ends.packets()[1])?;
            rig.set_network(ends.network.slot, |network| {
                (network.mode, network.mode_ipv6) = (Mode::Isolated as u8, Mode::Isolated as u8);
            })?;
            rig.remove_uplink(ends.network.bridge)?;
            rig.bump_epoch()?;
            let answer = &ends.answers()[1];
            let outcome = ends.send_from_peer(rig, answer)?;
            outcome.assert_handed_over(ends.network.slot, Handover::ToHost, answer);
            let packet = &ends.packets()[1];
            let code = if packet.source.is_ipv6() { 4 } else { 3 };
            let told = unreachable(&ends.gateway, code, packet);
            let outcome = rig.from_guest(packet)?;
            outcome.assert_rejected(NETWORK, DropReason::PolicyRejected, &told);
            assert_eq!(rig.tables()?.live().count(), 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn host_that_speaks_from_its_nat_bridge_to_the_peer_is_not_masqueraded() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            let own = udp(&at(&ends.gateway, 20000), &at(&ends.peer, 80));
            ends.to_peer(rig, Origin::Host, &own)?.assert_passed(&own);
            let answer = udp(&at(&ends.peer, 80), &at(&ends.gateway, 20000));
            let outcome = ends.send_from_peer(rig, &answer)?;
            outcome.assert_handed_over(ends.network.slot, Handover::ToHost, &answer);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn peer_behind_a_guest_that_routes_is_reached_too() -> Result<()> {
    with_modes(|rig| {
        for (from, to, external) in [
            ("192.168.122.10:20000", "172.20.7.7:80", "172.16.5.1"),
            ("[fd00:122::10]:20000", "[2001:db8:5000::7]:80", "2001:db8:5::1"),
        ] {
            let packet = udp(from, to);
            let translated = packet.clone().from(external).ttl(63);
            rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
            let answer = udp(to, &at(external, 20000));
            let virbr4 = Origin::Interface("virbr4");
            let outcome = rig.at(program::BRIDGE_INGRESS, "virbr4", virbr4, &answer.frame())?;
            outcome.assert_redirected(NETWORK, Inbound, &answer.to(from).ttl(63));
        }
        Ok(())
    })
}

#[test]
fn expiring_answer_is_translated_for_the_stack() -> Result<()> {
    for ends in all_ends() {
        with_modes(|rig| {
            rig.from_guest(&ends.packets()[1])?;
            let answer = ends.answers()[1].clone().ttl(1);
            let back = answer.clone().to(&ends.guest);
            let length = answer.frame().len() as u64;
            let moved = counted(&[
                ("1 inbound packets", 1),
                ("1 inbound bytes", length),
                ("1 handover ttl-expiring", 1),
            ]);
            let outcome = ends.send_from_peer(rig, &answer)?;
            outcome.assert(Verdict::Pass, &back.frame(), INBOUND_MARK, &moved);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn address_of_the_bridge_is_nobody_elses() -> Result<()> {
    with_modes(|rig| {
        rig.add_subnet(NETWORK, "10.1.0.77/32", SUBNET_IS_HOST)?;
        for packet in [
            udp("10.1.0.77:1000", "172.16.5.10:80"),
            udp("172.16.5.1:20000", "172.16.5.10:80"),
            udp("[2001:db8:5::1]:20000", "[2001:db8:5::10]:80"),
        ] {
            rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        }
        Ok(())
    })
}
