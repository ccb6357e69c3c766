//! What a change ends without a packet: exactly the flows that may not live on.

use anyhow::Result;
use vnet_common::{
    flow::{Direction::*, protocol},
    network::NETWORK_ENDPOINT_INDEPENDENT,
    policy::Mode,
    port::PortRange,
    reason::Handover,
    tcp::flags::*,
    timeout::Timeouts,
};
use vnet_tests::programs::*;

const PORT: PortRange = PortRange { first: 8080, last: 8080 };

/// Flows of two guests on two uplinks, one by a forward, one of another network.
const FLOWS: [&str; 5] = ["one", "two", "by-eth1", "forwarded", "other-network"];

fn open(rig: &mut Rig) -> Result<()> {
    // No flow times out meanwhile, also on a busy machine.
    for slot in [NETWORK, OTHER_NETWORK] {
        rig.set_network(slot, |network| network.timeouts = Timeouts::default())?;
    }
    rig.forward(protocol::TCP, (EXTERNAL, PORT), (GUEST, 80), "eth0", NETWORK)?;
    rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
    rig.from_guest(&udp("192.168.122.11:20001", "192.0.2.10:53"))?;
    rig.from_guest(&udp("192.168.122.10:20002", "198.18.3.7:53"))?;
    rig.from_outside(&tcp("192.0.2.10:50000", "198.51.100.1:8080", SYN))?;
    let other = udp("192.168.123.10:20003", "192.0.2.10:53").frame();
    let virbr1 = Origin::Interface("virbr1");
    rig.at(vnet_common::names::program::BRIDGE_INGRESS, "virbr1", virbr1, &other)?;
    // What has come in by a forward is judged once more, soon.
    rig.sweep()?;
    assert_eq!(rig.tables()?.live().count(), FLOWS.len());
    Ok(())
}

/// The flows that are left after a change, the end of the epoch and a sweep.
fn left_after(change: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<Vec<&'static str>> {
    let mut left = Vec::new();
    with_rig(|rig| {
        open(rig)?;
        change(rig)?;
        rig.sweep()?;
        assert_eq!(rig.tables()?.live().count(), FLOWS.len(), "ended before the epoch did");
        rig.bump_epoch()?;
        rig.sweep()?;
        let tables = rig.tables()?;
        left = tables.live().map(|(index, _)| FLOWS[index as usize]).collect();
        left.sort_by_key(|name| FLOWS.iter().position(|other| other == name));
        tables.check()
    })?;
    Ok(left)
}

fn assert_ends(change: impl FnOnce(&mut Rig) -> Result<()> + Send, ended: &[&str]) -> Result<()> {
    if !vnet_tests::lab::require_root() {
        return Ok(());
    }
    let expected: Vec<_> = FLOWS.into_iter().filter(|flow| !ended.contains(flow)).collect();
    assert_eq!(left_after(change)?, expected);
    Ok(())
}

#[test]
fn nothing_ends_when_nothing_changes_for_it() -> Result<()> {
    assert_ends(|_| Ok(()), &[])?;
    assert_ends(|rig| rig.set_uplink("eth0", &["198.51.100.7/24", "198.51.100.1/24"]), &[])?;
    assert_ends(|rig| rig.ip("route replace default via 203.0.113.254 dev eth1"), &[])?;
    let narrower = PortRange { first: 20000, last: 30000 };
    assert_ends(|rig| rig.set_network(NETWORK, |network| network.ports = narrower), &[])?;
    assert_ends(|rig| rig.set_network(NETWORK, |network| network.flows_per_guest = 1), &[])?;
    let open = NETWORK_ENDPOINT_INDEPENDENT;
    assert_ends(|rig| rig.set_network(NETWORK, |network| network.flags = open), &[])
}

#[test]
fn address_that_goes_away_takes_its_flows_along() -> Result<()> {
    // The forward is userspace's to remove, as the next test does.
    let ended = ["one", "two", "other-network"];
    assert_ends(|rig| rig.set_uplink("eth0", &["198.51.100.2/24"]), &ended)?;
    assert_ends(|rig| rig.remove_uplink("eth1"), &["by-eth1"])
}

