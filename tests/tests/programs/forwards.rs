//! Port forwards: what opens a flow from outside, and how long it lives.

use anyhow::Result;
use vnet_common::{
    flow::{Direction::*, FLAG_FORWARDED, FLAG_FROM_OUTSIDE, FLAG_UNMAPPED, Phase, protocol},
    names::{INBOUND_MARK, program},
    port::PortRange,
    reason::{DropReason, Handover},
    tcp::{State, flags::*},
};
use vnet_tests::programs::{modes::*, *};

const CLIENT: &str = "192.0.2.10:50000";
const PORT: PortRange = PortRange { first: 8080, last: 8080 };
const PORTS: PortRange = PortRange { first: 8080, last: 8089 };

/// TCP and UDP of 198.51.100.1:8080-8089 lead to 192.168.122.10:80-89.
fn with_forward(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        for ip_protocol in [protocol::TCP, protocol::UDP] {
            rig.forward(ip_protocol, (EXTERNAL, PORTS), (GUEST, 80), "eth0", NETWORK)?;
        }
        work(rig)
    })
}

fn syn() -> Packet {
    tcp(CLIENT, "198.51.100.1:8080", SYN)
}

fn open(rig: &mut Rig) -> Result<()> {
    let inside = syn().to("192.168.122.10:80").ttl(63);
    rig.from_outside(&syn())?.assert_redirected(NETWORK, Inbound, &inside);
    let answer = tcp("192.168.122.10:80", CLIENT, SYN | ACK);
    let outside = answer.clone().from("198.51.100.1:8080").ttl(63);
    rig.from_guest(&answer)?.assert_redirected(NETWORK, Outbound, &outside);
    Ok(())
}

fn segment() -> Packet {
    tcp("192.168.122.10:80", CLIENT, ACK)
}

fn outside() -> Packet {
    segment().from("198.51.100.1:8080").ttl(63)
}

#[test]
fn connection_to_a_forwarded_port_reaches_the_guest_with_the_clients_own_address() -> Result<()> {
    with_forward(|rig| {
        open(rig)?;
        let tables = rig.tables()?;
        let session = tables.only();
        assert_eq!(session.flags, FLAG_FORWARDED | FLAG_UNMAPPED | FLAG_FROM_OUTSIDE);
        assert_eq!((session.inside, session.external), (address(GUEST), address(EXTERNAL)));
        assert_eq!((session.inside_port.to_host(), session.external_port.to_host()), (80, 8080));
        assert_eq!(session.network, NETWORK);
        assert_eq!(session.bridge_ifindex, rig.ifindex("virbr0")?);
        assert_eq!(session.uplink_ifindex, rig.ifindex("eth0")?);
        assert_eq!((session.inbound.packets, session.outbound.packets), (1, 1));
        assert_eq!((tables.mappings.len(), tables.ports.len()), (0, 0));
        assert_eq!(session.state, State::Answered as u8);
        let ack = tcp(CLIENT, "198.51.100.1:8080", ACK);
        let inside = ack.clone().to("192.168.122.10:80").ttl(63);
        rig.from_outside(&ack)?.assert_redirected(NETWORK, Inbound, &inside);
        assert_eq!(rig.tables()?.only().state, State::Established as u8);
        Ok(())
    })
}

#[test]
fn ports_of_a_range_lead_to_ports_in_order_and_those_beyond_it_to_the_host() -> Result<()> {
    with_forward(|rig| {
        for port in 8080..=8089_u16 {
            let datagram = udp(CLIENT, &format!("{EXTERNAL}:{port}"));
            let inside = datagram.clone().to(&format!("{GUEST}:{}", port - 8000)).ttl(63);
            rig.from_outside(&datagram)?.assert_redirected(NETWORK, Inbound, &inside);
        }
        assert_eq!(rig.tables()?.live().count(), 10);
        for endpoint in ["198.51.100.1:8079", "198.51.100.1:8090", "203.0.113.1:8080"] {
            let datagram = udp(CLIENT, endpoint);
            rig.from_outside(&datagram)?.assert_handed_over(0, Handover::NoFlow, &datagram);
        }
        Ok(())
    })
}

#[test]
fn ipv6_ports_are_forwarded_too() -> Result<()> {
    with_modes(|rig| {
        rig.forward(protocol::TCP, (EXTERNAL_6, PORT), (GUEST_6, 80), "eth0", NETWORK)?;
        let client = format!("[{REMOTE_6}]:50000");
        let syn = tcp(&client, &format!("[{EXTERNAL_6}]:8080"), SYN);
        let inside = syn.clone().to(&format!("[{GUEST_6}]:80")).ttl(63);
        rig.from_outside(&syn)?.assert_redirected(NETWORK, Inbound, &inside);
        let answer = tcp(&format!("[{GUEST_6}]:80"), &client, SYN | ACK);
        let outside = answer.clone().from(&format!("[{EXTERNAL_6}]:8080")).ttl(63);
        rig.from_guest(&answer)?.assert_redirected(NETWORK, Outbound, &outside);
        assert_eq!(rig.tables()?.flows_ipv6.len(), 2);
        Ok(())
    })
}

