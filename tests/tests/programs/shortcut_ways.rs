//! How the long way finds the short ones.

use anyhow::Result;
use vnet_common::{
    flow::{FLAG_HAIRPIN, Session, protocol},
    port::PortRange,
    shortcut::{
        InboundWay, OutboundWay, PORT_IS_UPLINK, PORT_SHORT, Station, WAY_LIFE, WAY_TAKES_XDP,
        way_time,
    },
    timeout::NANOSECONDS,
};
use vnet_tests::programs::{guard::*, shortcut::*, *};

const PORT: &str = "port0";

fn query() -> Packet {
    udp("192.168.122.10:20000", "192.0.2.10:53")
}

/// The ways of the only session after some packets of its flow.
fn ways(rig: &mut Rig) -> Result<(OutboundWay, InboundWay)> {
    rig.look_for_ways(&query())?;
    let session = rig.tables()?.only();
    Ok((session.way_outbound, session.way_inbound))
}

fn assert_without_ways(session: &Session) {
    assert_eq!(session.way_outbound, OutboundWay::default());
    assert_eq!(session.way_inbound, InboundWay::default());
}

#[test]
fn first_packet_of_a_flow_looks_for_no_way() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.from_guest(&query())?;
        let session = rig.tables()?.only();
        assert_without_ways(&session);
        Ok(())
    })
}

#[test]
fn later_packets_find_both_ways() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.set_moves(0x1_0005)?;
        let (outbound, inbound) = ways(rig)?;
        assert_eq!((outbound.destination, outbound.source), (ROUTER_MAC, HOST_MAC));
        assert_eq!((inbound.destination, inbound.port), (GUEST_MAC, rig.ifindex(PORT)?));
        assert_eq!(inbound.moves, 5 | WAY_TAKES_XDP);
        let now = way_time(rig.clock()?);
        assert!(now - outbound.found < WAY_LIFE && now - inbound.found < WAY_LIFE);
        Ok(())
    })
}

#[test]
fn first_answer_of_a_flow_looks_for_no_way_and_later_ones_find_the_guest() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.from_guest(&query())?;
        let answer = udp("192.0.2.10:53", "198.51.100.1:20000");
        rig.from_outside(&answer)?;
        assert_eq!(rig.tables()?.only().way_inbound, InboundWay::default());
        for _ in 0..50 {
            rig.from_outside(&answer)?;
        }
        assert_eq!(rig.tables()?.only().way_inbound.port, rig.ifindex(PORT)?);
        Ok(())
    })
}

#[test]
fn no_way_is_looked_for_when_its_lease_is_over() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        for lease in [0, 1] {
            rig.set_lease(lease)?;
            for _ in 0..5 {
                rig.from_guest(&query())?;
                rig.from_outside(&udp("192.0.2.10:53", "198.51.100.1:20000"))?;
            }
            let session = rig.tables()?.only();
            assert_without_ways(&session);
        }
        Ok(())
    })
}

#[test]
fn way_that_has_just_been_looked_for_is_not_looked_for_again() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        ways(rig)?;
        rig.set_moves(1)?;
        rig.keep_ways_young(false);
        // Ahead, for a slow test.
        let found = way_time(rig.clock()?) + WAY_LIFE;
        rig.set_live_sessions(|session| session.way_inbound.found = found)?;
        rig.from_guest(&query())?;
        rig.from_outside(&udp("192.0.2.10:53", "198.51.100.1:20000"))?;
        assert_eq!(rig.tables()?.only().way_inbound.found, found);
        rig.keep_ways_young(true);
        ways(rig)?;
        rig.from_guest(&query())?;
        Ok(())
    })
}

#[test]
fn packets_out_leave_the_inbound_way_to_packets_that_come_in() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        ways(rig)?;
        rig.keep_ways_young(false);
        let (now, long_ago) = (rig.clock()?, way_time(rig.clock()?) - 2 * WAY_LIFE);
        // Ahead, for a slow test.
        let later = now + 3600 * NANOSECONDS;
        rig.set_live_sessions(|session| {
            session.last_outbound = later;
            session.last_inbound = later;
            session.way_inbound.found = long_ago;
        })?;
        rig.from_guest(&query())?;
        assert_eq!(rig.tables()?.only().way_inbound.found, long_ago);
        rig.set_live_sessions(|session| {
            session.last_outbound = later;
            session.last_inbound = now - 2 * NANOSECONDS;
        })?;
        rig.from_guest(&query())?;
        assert_ne!(rig.tables()?.only().way_inbound.found, long_ago);
        Ok(())
    })
}

#[test]
fn slow_flow_looks_for_no_way() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.from_guest(&query())?;
        rig.keep_ways_young(false);
        rig.set_live_sessions(|session| session.last_outbound -= NANOSECONDS / 2)?;
        rig.from_guest(&query())?;
        assert_eq!(rig.tables()?.only().way_outbound, OutboundWay::default());
        Ok(())
    })
}

/// No inbound way with these tables, and nobody asks again within a second.
fn no_inbound_way(change: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        change(rig)?;
        let (outbound, inbound) = ways(rig)?;
        assert_eq!(outbound.destination, ROUTER_MAC);
        assert_eq!((inbound.port, inbound.destination), (0, [0; 6]));
        assert_ne!(inbound.found, 0);
        Ok(())
    })
}

