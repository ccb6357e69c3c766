//! Guests' packets to the outside, at the bridge.

use std::net::{TcpListener, UdpSocket};

use anyhow::Result;
use vnet_common::{
    address::PortBe,
    flow::{Direction::Outbound, protocol},
    port::PortRange,
    tcp::{State, flags::*},
};
use vnet_tests::programs::*;

/// Whether a port may be masqueraded to with the rig's settings.
fn is_free_for_masquerade(port: u16) -> bool {
    port >= 1024 && !(32768..=60999).contains(&port)
}

#[test]
fn new_tcp_flow_keeps_its_port_and_fills_a_session() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN);
        let translated = syn.clone().from("198.51.100.1:20000").ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);

        let session = rig.tables()?.only();
        assert_eq!(session.inside, address(GUEST));
        assert_eq!(session.external, address(EXTERNAL));
        assert_eq!(session.remote, address(REMOTE));
        assert_eq!(session.next_hop, address("198.51.100.254"));
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
        assert_eq!(session.last_inbound, 0);
        assert!(session.last_outbound >= session.since && session.since > 0);
        Ok(())
    })
}

#[test]
fn new_udp_flow_keeps_its_port() -> Result<()> {
    with_rig(|rig| {
        let query = udp("192.168.122.10:5353", "192.0.2.10:53");
        let translated = query.clone().from("198.51.100.1:5353").ttl(63);
        rig.from_guest(&query)?.assert_redirected(NETWORK, Outbound, &translated);
        assert_eq!(rig.tables()?.only().protocol, protocol::UDP);
        Ok(())
    })
}

#[test]
fn new_ping_keeps_its_identifier() -> Result<()> {
    with_rig(|rig| {
        let ping = echo_request("192.168.122.10:77", REMOTE);
        let translated = ping.clone().from("198.51.100.1:77").ttl(63);
        rig.from_guest(&ping)?.assert_redirected(NETWORK, Outbound, &translated);
        let session = rig.tables()?.only();
        assert_eq!((session.protocol, session.remote_port), (protocol::ICMP, PortBe::NONE));
        Ok(())
    })
}

#[test]
fn packets_of_an_established_flow_share_its_session() -> Result<()> {
    with_rig(|rig| {
        for (packet, bits) in [SYN, ACK, ACK].into_iter().enumerate() {
            let segment = tcp("192.168.122.10:20000", "192.0.2.10:80", bits);
            let translated = segment.clone().from(EXTERNAL).ttl(63);
            rig.from_guest(&segment)?.assert_redirected(NETWORK, Outbound, &translated);
            assert_eq!(rig.tables()?.only().outbound.packets, packet as u64 + 1);
        }
        Ok(())
    })
}

#[test]
fn taken_port_is_replaced_by_another_of_the_range() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.11:20000", "192.0.2.10:53"))?;
        let query = udp("192.168.122.10:20000", "192.0.2.10:53");
        let outcome = rig.from_guest(&query)?;
        let tables = rig.tables()?;
        let (_, session) = tables.live().find(|(_, s)| s.inside == address(GUEST)).unwrap();
        let port = session.external_port.to_host();
        assert!(port != 20000 && is_free_for_masquerade(port), "{port}");
        let translated = query.from(&format!("{EXTERNAL}:{port}")).ttl(63);
        outcome.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn taken_identifier_is_replaced_with_the_right_checksum() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&echo_request("192.168.122.11:77", REMOTE))?;
        let ping = echo_request("192.168.122.10:77", REMOTE);
        let outcome = rig.from_guest(&ping)?;
        let tables = rig.tables()?;
        let (_, session) = tables.live().find(|(_, s)| s.inside == address(GUEST)).unwrap();
        let identifier = session.external_port.to_host();
        assert_ne!(identifier, 77);
        let translated = ping.from(&format!("{EXTERNAL}:{identifier}")).ttl(63);
        outcome.assert_redirected(NETWORK, Outbound, &translated);

        let reply = echo_reply(REMOTE, &format!("{EXTERNAL}:{identifier}"));
        let back = reply.clone().to("192.168.122.10:77").ttl(63);
        let outcome = rig.from_outside(&reply)?;
        outcome.assert_redirected(NETWORK, vnet_common::flow::Direction::Inbound, &back);
        Ok(())
    })
}

#[test]
fn ports_of_the_hosts_own_ephemeral_range_are_never_taken() -> Result<()> {
    with_rig(|rig| {
        for port in 40000..40020 {
            let query = udp(&format!("{GUEST}:{port}"), "192.0.2.10:53");
            let outcome = rig.from_guest(&query)?;
            let taken = rig.tables()?.external_port_of(port);
            assert!(is_free_for_masquerade(taken), "{taken}");
            let translated = query.from(&format!("{EXTERNAL}:{taken}")).ttl(63);
            outcome.assert_redirected(NETWORK, Outbound, &translated);
        }
        Ok(())
    })
}

#[test]
fn privileged_port_is_not_kept() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:123", "192.0.2.10:123"))?;
        let taken = rig.tables()?.external_port_of(123);
        assert!(is_free_for_masquerade(taken), "{taken}");
        Ok(())
    })
}

