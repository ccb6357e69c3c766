//! Flows that share an external port, because none is left or because theirs is taken at that remote.

use anyhow::{Context as _, Result};
use vnet_common::{
    flow::{Direction::*, FLAG_UNMAPPED, Phase, Session},
    port::PortRange,
    reason::DropReason,
};
use vnet_tests::programs::*;

const SECOND: u64 = 1_000_000_000;

fn narrow(rig: &mut Rig, first: u16, last: u16) -> Result<()> {
    rig.set_network(NETWORK, |network| network.ports = PortRange { first, last })
}

fn session_of(rig: &Rig, inside_port: u16) -> Result<Session> {
    let tables = rig.tables()?;
    let found = tables.live().find(|(_, s)| s.inside_port.to_host() == inside_port);
    Ok(*found.context("no live session of that port")?.1)
}

#[test]
fn full_range_is_shared_between_remotes_and_refused_towards_one() -> Result<()> {
    with_rig(|rig| {
        narrow(rig, 5000, 5003)?;
        for port in 20000..20004 {
            let from = format!("{GUEST}:{port}");
            assert_eq!(rig.from_guest(&udp(&from, "192.0.2.10:53"))?.verdict, Verdict::Redirect);
            assert_eq!(session_of(rig, port)?.flags & FLAG_UNMAPPED, 0);
        }
        let shared = udp("192.168.122.11:20010", "192.0.2.11:53");
        let outcome = rig.from_guest(&shared)?;
        let session = session_of(rig, 20010)?;
        let port = session.external_port.to_host();
        assert!((5000..=5003).contains(&port), "{port}");
        assert_eq!(session.flags & FLAG_UNMAPPED, FLAG_UNMAPPED);
        let sent = shared.clone().from(&format!("{EXTERNAL}:{port}")).ttl(63);
        outcome.assert_redirected(NETWORK, Outbound, &sent);
        // Each remote's replies reach the guest that it knows.
        let reply = udp("192.0.2.11:53", &format!("{EXTERNAL}:{port}"));
        let delivered = reply.clone().to("192.168.122.11:20010").ttl(63);
        rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &delivered);
        let holder = (20000..20004).find(|inside| {
            rig.tables().is_ok_and(|tables| tables.external_port_of(*inside) == port)
        });
        let reply = udp("192.0.2.10:53", &format!("{EXTERNAL}:{port}"));
        let delivered = reply.clone().to(&format!("{GUEST}:{}", holder.unwrap())).ttl(63);
        rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &delivered);
        // Towards the first remote every port is taken.
        let refused = udp("192.168.122.11:20011", "192.0.2.10:53");
        let answer = unreachable(GATEWAY, 13, &refused);
        rig.from_guest(&refused)?.assert_rejected(NETWORK, DropReason::PortsExhausted, &answer);
        assert_eq!(rig.tables()?.mappings.len(), 4);
        Ok(())
    })
}

#[test]
fn mapping_whose_port_is_taken_at_a_remote_goes_on_for_all_others() -> Result<()> {
    with_rig(|rig| {
        narrow(rig, 5000, 5001)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_guest(&udp("192.168.122.10:20001", "192.0.2.10:53"))?;
        rig.from_guest(&udp("192.168.122.11:20002", "192.0.2.11:53"))?;
        let shared = session_of(rig, 20002)?.external_port;
        // The endpoint whose port that is, towards the remote that has the other's flow there.
        let own = if session_of(rig, 20000)?.external_port == shared { 20000 } else { 20001 };
        let from = format!("{GUEST}:{own}");
        assert_eq!(rig.from_guest(&udp(&from, "192.0.2.11:53"))?.verdict, Verdict::Redirect);
        let tables = rig.tables()?;
        let to_second = |session: &Session| {
            session.inside_port.to_host() == own && session.remote == address("192.0.2.11")
        };
        let (_, session) = tables.live().find(|(_, session)| to_second(session)).unwrap();
        assert_eq!(session.flags & FLAG_UNMAPPED, FLAG_UNMAPPED);
        assert_ne!(session.external_port, shared);
        let mapping = tables.mapping_of(own).unwrap();
        assert_eq!((mapping.references, mapping.external_port), (1, shared));
        // A third remote sees the mapping's port again.
        rig.from_guest(&udp(&from, "192.0.2.12:53"))?;
        assert_eq!(rig.tables()?.mapping_of(own).unwrap().references, 2);
        Ok(())
    })
}

