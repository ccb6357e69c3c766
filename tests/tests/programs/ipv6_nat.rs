//! IPv6 masqueraded (NAT66): what IPv4 does, with the checksums of RFC 8200, section 8.1.

use anyhow::Result;
use vnet_common::{
    address::PortBe,
    flow::{Direction::*, FLAG_INSIDE_IS_HOST, Phase, protocol},
    names::{INBOUND_MARK, program},
    port::PortRange,
    reason::{DropReason, Handover},
    tcp::{State, flags::*},
};
use vnet_tests::programs::{modes::*, *};

const GUEST_PORT: &str = "[fd00:122::10]:20000";
const EXTERNAL_PORT: &str = "[2001:db8:100::1]:20000";
const REMOTE_PORT: &str = "[2001:db8:86dd::10]:80";

/// A packet of each kind that is masqueraded, from the guest's port 20000.
fn packets() -> [Packet; 3] {
    [
        tcp(GUEST_PORT, REMOTE_PORT, SYN).payload(b"odd"),
        udp(GUEST_PORT, REMOTE_PORT),
        echo_request(GUEST_PORT, REMOTE_6),
    ]
}

/// The answer to a packet as the outside sees it.
fn answer(to: &Packet) -> Packet {
    let source = to.source.to_string();
    match to.body {
        Body::Tcp { source: port, destination, .. } => tcp(
            &format!("[{}]:{destination}", to.destination),
            &format!("[{source}]:{port}"),
            SYN | ACK,
        ),
        Body::Udp { source: port, destination, .. } => {
            udp(&format!("[{}]:{destination}", to.destination), &format!("[{source}]:{port}"))
        }
        Body::Echo { identifier, .. } => {
            echo_reply(&to.destination.to_string(), &format!("[{source}]:{identifier}"))
        }
        _ => panic!("no answer to {to:?}"),
    }
}

#[test]
fn new_flow_keeps_its_port_and_fills_a_session() -> Result<()> {
    with_modes(|rig| {
        let syn = tcp(GUEST_PORT, REMOTE_PORT, SYN);
        let translated = syn.clone().from(EXTERNAL_6).ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);

        let tables = rig.tables()?;
        assert_eq!((tables.flows.len(), tables.flows_ipv6.len()), (0, 2));
        let session = tables.only();
        assert_eq!(session.inside, address(GUEST_6));
        assert_eq!(session.external, address(EXTERNAL_6));
        assert_eq!(session.remote, address(REMOTE_6));
        assert_eq!(session.next_hop, address(ROUTER_6));
        assert_eq!(session.inside_port, PortBe::from_host(20000));
        assert_eq!(session.external_port, PortBe::from_host(20000));
        assert_eq!(session.remote_port, PortBe::from_host(80));
        assert_eq!(session.bridge_ifindex, rig.ifindex("virbr0")?);
        assert_eq!(session.uplink_ifindex, rig.ifindex("eth0")?);
        assert_eq!((session.mtu_outbound, session.mtu_inbound), (1500, 1500));
        assert_eq!((session.epoch_outbound, session.epoch_inbound), (1, 1));
        assert_eq!((session.protocol, session.network), (protocol::TCP, NETWORK));
        assert_eq!((session.state, session.flags), (State::Opening as u8, 0));
        assert_eq!((session.outbound.packets, session.inbound.packets), (1, 0));
        assert_eq!(session.outbound.bytes, syn.frame().len() as u64);
        Ok(())
    })
}

