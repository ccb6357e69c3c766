//! What the host's stack sends to guests.

use anyhow::Result;
use vnet_common::{
    names::{FORWARDED_MARK, program},
    policy::Mode,
    reason::DropReason,
    tcp::flags::*,
};
use vnet_tests::programs::*;

#[test]
fn host_reaches_its_guests() -> Result<()> {
    with_rig(|rig| {
        for packet in [
            tcp("192.168.122.1:40000", "192.168.122.10:22", SYN),
            echo_request("192.168.122.1:7", GUEST),
            udp("198.51.100.1:40000", "192.168.122.10:53"),
        ] {
            rig.to_bridge(Origin::Host, &packet)?.assert_passed(&packet);
        }
        Ok(())
    })
}

#[test]
fn nothing_else_is_forwarded_to_guests() -> Result<()> {
    with_rig(|rig| {
        let packet = tcp("192.0.2.10:80", "192.168.122.10:20000", SYN);
        for interface in ["eth0", "eth1", "vpn0"] {
            let outcome = rig.to_bridge(Origin::Interface(interface), &packet)?;
            outcome.assert_refused(NETWORK, DropReason::PolicyRejected);
        }
        // A guest of another network that says to be somebody outside.
        let outcome = rig.to_bridge(Origin::Interface("virbr1"), &packet)?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedSource);
        Ok(())
    })
}

#[test]
fn packets_between_subnets_of_the_network_pass() -> Result<()> {
    with_rig(|rig| {
        let packet = tcp("192.168.122.10:20000", "10.1.0.5:80", SYN);
        rig.to_bridge(Origin::Interface("virbr0"), &packet)?.assert_passed(&packet);
        Ok(())
    })
}

#[test]
fn routed_network_is_reachable_from_outside() -> Result<()> {
    with_rig(|rig| {
        rig.set_network(NETWORK, |network| network.mode = Mode::Route as u8)?;
        let packet = tcp("192.0.2.10:80", "192.168.122.10:20000", SYN);
        rig.to_bridge(Origin::Interface("eth0"), &packet)?.assert_passed(&packet);
        Ok(())
    })
}

#[test]
fn packet_that_the_uplink_has_judged_passes_without_its_mark() -> Result<()> {
    with_rig(|rig| {
        let packet = tcp("192.0.2.10:80", "192.168.122.10:20000", ACK);
        let frame = packet.frame();
        let outcome = rig.run(Arrival {
            program: program::BRIDGE_EGRESS,
            frame: &frame,
            interface: "virbr0",
            origin: Origin::Interface("eth0"),
            mark: FORWARDED_MARK,
            gso_size: 0,
        })?;
        outcome.assert_passed(&packet);
        Ok(())
    })
}

#[test]
fn bridge_of_no_network_takes_nothing_forwarded() -> Result<()> {
    with_rig(|rig| {
        let packet = tcp("192.0.2.10:80", "192.168.122.10:20000", SYN);
        let eth0 = Origin::Interface("eth0");
        let outcome = rig.at(program::BRIDGE_EGRESS, "vpn0", eth0, &packet.frame())?;
        outcome.assert_dropped(0, DropReason::NoNetwork);
        Ok(())
    })
}
