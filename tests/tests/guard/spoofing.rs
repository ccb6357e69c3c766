//! A guest that pretends to be another.

use vnet_common::reason::DropReason;
use vnet_tests::lab::{Guest, PortKind, listing, require_root};
use vnet_tests::programs::{echo_request, guard::*, udp};

use crate::support::*;

const OWN: &str = "192.168.122.11";
const VICTIM: &str = "192.168.122.12";

fn guarded(kind: PortKind) -> anyhow::Result<Guarded> {
    let dhcp = hosts();
    let settings = Settings { options: "<vnet:guard/>", dhcp: &dhcp, ..Settings::default() };
    let guest = |name: &str, address: &str| {
        Guest::new(name, kind).address(&format!("{address}/24")).gateway("192.168.122.1")
    };
    Guarded::new(&settings, &[guest("evil", OWN), guest("victim", VICTIM)])
}

/// From the attacker's MAC address to everybody.
fn from_attacker(frame: &[u8]) -> Vec<u8> {
    broadcast(mac(1), u16::from_be_bytes([frame[12], frame[13]]), payload(frame))
}

fn arp(operation: u16, sender: &str, target: &str) -> Arp {
    Arp { sender_mac: mac(1), ..Arp::new(operation, sender, target) }
}

/// What a spoofing guest sends, by the reason for which it is dropped.
fn spoofs() -> Vec<(DropReason, Vec<Vec<u8>>)> {
    let attackers_option = link_layer_option(2, mac(1));
    let link_local = "fe80::5054:ff:fe00:1";
    let own = from_attacker(&arp(1, OWN, "192.168.122.1").frame());
    vec![
        (
            DropReason::SpoofedMac,
            vec![from_mac(own.clone(), mac(2)), from_mac(own.clone(), [0; 6])],
        ),
        (
            DropReason::SpoofedAddress,
            vec![
                from_attacker(&udp("192.168.122.12:1000", "192.0.2.10:53").frame()),
                from_attacker(&echo_request("192.168.122.1:1", "192.168.122.12").frame()),
                from_attacker(&ipv6("fd00:122::1", "ff02::1", 17, &udp_message(1000, 53))),
            ],
        ),
        (
            DropReason::SpoofedNeighbour,
            vec![
                from_attacker(&arp(2, "192.168.122.1", VICTIM).frame()),
                from_attacker(&arp(1, "0.0.0.0", VICTIM).frame()),
                from_attacker(&Arp { sender_mac: mac(2), ..arp(2, OWN, VICTIM) }.frame()),
                from_attacker(&ipv6(
                    link_local,
                    "ff02::1",
                    58,
                    &discovery(136, Some("fd00:122::1"), &[&attackers_option]),
                )),
            ],
        ),
        (
            DropReason::RogueDhcpServer,
            vec![
                from_attacker(&udp("192.168.122.11:67", "255.255.255.255:68").frame()),
                from_attacker(&ipv6(link_local, "ff02::1", 17, &udp_message(547, 546))),
            ],
        ),
        (
            DropReason::RogueRouter,
            vec![
                from_attacker(&ipv6(link_local, "ff02::1", 58, &discovery(134, None, &[&[0; 8]]))),
                from_attacker(&ipv6(
                    link_local,
                    "ff02::1",
                    60,
                    &extension(58, &discovery(134, None, &[&[0; 8]])),
                )),
            ],
        ),
        (DropReason::TaggedFrame, vec![tagged(&own, 0x8100, 7), tagged(&own, 0x88a8, 7)]),
        (DropReason::UncheckedProtocol, vec![broadcast(mac(1), 0x88b5, &[7; 46])]),
        (
            DropReason::Malformed,
            vec![
                broadcast(mac(1), 0x0800, &[0x45; 10]),
                broadcast(mac(1), 0x86dd, &[0x60; 30]),
                broadcast(mac(1), 0x0806, &[9; 8]),
            ],
        ),
    ]
}

