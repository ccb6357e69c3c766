//! Flows between guests by an address of the host when the other side is gone, or the packet is none that a
//! router sends on.

use anyhow::Result;
use vnet_common::{
    flow::protocol,
    network::NETWORK_ENDPOINT_INDEPENDENT,
    port::PortRange,
    reason::{DropReason, Handover},
};
use vnet_tests::programs::{modes::*, *};

const CLIENT: &str = "192.168.122.11:20000";
const SERVER: &str = "192.168.122.10:30000";
/// How the client sees the server.
const OUTSIDE: &str = "198.51.100.1:30000";

fn with_open_ports(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flags |= NETWORK_ENDPOINT_INDEPENDENT)?;
        rig.from_guest(&udp(SERVER, "192.0.2.10:53"))?;
        work(rig)
    })
}

/// Ends every flow of the server's.
fn forget_server(rig: &mut Rig) -> Result<()> {
    let server = address(GUEST);
    let of_server: Vec<u32> = rig
        .tables()?
        .live()
        .filter(|(_, session)| session.inside == server)
        .map(|(index, _)| index)
        .collect();
    for index in of_server {
        rig.set_session(index, |session| session.last_outbound = 1)?;
    }
    rig.sweep()
}

#[test]
fn packet_is_the_hosts_once_nobody_is_behind_the_port() -> Result<()> {
    with_open_ports(|rig| {
        let datagram = udp(CLIENT, OUTSIDE);
        assert_eq!(rig.from_guest(&datagram)?.verdict, Verdict::Redirect);
        forget_server(rig)?;
        for _ in 0..2 {
            let outcome = rig.from_guest(&datagram)?;
            outcome.assert_handed_over(NETWORK, Handover::ToHost, &datagram);
        }
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn packet_turns_again_once_the_guest_is_back() -> Result<()> {
    with_open_ports(|rig| {
        let datagram = udp(CLIENT, OUTSIDE);
        rig.from_guest(&datagram)?;
        forget_server(rig)?;
        rig.from_guest(&udp(SERVER, "192.0.2.10:53"))?;
        let outcome = rig.from_guest(&datagram)?;
        let inside = udp("198.51.100.1:20000", SERVER).ttl(63);
        assert_eq!((outcome.verdict, outcome.frame), (Verdict::Redirect, inside.frame()));
        Ok(())
    })
}

#[test]
fn sender_of_an_expiring_packet_is_told_by_its_gateway() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            let port = PortRange { first: 8080, last: 8080 };
            rig.forward(protocol::UDP, (ends.external, port), (ends.guest, 80), "eth0", NETWORK)?;
            let packet = udp(&port_of(ends.second, 20000), &port_of(ends.external, 8080));
            let kind = if ends.guest.contains(':') { (3, 0) } else { (11, 0) };
            let expired = packet.clone().ttl(1);
            let answer = sent_back(&rejection(ends.gateway, kind, &expired));
            // Before there is a flow, and when there is one.
            for _ in 0..2 {
                let outcome = rig.from_guest(&expired)?;
                outcome.assert_rejected(NETWORK, DropReason::HairpinException, &answer);
                assert_eq!(rig.from_guest(&packet)?.verdict, Verdict::Redirect);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn sender_of_a_packet_that_is_too_large_is_told_how_large_it_may_be() -> Result<()> {
    for ends in Ends::BOTH {
        with_modes(|rig| {
            rig.set_network(NETWORK, |network| network.mtu = 1400)?;
            let port = PortRange { first: 8080, last: 8080 };
            rig.forward(protocol::UDP, (ends.external, port), (ends.guest, 80), "eth0", NETWORK)?;
            let packet = udp(&port_of(ends.second, 20000), &port_of(ends.external, 8080));
            let kind = if ends.guest.contains(':') { (2, 0) } else { (3, 4) };
            let mut large = packet.clone().payload(&[7; 1401 - 28]);
            if ends.guest.contains(':') {
                large = packet.clone().payload(&[7; 1401 - 48]);
            }
            large.dont_fragment = true;
            let answer = rejection(ends.gateway, kind, &large).icmp_rest([0, 0, 5, 120]);
            let answer = sent_back(&answer);
            for _ in 0..2 {
                let outcome = rig.from_guest(&large)?;
                outcome.assert_rejected(NETWORK, DropReason::HairpinException, &answer);
                assert_eq!(rig.from_guest(&packet)?.verdict, Verdict::Redirect);
            }
            let session = rig.tables()?;
            let (_, own) = session.live().find(|(_, s)| s.inside == address(ends.second)).unwrap();
            assert_eq!(own.mtu_outbound, 1400);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn large_packet_that_a_router_would_cut_has_no_answer() -> Result<()> {
    with_open_ports(|rig| {
        rig.set_network(NETWORK, |network| network.mtu = 1400)?;
        let large = udp(CLIENT, OUTSIDE).payload(&[7; 1400]);
        rig.from_guest(&large)?.assert_dropped(NETWORK, DropReason::HairpinException);
        assert_eq!(rig.tables()?.live().count(), 1);
        Ok(())
    })
}
