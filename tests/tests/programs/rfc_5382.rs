//! RFC 5382 (TCP), where no other test shows what `docs/nat.md` says.

use anyhow::Result;
use vnet_common::{
    flow::Direction::*,
    tcp::{State, flags::*},
};
use vnet_tests::programs::*;

const INSIDE: &str = "192.168.122.10:20000";
const OUTSIDE: &str = "198.51.100.1:20000";
const PEER: &str = "192.0.2.10:80";

/// Sends segments there (`true`) and back, each of which has to arrive translated.
fn exchange(rig: &mut Rig, segments: &[(bool, u8)]) -> Result<()> {
    for &(outbound, bits) in segments {
        if outbound {
            let segment = tcp(INSIDE, PEER, bits).payload(b"data");
            let translated = segment.clone().from(OUTSIDE).ttl(63);
            rig.from_guest(&segment)?.assert_redirected(NETWORK, Outbound, &translated);
        } else {
            let segment = tcp(PEER, OUTSIDE, bits).payload(b"data");
            let translated = segment.clone().to(INSIDE).ttl(63);
            rig.from_outside(&segment)?.assert_redirected(NETWORK, Inbound, &translated);
        }
    }
    Ok(())
}

fn state(rig: &Rig) -> Result<State> {
    Ok(State::from_byte(rig.tables()?.only().state))
}

#[test]
fn tcp_mapping_is_endpoint_independent() -> Result<()> {
    with_rig(|rig| {
        let mut ports = Vec::new();
        for remote in ["192.0.2.10:80", "192.0.2.10:443", "192.0.2.11:80"] {
            // From the ephemeral range, so that the port is a random one.
            let syn = tcp("192.168.122.10:40000", remote, SYN);
            let outcome = rig.from_guest(&syn)?;
            let port = rig.tables()?.external_port_of(40000);
            let translated = syn.from(&format!("{EXTERNAL}:{port}")).ttl(63);
            outcome.assert_redirected(NETWORK, Outbound, &translated);
            ports.push(port);
        }
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
        Ok(())
    })
}

#[test]
fn simultaneous_open_establishes_the_connection() -> Result<()> {
    with_rig(|rig| {
        // RFC 9293, figure 7: SYN crosses SYN, and each side answers the other's.
        exchange(rig, &[(true, SYN), (false, SYN), (true, SYN | ACK), (false, SYN | ACK)])?;
        exchange(rig, &[(true, ACK), (false, ACK)])?;
        assert_eq!(state(rig)?, State::Established);
        Ok(())
    })
}

#[test]
fn half_closed_connection_carries_data_the_other_way() -> Result<()> {
    for closing_from_inside in [true, false] {
        with_rig(|rig| {
            exchange(rig, &[(true, SYN), (false, SYN | ACK), (true, ACK)])?;
            exchange(rig, &[(closing_from_inside, FIN | ACK), (!closing_from_inside, ACK)])?;
            for _ in 0..10 {
                exchange(rig, &[(!closing_from_inside, ACK), (closing_from_inside, ACK)])?;
            }
            assert_ne!(state(rig)?, State::Closing);
            exchange(rig, &[(!closing_from_inside, FIN | ACK), (closing_from_inside, ACK)])?;
            assert_eq!(state(rig)?, State::Closing);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn icmp_errors_end_no_connection() -> Result<()> {
    with_rig(|rig| {
        exchange(rig, &[(true, SYN), (false, SYN | ACK), (true, ACK)])?;
        let before = rig.tables()?.only();
        let on_the_wire = tcp(OUTSIDE, PEER, ACK).ttl(60);
        let sent = tcp(INSIDE, PEER, ACK).ttl(60);
        // Hard errors (RFC 1122 section 4.2.3.9) and others.
        for kind in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (11, 0), (12, 0)] {
            let error = icmp_error("198.51.100.254", EXTERNAL, kind, &on_the_wire, 40);
            let expected = icmp_error("198.51.100.254", GUEST, kind, &sent, 40).ttl(63);
            rig.from_outside(&error)?.assert_redirected(NETWORK, Inbound, &expected);
        }
        let after = rig.tables()?.only();
        assert_eq!((after.state, after.last_inbound), (before.state, before.last_inbound));
        exchange(rig, &[(true, ACK), (false, ACK)])
    })
}
