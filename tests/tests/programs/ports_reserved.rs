//! Ports that the host has set aside: nobody is masqueraded to them.

use anyhow::Result;
use vnet_common::{flow::protocol, port::PortRange, reason::DropReason};
use vnet_tests::programs::*;

const EIGHT: PortRange = PortRange { first: 5000, last: 5007 };

/// The external ports that flows hold, in ascending order.
fn held(rig: &Rig) -> Result<Vec<u16>> {
    let mut ports: Vec<u16> =
        rig.tables()?.ports.iter().map(|(port, _)| port.port.to_host()).collect();
    ports.sort_unstable();
    Ok(ports)
}

fn from(port: u16) -> Packet {
    udp(&format!("{GUEST}:{port}"), "192.0.2.10:53")
}

#[test]
fn reserved_ports_are_given_to_nobody() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.ports = EIGHT)?;
        rig.reserve_ports([5001, 5002, 5005])?;
        // All would like to have one of them.
        for port in [5001, 5002, 5005, 40001, 40002] {
            assert_eq!(rig.from_guest(&from(port))?.verdict, Verdict::Redirect, "{port}");
        }
        assert_eq!(held(rig)?, [5000, 5003, 5004, 5006, 5007]);
        // Nor are they shared when no other is left: this remote has a flow at every other port.
        rig.from_guest(&from(40003))?.assert_refused(NETWORK, DropReason::PortsExhausted);
        // ... and another remote has none.
        for (port, remote) in (40004..40008).zip(11..) {
            let packet = udp(&format!("{GUEST}:{port}"), &format!("192.0.2.{remote}:53"));
            assert_eq!(rig.from_guest(&packet)?.verdict, Verdict::Redirect);
        }
        let sessions = rig.tables()?.sessions;
        let reserved = |port: u16| [5001, 5002, 5005].contains(&port);
        assert!(!sessions.values().any(|session| reserved(session.external_port.to_host())));
        Ok(())
    })
}

#[test]
fn identifiers_of_queries_are_no_ports() -> Result<()> {
    with_rig(|rig| {
        rig.reserve_ports(0..=u16::MAX)?;
        let outcome = rig.from_guest(&echo_request(&format!("{GUEST}:5001"), "192.0.2.10"))?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(rig.tables()?.only().external_port.to_host(), 5001);
        rig.from_guest(&from(5001))?.assert_refused(NETWORK, DropReason::PortsExhausted);
        Ok(())
    })
}

#[test]
fn port_that_is_reserved_while_a_flow_has_it_is_not_given_away_again() -> Result<()> {
    const SECOND: u64 = 1_000_000_000;
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.ports = EIGHT)?;
        rig.from_guest(&from(5001))?;
        rig.reserve_ports([5001])?;
        rig.bump_epoch()?;
        // The flow lives on, and its end clears the port's bit in the new map.
        assert_eq!(rig.from_guest(&from(5001))?.verdict, Verdict::Redirect);
        rig.from_guest(&from(5002))?;
        rig.set_session(0, |session| session.last_outbound -= 3 * SECOND)?;
        rig.sweep()?;
        rig.set_session(0, |session| session.since -= SECOND)?;
        rig.set_mappings(|mapping| mapping.idle_since = mapping.idle_since.min(1))?;
        rig.sweep()?;
        assert_eq!(held(rig)?, [5002]);
        assert_eq!(rig.from_guest(&from(5001))?.verdict, Verdict::Redirect);
        assert!(!held(rig)?.contains(&5001));
        Ok(())
    })
}

#[test]
fn port_that_is_no_longer_reserved_is_found_again() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.ports = PortRange { first: 5000, last: 5000 })?;
        rig.reserve_ports([5000])?;
        rig.from_guest(&from(5000))?.assert_refused(NETWORK, DropReason::PortsExhausted);
        rig.reserve_ports([])?;
        assert_eq!(rig.from_guest(&from(40000))?.verdict, Verdict::Redirect);
        assert_eq!(held(rig)?, [5000]);
        Ok(())
    })
}

#[test]
fn forwards_may_have_reserved_ports() -> Result<()> {
    with_rig(|rig| {
        let port = PortRange { first: 8080, last: 8080 };
        rig.forward(protocol::UDP, (EXTERNAL, port), (GUEST, 80), "eth0", NETWORK)?;
        rig.reserve_ports([8080])?;
        let outcome = rig.from_outside(&udp("192.0.2.10:4000", &format!("{EXTERNAL}:8080")))?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        Ok(())
    })
}
