//! Native XDP below a bridge: frames for stations that the bridge knows, as they are.

use anyhow::Result;
use vnet_common::{
    names::program::BRIDGED_XDP,
    shortcut::{BridgePort, PORT_IS_UPLINK, PORT_SHORT, PORT_TAKES_XDP, Station, XdpMode},
    tcp::flags::*,
    timeout::NANOSECONDS,
};
use vnet_tests::programs::{guard::*, shortcut::*, *};

/// Where the frames come in, a port of the bridge towards outside.
const NIC: &str = "eth1";

/// A station outside, as the guest sees it.
const OUTSIDE: [u8; 6] = ROUTER_MAC;

fn frame() -> Vec<u8> {
    with_macs(udp("192.0.2.10:53", "192.0.2.11:20000").frame(), GUEST_MAC, OUTSIDE)
}

fn with_bridge(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        rig.attach_xdp(BRIDGED_XDP, NIC)?;
        rig.shorten(NETWORK, "virbr0", "port0")?;
        rig.set_bridge_port("virbr0", NIC, |port| port.flags = PORT_SHORT | PORT_IS_UPLINK)?;
        let (port, seen) = (rig.ifindex(NIC)?, rig.clock()?);
        rig.set_station("virbr0", OUTSIDE, Station { port, seen_at: port, seen })?;
        work(rig)
    })
}

#[track_caller]
fn assert_redirected(rig: &mut Rig, frame: &[u8]) -> Result<()> {
    let outcome = rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), frame)?;
    let expected = XdpOutcome {
        verdict: XdpVerdict::Redirect,
        frame: frame.to_vec(),
        counted: Counted::new(),
    };
    assert_eq!(outcome, expected);
    Ok(())
}

#[test]
fn frame_for_a_known_station_goes_straight_to_its_port() -> Result<()> {
    with_bridge(|rig| {
        assert_redirected(rig, &frame())?;
        let mut ipv6 = frame();
        ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
        rig.set_xdp_mode(XdpMode::On)?;
        assert_redirected(rig, &ipv6)?;
        assert_eq!(rig.moves()?, 0);
        Ok(())
    })
}

#[test]
fn what_the_bridge_has_to_see_goes_there() -> Result<()> {
    let ethertype = |kind: [u8; 2]| {
        let mut frame = frame();
        frame[12..14].copy_from_slice(&kind);
        frame
    };
    let frames = [
        ethertype([0x08, 0x06]),
        ethertype([0x81, 0x00]),
        ethertype([0x88, 0xa8]),
        ethertype([0x88, 0x09]),
        ethertype([0x00, 0x26]),
        with_macs(frame(), [0xff; 6], OUTSIDE),
        with_macs(frame(), [1, 0x80, 0xc2, 0, 0, 0], OUTSIDE),
        with_macs(frame(), [1, 0, 0x5e, 0, 0, 1], OUTSIDE),
        with_macs(frame(), OTHER_MAC, OUTSIDE),
        with_macs(frame(), GUEST_MAC, [3, 0, 0, 0, 0, 1]),
        with_macs(frame(), GUEST_MAC, OTHER_MAC),
        with_macs(frame(), OUTSIDE, OUTSIDE),
    ];
    for frame in frames {
        with_bridge(|rig| {
            rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), &frame)?.assert_passed(&frame);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn ports_that_the_bridge_has_to_serve_are_served_by_it() -> Result<()> {
    let passes = |at: &'static str, change: fn(&mut BridgePort)| {
        with_bridge(|rig| {
            rig.set_bridge_port("virbr0", at, |port| {
                if at == NIC {
                    port.flags = PORT_SHORT | PORT_IS_UPLINK;
                }
                change(port);
            })?;
            let frame = frame();
            rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), &frame)?.assert_passed(&frame);
            Ok(())
        })
    };
    passes(NIC, |port| port.flags = PORT_SHORT)?;
    passes(NIC, |port| port.flags = PORT_IS_UPLINK)?;
    passes(NIC, |port| port.bridge += 1)?;
    passes("port0", |port| port.flags = PORT_SHORT)?;
    passes("port0", |port| port.flags = PORT_TAKES_XDP)?;
    passes("port0", |port| port.flags |= PORT_IS_UPLINK)?;
    passes("port0", |port| port.bridge += 1)?;
    passes("port0", |port| port.ageing_ms = 0)
}

#[test]
fn once_a_second_the_bridge_gets_a_frame_to_learn_from() -> Result<()> {
    with_bridge(|rig| {
        let port = rig.ifindex(NIC)?;
        let seen = rig.clock()? - NANOSECONDS;
        rig.set_station("virbr0", OUTSIDE, Station { port, seen_at: port, seen })?;
        let frame = frame();
        rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), &frame)?.assert_passed(&frame);
        assert!(rig.station("virbr0", OUTSIDE)?.unwrap().seen > seen);
        assert_redirected(rig, &frame)
    })
}

#[test]
fn frames_do_not_keep_their_destination_alive() -> Result<()> {
    with_bridge(|rig| {
        let port = rig.ifindex("port0")?;
        let now = rig.clock()?;
        let long_ago = now - NANOSECONDS;
        let ageing = (NANOSECONDS * 2 / 1_000_000) as u32;
        rig.set_bridge_port("virbr0", "port0", |port| port.ageing_ms = ageing)?;
        rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: port, seen: long_ago })?;
        assert_redirected(rig, &frame())?;
        assert_eq!(rig.station("virbr0", GUEST_MAC)?.unwrap().seen, long_ago);
        let silent = now - 3 * NANOSECONDS;
        rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: port, seen: silent })?;
        rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), &frame())?.assert_passed(&frame());
        Ok(())
    })
}

#[test]
fn guest_that_sends_from_outside_has_moved_there() -> Result<()> {
    with_bridge(|rig| {
        let moved = with_macs(frame(), OUTSIDE, GUEST_MAC);
        rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), &moved)?.assert_passed(&moved);
        let station = rig.station("virbr0", GUEST_MAC)?.unwrap();
        assert_eq!((station.port, station.seen_at), (rig.ifindex("port0")?, 0));
        assert_eq!(rig.moves()?, 1);
        // Nothing goes to the port that it has left.
        rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), &frame())?.assert_passed(&frame());
        Ok(())
    })
}

#[test]
fn bridge_gets_every_frame_when_the_lease_of_short_ways_is_over() -> Result<()> {
    with_bridge(|rig| {
        for lease in [0, 1] {
            rig.set_lease(lease)?;
            rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), &frame())?.assert_passed(&frame());
        }
        rig.set_lease(u64::MAX)?;
        assert_redirected(rig, &frame())
    })
}

#[test]
fn automatic_mode_leaves_tcp_with_data_to_the_stack_that_merges_it() -> Result<()> {
    let segment = |packet: Packet| with_macs(packet.frame(), GUEST_MAC, OUTSIDE);
    let (from, to) = ("192.0.2.10:53", "192.0.2.11:20000");
    with_bridge(|rig| {
        let data = segment(tcp(from, to, ACK).payload(b"data"));
        let optional = segment(tcp(from, to, ACK).payload(b"data").options(&[1; 4]));
        for frame in [&data, &optional] {
            rig.frame_in_xdp(BRIDGED_XDP, Some(NIC), frame)?.assert_passed(frame);
        }
        assert_redirected(rig, &segment(tcp(from, to, ACK)))?;
        rig.set_xdp_mode(XdpMode::On)?;
        assert_redirected(rig, &data)?;
        assert_redirected(rig, &optional)
    })
}
