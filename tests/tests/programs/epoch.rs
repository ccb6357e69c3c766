//! Flows after a change of definitions, addresses or routes.

use anyhow::Result;
use vnet_common::{
    flow::{Direction::*, Phase},
    names::program,
    policy::Mode,
    reason::{DropReason, Handover},
    tcp::flags::*,
};
use vnet_tests::programs::*;

fn open(rig: &mut Rig) -> Result<()> {
    let outcome = rig.from_guest(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
    assert_eq!(outcome.verdict, Verdict::Redirect);
    Ok(())
}

fn segment() -> Packet {
    tcp("192.168.122.10:20000", "192.0.2.10:80", ACK)
}

fn reply() -> Packet {
    tcp("192.0.2.10:80", "198.51.100.1:20000", ACK)
}

#[test]
fn flow_survives_a_change_that_does_not_concern_it() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.bump_epoch()?;
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().from(EXTERNAL).ttl(63));
        let session = rig.tables()?.only();
        assert_eq!((session.epoch_outbound, session.epoch_inbound), (2, 1));
        rig.from_outside(&reply())?.assert_redirected(NETWORK, Inbound, &reply().to(GUEST).ttl(63));
        let session = rig.tables()?.only();
        assert_eq!((session.epoch_outbound, session.epoch_inbound), (2, 2));
        assert_eq!((session.outbound.packets, session.inbound.packets), (2, 1));
        Ok(())
    })
}

#[test]
fn new_next_hop_and_mtu_are_learnt() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.ip("neighbour add 198.51.100.253 lladdr 02:00:00:00:00:08 nud permanent dev eth0")?;
        rig.ip("route replace default via 198.51.100.253 dev eth0 mtu lock 1400")?;
        rig.bump_epoch()?;
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().from(EXTERNAL).ttl(63));
        let session = rig.tables()?.only();
        assert_eq!(session.next_hop, address("198.51.100.253"));
        assert_eq!(session.mtu_outbound, 1400);
        Ok(())
    })
}

#[test]
fn flow_that_moves_to_another_uplink_gets_that_ones_address() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.ip("route replace default via 203.0.113.254 dev eth1")?;
        rig.bump_epoch()?;
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().from("203.0.113.1").ttl(63));
        let tables = rig.tables()?;
        assert_eq!(tables.only().uplink_ifindex, rig.ifindex("eth1")?);
        assert_eq!(tables.sessions[&0].phase, Phase::HoldDown as u32);
        // Late replies to the old address find no flow.
        rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
        Ok(())
    })
}

#[test]
fn flow_that_moves_to_another_uplink_through_the_stack_gets_that_ones_address() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.ip("route replace default via 203.0.113.254 dev eth1")?;
        rig.bump_epoch()?;
        let virbr0 = Origin::Interface("virbr0");
        let outcome = rig.at(program::UPLINK_EGRESS, "eth1", virbr0, &segment().frame())?;
        outcome.assert_translated(NETWORK, Outbound, &segment().from("203.0.113.1"));
        Ok(())
    })
}

#[test]
fn reply_to_an_address_that_went_away_ends_the_flow() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.set_uplink("eth0", &["198.51.100.2/24"])?;
        rig.bump_epoch()?;
        rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
        assert_eq!(rig.tables()?.live().count(), 0);
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().from("198.51.100.2").ttl(63));
        Ok(())
    })
}

#[test]
fn flow_whose_address_went_away_gets_the_new_one() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.set_uplink("eth0", &["198.51.100.2/24"])?;
        rig.bump_epoch()?;
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().from("198.51.100.2").ttl(63));
        assert_eq!(rig.tables()?.only().external, address("198.51.100.2"));
        Ok(())
    })
}

#[test]
fn flow_keeps_its_address_when_a_better_one_comes() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.set_uplink("eth0", &["198.51.100.2/24", "198.51.100.1/24"])?;
        rig.bump_epoch()?;
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().from(EXTERNAL).ttl(63));
        Ok(())
    })
}

#[test]
fn uplink_that_is_none_any_more_carries_nothing() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.remove_uplink("eth0")?;
        rig.bump_epoch()?;
        rig.from_guest(&segment())?.assert_dropped(NETWORK, DropReason::NotAnUplink);
        rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn removed_network_has_no_flows_any_more() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.remove_network("virbr0", &["192.168.122.0/24", "10.1.0.0/24"])?;
        rig.bump_epoch()?;
        rig.from_guest(&segment())?.assert_dropped(NETWORK, DropReason::NoNetwork);
        rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn network_that_becomes_isolated_ends_its_flows() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.set_network(NETWORK, |network| network.mode = Mode::Isolated as u8)?;
        rig.bump_epoch()?;
        rig.from_guest(&segment())?.assert_dropped(NETWORK, DropReason::PolicyRejected);
        let virbr0 = Origin::Interface("virbr0");
        let outcome = rig.to_outside(virbr0, &segment())?;
        outcome.assert_dropped(NETWORK, DropReason::PolicyRejected);
        rig.from_outside(&reply())?.assert_handed_over(0, Handover::NoFlow, &reply());
        assert_eq!(rig.tables()?.live().count(), 0);
        Ok(())
    })
}

#[test]
fn change_of_the_routes_without_a_new_epoch_does_not_disturb_flows() -> Result<()> {
    with_rig(|rig| {
        open(rig)?;
        rig.ip("route replace default via 203.0.113.254 dev eth1")?;
        let outcome = rig.from_guest(&segment())?;
        outcome.assert_redirected(NETWORK, Outbound, &segment().from(EXTERNAL).ttl(63));
        Ok(())
    })
}