#[test]
fn there_is_no_inbound_way_where_the_bridge_has_to_see_every_packet() -> Result<()> {
    no_inbound_way(|rig| rig.set_bridge_port("virbr0", PORT, |port| port.flags = 0))?;
    let uplink = |rig: &mut Rig| {
        rig.set_bridge_port("virbr0", PORT, |port| port.flags = PORT_SHORT | PORT_IS_UPLINK)
    };
    no_inbound_way(uplink)?;
    let other = |rig: &mut Rig| {
        let bridge = rig.ifindex("virbr1")?;
        rig.set_bridge_port("virbr0", PORT, |port| port.bridge = bridge)
    };
    no_inbound_way(other)
}

#[test]
fn there_is_no_inbound_way_to_a_station_that_the_bridge_and_its_port_do_not_agree_about()
-> Result<()> {
    for (at, seen_at) in [("guest0", PORT), (PORT, "guest0")] {
        no_inbound_way(|rig| {
            let (port, seen_at) = (rig.ifindex(at)?, rig.ifindex(seen_at)?);
            let seen = rig.clock()?;
            rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at, seen })
        })?;
    }
    no_inbound_way(|rig| {
        let port = rig.ifindex(PORT)?;
        rig.set_station("virbr0", GUEST_MAC, Station { port, seen_at: 0, seen: 0 })
    })
}

#[test]
fn there_is_no_inbound_way_to_a_station_that_the_bridge_has_forgotten() -> Result<()> {
    no_inbound_way(|rig| rig.set_bridge_port("virbr0", PORT, |port| port.ageing_ms = 0))
}

#[test]
fn there_is_no_inbound_way_to_another_station_than_the_neighbour() -> Result<()> {
    no_inbound_way(|rig| {
        let port = rig.ifindex(PORT)?;
        let seen = rig.clock()?;
        rig.set_station("virbr0", OTHER_MAC, Station { port, seen_at: port, seen })?;
        rig.ip("neighbour replace 192.168.122.10 lladdr 52:54:00:00:00:77 nud permanent dev virbr0")
    })
}

#[test]
fn neighbour_that_is_not_resolved_is_no_outbound_way() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        rig.from_guest(&query())?;
        rig.ip("neighbour delete 198.51.100.254 dev eth0")?;
        rig.look_for_ways(&query())?;
        let way = rig.tables()?.only().way_outbound;
        assert_eq!((way.destination, way.source), ([0; 6], [0; 6]));
        assert_ne!(way.found, 0);
        Ok(())
    })
}

#[test]
fn ways_do_not_outlive_their_epoch() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        ways(rig)?;
        rig.bump_epoch()?;
        // The answer is judged anew, and forgets its way only.
        rig.from_outside(&udp("192.0.2.10:53", "198.51.100.1:20000"))?;
        let session = rig.tables()?.only();
        assert_eq!(session.way_inbound, InboundWay::default());
        rig.ip("neighbour replace 198.51.100.254 lladdr 02:00:00:00:00:09 nud permanent dev eth0")?;
        rig.look_for_ways(&query())?;
        let way = rig.tables()?.only().way_outbound;
        assert_eq!(way.destination, [2, 0, 0, 0, 0, 9]);
        Ok(())
    })
}

#[test]
fn new_flow_has_no_ways_of_its_slots_former_tenant() -> Result<()> {
    with_rig(|rig| {
        rig.set_session(0, |session| {
            session.way_outbound = OutboundWay { found: 7, ..OutboundWay::default() };
            session.way_inbound = InboundWay { found: 7, port: 7, ..InboundWay::default() };
        })?;
        rig.from_guest(&query())?;
        let session = rig.tables()?.only();
        assert_without_ways(&session);
        Ok(())
    })
}

#[test]
fn flow_that_turns_round_has_no_ways() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        let port = PortRange { first: 8080, last: 8080 };
        rig.forward(protocol::UDP, (EXTERNAL, port), ("192.168.122.11", 53), "eth0", NETWORK)?;
        for _ in 0..3 {
            rig.from_guest(&udp("192.168.122.10:20000", "198.51.100.1:8080"))?;
        }
        let tables = rig.tables()?;
        assert_eq!(tables.live().count(), 2);
        for (_, session) in tables.live() {
            assert_eq!(session.way_outbound, OutboundWay::default(), "{session:?}");
        }
        let (_, turned) = tables.live().find(|(_, s)| s.flags & FLAG_HAIRPIN != 0).unwrap();
        assert_eq!(turned.way_inbound, InboundWay::default());
        Ok(())
    })
}

#[test]
fn port_that_is_gone_is_no_way_although_the_tables_still_have_it() -> Result<()> {
    with_rig(|rig| {
        rig.shorten(NETWORK, "virbr0", PORT)?;
        let (_, inbound) = ways(rig)?;
        assert_ne!(inbound.port, 0);
        rig.forget_ways()?;
        rig.ip(&format!("link delete {PORT}"))?;
        let (outbound, inbound) = ways(rig)?;
        assert_eq!(outbound.destination, ROUTER_MAC);
        assert_eq!((inbound.port, inbound.destination), (0, [0; 6]));
        let outcome = rig.from_outside(&udp("192.0.2.10:53", "198.51.100.1:20000"))?;
        // By the bridge: whose port the guest is at is its to know.
        assert_ne!(outcome.frame[..6], GUEST_MAC);
        Ok(())
    })
}
