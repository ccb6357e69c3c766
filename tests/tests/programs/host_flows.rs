//! The host's own flows of protocols whose sockets do not tell of them: no guest gets their replies.

use anyhow::Result;
use vnet_common::{
    flow::{Direction::*, FLAG_UNMAPPED, protocol},
    names::program,
    port::PortRange,
    reason::{DropReason, Handover},
    tcp::flags::*,
    timeout::NANOSECONDS,
};
use vnet_tests::programs::{modes::*, *};

/// The host itself sends a packet out of `eth0`.
fn host_sends(rig: &mut Rig, packet: &Packet) -> Result<()> {
    rig.to_outside(Origin::Host, packet)?.assert_passed(packet);
    Ok(())
}

/// A packet from outside is the host's.
fn assert_is_the_hosts(rig: &mut Rig, packet: &Packet) -> Result<()> {
    rig.from_outside(packet)?.assert_handed_over(0, Handover::NoFlow, packet);
    Ok(())
}

fn prohibited(ends: &Ends, packet: &Packet) -> Vec<u8> {
    unreachable(ends.gateway, if ends.guest.contains(':') { 1 } else { 13 }, packet)
}

#[test]
fn guest_pings_with_another_identifier_where_the_host_pings_with_that_one() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            host_sends(rig, &echo_request(&port_of(ends.external, 77), ends.remote))?;
            let request = echo_request(&port_of(ends.guest, 77), ends.remote);
            assert_eq!(rig.from_guest(&request)?.verdict, Verdict::Redirect);
            let session = rig.tables()?.only();
            assert_ne!(session.external_port.to_host(), 77);
            let own = echo_reply(ends.remote, &port_of(ends.external, 77));
            assert_is_the_hosts(rig, &own)?;
            let external = session.external_port.to_host();
            let reply = echo_reply(ends.remote, &port_of(ends.external, external));
            let back = echo_reply(ends.remote, &port_of(ends.guest, 77)).ttl(63);
            rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn guest_whose_identifier_is_mapped_gets_another_where_the_host_uses_that_one() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            rig.from_guest(&echo_request(&port_of(ends.guest, 77), ends.other_remote))?;
            host_sends(rig, &echo_request(&port_of(ends.external, 77), ends.remote))?;
            let request = echo_request(&port_of(ends.guest, 77), ends.remote);
            assert_eq!(rig.from_guest(&request)?.verdict, Verdict::Redirect);
            let tables = rig.tables()?;
            let remote = address(ends.remote);
            let (_, session) = tables.live().find(|(_, one)| one.remote == remote).unwrap();
            assert_eq!(session.flags, FLAG_UNMAPPED);
            assert_ne!(session.external_port.to_host(), 77);
            assert_is_the_hosts(rig, &echo_reply(ends.remote, &port_of(ends.external, 77)))
        })?;
    }
    Ok(())
}