#[test]
fn packets_go_out_and_their_answers_come_back() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            for _ in 0..2 {
                let translated = packet.clone().from(EXTERNAL_PORT).ttl(63);
                rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &translated);
                let reply = answer(&translated);
                let back = reply.clone().to(GUEST_PORT).ttl(63);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            }
            let session = rig.tables()?.only();
            assert_eq!((session.outbound.packets, session.inbound.packets), (2, 2));
            let ports = if session.protocol == protocol::ICMPV6 { 0 } else { 80 };
            assert_eq!(session.remote_port, PortBe::from_host(ports));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn taken_port_is_replaced_by_another_with_the_right_checksums() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            let first = packet.clone().from(SECOND_GUEST_6);
            let translated = first.clone().from(EXTERNAL_6).ttl(63);
            rig.from_guest(&first)?.assert_redirected(NETWORK, Outbound, &translated);

            let outcome = rig.from_guest(&packet)?;
            let tables = rig.tables()?;
            let (_, session) = tables.live().find(|(_, s)| s.inside == address(GUEST_6)).unwrap();
            let port = session.external_port.to_host();
            let is_query = session.protocol == protocol::ICMPV6;
            let is_free = port >= 1024 && !(32768..=60999).contains(&port);
            assert!(port != 20000 && (is_free || is_query), "{port}");
            let translated = packet.clone().from(&format!("[{EXTERNAL_6}]:{port}")).ttl(63);
            outcome.assert_redirected(NETWORK, Outbound, &translated);

            let reply = answer(&translated);
            let back = reply.clone().to(GUEST_PORT).ttl(63);
            rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            // The first guest's answer still finds the first guest.
            let reply = answer(&first.from(EXTERNAL_6));
            let back = reply.clone().to(SECOND_GUEST_6).ttl(63);
            rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn both_families_have_the_same_ports_without_disturbing_each_other() -> Result<()> {
    with_modes(|rig| {
        let six = tcp(GUEST_PORT, REMOTE_PORT, SYN);
        let four = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN);
        let translated = six.clone().from(EXTERNAL_6).ttl(63);
        rig.from_guest(&six)?.assert_redirected(NETWORK, Outbound, &translated);
        let translated = four.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&four)?.assert_redirected(NETWORK, Outbound, &translated);
        let tables = rig.tables()?;
        assert_eq!((tables.flows.len(), tables.flows_ipv6.len()), (2, 2));
        Ok(())
    })
}

