//! Native XDP of an uplink: packets of known flows straight to the guest's port, the rest to TC.

use anyhow::Result;
use vnet_common::{
    flow::{FLAG_HAIRPIN, Session},
    names::program::UPLINK_XDP,
    shortcut::{PORT_SHORT, WAY_LIFE, XdpMode},
    tcp::flags::*,
};
use vnet_tests::programs::{guard::GUEST_MAC, modes::*, shortcut::*, *};

/// Of RFC 9293, section 3.1.
const PSH: u8 = 8;

const REMOTE_PORT: &str = "192.0.2.10:80";
const EXTERNAL_PORT: &str = "198.51.100.1:20000";
const GUEST_PORT: &str = "192.168.122.10:20000";

/// A flow of the guest at `port` that has both ways.
fn with_way(rig: &mut Rig, port: &str, opening: &Packet) -> Result<()> {
    rig.shorten(NETWORK, "virbr0", port)?;
    rig.look_for_ways(opening)?;
    assert_eq!(rig.tables()?.only().way_inbound.port, rig.ifindex(port)?);
    Ok(())
}

/// XDP does the same as TC's long way but for the MAC addresses.
fn both_ways(rig: &mut Rig, packet: &Packet) -> Result<()> {
    let before = rig.tables()?.only();
    rig.set_live_sessions(|session| session.way_inbound.port = 0)?;
    let long = rig.from_outside(packet)?;
    let after_long = rig.tables()?.only();
    rig.set_live_sessions(|session| *session = before)?;
    let short = rig.frame_in_xdp(UPLINK_XDP, None, &packet.frame())?;
    let after_short = rig.tables()?.only();
    assert_eq!(short.verdict, XdpVerdict::Redirect, "{packet:?}");
    let expected = with_macs(long.frame, GUEST_MAC, HOST_MAC);
    assert_eq!(hex(&short.frame), hex(&expected), "{packet:?}");
    assert_eq!(short.counted, long.counted, "{packet:?}");
    let account = |s: &Session| (s.inbound, s.outbound, s.state, s.answered);
    assert_eq!(account(&after_short), account(&after_long), "{packet:?}");
    assert!(after_short.last_inbound >= after_long.last_inbound && after_long.last_inbound > 0);
    Ok(())
}

#[test]
fn packet_of_a_known_flow_does_the_same_in_xdp_as_in_tc() -> Result<()> {
    let packets = [
        tcp(REMOTE_PORT, EXTERNAL_PORT, ACK),
        tcp(REMOTE_PORT, EXTERNAL_PORT, ACK | PSH).payload(b"some odd data"),
        udp(REMOTE_PORT, EXTERNAL_PORT),
        udp(REMOTE_PORT, EXTERNAL_PORT).without_checksum(),
        echo_reply(REMOTE, EXTERNAL_PORT),
    ];
    for packet in packets {
        // The second is of the host's own range, so that it is another one outside.
        for port in [20000, 40000] {
            with_rig(|rig| {
                rig.set_xdp_mode(XdpMode::On)?;
                let guest = format!("{GUEST}:{port}");
                let opening = match packet.body {
                    Body::Tcp { .. } => tcp(&guest, REMOTE_PORT, SYN),
                    Body::Echo { .. } => echo_request(&guest, REMOTE),
                    _ => udp(&guest, REMOTE_PORT),
                };
                with_way(rig, "port0", &opening)?;
                let outside = rig.tables()?.only().external_port.to_host();
                both_ways(rig, &packet.clone().to(&format!("{EXTERNAL}:{outside}")))
            })?;
        }
    }
    Ok(())
}

#[test]
fn every_checksum_comes_out_as_in_tc() -> Result<()> {
    with_rig(|rig| {
        with_way(rig, "port0", &udp(GUEST_PORT, REMOTE_PORT))?;
        // Any two bytes of data give any sum, among them the one that is written as 0xffff.
        let with_data = |word: u16| udp(REMOTE_PORT, EXTERNAL_PORT).payload(&word.to_be_bytes());
        let sum_at_guest = |word: &u16| {
            let frame = with_data(*word).to(GUEST_PORT).ttl(63).frame();
            u16::from_be_bytes([frame[40], frame[41]])
        };
        let special: Vec<u16> = (0..=u16::MAX)
            .filter(|word| matches!(sum_at_guest(word), 0xffff | 0xfffe | 1))
            .collect();
        assert!(special.len() >= 3, "{special:?}");
        for word in special.into_iter().chain((0..16).map(|step| step * 4369)) {
            both_ways(rig, &with_data(word))?;
        }
        Ok(())
    })
}

