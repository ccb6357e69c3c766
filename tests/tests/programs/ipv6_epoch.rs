//! IPv6 flows, and flows of pools, after a change of definitions, addresses or routes.

use anyhow::Result;
use vnet_common::{
    flow::Direction::*,
    network::Pool,
    policy::Mode,
    reason::{DropReason, Handover},
    tcp::flags::*,
};
use vnet_tests::programs::{modes::*, *};

fn segment() -> Packet {
    tcp("[fd00:122::10]:20000", "[2001:db8:86dd::10]:80", ACK)
}

fn reply() -> Packet {
    tcp("[2001:db8:86dd::10]:80", "[2001:db8:100::1]:20000", ACK)
}

fn open(rig: &mut Rig) -> Result<()> {
    let translated = segment().from(EXTERNAL_6).ttl(63);
    rig.from_guest(&segment())?.assert_redirected(NETWORK, Outbound, &translated);
    Ok(())
}

#[test]
fn flow_survives_a_change_that_does_not_concern_it() -> Result<()> {
    with_modes(|rig| {
        open(rig)?;
        rig.bump_epoch()?;
        let back = reply().to(GUEST_6).ttl(63);
        rig.from_outside(&reply())?.assert_redirected(NETWORK, Inbound, &back);
        let session = rig.tables()?.only();
        assert_eq!((session.epoch_outbound, session.epoch_inbound), (1, 2));
        open(rig)?;
        let session = rig.tables()?.only();
        assert_eq!((session.epoch_outbound, session.epoch_inbound), (2, 2));
        assert_eq!((session.outbound.packets, session.inbound.packets), (2, 1));
        Ok(())
    })
}

#[test]
fn new_next_hop_and_mtu_are_learnt() -> Result<()> {
    with_modes(|rig| {
        open(rig)?;
        rig.ip("neighbour add 2001:db8:100::fd lladdr 02:00:00:00:00:08 nud permanent dev eth0")?;
        rig.ip("route replace default via 2001:db8:100::fd dev eth0 mtu lock 1400")?;
        rig.bump_epoch()?;
        open(rig)?;
        let session = rig.tables()?.only();
        assert_eq!(session.next_hop, address("2001:db8:100::fd"));
        assert_eq!(session.mtu_outbound, 1400);
        Ok(())
    })
}

#[test]
fn flow_that_moves_to_another_uplink_gets_that_ones_address() -> Result<()> {
    with_modes(|rig| {
        open(rig)?;
        rig.ip("route replace default via 2001:db8:113::fe dev eth1")?;
        rig.bump_epoch()?;
        let translated = segment().from("2001:db8:113::1").ttl(63);
        rig.from_guest(&segment())?.assert_redirected(NETWORK, Outbound, &translated);
        assert_eq!(rig.tables()?.only().uplink_ifindex, rig.ifindex("eth1")?);
        // Late replies to the old address find no flow.
        rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
        Ok(())
    })
}

#[test]
fn flow_whose_address_went_away_gets_the_new_one() -> Result<()> {
    with_modes(|rig| {
        open(rig)?;
        rig.set_uplink("eth0", &["2001:db8:100::2/64"])?;
        rig.bump_epoch()?;
        let translated = segment().from("2001:db8:100::2").ttl(63);
        rig.from_guest(&segment())?.assert_redirected(NETWORK, Outbound, &translated);
        assert_eq!(rig.tables()?.only().external, address("2001:db8:100::2"));
        Ok(())
    })
}

#[test]
fn reply_to_an_address_that_went_away_ends_the_flow() -> Result<()> {
    with_modes(|rig| {
        open(rig)?;
        rig.set_uplink("eth0", &["198.51.100.1/24"])?;
        rig.bump_epoch()?;
        rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
        assert_eq!(rig.tables()?.live().count(), 0);
        rig.from_guest(&segment())?.assert_dropped(NETWORK, DropReason::NoExternalAddress);
        Ok(())
    })
}

#[test]
fn flow_keeps_its_address_when_a_better_one_comes() -> Result<()> {
    with_modes(|rig| {
        open(rig)?;
        rig.set_uplink("eth0", &["2001:db8:100::2/64", "2001:db8:100::1/64"])?;
        rig.bump_epoch()?;
        open(rig)
    })
}