#[test]
fn ports_stay_in_the_range_of_the_definition() -> Result<()> {
    with_modes(|rig| {
        rig.set_network(NETWORK, |n| n.ports = PortRange { first: 5000, last: 5063 })?;
        let outcome = rig.from_guest(&udp(GUEST_PORT, REMOTE_PORT))?;
        let port = rig.tables()?.only().external_port.to_host();
        assert!((5000..=5063).contains(&port), "{port}");
        let translated = udp(&format!("[{EXTERNAL_6}]:{port}"), REMOTE_PORT).ttl(63);
        outcome.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn port_of_a_socket_of_the_host_is_avoided() -> Result<()> {
    with_modes(|rig| {
        let _own = std::net::UdpSocket::bind(EXTERNAL_PORT)?;
        let _all = std::net::TcpListener::bind("[::]:20000")?;
        for packet in [udp(GUEST_PORT, REMOTE_PORT), tcp(GUEST_PORT, REMOTE_PORT, SYN)] {
            rig.from_guest(&packet)?;
        }
        let tables = rig.tables()?;
        assert_eq!(tables.live().count(), 2);
        assert!(tables.live().all(|(_, session)| session.external_port.to_host() != 20000));
        Ok(())
    })
}

#[test]
fn route_decides_the_uplink_and_its_address() -> Result<()> {
    with_modes(|rig| {
        let syn = tcp(GUEST_PORT, "[2001:db8:1803::9]:80", SYN);
        let translated = syn.clone().from("2001:db8:113::1").ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        assert_eq!(rig.tables()?.only().uplink_ifindex, rig.ifindex("eth1")?);
        Ok(())
    })
}

#[test]
fn address_of_the_next_hops_subnet_is_preferred_and_else_the_first() -> Result<()> {
    with_modes(|rig| {
        for (port, addresses, chosen) in [
            (20000, ["2001:db8:113::7/128", "2001:db8:100::9/64"], "2001:db8:100::9"),
            (20001, ["2001:db8:100::8/64", "2001:db8:100::9/64"], "2001:db8:100::8"),
            (20002, ["2001:db8:113::7/128", "2001:db8:113::8/128"], "2001:db8:113::7"),
        ] {
            rig.set_uplink("eth0", &addresses)?;
            let syn = tcp(&format!("[{GUEST_6}]:{port}"), REMOTE_PORT, SYN);
            let translated = syn.clone().from(chosen).ttl(63);
            rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        }
        Ok(())
    })
}

#[test]
fn uplink_without_an_ipv6_address_masquerades_ipv4_alone() -> Result<()> {
    with_modes(|rig| {
        rig.set_uplink("eth0", &["198.51.100.1/24"])?;
        let outcome = rig.from_guest(&udp(GUEST_PORT, REMOTE_PORT))?;
        outcome.assert_dropped(NETWORK, DropReason::NoExternalAddress);
        let query = udp("192.168.122.10:20000", "192.0.2.10:53");
        let translated = query.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&query)?.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn second_subnet_of_the_network_is_masqueraded_too() -> Result<()> {
    with_modes(|rig| {
        let syn = tcp("[fd00:a1::5]:20000", REMOTE_PORT, SYN);
        let translated = syn.clone().from(EXTERNAL_6).ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn replies_to_what_is_behind_a_guest_take_the_hosts_routes() -> Result<()> {
    with_modes(|rig| {
        let query = udp("[fd00:122:5::7]:20000", REMOTE_PORT);
        let translated = query.clone().from(EXTERNAL_6).ttl(63);
        rig.from_guest(&query)?.assert_redirected(NETWORK, Outbound, &translated);
        let reply = answer(&translated);
        let back = reply.clone().to("fd00:122:5::7");
        let length = reply.frame().len() as u64;
        let moved = counted(&[("1 inbound packets", 1), ("1 inbound bytes", length)]);
        let outcome = rig.from_outside(&reply)?;
        outcome.assert(Verdict::Pass, &back.frame(), INBOUND_MARK, &moved);
        Ok(())
    })
}

#[test]
fn what_the_stack_forwards_is_masqueraded_at_the_uplink() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            let forwarded = packet.clone().ttl(63);
            let translated = forwarded.clone().from(EXTERNAL_PORT);
            let virbr0 = Origin::Interface("virbr0");
            rig.to_outside(virbr0, &forwarded)?.assert_translated(NETWORK, Outbound, &translated);
            // The bridge finds the flow that the stack's packet has opened.
            let direct = packet.clone().from(EXTERNAL_PORT).ttl(63);
            rig.from_guest(&packet)?.assert_redirected(NETWORK, Outbound, &direct);
            assert_eq!(rig.tables()?.only().outbound.packets, 2);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn host_that_speaks_from_its_bridge_is_masqueraded_and_hears_the_answer() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            let own = packet.clone().from(GATEWAY_6);
            let translated = own.clone().from(EXTERNAL_6);
            let outcome = rig.to_outside(Origin::Host, &own)?;
            outcome.assert_translated(NETWORK, Outbound, &translated);
            let session = rig.tables()?.only();
            assert_eq!((session.flags, session.bridge_ifindex), (FLAG_INSIDE_IS_HOST, 0));
            let reply = answer(&translated);
            let outcome = rig.from_outside(&reply)?;
            outcome.assert_translated(NETWORK, Inbound, &reply.clone().to(GATEWAY_6));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn packet_from_outside_that_belongs_to_no_flow_is_the_hosts() -> Result<()> {
    with_modes(|rig| {
        rig.from_guest(&udp(GUEST_PORT, REMOTE_PORT))?;
        for packet in [
            udp("[2001:db8:86dd::10]:81", EXTERNAL_PORT),
            udp("[2001:db8:86dd::11]:80", EXTERNAL_PORT),
            udp(REMOTE_PORT, "[2001:db8:100::1]:20001"),
            tcp(REMOTE_PORT, EXTERNAL_PORT, ACK),
            echo_request("[2001:db8:86dd::10]:20000", EXTERNAL_6),
            echo_reply(REMOTE_6, EXTERNAL_PORT),
            raw(REMOTE_6, EXTERNAL_6, 47),
        ] {
            rig.from_outside(&packet)?.assert_handed_over(0, Handover::NoFlow, &packet);
        }
        assert_eq!(rig.tables()?.only().inbound.packets, 0);
        Ok(())
    })
}

#[test]
fn what_cannot_be_masqueraded_is_dropped() -> Result<()> {
    with_modes(|rig| {
        // ICMP of IPv4.
        let other = raw(GUEST_6, REMOTE_6, 1);
        rig.from_guest(&other)?.assert_dropped(NETWORK, DropReason::UnsupportedProtocol);
        for packet in [
            echo_reply(GUEST_6, &format!("[{REMOTE_6}]:7")),
            icmp_error(GUEST_6, REMOTE_6, (140, 0), &other, 0),
        ] {
            rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::UnsupportedIcmp);
        }
        // No router forwards a neighbour solicitation.
        let solicitation = icmp_error(GUEST_6, REMOTE_6, (135, 0), &other, 0);
        let outcome = rig.from_guest(&solicitation)?;
        outcome.assert_handed_over(NETWORK, Handover::LinkLocal, &solicitation);
        let reset = tcp(GUEST_PORT, REMOTE_PORT, RST);
        rig.from_guest(&reset)?.assert_dropped(NETWORK, DropReason::NoFlow);
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn exceptions_are_left_to_the_stack_as_they_came() -> Result<()> {
    with_modes(|rig| {
        for known in [false, true] {
            let expiring = udp(GUEST_PORT, REMOTE_PORT).ttl(1);
            let outcome = rig.from_guest(&expiring)?;
            outcome.assert_handed_over(NETWORK, Handover::TtlExpiring, &expiring);
            let large = udp(GUEST_PORT, REMOTE_PORT).payload(&[7; 1453]);
            let outcome = rig.from_guest(&large)?;
            outcome.assert_handed_over(NETWORK, Handover::OverMtu, &large);
            if !known {
                let largest = udp(GUEST_PORT, REMOTE_PORT).payload(&[7; 1452]);
                let translated = largest.clone().from(EXTERNAL_6).ttl(63);
                rig.from_guest(&largest)?.assert_redirected(NETWORK, Outbound, &translated);
            }
        }
        // Inbound they are translated first, so that the stack's error quotes the guest.
        for reply in [
            udp(REMOTE_PORT, EXTERNAL_PORT).ttl(1),
            udp(REMOTE_PORT, EXTERNAL_PORT).payload(&[7; 1453]),
        ] {
            let word = if reply.ttl == 1 { "ttl-expiring" } else { "over-mtu" };
            let length = reply.frame().len() as u64;
            let moved = counted(&[
                ("1 inbound packets", 1),
                ("1 inbound bytes", length),
                (&format!("1 handover {word}"), 1),
            ]);
            let translated = reply.clone().to(GUEST_6).frame();
            let outcome = rig.from_outside(&reply)?;
            outcome.assert(Verdict::Pass, &translated, INBOUND_MARK, &moved);
        }
        Ok(())
    })
}

#[test]
fn segmentation_offload_packets_are_measured_by_their_segments() -> Result<()> {
    with_modes(|rig| {
        let mut run = |payload: usize, gso_size: u32| {
            let bulk = tcp(GUEST_PORT, REMOTE_PORT, ACK).payload(&vec![7; payload]);
            let outcome = rig.run(Arrival {
                program: program::BRIDGE_INGRESS,
                frame: &bulk.frame(),
                interface: "virbr0",
                origin: Origin::Interface("virbr0"),
                mark: 0,
                gso_size,
            })?;
            anyhow::Ok((bulk, outcome))
        };
        // 1500 less 40 of IPv6 and 20 of TCP.
        let (bulk, outcome) = run(2880, 1440)?;
        let translated = bulk.from(EXTERNAL_6).ttl(63);
        outcome.assert_redirected(NETWORK, Outbound, &translated);
        let (bulk, outcome) = run(2882, 1441)?;
        outcome.assert_handed_over(NETWORK, Handover::OverMtu, &bulk);
        Ok(())
    })
}

#[test]
fn neighbour_that_is_not_resolved_is_resolved_by_the_redirect() -> Result<()> {
    with_modes(|rig| {
        rig.ip("neighbour del 2001:db8:100::fe dev eth0")?;
        let query = udp(GUEST_PORT, REMOTE_PORT);
        let sent = query.clone().from(EXTERNAL_6).ttl(63);
        rig.from_guest(&query)?.assert_redirected(NETWORK, Outbound, &sent);
        assert_eq!(rig.tables()?.only().mtu_outbound, 1500);
        Ok(())
    })
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn flows_end_and_their_ports_are_held_down() -> Result<()> {
    for packet in packets() {
        with_modes(|rig| {
            rig.from_guest(&packet)?;
            rig.set_session(0, |session| session.last_outbound -= 5 * SECOND)?;
            rig.sweep()?;
            let tables = rig.tables()?;
            assert_eq!(tables.sessions[&0].phase, Phase::HoldDown as u32);
            assert_eq!((tables.flows_ipv6.len(), tables.ports.len()), (0, 1));
            assert_eq!((tables.guests[0].1.flows, tables.guests[0].1.ports), (0, 1));
            // Another guest does not get the port now; late answers reach nobody.
            rig.from_guest(&packet.clone().from(SECOND_GUEST_6))?;
            assert_ne!(rig.tables()?.external_port_of(20000), 20000);
            let late = answer(&packet.clone().from(EXTERNAL_6));
            rig.from_outside(&late)?.assert_handed_over(0, Handover::NoFlow, &late);

            rig.set_session(0, |session| session.since -= 2 * SECOND)?;
            rig.set_mappings(|mapping| {
                mapping.idle_since = mapping.idle_since.saturating_sub(2 * SECOND);
            })?;
            rig.sweep()?;
            let tables = rig.tables()?;
            assert_eq!(tables.sessions[&0].phase, Phase::Free as u32);
            assert_eq!((tables.mappings.len(), tables.ports.len()), (1, 1));
            Ok(())
        })?;
    }
    Ok(())
}
