//! Full tables: new flows are refused, and leave nothing behind.

use anyhow::Result;
use vnet_common::{names::program, port::PortRange, reason::DropReason, tcp::flags::*};
use vnet_tests::programs::*;

#[test]
fn full_flow_table_refuses_new_flows_and_keeps_the_old() -> Result<()> {
    with_rig(|rig| {
        rig.configure(|config| config.session_limit = 1)?;
        rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
        for port in 20001..20010 {
            let packet = tcp(&format!("{GUEST}:{port}"), "192.0.2.10:80", SYN);
            rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::FlowTableFull);
        }
        let tables = rig.tables()?;
        assert_eq!((tables.mappings.len(), tables.ports.len()), (1, 1));
        let outcome = rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", ACK))?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn guest_with_all_its_flows_does_not_starve_its_neighbour() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flows_per_guest = 2)?;
        for port in [20000, 20001] {
            let outcome = rig.from_guest(&udp(&format!("{GUEST}:{port}"), "192.0.2.10:53"))?;
            assert_eq!(outcome.verdict, Verdict::Redirect);
        }
        for port in 20002..20080 {
            let packet = udp(&format!("{GUEST}:{port}"), "192.0.2.10:53");
            rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::GuestFlowLimit);
        }
        assert_eq!(rig.tables()?.mappings.len(), 2);
        let outcome = rig.from_guest(&udp("192.168.122.11:20002", "192.0.2.10:53"))?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn refused_flow_of_a_used_mapping_leaves_the_mapping_alone() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flows_per_guest = 1)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let packet = udp("192.168.122.10:20000", "192.0.2.11:53");
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::GuestFlowLimit);
        assert_eq!(rig.tables()?.mapping_of(20000).unwrap().references, 1);
        Ok(())
    })
}

#[test]
fn without_a_free_port_new_endpoints_are_refused() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |n| n.ports = PortRange { first: 5000, last: 5000 })?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let packet = udp("192.168.122.10:20001", "192.0.2.10:53");
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::PortsExhausted);
        // The endpoint that has the port may use it for more flows.
        let outcome = rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.11:53"))?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn range_inside_the_hosts_own_has_no_port() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |n| n.ports = PortRange { first: 40000, last: 40999 })?;
        let packet = udp("192.168.122.10:40000", "192.0.2.10:53");
        rig.from_guest(&packet)?.assert_refused(NETWORK, DropReason::PortsExhausted);
        Ok(())
    })
}

#[test]
fn guest_that_may_have_no_flow_leaves_no_account() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flows_per_guest = 0)?;
        let packet = udp("192.168.122.10:20000", "192.0.2.10:53");
        let answer = unreachable(GATEWAY, 13, &packet);
        rig.from_guest(&packet)?.assert_rejected(NETWORK, DropReason::GuestFlowLimit, &answer);
        assert!(rig.tables()?.guests.is_empty());
        Ok(())
    })
}

#[test]
fn addresses_of_one_network_do_not_take_the_table_from_another() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flow_limit = 3)?;
        for guest in 20..23 {
            let from = format!("192.168.122.{guest}:20000");
            assert_eq!(rig.from_guest(&udp(&from, "192.0.2.10:53"))?.verdict, Verdict::Redirect);
        }
        for guest in 23..40 {
            let packet = udp(&format!("192.168.122.{guest}:20000"), "192.0.2.10:53");
            let answer = unreachable(GATEWAY, 13, &packet);
            rig.set_icmp_tokens(1)?;
            rig.from_guest(&packet)?.assert_rejected(
                NETWORK,
                DropReason::NetworkFlowLimit,
                &answer,
            );
        }
        let tables = rig.tables()?;
        assert_eq!((tables.guests.len(), tables.network_flows[1]), (3, 3));
        let other = Origin::Interface("virbr1");
        let packet = udp("192.168.123.10:20000", "192.0.2.10:53");
        let outcome = rig.at(program::BRIDGE_INGRESS, "virbr1", other, &packet.frame())?;
        assert_eq!(outcome.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn ended_flows_count_for_their_network_until_their_slots_are_free() -> Result<()> {
    const SECOND: u64 = 1_000_000_000;
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flow_limit = 1)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        rig.set_session(0, |session| session.last_outbound -= 3 * SECOND)?;
        rig.sweep()?;
        let next = udp("192.168.122.11:20000", "192.0.2.10:53");
        rig.from_guest(&next)?.assert_refused(NETWORK, DropReason::NetworkFlowLimit);
        rig.set_session(0, |session| session.since -= SECOND)?;
        rig.set_mappings(|mapping| mapping.idle_since -= SECOND)?;
        rig.sweep()?;
        assert_eq!(rig.tables()?.network_flows[1], 0);
        assert_eq!(rig.from_guest(&next)?.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn guest_opens_so_many_flows_in_a_second_and_its_neighbour_as_well() -> Result<()> {
    const IN_THAT_SECOND: u64 = 0xffff_ffff;
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.new_flows_per_second = 3)?;
        let mut port = 20000;
        // A second may end meanwhile; the account says how many there were in it.
        let refused = loop {
            let packet = udp(&format!("{GUEST}:{port}"), "192.0.2.10:53");
            let outcome = rig.from_guest(&packet)?;
            let opened = rig.tables()?.guests[0].1.opened & IN_THAT_SECOND;
            if outcome.frame.len() != packet.frame().len() {
                assert_eq!(opened, 3, "refused too early");
                break packet;
            }
            assert!((1..=3).contains(&opened), "{opened} flows in a second");
            port += 1;
            assert!(port < 20030, "never refused");
        };
        let other = udp("192.168.122.11:20000", "192.0.2.10:53");
        assert_eq!(rig.from_guest(&other)?.counted.len(), 2, "traffic alone is counted");
        // A flow that lives goes on, and in the next second there are three more.
        let old = udp(&format!("{GUEST}:20000"), "192.0.2.10:53");
        assert_eq!(rig.from_guest(&old)?.counted.len(), 2);
        rig.set_guests(|usage| usage.opened -= 1 << 32)?;
        assert_eq!(rig.from_guest(&refused)?.counted.len(), 2);
        Ok(())
    })
}

#[test]
fn errors_to_one_guest_do_not_use_up_those_to_its_neighbour() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flows_per_guest = 0)?;
        rig.set_icmp_shares(2, 1)?;
        let scan = udp("192.168.122.10:20000", "192.0.2.10:53");
        let answer = unreachable(GATEWAY, 13, &scan);
        rig.from_guest(&scan)?.assert_rejected(NETWORK, DropReason::GuestFlowLimit, &answer);
        for _ in 0..10 {
            rig.from_guest(&scan)?.assert_dropped(NETWORK, DropReason::GuestFlowLimit);
        }
        let other = udp("192.168.122.11:20000", "192.0.2.10:53");
        let answer = unreachable(GATEWAY, 13, &other);
        rig.from_guest(&other)?.assert_rejected(NETWORK, DropReason::GuestFlowLimit, &answer);
        Ok(())
    })
}
