//! Answers from outside, straight to the guest's port.

use anyhow::Result;
use vnet_common::{
    flow::{Direction::Inbound, Session},
    shortcut::WAY_LIFE,
    tcp::flags::*,
};
use vnet_tests::programs::{guard::GUEST_MAC, shortcut::*, *};

const PORT: &str = "port0";

fn answer() -> Packet {
    tcp("192.0.2.10:80", "198.51.100.1:20000", ACK).payload(b"data")
}

fn with_way(rig: &mut Rig) -> Result<()> {
    rig.shorten(NETWORK, "virbr0", PORT)?;
    rig.look_for_ways(&tcp("192.168.122.10:20000", "192.0.2.10:80", SYN))?;
    assert_eq!(rig.tables()?.only().way_inbound.port, rig.ifindex(PORT)?);
    Ok(())
}

#[test]
fn answer_goes_straight_to_the_port_and_counts_as_on_the_long_way() -> Result<()> {
    with_rig(|rig| {
        with_way(rig)?;
        let before = rig.tables()?.only();
        let short = rig.from_outside(&answer())?;
        let after_short = rig.tables()?.only();
        rig.set_live_sessions(|session| *session = before)?;
        rig.forget_ways()?;
        let long = rig.from_outside(&answer())?;
        let after_long = rig.tables()?.only();
        let back = answer().to("192.168.122.10:20000").ttl(63);
        long.assert_redirected(NETWORK, Inbound, &back);
        let frame = with_macs(back.frame(), GUEST_MAC, HOST_MAC);
        // No mark: no hook at the port would take it off.
        short.assert(Verdict::Redirect, &frame, 0, &long.counted);
        assert_eq!(
            (after_short.inbound, after_short.state),
            (after_long.inbound, after_long.state)
        );
        Ok(())
    })
}

#[test]
fn whatever_makes_a_way_doubtful_leaves_answers_to_the_bridge() -> Result<()> {
    let changes: [fn(&mut Session); 3] = [
        |session| session.way_inbound.found -= WAY_LIFE,
        |session| session.way_inbound.moves ^= 1,
        |session| session.way_inbound.port = 0,
    ];
    for change in changes {
        with_rig(|rig| {
            with_way(rig)?;
            rig.keep_ways_young(false);
            rig.set_live_sessions(change)?;
            let back = answer().to("192.168.122.10:20000").ttl(63);
            rig.from_outside(&answer())?.assert_redirected(NETWORK, Inbound, &back);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn answers_go_by_the_bridge_when_the_lease_of_short_ways_is_over() -> Result<()> {
    with_rig(|rig| {
        with_way(rig)?;
        let back = answer().to("192.168.122.10:20000").ttl(63);
        for lease in [0, 1] {
            rig.set_lease(lease)?;
            rig.from_outside(&answer())?.assert_redirected(NETWORK, Inbound, &back);
        }
        Ok(())
    })
}

#[test]
fn answer_that_needs_the_stack_gets_it() -> Result<()> {
    with_rig(|rig| {
        with_way(rig)?;
        let outcome = rig.from_outside(&answer().ttl(1))?;
        assert_eq!(outcome.verdict, Verdict::Pass);
        assert_eq!(outcome.mark, vnet_common::names::INBOUND_MARK);
        Ok(())
    })
}
