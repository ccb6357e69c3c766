//! Short ways of packets that go on as they are: in XDP of the uplink, and at a guest's port.

use anyhow::Result;
use vnet_common::{
    flow::Direction::*,
    names::{
        FORWARDED_MARK,
        program::{BRIDGE_INGRESS, UPLINK_XDP},
    },
    shortcut::{PORT_JUDGED, PORT_SHORT, WAY_REST, WAY_TAKES_XDP, XdpMode},
    tcp::flags::*,
};
use vnet_tests::programs::{guard::GUEST_MAC, modes::*, shortcut::*, *};

const INSIDE: &str = "172.16.5.10:20000";
const INSIDE_6: &str = "[2001:db8:5::10]:20000";
const OUTSIDE: &str = "192.0.2.10:80";
const OUTSIDE_6: &str = "[2001:db8:86dd::10]:80";
const BRIDGE: &str = "virbr4";
const PORT: &str = "port5";

/// Packets that a guest sends.
fn outbound() -> [Packet; 7] {
    [
        tcp(INSIDE, OUTSIDE, ACK),
        tcp(INSIDE, OUTSIDE, ACK).payload(b"some odd data"),
        udp(INSIDE, OUTSIDE).payload(b"data"),
        echo_request("172.16.5.10:7", REMOTE),
        echo_reply("172.16.5.10", "192.0.2.10:7"),
        tcp(INSIDE_6, OUTSIDE_6, ACK),
        udp(INSIDE_6, OUTSIDE_6),
    ]
}

/// And those that it gets.
fn inbound() -> [Packet; 7] {
    [
        tcp(OUTSIDE, INSIDE, ACK),
        tcp(OUTSIDE, INSIDE, ACK).payload(b"some odd data"),
        udp(OUTSIDE, INSIDE).payload(b"data"),
        echo_request("192.0.2.10:7", "172.16.5.10"),
        echo_reply(REMOTE, "172.16.5.10:7"),
        tcp(OUTSIDE_6, INSIDE_6, ACK),
        udp(OUTSIDE_6, INSIDE_6),
    ]
}

fn at_bridge(rig: &mut Rig, packet: &Packet) -> Result<Outcome> {
    rig.at(BRIDGE_INGRESS, BRIDGE, Origin::Interface(BRIDGE), &packet.frame())
}

/// Lets packets of the routed network pass by its bridge.
fn shorten(rig: &mut Rig) -> Result<()> {
    rig.set_xdp_mode(XdpMode::On)?;
    rig.shorten(ROUTED, BRIDGE, PORT)
}

/// Runs `work` once a packet from outside has a short way, with what TC made of the one that was judged.
fn with_way_in(
    packet: &Packet,
    work: impl FnOnce(&mut Rig, Outcome) -> Result<()> + Send,
) -> Result<()> {
    with_modes(|rig| {
        shorten(rig)?;
        let judged = rig.from_outside(packet)?;
        judged.assert_redirected(ROUTED, Inbound, &packet.clone().ttl(63));
        // The first finds no way: there may be no second.
        rig.frame_in_xdp(UPLINK_XDP, None, &packet.frame())?.assert_passed(&packet.frame());
        assert_eq!(rig.paths()?[0].inbound.found, 0);
        let by_tc = rig.from_outside(packet)?;
        let expected = with_macs(judged.frame.clone(), GUEST_MAC, HOST_MAC);
        by_tc.assert(Verdict::Redirect, &expected, 0, &judged.counted);
        let path = rig.paths()?[0];
        assert_eq!((path.inbound.port, path.inbound.destination), (rig.ifindex(PORT)?, GUEST_MAC));
        assert_eq!(path.inbound.moves & WAY_TAKES_XDP, WAY_TAKES_XDP);
        work(rig, judged)
    })
}

/// Runs `work` once a guest's packet has a short way, with what the bridge's hook made of the one that was judged.
fn with_way_out(
    packet: &Packet,
    work: impl FnOnce(&mut Rig, Outcome) -> Result<()> + Send,
) -> Result<()> {
    with_modes(|rig| {
        shorten(rig)?;
        let judged = at_bridge(rig, packet)?;
        judged.assert_redirected(ROUTED, Outbound, &packet.clone().ttl(63));
        rig.frame_at_port(PORT, &packet.frame())?.assert_passed(packet);
        assert_eq!(at_bridge(rig, packet)?, judged, "{packet:?}");
        let path = rig.paths()?[0];
        assert_eq!(
            (path.inbound.port, path.outbound.destination),
            (rig.ifindex(PORT)?, ROUTER_MAC)
        );
        work(rig, judged)
    })
}