#[test]
fn tcp_opens_by_a_syn_alone() -> Result<()> {
    with_forward(|rig| {
        for flags in [ACK, SYN | ACK, RST, FIN | ACK, SYN | FIN, 0] {
            let segment = tcp(CLIENT, "198.51.100.1:8080", flags);
            rig.from_outside(&segment)?.assert_handed_over(0, Handover::NoFlow, &segment);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn nobody_with_a_guests_or_the_hosts_address_or_none_is_let_in() -> Result<()> {
    with_forward(|rig| {
        for (source, network) in
            [("192.168.122.11:5", NETWORK), ("192.168.123.10:5", OTHER_NETWORK)]
        {
            let packet = udp(source, "198.51.100.1:8080");
            rig.from_outside(&packet)?.assert_dropped(network, DropReason::SpoofedSource);
        }
        for source in ["127.0.0.1:5", "0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5"] {
            let packet = udp(source, "198.51.100.1:8080");
            rig.from_outside(&packet)?.assert_handed_over(0, Handover::NoFlow, &packet);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn client_alone_does_not_establish_a_connection() -> Result<()> {
    with_forward(|rig| {
        rig.from_outside(&syn())?;
        rig.from_outside(&tcp(CLIENT, "198.51.100.1:8080", ACK))?;
        assert_eq!(rig.tables()?.only().state, State::Opening as u8);
        Ok(())
    })
}

#[test]
fn guest_that_has_all_its_flows_gets_no_more_and_the_client_no_answer() -> Result<()> {
    with_forward(|rig| {
        rig.set_network(NETWORK, |network| network.flows_per_guest = 1)?;
        open(rig)?;
        let other = tcp("192.0.2.10:50001", "198.51.100.1:8080", SYN);
        rig.from_outside(&other)?.assert_dropped(NETWORK, DropReason::GuestFlowLimit);
        Ok(())
    })
}

#[test]
fn forwarded_port_is_given_to_no_masqueraded_flow() -> Result<()> {
    with_forward(|rig| {
        rig.set_network(NETWORK, |network| {
            network.ports = PortRange { first: 8080, last: 8090 };
        })?;
        rig.from_guest(&udp("192.168.122.11:8080", "192.0.2.10:53"))?;
        assert_eq!(rig.tables()?.only().external_port.to_host(), 8090);
        Ok(())
    })
}

#[test]
fn answers_leave_by_the_hosts_route_with_the_forwards_address() -> Result<()> {
    with_forward(|rig| {
        let client = "198.18.3.7:50000";
        let syn = tcp(client, "198.51.100.1:8080", SYN);
        let inside = syn.clone().to("192.168.122.10:80").ttl(63);
        rig.from_outside(&syn)?.assert_redirected(NETWORK, Inbound, &inside);
        let answer = tcp("192.168.122.10:80", client, SYN | ACK);
        let outside = answer.clone().from("198.51.100.1:8080").ttl(63);
        rig.from_guest(&answer)?.assert_redirected(NETWORK, Outbound, &outside);
        let session = rig.tables()?.only();
        assert_eq!(session.uplink_ifindex, rig.ifindex("eth1")?);
        assert_eq!(session.next_hop, address("203.0.113.254"));
        // And the client's go on coming in where they did.
        let ack = tcp(client, "198.51.100.1:8080", ACK);
        let inside = ack.clone().to("192.168.122.10:80").ttl(63);
        rig.from_outside(&ack)?.assert_redirected(NETWORK, Inbound, &inside);
        Ok(())
    })
}

#[test]
fn what_the_stack_forwards_of_a_flow_has_the_forwards_address() -> Result<()> {
    with_forward(|rig| {
        open(rig)?;
        let outcome = rig.to_outside(Origin::Interface("virbr0"), &segment())?;
        outcome.assert_translated(NETWORK, Outbound, &outside().ttl(64));
        Ok(())
    })
}

#[test]
fn flow_lives_on_when_something_else_changes() -> Result<()> {
    with_forward(|rig| {
        open(rig)?;
        rig.remove_network("virbr1", &["192.168.123.0/24"])?;
        rig.remove_forward(protocol::UDP, EXTERNAL, PORTS)?;
        rig.set_uplink("eth0", &["198.51.100.2/24", "198.51.100.1/24"])?;
        rig.bump_epoch()?;
        rig.from_guest(&segment())?.assert_redirected(NETWORK, Outbound, &outside());
        let ack = tcp(CLIENT, "198.51.100.1:8080", ACK);
        let inside = ack.clone().to("192.168.122.10:80").ttl(63);
        rig.from_outside(&ack)?.assert_redirected(NETWORK, Inbound, &inside);
        assert_eq!(rig.tables()?.only().generation, 1);
        Ok(())
    })
}

#[test]
fn flow_dies_with_its_forward() -> Result<()> {
    with_forward(|rig| {
        open(rig)?;
        rig.remove_forward(protocol::TCP, EXTERNAL, PORTS)?;
        rig.bump_epoch()?;
        let ack = tcp(CLIENT, "198.51.100.1:8080", ACK);
        rig.from_outside(&ack)?.assert_handed_over(0, Handover::NoFlow, &ack);
        let tables = rig.tables()?;
        assert_eq!((tables.live().count(), tables.flows.len()), (0, 0));
        // It had no port that others would have to be kept from.
        assert_eq!(tables.sessions[&0].phase, Phase::Draining as u32);
        Ok(())
    })
}

#[test]
fn flow_dies_when_its_port_leads_to_another_guest_or_port() -> Result<()> {
    for (to, to_port) in [("192.168.122.11", 80), (GUEST, 81)] {
        with_forward(|rig| {
            open(rig)?;
            rig.forward(protocol::TCP, (EXTERNAL, PORTS), (to, to_port), "eth0", NETWORK)?;
            rig.bump_epoch()?;
            let ack = tcp(CLIENT, "198.51.100.1:8080", ACK);
            rig.from_outside(&ack)?.assert_handed_over(0, Handover::NoFlow, &ack);
            let inside = syn().to(&format!("{to}:{to_port}")).ttl(63);
            rig.from_outside(&syn())?.assert_redirected(NETWORK, Inbound, &inside);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn forward_of_a_network_that_is_bound_to_another_uplink_leads_nowhere() -> Result<()> {
    with_forward(|rig| {
        let eth1 = rig.ifindex("eth1")?;
        rig.set_network(NETWORK, |network| network.forward_ifindex = eth1)?;
        rig.from_outside(&syn())?.assert_handed_over(0, Handover::NoFlow, &syn());
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn remote_that_talks_to_the_guest_under_another_port_already_is_not_mixed_up() -> Result<()> {
    with_forward(|rig| {
        let ports = PortRange { first: 9090, last: 9090 };
        rig.forward(protocol::UDP, (EXTERNAL, ports), (GUEST, 80), "eth0", NETWORK)?;
        rig.from_outside(&udp(CLIENT, "198.51.100.1:8080"))?;
        let second = udp(CLIENT, "198.51.100.1:9090");
        rig.from_outside(&second)?.assert_dropped(NETWORK, DropReason::FlowConflict);
        assert_eq!(rig.tables()?.only().external_port.to_host(), 8080);
        Ok(())
    })
}

#[test]
fn uplink_without_link_layer_headers_delivers_through_the_stack() -> Result<()> {
    with_forward(|rig| {
        // The first two bytes of the source are the type of IPv4, by which the kernel's test run goes.
        let syn = tcp("8.0.9.9:50000", "198.51.100.1:8080", SYN);
        let eth0 = Origin::Interface("eth0");
        let outcome = rig.at(program::UPLINK_INGRESS_RAW, "eth0", eth0, &syn.ip())?;
        assert_eq!((outcome.verdict, outcome.mark), (Verdict::Pass, INBOUND_MARK));
        assert_eq!(hex(&outcome.frame), hex(&syn.to("192.168.122.10:80").ip()));
        Ok(())
    })
}

#[test]
fn guest_cannot_take_a_forwarded_port_of_another_by_sctp() -> Result<()> {
    with_rig(|rig| {
        let port = PortRange { first: 36412, last: 36412 };
        rig.forward(protocol::SCTP, (EXTERNAL, port), (GUEST, 36412), "eth0", NETWORK)?;
        let thief = sctp("192.168.122.11:36412", "192.0.2.10:36412");
        rig.from_guest(&thief)?.assert_refused(NETWORK, DropReason::FlowConflict);
        assert_eq!(rig.tables()?.live().count(), 0);
        let init = sctp("192.0.2.10:36412", "198.51.100.1:36412");
        let inside = init.clone().to("192.168.122.10:36412").ttl(63);
        rig.from_outside(&init)?.assert_redirected(NETWORK, Inbound, &inside);
        Ok(())
    })
}