#[test]
fn forward_that_goes_takes_its_flows_along() -> Result<()> {
    assert_ends(|rig| rig.remove_forward(protocol::TCP, EXTERNAL, PORT), &["forwarded"])
}

#[test]
fn pool_takes_the_flows_of_the_uplinks_addresses_along() -> Result<()> {
    let pool = |rig: &mut Rig| {
        rig.set_network(NETWORK, |network| {
            network.pool_first = ipv4("198.51.100.7");
            network.pool_last = ipv4("198.51.100.8");
        })
    };
    assert_ends(pool, &["one", "two", "by-eth1"])
}

#[test]
fn network_that_is_masqueraded_no_more_or_gone_takes_its_flows_along() -> Result<()> {
    let ended = ["one", "two", "by-eth1", "forwarded"];
    for mode in [Mode::Isolated, Mode::Route, Mode::Open] {
        assert_ends(|rig| rig.set_network(NETWORK, |network| network.mode = mode as u8), &ended)?;
    }
    let subnets = ["192.168.122.0/24", "10.1.0.0/24"];
    assert_ends(|rig| rig.remove_network("virbr0", &subnets), &ended)
}

#[test]
fn network_that_is_bound_to_an_uplink_keeps_the_flows_there_alone() -> Result<()> {
    let bind = |rig: &mut Rig| {
        let eth1 = rig.ifindex("eth1")?;
        rig.set_network(NETWORK, |network| network.forward_ifindex = eth1)
    };
    assert_ends(bind, &["one", "two", "forwarded"])
}

#[test]
fn guest_that_goes_takes_its_flows_along_and_no_others() -> Result<()> {
    assert_ends(|rig| rig.depart(GUEST), &["one", "by-eth1", "forwarded"])
}

#[test]
fn next_guest_with_an_address_gets_nothing_of_the_one_before() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.depart(GUEST)?;
        rig.bump_epoch()?;
        let late = tcp("192.0.2.10:80", "198.51.100.1:20000", ACK);
        rig.from_outside(&late)?.assert_handed_over(0, Handover::NoFlow, &late);
        // Of its own it may have what it likes, also the same ports, and keeps it. The programs' clock
        // is a few milliseconds coarse.
        let first = rig.clock()?;
        while rig.clock()? == first {}
        let syn = tcp("192.168.122.10:20000", "192.0.2.10:80", SYN);
        let outside = syn.clone().from(EXTERNAL).ttl(63);
        rig.from_guest(&syn)?.assert_redirected(NETWORK, Outbound, &outside);
        rig.bump_epoch()?;
        let answer = tcp("192.0.2.10:80", "198.51.100.1:20000", SYN | ACK);
        let inside = answer.clone().to(GUEST).ttl(63);
        rig.from_outside(&answer)?.assert_redirected(NETWORK, Inbound, &inside);
        Ok(())
    })
}

/// Flows of strangers may still hold the mapping of a guest that has gone, until the sweep ends them.
#[test]
fn next_guest_with_an_address_has_no_door_of_the_one_before() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.flags |= NETWORK_ENDPOINT_INDEPENDENT)?;
        rig.from_guest(&udp("192.168.122.10:20000", "192.0.2.10:53"))?;
        let stranger = udp("198.18.0.5:7", "198.51.100.1:20000");
        let inside = stranger.clone().to("192.168.122.10:20000").ttl(63);
        rig.from_outside(&stranger)?.assert_redirected(NETWORK, Inbound, &inside);
        rig.depart(GUEST)?;
        rig.from_outside(&stranger)?.assert_handed_over(0, Handover::NoFlow, &stranger);
        let another = udp("198.18.0.6:7", "198.51.100.1:20000");
        rig.from_outside(&another)?.assert_handed_over(0, Handover::NoFlow, &another);
        Ok(())
    })
}
