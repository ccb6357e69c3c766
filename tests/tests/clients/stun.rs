//! STUN: what a peer-to-peer program finds out about the NAT.

use std::time::Duration;

use vnet_tests::lab::services::{Dependence, NatBehaviour, StunServer};

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
