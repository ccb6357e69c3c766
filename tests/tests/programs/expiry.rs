//! The end of idle flows.

use anyhow::Result;
use vnet_common::{
    flow::{Phase, Session},
    reason::DropReason,
    tcp::flags::*,
};
use vnet_tests::programs::*;

const SECOND: u64 = 1_000_000_000;

fn age(rig: &mut Rig, index: u32, seconds: u64) -> Result<()> {
    rig.set_session(index, |session: &mut Session| {
        session.last_outbound -= seconds * SECOND;
        session.last_inbound = session.last_inbound.saturating_sub(seconds * SECOND);
        session.since -= seconds * SECOND;
    })
}

/// Winds back the time at which a mapping became idle, as its session's.
fn age_held_port(rig: &mut Rig, index: u32, seconds: u64) -> Result<()> {
    rig.set_session(index, |session| session.since -= seconds * SECOND)?;
    rig.set_mappings(|mapping| {
        mapping.idle_since = mapping.idle_since.saturating_sub(seconds * SECOND);
    })
}

fn phase(rig: &Rig, index: u32) -> Result<Phase> {
    Ok(Phase::from_word(rig.tables()?.sessions[&index].phase))
}

#[test]
fn flows_end_by_the_timeout_of_their_protocol_and_state() -> Result<()> {
    with_rig(|rig| {
        let to = "192.0.2.10:80";
        rig.from_guest(&tcp("192.168.122.10:20000", to, SYN))?;
        rig.from_guest(&tcp("192.168.122.10:20001", to, ACK))?;
        rig.from_outside(&tcp(to, "198.51.100.1:20001", ACK))?;
        rig.from_guest(&udp("192.168.122.10:20002", to))?;
        rig.from_guest(&echo_request("192.168.122.10:20003", REMOTE))?;
        // The rig's timeouts: transitory 4, established 8, UDP 3, ICMP 2 seconds.
        for (seconds, live) in [(1, 4), (1, 3), (1, 2), (1, 1), (3, 1), (1, 0)] {
            for index in 0..4 {
                if phase(rig, index)? == Phase::Live {
                    age(rig, index, seconds)?;
                }
            }
            rig.sweep()?;
            assert_eq!(rig.tables()?.live().count(), live);
        }
        assert_eq!(rig.tables()?.cursor.ended, 4);
        assert!(rig.tables()?.flows.is_empty());
        Ok(())
    })
}

#[test]
fn replies_keep_a_tcp_flow_and_no_other() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", ACK))?;
        rig.from_guest(&udp("192.168.122.10:20001", "192.0.2.10:53"))?;
        age(rig, 0, 9)?;
        age(rig, 1, 9)?;
        rig.from_outside(&tcp("192.0.2.10:80", "198.51.100.1:20000", ACK))?;
        rig.from_outside(&udp("192.0.2.10:53", "198.51.100.1:20001"))?;
        rig.sweep()?;
        assert_eq!(rig.tables()?.only().inside_port.to_host(), 20000);
        Ok(())
    })
}

#[test]
fn port_of_an_ended_flow_is_held_down_and_then_free() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        age(rig, 0, 3)?;
        rig.sweep()?;
        assert_eq!(phase(rig, 0)?, Phase::HoldDown);
        let tables = rig.tables()?;
        assert_eq!((tables.flows.len(), tables.ports.len()), (0, 1));
        assert_eq!((tables.guests[0].1.flows, tables.guests[0].1.ports), (0, 1));
        // Another guest does not get the port now.
        rig.from_guest(&udp("192.168.122.11:20000", "192.0.2.10:53"))?;
        assert_ne!(rig.tables()?.external_port_of(20000), 20000);

        age_held_port(rig, 0, 1)?;
        rig.sweep()?;
        assert_eq!(phase(rig, 0)?, Phase::Free);
        let tables = rig.tables()?;
        assert_eq!((tables.mappings.len(), tables.ports.len()), (1, 1));
        let accounts: Vec<_> = tables.guests.iter().map(|(guest, _)| *guest).collect();
        assert_eq!(accounts, [address("192.168.122.11")], "an idle guest leaves no account behind");
        rig.from_guest(&udp("192.168.123.10:20000", "192.0.2.10:53"))?;
        Ok(())
    })
}

#[test]
fn endpoint_gets_its_own_held_port_back() -> Result<()> {
    with_rig(|rig| {
        // From the ephemeral range, so that the port is a random one.
        rig.from_guest(&udp("192.168.122.10:40000", "192.0.2.10:53"))?;
        let port = rig.tables()?.external_port_of(40000);
        age(rig, 0, 3)?;
        rig.sweep()?;
        rig.from_guest(&udp("192.168.122.10:40000", "192.0.2.11:53"))?;
        assert_eq!(rig.tables()?.external_port_of(40000), port);
        // The end of the first flow's hold-down does not take the port from the second.
        age_held_port(rig, 0, 1)?;
        rig.sweep()?;
        assert_eq!(phase(rig, 0)?, Phase::Free);
        assert_eq!(rig.tables()?.mapping_of(40000).unwrap().references, 1);
        Ok(())
    })
}