#[test]
fn ipv6_packet_of_a_known_flow_does_the_same_in_xdp_as_in_tc() -> Result<()> {
    let (guest, remote) = ("[fd00:122::10]:20000", "[2001:db8:86dd::10]:80");
    let external = "[2001:db8:100::1]:20000";
    for (opening, packet) in [
        (tcp(guest, remote, SYN), tcp(remote, external, ACK).payload(b"data")),
        (udp(guest, remote), udp(remote, external)),
        (echo_request(guest, REMOTE_6), echo_reply(REMOTE_6, external)),
    ] {
        with_modes(|rig| {
            rig.set_xdp_mode(XdpMode::On)?;
            with_way(rig, "port1", &opening)?;
            both_ways(rig, &packet)
        })?;
    }
    Ok(())
}

/// Frames are left to TC as they came.
fn are_left_to_tc(rig: &mut Rig, frames: &[Vec<u8>]) -> Result<()> {
    let before = rig.tables()?.only();
    for frame in frames {
        rig.frame_in_xdp(UPLINK_XDP, None, frame)?.assert_passed(frame);
    }
    assert_eq!(timeless(rig.tables()?.only()), timeless(before));
    Ok(())
}

fn data() -> Packet {
    tcp(REMOTE_PORT, EXTERNAL_PORT, ACK).payload(b"data")
}