#[test]
fn ports_stay_in_the_range_of_the_definition() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |n| n.ports = PortRange { first: 5000, last: 5063 })?;
        for port in 20000..20010 {
            rig.from_guest(&tcp(&format!("{GUEST}:{port}"), "192.0.2.10:80", SYN))?;
            let taken = rig.tables()?.external_port_of(port);
            assert!((5000..=5063).contains(&taken), "{taken}");
        }
        rig.from_guest(&tcp("192.168.122.11:5063", "192.0.2.10:80", SYN))?;
        Ok(())
    })
}

#[test]
fn mapping_is_endpoint_independent() -> Result<()> {
    with_rig(|rig| {
        let mut ports = Vec::new();
        for remote in ["192.0.2.10:53", "192.0.2.10:54", "192.0.2.11:53"] {
            // From the ephemeral range, so that the port is a random one.
            let query = udp("192.168.122.10:40000", remote);
            let outcome = rig.from_guest(&query)?;
            let port = rig.tables()?.external_port_of(40000);
            let translated = query.from(&format!("{EXTERNAL}:{port}")).ttl(63);
            outcome.assert_redirected(NETWORK, Outbound, &translated);
            ports.push(port);
        }
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
        assert_eq!(rig.tables()?.mapping_of(40000).unwrap().references, 3);
        Ok(())
    })
}

#[test]
fn protocols_do_not_share_mappings() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.11:20000", "192.0.2.10:53"))?;
        let syn = tcp("192.168.122.10:20000", "192.0.2.10:53", SYN);
        let translated = syn.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn port_of_a_socket_of_the_host_is_avoided() -> Result<()> {
    with_rig(|rig| {
        let _udp = UdpSocket::bind("198.51.100.1:20000")?;
        let _tcp = TcpListener::bind("0.0.0.0:20001")?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_guest(&tcp("192.168.122.10:20001", "192.0.2.10:80", SYN))?;
        let tables = rig.tables()?;
        assert_ne!(tables.external_port_of(20000), 20000);
        assert_ne!(tables.external_port_of(20001), 20001);
        // The other protocol's port of that number is free.
        rig.from_guest(&udp("192.168.122.11:20001", "192.0.2.10:53"))?;
        let tables = rig.tables()?;
        let of_guest = |s: &vnet_common::flow::Session| s.inside == address("192.168.122.11");
        let (_, session) = tables.live().find(|(_, s)| of_guest(s)).unwrap();
        assert_eq!(session.external_port.to_host(), 20001);
        Ok(())
    })
}

#[test]
fn second_subnet_of_the_network_is_masqueraded_too() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("10.1.0.5:20000", "192.0.2.10:80", SYN);
        let translated = syn.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn route_decides_the_uplink_and_its_address() -> Result<()> {
    with_rig(|rig| {
        let syn = tcp("192.168.122.10:20000", "198.18.3.9:80", SYN);
        let translated = syn.clone().from("203.0.113.1").ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        assert_eq!(rig.tables()?.only().uplink_ifindex, rig.ifindex("eth1")?);
        Ok(())
    })
}

#[test]
fn address_of_the_next_hops_subnet_is_preferred_and_else_the_first() -> Result<()> {
    with_rig(|rig| {
        for (port, addresses, chosen) in [
            (20000, ["203.0.113.77/32", "198.51.100.9/24"], "198.51.100.9"),
            (20001, ["198.51.100.8/24", "198.51.100.9/24"], "198.51.100.8"),
            (20002, ["203.0.113.77/32", "203.0.113.78/32"], "203.0.113.77"),
        ] {
            rig.set_uplink("eth0", &addresses)?;
            let syn = tcp(&format!("{GUEST}:{port}"), "192.0.2.10:80", SYN);
            let translated = syn.clone().from(chosen).ttl(63);
            rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        }
        Ok(())
    })
}

#[test]
fn udp_without_a_checksum_stays_without() -> Result<()> {
    with_rig(|rig| {
        let query = udp("192.168.122.10:40000", "192.0.2.10:53").without_checksum();
        let outcome = rig.from_guest(&query)?;
        let port = rig.tables()?.only().external_port.to_host();
        let translated = query.from(&format!("{EXTERNAL}:{port}")).ttl(63);
        outcome.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn tcp_states_follow_the_segments() -> Result<()> {
    use State::*;
    with_rig(|rig| {
        let steps = [
            (true, SYN, Opening),
            (true, ACK, Opening),
            (false, SYN | ACK, Answered),
            (true, ACK, Established),
            (false, FIN | ACK, FinOutside),
            (true, FIN | ACK, Closing),
            (false, ACK, Closing),
            (true, SYN, Opening),
            (false, RST | ACK, Opening),
            (false, SYN | ACK, Answered),
            (true, ACK, Established),
            (false, RST, Reset),
            (false, ACK, Established),
            (true, RST, Reset),
            (true, SYN, Opening),
        ];
        for (step, (outbound, bits, state)) in steps.into_iter().enumerate() {
            let outcome = if outbound {
                rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", bits))?
            } else {
                rig.from_outside(&tcp("192.0.2.10:80", "198.51.100.1:20000", bits))?
            };
            assert_eq!(outcome.verdict, Verdict::Redirect, "step {step}");
            assert_eq!(rig.tables()?.only().state, state as u8, "after step {step}");
        }
        Ok(())
    })
}