#[test]
fn network_that_changes_its_ipv6_mode_ends_its_ipv6_flows_alone() -> Result<()> {
    for mode in [Mode::Isolated, Mode::Route, Mode::Open] {
        with_modes(|rig| {
            open(rig)?;
            let four = tcp("192.168.122.10:20000", "192.0.2.10:80", ACK);
            let translated = four.clone().from(EXTERNAL).ttl(63);
            rig.from_guest(&four)?.assert_redirected(NETWORK, Outbound, &translated);
            rig.set_network(NETWORK, |network| network.mode_ipv6 = mode as u8)?;
            rig.bump_epoch()?;
            rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
            assert_eq!(rig.tables()?.flows_ipv6.len(), 0);
            rig.from_guest(&four)?.assert_redirected(NETWORK, Outbound, &translated);
            let outcome = rig.from_guest(&segment())?;
            match mode {
                Mode::Route => {
                    outcome.assert_redirected(NETWORK, Outbound, &segment().ttl(63));
                }
                Mode::Open => {
                    outcome.assert_handed_over(NETWORK, Handover::OpenNetwork, &segment());
                }
                _ => outcome.assert_rejected(
                    NETWORK,
                    DropReason::PolicyRejected,
                    &unreachable(GATEWAY_6, 4, &segment()),
                ),
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn network_that_becomes_routed_ends_its_flows_at_the_first_packet_out() -> Result<()> {
    with_modes(|rig| {
        open(rig)?;
        rig.set_network(NETWORK, |network| network.mode_ipv6 = Mode::Route as u8)?;
        rig.bump_epoch()?;
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().ttl(63));
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

fn pool(rig: &mut Rig, first: &str, last: &str) -> Result<Pool> {
    let pool = Pool { first: ipv4(first), last: ipv4(last) };
    rig.set_network(NETWORK, |network| {
        (network.pool_first, network.pool_last) = (pool.first, pool.last);
    })?;
    Ok(pool)
}

fn of_pool() -> Packet {
    tcp("192.168.122.10:20000", "192.0.2.10:80", ACK)
}

#[test]
fn guest_always_gets_the_same_address_of_the_pool_and_its_answers() -> Result<()> {
    with_modes(|rig| {
        let pool = pool(rig, "198.51.100.32", "198.51.100.63")?;
        let mut seen = std::collections::BTreeSet::new();
        for host in 10..14 {
            let guest = format!("192.168.122.{host}");
            let external = pool.pick(ipv4(&guest)).to_addr().to_string();
            for remote in ["192.0.2.10:80", "192.0.2.11:80"] {
                let syn = tcp(&format!("{guest}:20000"), remote, SYN);
                let translated = syn.clone().from(&external).ttl(63);
                rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
                let reply = tcp(remote, &format!("{external}:20000"), SYN | ACK);
                let back = reply.clone().to(&guest).ttl(63);
                rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
            }
            seen.insert(external);
        }
        assert!(seen.len() > 1, "{seen:?}");
        Ok(())
    })
}

#[test]
fn two_guests_of_one_pool_address_do_not_share_a_port() -> Result<()> {
    with_modes(|rig| {
        pool(rig, "198.51.100.32", "198.51.100.32")?;
        let first = tcp("192.168.122.11:20000", "192.0.2.10:80", SYN);
        let translated = first.clone().from("198.51.100.32").ttl(63);
        rig.from_guest(&first)?.assert_redirected(NETWORK, Outbound, &translated);
        let outcome = rig.from_guest(&of_pool())?;
        let tables = rig.tables()?;
        let (_, session) = tables.live().find(|(_, s)| s.inside == address(GUEST)).unwrap();
        let port = session.external_port.to_host();
        assert_ne!(port, 20000);
        let translated = of_pool().from(&format!("198.51.100.32:{port}")).ttl(63);
        outcome.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn pool_is_of_ipv4_alone_and_not_for_networks_of_this_host() -> Result<()> {
    with_modes(|rig| {
        pool(rig, "198.51.100.32", "198.51.100.63")?;
        open(rig)?;
        let syn = tcp("192.168.122.10:20000", "172.16.5.10:80", SYN);
        let translated = syn.clone().from("172.16.5.1").ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}

#[test]
fn flow_keeps_its_address_as_long_as_the_pool_has_it() -> Result<()> {
    with_modes(|rig| {
        let old = pool(rig, "198.51.100.32", "198.51.100.63")?;
        let external = old.pick(ipv4(GUEST)).to_addr().to_string();
        let translated = of_pool().from(&external).ttl(63);
        rig.from_guest(&of_pool())?.assert_redirected(NETWORK, Outbound, &translated);
        let reply = tcp("192.0.2.10:80", &format!("{external}:20000"), ACK);
        let back = reply.clone().to(GUEST).ttl(63);
        // A larger pool has the address, whatever it would pick; another one has not.
        pool(rig, "198.51.100.2", "198.51.100.99")?;
        rig.bump_epoch()?;
        rig.from_outside(&reply)?.assert_redirected(NETWORK, Inbound, &back);
        rig.from_guest(&of_pool())?.assert_redirected(NETWORK, Outbound, &translated);
        let other = pool(rig, "198.51.100.100", "198.51.100.101")?;
        rig.bump_epoch()?;
        rig.from_outside(&reply)?.assert_handed_over(0, Handover::NoFlow, &reply);
        let external = other.pick(ipv4(GUEST)).to_addr().to_string();
        let translated = of_pool().from(&external).ttl(63);
        rig.from_guest(&of_pool())?.assert_redirected(NETWORK, Outbound, &translated);
        // Without a pool, the uplink's own.
        pool(rig, "0.0.0.0", "0.0.0.0")?;
        rig.bump_epoch()?;
        let translated = of_pool().from(EXTERNAL).ttl(63);
        rig.from_guest(&of_pool())?.assert_redirected(NETWORK, Outbound, &translated);
        Ok(())
    })
}