#[test]
fn packet_for_a_routed_guest_does_the_same_in_xdp_as_in_tc() -> Result<()> {
    for packet in inbound() {
        with_way_in(&packet, |rig, judged| {
            let short = rig.frame_in_xdp(UPLINK_XDP, None, &packet.frame())?;
            assert_eq!(short.verdict, XdpVerdict::Redirect, "{packet:?}");
            let expected = with_macs(judged.frame, GUEST_MAC, HOST_MAC);
            assert_eq!(hex(&short.frame), hex(&expected), "{packet:?}");
            assert_eq!(short.counted, judged.counted, "{packet:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn packet_of_a_routed_guest_does_the_same_at_its_port_as_at_the_bridge() -> Result<()> {
    for packet in outbound() {
        with_way_out(&packet, |rig, judged| {
            let short = rig.frame_at_port(PORT, &packet.frame())?;
            let expected = with_macs(judged.frame, ROUTER_MAC, HOST_MAC);
            short.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &judged.counted);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn header_sum_of_ipv4_comes_out_as_in_tc() -> Result<()> {
    let packet = udp(OUTSIDE, INSIDE).payload(b"data");
    with_way_in(&packet, |rig, _| {
        // Each identification gives another sum of the header, among them those around zero.
        let with_identification = |word: u16| {
            let mut frame = packet.frame();
            frame[18..20].copy_from_slice(&word.to_be_bytes());
            frame[24..26].copy_from_slice(&[0, 0]);
            let sum = frame[14..34]
                .chunks(2)
                .fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            (sum, frame)
        };
        let around_zero =
            |word: &u16| matches!(with_identification(*word).0, 0xfe00..=0xffff | 0..2);
        let special = (0..=u16::MAX).filter(around_zero).step_by(31);
        for word in special.chain((0..8).map(|step| step * 8191)) {
            let (_, frame) = with_identification(word);
            let long = rig.frame_from_outside(&frame)?;
            let short = rig.frame_in_xdp(UPLINK_XDP, None, &frame)?;
            assert_eq!(hex(&short.frame), hex(&long.frame), "{word}");
        }
        Ok(())
    })
}

#[test]
fn what_is_not_plainly_as_the_one_before_it_is_left_to_tc_by_xdp() -> Result<()> {
    let packet = tcp(OUTSIDE, INSIDE, ACK).payload(b"data");
    let others = [
        packet.clone().ttl(1).frame(),
        packet.clone().options(&[1; 4]).frame(),
        packet.clone().payload(&[0; 1461]).frame(),
        packet.clone().payload(&[0; 30]).fragments(24).swap_remove(0),
        packet.clone().payload(&[0; 30]).fragments(24).swap_remove(1),
        tcp(OUTSIDE, INSIDE, SYN).frame(),
        tcp(OUTSIDE, INSIDE, FIN | ACK).frame(),
        tcp(OUTSIDE, "172.16.5.10:20001", ACK).frame(),
        tcp("192.0.2.10:81", INSIDE, ACK).frame(),
        tcp("192.0.2.11:80", INSIDE, ACK).frame(),
        tcp(OUTSIDE, "172.16.5.11:20000", ACK).frame(),
        udp(OUTSIDE, INSIDE).frame(),
        icmp_error(REMOTE, "172.16.5.10", (3, 1), &packet, 28).frame(),
        with_macs(packet.frame(), ROUTER_MAC, ROUTER_MAC),
    ];
    let mut of_another_class = packet.frame();
    (of_another_class[15], of_another_class[25]) = (4, of_another_class[25].wrapping_sub(4));
    with_way_in(&packet, |rig, _| {
        for frame in others.iter().chain([&of_another_class]) {
            rig.frame_in_xdp(UPLINK_XDP, None, frame)?.assert_passed(frame);
        }
        // TCP with data is the stack's to merge.
        rig.set_xdp_mode(XdpMode::Auto)?;
        rig.frame_in_xdp(UPLINK_XDP, None, &packet.frame())?.assert_passed(&packet.frame());
        rig.set_xdp_mode(XdpMode::On)?;
        let short = rig.frame_in_xdp(UPLINK_XDP, None, &packet.frame())?;
        assert_eq!(short.verdict, XdpVerdict::Redirect);
        Ok(())
    })
}

#[test]
fn whatever_makes_a_way_doubtful_leaves_packets_to_tc() -> Result<()> {
    let packet = udp(OUTSIDE, INSIDE);
    let doubts: [fn(&mut Rig) -> Result<()>; 8] = [
        Rig::bump_epoch,
        Rig::age_paths,
        |rig| rig.set_lease(0),
        |rig| rig.set_lease(1),
        |rig| rig.set_moves(1),
        |rig| rig.set_xdp_uplink(LOOPBACK, Some("eth1")),
        |rig| rig.set_paths(|path| path.inbound.moves &= !WAY_TAKES_XDP),
        |rig| {
            rig.keep_ways_young(false);
            let now = vnet_common::shortcut::way_time(rig.clock()?);
            // What TC has just sent that way is ahead of it.
            rig.set_paths(|path| path.inbound.found = now.wrapping_add(WAY_REST))
        },
    ];
    for (index, doubt) in doubts.into_iter().enumerate() {
        with_way_in(&packet, |rig, judged| {
            doubt(rig)?;
            let left = rig.frame_in_xdp(UPLINK_XDP, None, &packet.frame())?;
            assert_eq!(left.verdict, XdpVerdict::Pass, "{index}");
            left.assert_passed(&packet.frame());
            let by_tc = rig.from_outside(&packet)?;
            assert_eq!(
                (by_tc.verdict, &by_tc.counted),
                (judged.verdict, &judged.counted),
                "{index}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn only_the_guest_that_was_judged_has_a_way_from_its_port() -> Result<()> {
    let packet = udp(INSIDE, OUTSIDE);
    with_way_out(&packet, |rig, _| {
        let frame = packet.frame();
        let others = [
            packet.clone().ttl(1).frame(),
            packet.clone().options(&[1; 4]).frame(),
            packet.clone().payload(&[0; 1473]).frame(),
            packet.clone().payload(&[0; 30]).fragments(24).swap_remove(0),
            // Another station with its address, and what is not for the bridge.
            with_macs(frame.clone(), HOST_MAC, [2, 0, 0, 0, 0, 9]),
            with_macs(frame.clone(), ROUTER_MAC, GUEST_MAC),
            udp("172.16.5.11:20000", OUTSIDE).frame(),
            udp("172.16.6.10:20000", OUTSIDE).frame(),
            udp("192.0.2.99:20000", OUTSIDE).frame(),
        ];
        for other in &others {
            let outcome = rig.frame_at_port(PORT, other)?;
            outcome.assert_passed_unchanged();
            assert_eq!(hex(&outcome.frame), hex(other));
        }
        // The same frame at another port, of its bridge and of another one.
        rig.set_bridge_port(BRIDGE, "port6", |_| {})?;
        rig.frame_at_port("port6", &frame)?.assert_passed(&packet);
        rig.set_bridge_port("virbr5", "port6", |_| {})?;
        rig.frame_at_port("port6", &frame)?.assert_passed(&packet);
        Ok(())
    })?;
    for flags in [0, PORT_SHORT, PORT_JUDGED] {
        with_way_out(&packet, |rig, _| {
            rig.set_bridge_port(BRIDGE, PORT, |port| port.flags = flags)?;
            rig.frame_at_port(PORT, &packet.frame())?.assert_passed(&packet);
            Ok(())
        })?;
    }
    for doubt in [Rig::bump_epoch, Rig::age_paths, |rig: &mut Rig| rig.set_moves(1)] {
        with_way_out(&packet, |rig, judged| {
            doubt(rig)?;
            rig.frame_at_port(PORT, &packet.frame())?.assert_passed(&packet);
            assert_eq!(at_bridge(rig, &packet)?, judged);
            Ok(())
        })?;
    }
    Ok(())
}
