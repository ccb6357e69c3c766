//! A guest's port: packets of known flows pass by the bridge, and nothing else does.

use anyhow::Result;
use vnet_common::{
    flow::{FLAG_HAIRPIN, Session},
    names::{FORWARDED_MARK, program},
    reason::DropReason,
    shortcut::{PORT_SHORT, STATION_REST_NS, Station, WAY_LIFE},
    tcp::flags::*,
    timeout::NANOSECONDS,
};
use vnet_tests::programs::{guard::*, modes::*, shortcut::*, *};

/// Of RFC 9293, section 3.1.
const PSH: u8 = 8;

const PORT: &str = "port0";
const REMOTE_PORT: &str = "192.0.2.10:80";
const GUEST_PORT: &str = "192.168.122.10:20000";

/// A flow of the guest at `port` that has both ways, by two packets on the long one.
fn with_way(rig: &mut Rig, port: &str, opening: &Packet) -> Result<()> {
    rig.shorten(NETWORK, "virbr0", port)?;
    rig.look_for_ways(opening)?;
    let session = rig.tables()?.only();
    assert_eq!(session.way_outbound.destination, ROUTER_MAC);
    assert_eq!(session.way_inbound.port, rig.ifindex(port)?);
    Ok(())
}

/// What packets change of a session.
fn account(session: &Session) -> ([u64; 4], u8, u8) {
    let Session { outbound, inbound, .. } = session;
    let traffic = [outbound.packets, outbound.bytes, inbound.packets, inbound.bytes];
    (traffic, session.state, session.answered)
}

/// A packet does the same on both ways but for its MAC addresses.
fn both_ways(rig: &mut Rig, port: &str, packet: &Packet) -> Result<()> {
    let before = rig.tables()?.only();
    let long = rig.from_guest(packet)?;
    let after_long = rig.tables()?.only();
    rig.set_live_sessions(|session| *session = before)?;
    let short = rig.frame_at_port(port, &packet.frame())?;
    let after_short = rig.tables()?.only();
    assert_eq!(account(&after_long), account(&after_short), "{packet:?}");
    assert!(after_short.last_outbound >= after_long.last_outbound, "{packet:?}");
    let expected = with_macs(long.frame, ROUTER_MAC, HOST_MAC);
    short.assert(Verdict::Redirect, &expected, FORWARDED_MARK, &long.counted);
    Ok(())
}

#[test]
fn packet_of_a_known_flow_does_the_same_on_both_ways() -> Result<()> {
    let packets = [
        tcp(GUEST_PORT, REMOTE_PORT, ACK),
        tcp(GUEST_PORT, REMOTE_PORT, ACK | PSH).payload(b"some odd data"),
        tcp(GUEST_PORT, REMOTE_PORT, ACK | FIN),
        tcp(GUEST_PORT, REMOTE_PORT, RST),
        udp(GUEST_PORT, REMOTE_PORT),
        udp(GUEST_PORT, REMOTE_PORT).without_checksum(),
        udp_lite(GUEST_PORT, REMOTE_PORT),
        dccp(GUEST_PORT, REMOTE_PORT),
        echo_request("192.168.122.10:77", REMOTE),
        raw(GUEST, REMOTE, 47),
    ];
    for packet in packets {
        with_rig(|rig| {
            let opening = match packet.body {
                Body::Tcp { .. } => tcp(GUEST_PORT, REMOTE_PORT, SYN),
                _ => packet.clone(),
            };
            with_way(rig, PORT, &opening)?;
            both_ways(rig, PORT, &packet)
        })?;
    }
    Ok(())
}

#[test]
fn ipv6_packet_of_a_known_flow_does_the_same_on_both_ways() -> Result<()> {
    let (guest, remote) = ("[fd00:122::10]:20000", "[2001:db8:86dd::10]:80");
    for packet in [
        tcp(guest, remote, ACK | PSH).payload(b"data"),
        udp(guest, remote),
        echo_request(guest, REMOTE_6),
    ] {
        with_modes(|rig| {
            let opening = match packet.body {
                Body::Tcp { .. } => tcp(guest, remote, SYN),
                _ => packet.clone(),
            };
            with_way(rig, "port1", &opening)?;
            both_ways(rig, "port1", &packet)
        })?;
    }
    Ok(())
}

/// Frames of the flow, or what is nearly that, are left to the bridge as they came, and nothing is counted.
fn are_left_to_the_bridge(rig: &mut Rig, frames: &[Vec<u8>]) -> Result<()> {
    let before = rig.tables()?.only();
    for frame in frames {
        let outcome = rig.frame_at_port(PORT, frame)?;
        outcome.assert(Verdict::Pass, frame, 0, &Counted::new());
    }
    assert_eq!(timeless(rig.tables()?.only()), timeless(before));
    Ok(())
}