#[test]
fn flow_that_shares_its_mapping_ends_without_hold_down() -> Result<()> {
    with_rig(|rig| {
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.11:53"))?;
        age(rig, 0, 3)?;
        rig.sweep()?;
        assert_eq!(phase(rig, 0)?, Phase::Draining);
        assert_eq!(rig.tables()?.mapping_of(20000).unwrap().references, 1);
        rig.set_session(0, |session| session.since -= SECOND)?;
        rig.sweep()?;
        assert_eq!(phase(rig, 0)?, Phase::Free);
        Ok(())
    })
}

#[test]
fn slot_is_used_again_with_another_generation() -> Result<()> {
    with_rig(|rig| {
        rig.configure(|config| config.session_limit = 1)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let first = rig.tables()?.only();
        age(rig, 0, 3)?;
        rig.sweep()?;
        age_held_port(rig, 0, 1)?;
        rig.sweep()?;
        rig.from_guest(&udp("192.168.122.11:20001", "192.0.2.10:53"))?;
        let second = rig.tables()?.only();
        assert_eq!(second.generation, first.generation + 1);
        assert_eq!((second.outbound.packets, second.inbound.packets), (1, 0));
        assert_eq!(second.inside, address("192.168.122.11"));
        Ok(())
    })
}

#[test]
fn later_fragment_of_an_ended_flow_does_not_join_the_slots_next_tenant() -> Result<()> {
    with_rig(|rig| {
        rig.configure(|config| config.session_limit = 1)?;
        let query = udp("192.168.122.10:20000", "192.0.2.10:53").payload(&[1; 2000]);
        rig.frame_from_guest(&query.fragments(1480)[0])?;
        age(rig, 0, 3)?;
        rig.sweep()?;
        age_held_port(rig, 0, 1)?;
        rig.sweep()?;
        rig.from_guest(&udp("192.168.122.11:20001", "192.0.2.10:53"))?;
        let outcome = rig.frame_from_guest(&query.fragments(1480)[1])?;
        // It leaves as one whose first is still to come.
        assert_eq!(outcome.verdict, Verdict::Redirect);
        assert_eq!(rig.tables()?.only().outbound.packets, 1);
        Ok(())
    })
}

#[test]
fn full_table_empties_itself_without_a_sweep() -> Result<()> {
    with_rig(|rig| {
        rig.configure(|config| config.session_limit = 1)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        age(rig, 0, 3)?;
        let new = udp("192.168.122.11:20001", "192.0.2.10:53");
        rig.from_guest(&new)?.assert_refused(NETWORK, DropReason::FlowTableFull);
        assert_eq!(phase(rig, 0)?, Phase::HoldDown);
        age_held_port(rig, 0, 1)?;
        assert_eq!(rig.from_guest(&new)?.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn refused_flow_does_not_shorten_the_hold_down_of_its_endpoints_port() -> Result<()> {
    with_rig(|rig| {
        rig.configure(|config| config.session_limit = 1)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        age(rig, 0, 3)?;
        rig.sweep()?;
        let again = udp("192.168.122.10:20000", "192.0.2.11:53");
        rig.from_guest(&again)?.assert_refused(NETWORK, DropReason::FlowTableFull);
        let tables = rig.tables()?;
        assert_eq!((tables.mappings.len(), tables.ports.len()), (1, 1));
        age_held_port(rig, 0, 1)?;
        rig.sweep()?;
        let tables = rig.tables()?;
        assert_eq!((tables.mappings.len(), tables.ports.len()), (0, 0));
        Ok(())
    })
}

#[test]
fn connection_that_ends_lives_as_long_as_one_that_opens() -> Result<()> {
    with_rig(|rig| {
        let (guest, remote) = ("192.168.122.10:20000", "192.0.2.10:80");
        rig.from_guest(&tcp(guest, remote, SYN))?;
        rig.from_outside(&tcp(remote, "198.51.100.1:20000", SYN | ACK))?;
        rig.from_guest(&tcp(guest, remote, ACK))?;
        // Established, it would live 8 s.
        rig.from_outside(&tcp(remote, "198.51.100.1:20000", RST))?;
        age(rig, 0, 3)?;
        rig.sweep()?;
        assert_eq!(rig.tables()?.live().count(), 1);
        age(rig, 0, 1)?;
        rig.sweep()?;
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn table_full_of_flows_that_ended_long_ago_takes_new_ones_without_a_sweep() -> Result<()> {
    with_rig(|rig| {
        for port in 20000..20064 {
            rig.from_guest(&udp(&format!("{GUEST}:{port}"), "192.0.2.10:53"))?;
        }
        for index in 0..64 {
            age(rig, index, 10)?;
        }
        // The first one notices; slots rest a moment before they are used again, ports do not.
        let new = udp("192.168.122.11:30000", "192.0.2.10:53");
        rig.from_guest(&new)?.assert_refused(NETWORK, DropReason::FlowTableFull);
        for index in 0..64 {
            if phase(rig, index)? != Phase::Live {
                rig.set_session(index, |session| session.since -= SECOND)?;
            }
        }
        let mut opened = 0;
        for port in 30000..30064 {
            let packet = udp(&format!("192.168.122.11:{port}"), "192.0.2.10:53");
            opened += u32::from(rig.from_guest(&packet)?.frame.len() == packet.frame().len());
            for index in 0..64 {
                if phase(rig, index)? == Phase::HoldDown {
                    rig.set_session(index, |session| session.since -= SECOND)?;
                }
            }
        }
        assert!(opened >= 32, "{opened} of 64 flows opened");
        Ok(())
    })
}