#[test]
fn guest_at_its_port_limit_shares_and_its_neighbour_does_not() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.ports_per_guest = 2)?;
        for port in 20000..20004 {
            let outcome = rig.from_guest(&udp(&format!("{GUEST}:{port}"), "192.0.2.10:53"))?;
            assert_eq!(outcome.verdict, Verdict::Redirect);
        }
        let tables = rig.tables()?;
        assert_eq!((tables.live().count(), tables.mappings.len()), (4, 2));
        assert_eq!((tables.guests[0].1.flows, tables.guests[0].1.ports), (4, 2));
        rig.from_guest(&udp("192.168.122.11:20005", "192.0.2.10:53"))?;
        assert_eq!(session_of(rig, 20005)?.flags & FLAG_UNMAPPED, 0);
        Ok(())
    })
}

#[test]
fn refused_flows_leave_no_slots_behind_at_a_mapping_that_is_held_down() -> Result<()> {
    with_rig(|rig| {
        narrow(rig, 5000, 5000)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_guest(&udp("192.168.122.11:20001", "192.0.2.11:53"))?;
        rig.set_session(0, |session| session.last_outbound -= 3 * SECOND)?;
        rig.sweep()?;
        let in_use = |rig: &Rig| -> Result<Vec<Phase>> {
            let sessions = rig.tables()?.sessions;
            let phases = sessions.values().map(|session| Phase::from_word(session.phase));
            Ok(phases.filter(|phase| *phase != Phase::Free).collect())
        };
        assert_eq!(in_use(rig)?, [Phase::HoldDown, Phase::Live]);
        // Its own port has the other guest's flow with this remote, and there is no other to share.
        let refused = udp("192.168.122.10:20000", "192.0.2.11:53");
        for _ in 0..5 {
            rig.from_guest(&refused)?.assert_refused(NETWORK, DropReason::PortsExhausted);
        }
        assert_eq!(in_use(rig)?, [Phase::HoldDown, Phase::Live]);
        Ok(())
    })
}

#[test]
fn new_mapping_is_not_made_at_a_port_that_its_first_remote_has_a_flow_at() -> Result<()> {
    with_rig(|rig| {
        // The first to end leaves its port to nobody but the one that shares it.
        narrow(rig, 5000, 5000)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_guest(&udp("192.168.122.11:20001", "192.0.2.11:53"))?;
        rig.set_session(0, |session| session.last_outbound -= 600 * SECOND)?;
        rig.set_mappings(|mapping| mapping.idle_since = 1)?;
        rig.sweep()?;
        rig.drain()?;
        rig.sweep()?;
        assert!(rig.tables()?.mappings.is_empty());
        let refused = udp("192.168.122.10:20002", "192.0.2.11:53");
        rig.from_guest(&refused)?.assert_refused(NETWORK, DropReason::PortsExhausted);
        let tables = rig.tables()?;
        assert!(tables.mappings.is_empty() && tables.ports.is_empty());
        assert_eq!(tables.guests.len(), 1);
        Ok(())
    })
}

#[test]
fn port_of_a_host_socket_is_not_shared() -> Result<()> {
    with_rig(|rig| {
        narrow(rig, 5000, 5000)?;
        let _socket = std::net::UdpSocket::bind(("198.51.100.1", 5000))?;
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::PortsExhausted);
        let tables = rig.tables()?;
        assert!(tables.guests.is_empty() && tables.ports.is_empty() && tables.flows.is_empty());
        Ok(())
    })
}

#[test]
fn held_down_port_is_shared_with_nobody_but_given_back_to_its_endpoint() -> Result<()> {
    with_rig(|rig| {
        narrow(rig, 5000, 5000)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.set_session(0, |session| session.last_outbound -= 3 * SECOND)?;
        rig.sweep()?;
        let other = udp("192.168.122.11:20000", "192.0.2.11:53");
        rig.from_guest(&other)?.assert_refused(NETWORK, DropReason::PortsExhausted);
        let again = udp("192.168.122.10:20000", "192.0.2.11:53");
        let sent = again.clone().from("198.51.100.1:5000").ttl(63);
        rig.from_guest(&again)?.assert_redirected(NETWORK, Outbound, &sent);
        assert_eq!(rig.tables()?.mapping_of(20000).unwrap().references, 1);
        Ok(())
    })
}