fn data() -> Packet {
    tcp(GUEST_PORT, REMOTE_PORT, ACK).payload(b"data")
}

#[test]
fn what_is_not_plainly_of_the_flow_is_left_to_the_bridge() -> Result<()> {
    let mut tagged = data().frame();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut arp = data().frame();
    arp[13] = 6;
    let mut cut = data().frame();
    cut.truncate(40);
    let frames = [
        tcp(GUEST_PORT, REMOTE_PORT, SYN).frame(),
        tcp(GUEST_PORT, "192.0.2.10:81", ACK).frame(),
        data().ttl(1).frame(),
        data().options(&[1; 4]).frame(),
        data().payload(&[0; 1461]).frame(),
        data().fragments(16).swap_remove(0),
        data().fragments(16).swap_remove(1),
        with_macs(data().frame(), HOST_MAC, OTHER_MAC),
        with_macs(data().frame(), ROUTER_MAC, GUEST_MAC),
        with_macs(data().frame(), [0xff; 6], GUEST_MAC),
        tagged,
        arp,
        cut,
        vec![0; 14],
    ];
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        are_left_to_the_bridge(rig, &frames)
    })
}

#[test]
fn whatever_makes_a_way_doubtful_leaves_packets_to_the_bridge() -> Result<()> {
    let changes: [fn(&mut Session); 6] = [
        |session| session.way_outbound.found -= WAY_LIFE,
        |session| session.way_inbound.found -= WAY_LIFE,
        |session| session.way_outbound.destination = [0; 6],
        |session| session.way_inbound.port += 1,
        |session| session.epoch_outbound -= 1,
        |session| session.flags |= FLAG_HAIRPIN,
    ];
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        let frames = [data().frame()];
        for (index, change) in changes.into_iter().enumerate() {
            let before = rig.tables()?.only();
            // Those of the first two would not stay old.
            rig.keep_ways_young(index > 1);
            rig.set_live_sessions(change)?;
            are_left_to_the_bridge(rig, &frames)?;
            rig.set_live_sessions(|session| *session = before)?;
        }
        rig.keep_ways_young(true);
        rig.set_moves(1)?;
        are_left_to_the_bridge(rig, &frames)?;
        rig.set_moves(0)?;
        assert_eq!(rig.frame_at_port(PORT, &frames[0])?.verdict, Verdict::Redirect);
        rig.bump_epoch()?;
        are_left_to_the_bridge(rig, &frames)
    })
}

#[test]
fn other_port_cannot_use_the_way() -> Result<()> {
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        let frame = data().frame();
        rig.frame_at_port("port1", &frame)?.assert(Verdict::Pass, &frame, 0, &Counted::new());
        Ok(())
    })
}

#[test]
fn frames_that_go_to_the_bridge_keep_their_station_alive() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        let port = rig.ifindex(PORT)?;
        let now = rig.clock()?;
        let frame = with_macs(data().frame(), [0xff; 6], GUEST_MAC);
        // Not yet armed: the first frame does that, and is no move.
        rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: 0, seen: 0 })?;
        rig.frame_at_port(PORT, &frame)?;
        let station = rig.station("virbr0", GUEST_MAC)?.unwrap();
        assert_eq!((station.port, station.seen_at), (port, port));
        assert!(station.seen >= now);
        assert_eq!(rig.moves()?, 0);
        // A time that is a little old is not written again, an older one is.
        for (age, is_kept) in [(NANOSECONDS / 10, true), (NANOSECONDS / 2, false)] {
            let seen = rig.clock()? - age;
            rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: port, seen })?;
            rig.frame_at_port(PORT, &frame)?;
            assert_eq!(rig.station("virbr0", GUEST_MAC)?.unwrap().seen == seen, is_kept);
        }
        Ok(())
    })
}

#[test]
fn station_that_shows_up_at_another_port_has_moved() -> Result<()> {
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        rig.set_bridge_port("virbr0", "guest1", |_| {})?;
        let frame = data().frame();
        rig.frame_at_port("guest1", &frame)?.assert(Verdict::Pass, &frame, 0, &Counted::new());
        let station = rig.station("virbr0", GUEST_MAC)?.unwrap();
        assert_eq!((station.port, station.seen_at), (rig.ifindex(PORT)?, 0));
        assert_eq!(rig.moves()?, 1);
        // Where it was, it has no way any more.
        rig.frame_at_port(PORT, &frame)?.assert(Verdict::Pass, &frame, 0, &Counted::new());
        Ok(())
    })
}

