//! Protocols other than TCP, UDP and ICMP: each is masqueraded, in both families.

use anyhow::Result;
use vnet_common::{
    address::PortBe,
    flow::{Direction::*, FLAG_UNMAPPED, protocol},
    reason::{DropReason, Handover},
    tcp::State,
};
use vnet_tests::programs::{modes::*, *};

/// IPv4 in IP, IPv6 in IP, GRE, ESP, AH, OSPF, L2TP, and one that nobody has defined.
const WITHOUT_PORTS: [u8; 8] = [4, 41, 47, 50, 51, 89, 115, 253];

#[test]
fn protocols_without_ports_are_masqueraded_by_their_address() -> Result<()> {
    with_modes(|rig| {
        for ends in Ends::BOTH {
            for number in WITHOUT_PORTS {
                let packet = raw(ends.guest, ends.remote, number);
                let translated = packet.clone().from(ends.external).ttl(63);
                for _ in 0..2 {
                    rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
                }
                let reply = raw(ends.remote, ends.external, number);
                let back = reply.clone().to(ends.guest).ttl(63);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);

                let tables = rig.tables()?;
                let (_, session) = tables
                    .live()
                    .find(|(_, s)| s.protocol == number && s.inside == address(ends.guest))
                    .unwrap();
                assert_eq!(session.flags, FLAG_UNMAPPED);
                assert_eq!(session.external, address(ends.external));
                let ports = [session.inside_port, session.external_port, session.remote_port];
                assert_eq!(ports, [PortBe::NONE; 3]);
                assert_eq!((session.outbound.packets, session.inbound.packets), (2, 1));
                assert_eq!(session.state, State::Established as u8);
                assert!(tables.mappings.is_empty() && tables.ports.is_empty());
            }
        }
        Ok(())
    })
}

