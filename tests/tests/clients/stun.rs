//! STUN: what a peer-to-peer program finds out about the NAT.

use std::net::UdpSocket;
use std::time::Duration;

use vnet_common::reason::DropReason;
use vnet_tests::lab::services::{Dependence, NatBehaviour, StunServer};
use vnet_tests::lab::wait_until;

use crate::internet::*;

/// For what a filter holds back: the way there and back takes well under a millisecond.
const SILENCE: Duration = Duration::from_millis(500);

fn discover(net: &Internet, family: Family) -> anyhow::Result<NatBehaviour> {
    let addresses = [ip(family.server), ip(family.second)];
    let server = StunServer::start(&net.server, addresses, [3478, 3479])?;
    let found = net.guest.discover_nat(server.primary(), SILENCE)?;
    assert_eq!(found.mapped.ip(), ip(family.uplink));
    Ok(found)
}

#[test]
fn stun_finds_endpoint_independent_mapping_and_strict_filtering() -> anyhow::Result<()> {
    on_each_port(|net| {
        for family in FAMILIES {
            let found = discover(net, family)?;
            assert_eq!(found.mapping, Dependence::EndpointIndependent, "{found:?}");
            assert_eq!(found.filtering, Dependence::AddressAndPortDependent, "{found:?}");
        }
        Ok(())
    })
}

#[test]
fn stun_finds_endpoint_independent_filtering_where_it_is_asked_for() -> anyhow::Result<()> {
    with_options("<vnet:filtering mode='endpoint-independent'/>", |net| {
        for family in FAMILIES {
            let found = discover(net, family)?;
            assert_eq!(found.mapping, Dependence::EndpointIndependent, "{found:?}");
            assert_eq!(found.filtering, Dependence::EndpointIndependent, "{found:?}");
        }
        Ok(())
    })
}

#[test]
fn peers_of_one_network_meet_at_the_endpoints_that_stun_has_told_them() -> anyhow::Result<()> {
    on_each_port(|net| {
        for family in FAMILIES {
            let addresses = [ip(family.server), ip(family.second)];
            let server = StunServer::start(&net.server, addresses, [3478, 3479])?;
            let any = at(if family == IPV4 { "0.0.0.0" } else { "::" }, 0);
            let [(one, own), (other, others)] = [&net.guest, &net.other_guest].map(|guest| {
                let socket = guest.enter(|| UdpSocket::bind(any)).unwrap().unwrap();
                let endpoint = guest.stun_endpoint(&socket, server.primary()).unwrap();
                assert_eq!(endpoint.ip(), ip(family.uplink));
                (socket, endpoint)
            });
            for socket in [&one, &other] {
                socket.set_read_timeout(Some(DEADLINE))?;
            }
            let mut datagram = [0; 16];
            // It opens the way back and gets lost, as the other side has not sent yet.
            let lost = net.vnet.drops(DropReason::Filtered)?;
            one.send_to(b"first", others)?;
            wait_until("the first to be lost", DEADLINE, || {
                let now =
                    net.vnet.drops(DropReason::Filtered).map_err(|error| error.to_string())?;
                if now == lost + 1 { Ok(()) } else { Err(format!("{now} after {lost}")) }
            })?;
            other.send_to(b"second", own)?;
            let (length, from) = one.recv_from(&mut datagram)?;
            assert_eq!((&datagram[..length], from), (&b"second"[..], others));
            one.send_to(b"third", others)?;
            let (length, from) = other.recv_from(&mut datagram)?;
            assert_eq!((&datagram[..length], from), (&b"third"[..], own));
        }
        Ok(())
    })
}