#[test]
fn spoofed_frames_are_counted_by_reason_and_reach_nobody() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in [PortKind::Tap, PortKind::Veth] {
        let lab = guarded(kind)?;
        let [evil, victim] = [&lab.guests[0], &lab.guests[1]];
        let before: Vec<u64> =
            DropReason::ALL.iter().map(|r| lab.vnet.drops(*r)).collect::<Result<_, _>>()?;
        let at_victim = victim.capture("eth0", "")?;
        let at_host = lab.host.capture("virbr0", "inbound")?;
        let outside = lab.outside.capture("eth0", "")?;

        let spoofs = spoofs();
        for frame in spoofs.iter().flat_map(|(_, frames)| frames) {
            send_frame(evil, "eth0", frame)?;
        }
        // Its own, which everybody may see: everything before it has been dealt with.
        let last = from_attacker(&arp(1, OWN, OWN).frame());
        send_frame(evil, "eth0", &last)?;
        at_victim.wait_for(|packet| packet.data.starts_with(&last), DEADLINE)?;
        at_host.wait_for(|packet| packet.data.starts_with(&last), DEADLINE)?;

        for (reason, before) in DropReason::ALL.iter().zip(before) {
            let sent = spoofs.iter().find(|(other, _)| other == reason);
            let sent = sent.map_or(0, |(_, frames)| frames.len() as u64);
            let dropped = lab.vnet.drops(*reason)? - before;
            assert_eq!(dropped, sent, "{} on a {kind:?}", reason.id());
        }
        // What the attacker's own stack sends is its own.
        let is_spoof = |data: &[u8]| {
            spoofs.iter().flat_map(|(_, frames)| frames).any(|spoof| data.starts_with(spoof))
        };
        for capture in [at_victim, at_host, outside] {
            let packets = capture.finish()?;
            let seen: Vec<_> = packets.into_iter().filter(|p| is_spoof(&p.data)).collect();
            assert!(seen.is_empty(), "{}", listing(&seen));
        }
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn attacker_does_not_get_the_victims_packets() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = guarded(PortKind::Veth)?;
    let [evil, victim] = [&lab.guests[0], &lab.guests[1]];
    victim.ping("192.168.122.1", 1)?;
    let at_evil = evil.capture("eth0", "icmp")?;
    for _ in 0..20 {
        // To the host, as the victim and as the victim's MAC address.
        let reply = from_attacker(&arp(2, VICTIM, "192.168.122.1").frame());
        send_frame(evil, "eth0", &reply)?;
        let stolen = from_mac(reply, mac(2));
        send_frame(evil, "eth0", &stolen)?;
    }
    lab.wait_for_drops(DropReason::SpoofedNeighbour, 20)?;
    lab.wait_for_drops(DropReason::SpoofedMac, 20)?;
    let ping = lab.host.ping(VICTIM, 3)?;
    assert_eq!(ping.received, 3);
    let seen = at_evil.finish()?;
    assert!(seen.is_empty(), "{}", listing(&seen));
    lab.finish()
}

#[test]
fn guest_with_a_stolen_address_reaches_nobody() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = guarded(PortKind::Veth)?;
    let evil = &lab.guests[0];
    assert_eq!(evil.ping("192.168.122.1", 1)?.received, 1);
    evil.run(&["ip", "address", "add", "192.168.122.77/24", "dev", "eth0"])?;
    for to in ["192.168.122.1", VICTIM, "203.0.113.1"] {
        let ping = evil.ping_with(to, 1, &["-I", "192.168.122.77", "-W", "0.3"])?;
        assert_eq!(ping.received, 0, "{to}");
    }
    let own = evil.ping_with("203.0.113.1", 1, &["-I", OWN, "-W", "5"])?;
    assert_eq!(own.received, 1);
    assert!(lab.vnet.drops(DropReason::SpoofedAddress)? > 0);
    lab.finish()
}