#[test]
fn second_guest_of_a_protocol_without_ports_is_told_to_choose_another_remote() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let first = raw(ends.guest, ends.remote, protocol::GRE);
            rig.from_guest(&first)?;
            let second = raw(ends.second, ends.remote, protocol::GRE);
            let prohibited = if ends.second.contains(':') { 1 } else { 13 };
            let answer = unreachable(ends.gateway, prohibited, &second);
            let outcome = rig.from_guest(&second)?;
            outcome.assert_rejected(NETWORK, DropReason::FlowConflict, &answer);
            // What the first one has, and what the second may have.
            let reply = raw(ends.remote, ends.external, protocol::GRE);
            let back = reply.clone().to(ends.guest).ttl(63);
            rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            for packet in [
                raw(ends.second, ends.other_remote, protocol::GRE),
                raw(ends.second, ends.remote, protocol::ESP),
            ] {
                let translated = packet.clone().from(ends.external).ttl(63);
                rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
            }
            assert_eq!(rig.tables()?.live().count(), 3);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn sctp_keeps_its_ports_wherever_they_lie() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            // Privileged, in the range, and of the host's ephemeral ones.
            for port in [80, 20000, 40000] {
                let packet = sctp(&port_of(ends.guest, port), &port_of(ends.remote, 3868));
                let translated = packet.clone().from(ends.external).ttl(63);
                rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
                let reply = sctp(&port_of(ends.remote, 3868), &port_of(ends.external, port));
                let back = reply.clone().to(ends.guest).ttl(63);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            }
            let tables = rig.tables()?;
            assert!(tables.live().all(|(_, session)| session.flags == FLAG_UNMAPPED));
            assert_eq!((tables.live().count(), tables.mappings.len()), (3, 0));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn sctp_ports_of_another_guest_towards_the_same_remote_are_refused() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let to = port_of(ends.remote, 3868);
            rig.from_guest(&sctp(&port_of(ends.guest, 5000), &to))?;
            let second = sctp(&port_of(ends.second, 5000), &to);
            rig.from_guest(&second)?.assert_refused(NETWORK, DropReason::FlowConflict);
            for packet in [
                sctp(&port_of(ends.second, 5001), &to),
                sctp(&port_of(ends.second, 5000), &port_of(ends.other_remote, 3868)),
            ] {
                let translated = packet.clone().from(ends.external).ttl(63);
                rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn ports_of_udp_lite_and_dccp_are_translated_with_their_checksums() -> Result<()> {
    for ends in Ends::BOTH {
        for make in [udp_lite, dccp] {
            with_modes(|rig| {
                // From the host's ephemeral ports, which are not kept.
                let packet = make(&port_of(ends.guest, 40000), &port_of(ends.remote, 5004));
                let outcome = rig.from_guest(&packet)?;
                let port = rig.tables()?.only().external_port.to_host();
                assert_ne!(port, 40000);
                let external = port_of(ends.external, port);
                let translated = packet.clone().from(&external).ttl(63);
                outcome.assert_redirected(NETWORK, Outbound, &translated);
                let reply = make(&port_of(ends.remote, 5004), &external);
                let back = reply.clone().to(&port_of(ends.guest, 40000)).ttl(63);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
                assert_eq!(rig.tables()?.mappings.len(), 1);
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn unknown_packets_of_these_protocols_are_the_hosts_own() -> Result<()> {
    with_modes(|rig| {
        for ends in Ends::BOTH {
            let (from, to) = (port_of(ends.remote, 3868), port_of(ends.external, 5000));
            for packet in [
                raw(ends.remote, ends.external, protocol::GRE),
                raw(ends.remote, ends.external, protocol::ESP),
                sctp(&from, &to),
                udp_lite(&from, &to),
                dccp(&from, &to),
            ] {
                rig.from_outside(&packet)?.assert_handed_over(0, Handover::NoFlow, &packet);
            }
        }
        Ok(())
    })
}

#[test]
fn packets_that_end_within_the_transport_header_are_malformed() -> Result<()> {
    with_modes(|rig| {
        for ends in Ends::BOTH {
            for (number, least) in
                [(protocol::UDP_LITE, 8), (protocol::DCCP, 12), (protocol::SCTP, 12)]
            {
                let short = raw(ends.guest, ends.remote, number).payload(&vec![1; least - 1]);
                rig.from_guest(&short)?.assert_dropped(0, DropReason::Malformed);
                let enough = short.payload(&vec![1; least]);
                assert_eq!(rig.from_guest(&enough)?.verdict, Verdict::Redirect, "{number}");
            }
            // Without ports there is nothing to miss.
            let empty = raw(ends.guest, ends.remote, protocol::GRE).payload(b"");
            let translated = empty.clone().from(ends.external).ttl(63);
            rig.from_guest(&empty)?.assert_redirected(NETWORK, Outbound, &translated);
        }
        Ok(())
    })
}

#[test]
fn policy_and_source_are_judged_before_what_the_header_hides() -> Result<()> {
    with_modes(|rig| {
        // AH and ESP end the chain of IPv6 headers: nothing behind them is believed.
        for number in [protocol::ESP, 51, 59] {
            let isolated = network_of(ISOLATED).address(vnet_common::family::Family::Ipv6, 10);
            let packet = raw(GUEST_6, &isolated, number).payload(&[17; 64]);
            rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::PolicyRejected);
            let spoofed = raw(EXTERNAL_6, REMOTE_6, number);
            rig.from_guest(&spoofed)?.assert_dropped(NETWORK, DropReason::SpoofedSource);
        }
        Ok(())
    })
}

#[test]
fn fragments_of_protocols_without_ports_need_no_first_one() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let packet = raw(ends.guest, ends.remote, protocol::ESP).payload(&[9; 2000]);
            let translated = packet.clone().from(ends.external).ttl(63);
            let frames = packet.fragments(1440).into_iter().zip(translated.fragments(1440));
            for (fragment, expected) in frames.rev() {
                let outcome = rig.frame_from_guest(&fragment)?;
                assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Redirect, &expected));
            }
            let reply = raw(ends.remote, ends.external, protocol::ESP).payload(&[8; 2000]);
            let back = reply.clone().to(ends.guest).ttl(63);
            for (fragment, expected) in
                reply.fragments(1440).into_iter().zip(back.fragments(1440)).rev()
            {
                let outcome = rig.frame_from_outside(&fragment)?;
                assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Redirect, &expected));
            }
            let session = rig.tables()?.only();
            assert_eq!((session.outbound.packets, session.inbound.packets), (2, 2));
            assert!(rig.held_fragments()?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}