#[test]
fn what_is_not_plainly_of_the_flow_is_left_to_tc() -> Result<()> {
    let mut tagged = data().frame();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let frames = [
        tcp(REMOTE_PORT, EXTERNAL_PORT, SYN | ACK).frame(),
        tcp(REMOTE_PORT, EXTERNAL_PORT, FIN | ACK).frame(),
        tcp(REMOTE_PORT, EXTERNAL_PORT, RST).frame(),
        tcp("192.0.2.11:80", EXTERNAL_PORT, ACK).frame(),
        udp(REMOTE_PORT, EXTERNAL_PORT).frame(),
        data().ttl(1).frame(),
        data().options(&[1; 4]).frame(),
        data().payload(&[0; 1461]).frame(),
        data().payload(&[0; 30]).fragments(24).swap_remove(0),
        data().payload(&[0; 30]).fragments(24).swap_remove(1),
        with_macs(data().frame(), [0xff; 6], ROUTER_MAC),
        with_macs(data().frame(), ROUTER_MAC, ROUTER_MAC),
        icmp_error(REMOTE, EXTERNAL, (3, 1), &data(), 28).frame(),
        tagged,
        vec![0; 14],
    ];
    with_rig(|rig| {
        rig.set_xdp_mode(XdpMode::On)?;
        with_way(rig, "port0", &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        are_left_to_tc(rig, &frames)
    })
}

#[test]
fn whatever_makes_a_way_doubtful_leaves_answers_to_tc() -> Result<()> {
    let frames = [data().frame()];
    let changes: [fn(&mut Session); 6] = [
        |session| session.way_inbound.found -= WAY_LIFE,
        |session| session.way_inbound.port = 0,
        |session| session.way_inbound.moves &= 0x7fff,
        |session| session.epoch_inbound -= 1,
        |session| session.flags |= FLAG_HAIRPIN,
        |session| session.mtu_inbound = 43,
    ];
    with_rig(|rig| {
        rig.set_xdp_mode(XdpMode::On)?;
        with_way(rig, "port0", &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        for (index, change) in changes.into_iter().enumerate() {
            let before = rig.tables()?.only();
            // That of the first would not stay old.
            rig.keep_ways_young(index > 0);
            rig.set_live_sessions(change)?;
            are_left_to_tc(rig, &frames)?;
            rig.set_live_sessions(|session| *session = before)?;
        }
        rig.keep_ways_young(true);
        rig.set_moves(1)?;
        are_left_to_tc(rig, &frames)?;
        rig.set_moves(0)?;
        for lease in [0, 1] {
            rig.set_lease(lease)?;
            are_left_to_tc(rig, &frames)?;
        }
        rig.set_lease(u64::MAX)?;
        let outcome = rig.frame_in_xdp(UPLINK_XDP, None, &frames[0])?;
        assert_eq!(outcome.verdict, XdpVerdict::Redirect);
        rig.bump_epoch()?;
        are_left_to_tc(rig, &frames)
    })
}

#[test]
fn only_frames_at_a_device_of_the_flows_own_uplink_are_taken() -> Result<()> {
    let frames = [data().frame()];
    with_rig(|rig| {
        rig.set_xdp_mode(XdpMode::On)?;
        with_way(rig, "port0", &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        // As of a bond's inactive slave.
        rig.set_xdp_uplink(LOOPBACK, None)?;
        are_left_to_tc(rig, &frames)?;
        rig.set_xdp_uplink(LOOPBACK, Some("eth1"))?;
        are_left_to_tc(rig, &frames)?;
        // What has a next hop of its own is no matter.
        rig.set_xdp_uplink(LOOPBACK, Some("eth0"))?;
        rig.set_live_sessions(|session| session.way_outbound.source = ROUTER_MAC)?;
        let outcome = rig.frame_in_xdp(UPLINK_XDP, None, &frames[0])?;
        assert_eq!(outcome.verdict, XdpVerdict::Redirect);
        Ok(())
    })
}

#[test]
fn what_no_program_can_read_is_dropped_early_and_counted_as_in_tc() -> Result<()> {
    let changed = |mut frame: Vec<u8>, at: usize, byte: u8| {
        frame[at] = byte;
        frame
    };
    let ipv4 = || udp(REMOTE_PORT, EXTERNAL_PORT).payload(b"data").frame();
    let ipv6 = || udp("[2001:db8:86dd::10]:80", "[2001:db8:100::1]:7").payload(b"data").frame();
    let of_protocol = |protocol: u8| changed(ipv4(), 23, protocol);
    let cut = |mut frame: Vec<u8>, length: usize| {
        frame.truncate(length);
        frame
    };
    let mapped = {
        let mut frame = ipv6();
        frame[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        frame
    };
    let (before_udp, later) = (changed(ipv4(), 17, 27), changed(changed(ipv4(), 17, 27), 21, 1));
    let frames = [
        changed(ipv4(), 14, 0x55),
        changed(ipv4(), 14, 0x44),
        changed(ipv4(), 17, 19),
        changed(ipv4(), 17, 33),
        changed(ipv4(), 16, 1),
        before_udp,
        of_protocol(6),
        changed(of_protocol(33), 17, 31),
        changed(of_protocol(1), 17, 27),
        changed(of_protocol(132), 17, 31),
        cut(ipv4(), 45),
        changed(ipv6(), 14, 0x45),
        changed(ipv6(), 19, 13),
        changed(ipv6(), 19, 7),
        changed(ipv6(), 20, 6),
        changed(changed(ipv6(), 20, 58), 19, 7),
        cut(ipv6(), 60),
        mapped,
    ];
    with_rig(|rig| {
        with_way(rig, "port0", &udp(GUEST_PORT, REMOTE_PORT))?;
        for (index, frame) in frames.iter().enumerate() {
            let in_tc = rig.frame_from_outside(frame)?;
            assert_eq!(in_tc.verdict, Verdict::Drop, "{index}: {}", hex(frame));
            let early = rig.frame_in_xdp(UPLINK_XDP, None, frame)?;
            assert_eq!(early.verdict, XdpVerdict::Drop, "{index}: {}", hex(frame));
            assert_eq!(early.counted, in_tc.counted, "{index}");
        }
        // What TC reads goes there: a later fragment, a protocol without a header, what is for another station.
        let others = [
            later,
            changed(of_protocol(47), 17, 20),
            with_macs(cut(ipv4(), 30), ROUTER_MAC, ROUTER_MAC),
        ];
        are_left_to_tc(rig, &others)?;
        rig.set_lease(0)?;
        are_left_to_tc(rig, &frames)
    })
}

#[test]
fn port_that_takes_no_frames_of_xdp_gets_them_from_tc() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", "port0")?;
        rig.set_bridge_port("virbr0", "port0", |port| port.flags = PORT_SHORT)?;
        rig.look_for_ways(&udp(GUEST_PORT, REMOTE_PORT))?;
        let frame = udp(REMOTE_PORT, EXTERNAL_PORT).frame();
        rig.frame_in_xdp(UPLINK_XDP, None, &frame)?.assert_passed(&frame);
        let outcome = rig.frame_from_outside(&frame)?;
        assert_eq!(outcome.frame[..6], GUEST_MAC);
        Ok(())
    })
}

#[test]
fn automatic_mode_leaves_tcp_with_data_to_the_stack_that_merges_it() -> Result<()> {
    with_rig(|rig| {
        rig.set_xdp_mode(XdpMode::Auto)?;
        with_way(rig, "port0", &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        for packet in [data(), tcp(REMOTE_PORT, EXTERNAL_PORT, ACK | PSH)] {
            let frame = packet.frame();
            rig.frame_in_xdp(UPLINK_XDP, None, &frame)?.assert_passed(&frame);
        }
        both_ways(rig, &tcp(REMOTE_PORT, EXTERNAL_PORT, ACK))
    })
}