#[test]
fn guests_flow_ends_when_the_host_uses_its_identifier() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            for remote in [ends.remote, ends.other_remote] {
                rig.from_guest(&echo_request(&port_of(ends.guest, 77), remote))?;
            }
            host_sends(rig, &echo_request(&port_of(ends.external, 77), ends.remote))?;
            assert_is_the_hosts(rig, &echo_reply(ends.remote, &port_of(ends.external, 77)))?;
            // The other one is none of the host's business.
            assert_eq!(rig.tables()?.only().remote, address(ends.other_remote));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn protocols_without_ports_are_the_hosts_where_it_speaks_them() -> Result<()> {
    for ends in Ends::BOTH {
        for number in [protocol::GRE, protocol::ESP, 4, 89, 253] {
            for guest_is_first in [false, true] {
                with_modes(|rig| {
                    let packet = raw(ends.guest, ends.remote, number);
                    if guest_is_first {
                        assert_eq!(rig.from_guest(&packet)?.verdict, Verdict::Redirect);
                    }
                    host_sends(rig, &raw(ends.external, ends.remote, number))?;
                    assert_is_the_hosts(rig, &raw(ends.remote, ends.external, number))?;
                    let answer = prohibited(&ends, &packet);
                    let outcome = rig.from_guest(&packet)?;
                    outcome.assert_rejected(NETWORK, DropReason::FlowConflict, &answer);
                    assert_eq!(rig.tables()?.live().count(), 0);
                    for other in [
                        raw(ends.guest, ends.other_remote, number),
                        raw(ends.guest, ends.remote, 47 + 50 - number.clamp(47, 50)),
                    ] {
                        let translated = other.clone().from(ends.external).ttl(63);
                        rig.from_guest(&other)?.assert_redirected(NETWORK, Outbound, &translated);
                    }
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn ports_that_the_host_uses_with_a_remote_are_not_given_to_guests() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let (external, guest) = (port_of(ends.external, 5000), port_of(ends.guest, 5000));
            let remote = port_of(ends.remote, 3868);
            host_sends(rig, &sctp(&external, &remote))?;
            let packet = sctp(&guest, &remote);
            let answer = prohibited(&ends, &packet);
            let outcome = rig.from_guest(&packet)?;
            outcome.assert_rejected(NETWORK, DropReason::FlowConflict, &answer);
            assert_is_the_hosts(rig, &sctp(&remote, &external))?;
            for (own, of_guest) in [
                (udp_lite(&external, &remote), udp_lite(&guest, &remote)),
                (dccp(&external, &remote), dccp(&guest, &remote)),
            ] {
                host_sends(rig, &own)?;
                assert_eq!(rig.from_guest(&of_guest)?.verdict, Verdict::Redirect);
            }
            let tables = rig.tables()?;
            assert_eq!(tables.live().count(), 2);
            assert!(tables.live().all(|(_, one)| one.external_port.to_host() != 5000));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn what_the_host_has_not_used_for_the_idle_time_is_anybodys() -> Result<()> {
    with_rig(|rig| {
        host_sends(rig, &raw(EXTERNAL, REMOTE, protocol::GRE))?;
        let packet = raw(GUEST, REMOTE, protocol::GRE);
        rig.set_network(NETWORK, |network| network.timeouts.other = 600)?;
        rig.set_host_flows(|last| *last -= 3 * NANOSECONDS)?;
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::FlowConflict);
        rig.set_network(NETWORK, |network| network.timeouts.other = 3)?;
        let translated = packet.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
        // And the host's again with its next packet.
        rig.set_network(NETWORK, |network| network.timeouts.other = 600)?;
        host_sends(rig, &raw(EXTERNAL, REMOTE, protocol::GRE))?;
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::FlowConflict);
        Ok(())
    })
}

#[test]
fn note_is_renewed_by_packets_and_not_by_each() -> Result<()> {
    with_rig(|rig| {
        let packet = raw(EXTERNAL, REMOTE, protocol::ESP);
        host_sends(rig, &packet)?;
        let first = rig.host_flows()?;
        assert_eq!(first.len(), 1);
        host_sends(rig, &packet)?;
        assert_eq!(rig.host_flows()?, first);
        rig.set_host_flows(|last| *last -= NANOSECONDS)?;
        host_sends(rig, &packet)?;
        assert!(rig.host_flows()?[0].1 >= first[0].1);
        Ok(())
    })
}

#[test]
fn nothing_is_noted_of_sockets_replies_groups_and_forwarded_packets() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let (own, remote) = (port_of(ends.external, 5000), port_of(ends.remote, 80));
            let group = if ends.guest.contains(':') { "ff02::5" } else { "224.0.0.5" };
            for packet in [
                tcp(&own, &remote, SYN),
                udp(&own, &remote),
                echo_reply(ends.external, &port_of(ends.remote, 7)),
                raw(ends.external, group, 89),
            ] {
                host_sends(rig, &packet)?;
            }
            let later = &raw(ends.external, ends.remote, protocol::UDP).payload(&[1; 64]);
            let later = &later.fragments(32)[1];
            let outcome = rig.at(program::UPLINK_EGRESS, "eth0", Origin::Host, later)?;
            outcome.assert_passed_unchanged();
            if !ends.guest.contains(':') {
                let forwarded = raw("203.0.113.77", ends.remote, protocol::GRE);
                let vpn0 = Origin::Interface("vpn0");
                rig.to_outside(vpn0, &forwarded)?.assert_passed(&forwarded);
            }
            assert!(rig.host_flows()?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn packets_of_the_host_that_are_cut_short_pass() -> Result<()> {
    with_rig(|rig| {
        let mut frame = sctp("198.51.100.1:5000", "192.0.2.10:3868").frame();
        frame.truncate(14 + 20 + 4);
        let outcome = rig.at(program::UPLINK_EGRESS, "eth0", Origin::Host, &frame)?;
        outcome.assert_passed_unchanged();
        assert!(rig.host_flows()?.is_empty());
        Ok(())
    })
}

#[test]
fn host_keeps_its_own_association_from_a_forwarded_port() -> Result<()> {
    with_rig(|rig| {
        let port = PortRange { first: 36412, last: 36412 };
        rig.forward(protocol::SCTP, (EXTERNAL, port), (GUEST, 36412), "eth0", NETWORK)?;
        host_sends(rig, &sctp("198.51.100.1:36412", "192.0.2.10:36412"))?;
        assert_is_the_hosts(rig, &sctp("192.0.2.10:36412", "198.51.100.1:36412"))?;
        let other = sctp("192.0.2.11:36412", "198.51.100.1:36412");
        let inside = other.clone().to("192.168.122.10:36412").ttl(63);
        rig.from_outside(&other)?.assert_redirected(NETWORK, Inbound, &inside);
        Ok(())
    })
}

#[test]
fn host_pings_guests_of_bridges_that_others_are_masqueraded_to() -> Result<()> {
    with_modes(|rig| {
        let own = echo_request("172.16.5.1:77", "172.16.5.10");
        let at = |rig: &mut Rig, bridge, packet: &Packet| {
            rig.at(program::BRIDGE_EGRESS, bridge, Origin::Host, &packet.frame())
        };
        at(rig, "virbr4", &own)?.assert_passed(&own);
        let request = echo_request("192.168.122.10:77", "172.16.5.10");
        assert_eq!(rig.from_guest(&request)?.verdict, Verdict::Redirect);
        assert_ne!(rig.tables()?.only().external_port.to_host(), 77);
        let reply = echo_reply("172.16.5.10", "172.16.5.1:77");
        let virbr4 = Origin::Interface("virbr4");
        let outcome = rig.at(program::BRIDGE_INGRESS, "virbr4", virbr4, &reply.frame())?;
        outcome.assert_handed_over(ROUTED, Handover::ToHost, &reply);
        // Nobody is masqueraded to this one.
        let own = echo_request("192.168.122.1:78", "192.168.122.10");
        at(rig, "virbr0", &own)?.assert_passed(&own);
        assert_eq!(rig.host_flows()?.len(), 1);
        Ok(())
    })
}
