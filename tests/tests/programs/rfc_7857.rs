//! RFC 7857 (updates), where no other test shows what `docs/nat.md` says.

use anyhow::Result;
use vnet_common::flow::{Direction::*, Phase};
use vnet_tests::programs::*;

#[test]
fn errors_from_a_guest_do_not_refresh_its_flow() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_outside(&udp("192.0.2.10:53", "198.51.100.1:20000"))?;
        rig.set_session(0, |session| session.last_outbound -= 1)?;
        let before = rig.tables()?.only();
        let received = udp("192.0.2.10:53", "192.168.122.10:20000").ttl(63);
        let on_the_wire = udp("192.0.2.10:53", "198.51.100.1:20000").ttl(63);
        let error = icmp_error(GUEST, REMOTE, (3, 3), &received, 28);
        let expected = icmp_error(EXTERNAL, REMOTE, (3, 3), &on_the_wire, 28).ttl(63);
        rig.from_guest(&error)?.assert_redirected(NETWORK, Outbound, &expected);
        let after = rig.tables()?.only();
        assert_eq!(after.last_outbound, before.last_outbound);
        assert_eq!(after.outbound.packets, before.outbound.packets);
        Ok(())
    })
}

#[test]
fn identifier_of_an_ended_query_rests_as_ports_do() -> Result<()> {
    const SECOND: u64 = 1_000_000_000;
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.timeouts.port_hold_down = 120)?;
        rig.from_guest(&echo_request("192.168.122.10:77", REMOTE))?;
        rig.set_session(0, |session| session.last_outbound -= 3 * SECOND)?;
        rig.sweep()?;
        let tables = rig.tables()?;
        assert_eq!(Phase::from_word(tables.sessions[&0].phase), Phase::HoldDown);
        assert_eq!(tables.mapping_of(77).unwrap().external_port.to_host(), 77);
        // Another guest gets another one meanwhile.
        rig.from_guest(&echo_request("192.168.122.11:77", REMOTE))?;
        assert_ne!(rig.tables()?.only().external_port.to_host(), 77);
        Ok(())
    })
}

#[test]
fn fragments_of_two_guests_with_one_identification_are_told_apart() -> Result<()> {
    with_rig(|rig| {
        let of_guest = |guest: &str| {
            let from = format!("{guest}:20000");
            udp(&from, "192.0.2.10:53").payload(&[7; 2000]).identification(9).fragments(800)
        };
        let (one, other) = (of_guest(GUEST), of_guest("192.168.122.11"));
        for fragment in [&one[0], &other[0], &one[1], &other[1], &one[2]] {
            assert_eq!(rig.frame_from_guest(fragment)?.verdict, Verdict::Redirect);
        }
        let tables = rig.tables()?;
        let packets_of = |guest: &str| {
            let (_, session) = tables.live().find(|(_, s)| s.inside == address(guest)).unwrap();
            session.outbound.packets
        };
        assert_eq!((packets_of(GUEST), packets_of("192.168.122.11")), (3, 2));
        Ok(())
    })
}