#[test]
fn station_moves_once_in_a_tenth_of_a_second_at_most() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.set_bridge_port("virbr0", "guest1", |_| {})?;
        let (port, other) = (rig.ifindex(PORT)?, rig.ifindex("guest1")?);
        let frame = data().frame();
        // A move that lies ahead is not over, however slow the test is.
        let moved = rig.clock()? + 3600 * NANOSECONDS;
        rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: 0, seen: moved })?;
        for name in ["guest1", PORT, "guest1"] {
            rig.frame_at_port(name, &frame)?;
            let station = rig.station("virbr0", GUEST_MAC)?.unwrap();
            assert_eq!(station, Station { port, seen_at: 0, seen: moved });
        }
        let long_ago = rig.clock()? - STATION_REST_NS;
        rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: 0, seen: long_ago })?;
        rig.frame_at_port("guest1", &frame)?;
        assert_eq!(rig.station("virbr0", GUEST_MAC)?.unwrap().seen_at, other);
        assert_eq!(rig.moves()?, 0);
        rig.frame_at_port(PORT, &frame)?;
        assert_eq!(rig.moves()?, 1);
        Ok(())
    })
}

#[test]
fn frame_at_a_port_where_the_bridge_may_drop_it_moves_nothing() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.set_bridge_port("virbr0", "guest1", |port| port.flags = 0)?;
        let before = rig.station("virbr0", GUEST_MAC)?;
        rig.frame_at_port("guest1", &data().frame())?;
        assert_eq!((rig.station("virbr0", GUEST_MAC)?, rig.moves()?), (before, 0));
        Ok(())
    })
}

#[test]
fn port_of_a_network_without_flows_only_notes_the_station() -> Result<()> {
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        rig.set_bridge_port("virbr0", PORT, |port| port.flags = PORT_SHORT)?;
        let port = rig.ifindex(PORT)?;
        rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: 0, seen: 0 })?;
        are_left_to_the_bridge(rig, &[data().frame()])?;
        assert_eq!(rig.station("virbr0", GUEST_MAC)?.unwrap().seen_at, port);
        Ok(())
    })
}

#[test]
fn no_packet_takes_the_short_way_when_its_lease_is_over() -> Result<()> {
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        let port = rig.ifindex(PORT)?;
        // Where there are no short ways, stations are not noted either.
        for (lease, seen_at) in [(0, 0), (1, port)] {
            rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: 0, seen: 0 })?;
            rig.set_lease(lease)?;
            are_left_to_the_bridge(rig, &[data().frame()])?;
            assert_eq!(rig.station("virbr0", GUEST_MAC)?.unwrap().seen_at, seen_at);
        }
        rig.set_lease(u64::MAX)?;
        assert_eq!(rig.frame_at_port(PORT, &data().frame())?.verdict, Verdict::Redirect);
        Ok(())
    })
}

#[test]
fn stations_are_not_made_by_frames() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.frame_at_port(PORT, &with_macs(data().frame(), HOST_MAC, OTHER_MAC))?;
        assert_eq!(rig.station("virbr0", OTHER_MAC)?, None);
        Ok(())
    })
}

#[test]
fn guarded_port_leaves_what_its_guard_lets_pass_to_the_bridge() -> Result<()> {
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        rig.guard(PORT, |_| {})?;
        rig.give_address(GUEST_MAC, GUEST)?;
        let at = Origin::Interface(PORT);
        let outcome = rig.at(program::PORT_GUARD, PORT, at, &data().frame())?;
        outcome.assert(Verdict::Pass, &data().frame(), 0, &counted(&[]));

        let spoofed = tcp("192.168.122.11:20000", REMOTE_PORT, ACK).frame();
        let outcome = rig.at(program::PORT_GUARD, PORT, at, &spoofed)?;
        outcome.assert_dropped(NETWORK, DropReason::SpoofedAddress);
        Ok(())
    })
}

#[test]
fn segmentation_offload_takes_the_short_way_whole() -> Result<()> {
    with_rig(|rig| {
        with_way(rig, PORT, &tcp(GUEST_PORT, REMOTE_PORT, SYN))?;
        let large = data().payload(&[7; 3000]);
        let run = |rig: &mut Rig, gso_size| {
            rig.run(Arrival {
                program: program::PORT_SHORTCUT,
                frame: &large.frame(),
                interface: PORT,
                origin: Origin::Interface(PORT),
                mark: 0,
                gso_size,
            })
        };
        assert_eq!(run(rig, 1448)?.verdict, Verdict::Redirect);
        // One whose segments are too large.
        assert_eq!(run(rig, 1461)?.verdict, Verdict::Pass);
        Ok(())
    })
}
