//! Full tables: new flows are refused, and leave nothing behind.

use anyhow::Result;
use vnet_common::{port::PortRange, reason::DropReason, tcp::flags::*};
use vnet_tests::programs::*;

#[test]
fn full_flow_table_refuses_new_flows_and_keeps_the_old() -> Result<()> {
    with_rig(|rig| {
        rig.configure(|config| config.session_limit = 1)?;
        rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
        for port in 20001..20010 {
            let packet = tcp(&format!("{GUEST}:{port}"), "192.0.2.10:80", SYN);
            rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::FlowTableFull);
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
            rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::GuestFlowLimit);
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
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::GuestFlowLimit);
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
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PortsExhausted);
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
        rig.from_guest(&packet)?.assert_dropped(NETWORK, DropReason::PortsExhausted);
        Ok(())
    })
}
