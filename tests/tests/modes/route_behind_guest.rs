//! `<route>`: subnets behind a guest that is itself a router.

use std::net::UdpSocket;

use vnet_common::reason::DropReason;
use vnet_tests::lab::{End, listing, require_root, wait_until};
use vnet_tests::modes::{Forward, Net, Place, Rig};
use vnet_tests::vnet::Vnet;

use crate::support::*;

const BEHIND: [&str; 2] = ["10.99.0.2", "2001:db8:99::2"];
/// The second one, as a packet has it.
const BEHIND_BYTES: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

fn network(name: &'static str, forward: Forward) -> Net {
    let (bridge, addresses, gateways) = match name {
        "front" => {
            ("virbr1", ["10.10.1.1/24", "2001:db8:1::1/64"], ["10.10.1.11", "2001:db8:1::11"])
        }
        "other" => {
            return Net::new(name, forward, "virbr2", &["10.10.2.1/24", "2001:db8:2::1/64"]);
        }
        _ => return Net::new(name, forward, "virbr3", &["10.10.3.1/24", "2001:db8:3::1/64"]),
    };
    Net::new(name, forward, bridge, &addresses)
        .element(&format!("<route address='10.99.0.0' prefix='24' gateway='{}'/>", gateways[0]))
        .element(&format!(
            "<route family='ipv6' address='2001:db8:99::' prefix='64' gateway='{}'/>",
            gateways[1]
        ))
        .nat66()
}

/// A machine behind the first guest, which becomes a router.
fn behind(rig: &Rig) -> anyhow::Result<Place> {
    let router = rig.place("front.1");
    router.node.forwarding(true)?;
    let behind = rig.lab.station("behind")?;
    rig.lab.wire(
        &End::new(&router.node, "eth1").address("10.99.0.1/24").address("2001:db8:99::1/64"),
        &End::new(&behind, "eth0").address("10.99.0.2/24").address("2001:db8:99::2/64"),
    )?;
    behind.route("default", "10.99.0.1")?;
    behind.route("default", "2001:db8:99::1")?;
    Ok(place("behind", &behind))
}

#[test]
fn hosts_behind_a_guest_are_of_its_network() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for forward in [Forward::Route, Forward::Nat, Forward::Isolated] {
        // The routed network makes the host a router: without forwarding nothing is rejected.
        let rig = Rig::new(vec![
            network("front", forward),
            network("other", Forward::Isolated),
            network("third", Forward::Route),
        ])?;
        let behind = behind(&rig)?;
        // vnet turns it on for networks that need it, which isolated ones do not.
        rig.host.forwarding(true)?;
        // vnet sets the routes of the definition on the host itself.
        let vnet = Vnet::start(&rig.host, &rig.definitions())?;
        let [x, host, other] = ["X", "host", "other.1"].map(|name| rig.place(name));
        let outside = ["198.51.100.1", "2001:db8:a::1"];
        let uplink = ["198.51.100.2", "2001:db8:a::2"];
        let bridge = ["10.10.1.1", "2001:db8:1::1"];
        for index in [0, 1] {
            assert_reaches(host, &behind, BEHIND[index], bridge[index])?;
            assert_reaches(&behind, host, bridge[index], BEHIND[index])?;
            assert_rejected(
                &behind,
                other,
                ["10.10.2.11", "2001:db8:2::11"][index],
                bridge[index],
            )?;
            match forward {
                Forward::Route => {
                    assert_reaches(&behind, x, outside[index], BEHIND[index])?;
                    assert_reaches(x, &behind, BEHIND[index], outside[index])?;
                }
                Forward::Nat => {
                    assert_reaches(&behind, x, outside[index], uplink[index])?;
                    assert_rejected(x, &behind, BEHIND[index], uplink[index])?;
                }
                _ => {
                    assert_rejected(&behind, x, outside[index], bridge[index])?;
                    assert_rejected(x, &behind, BEHIND[index], uplink[index])?;
                }
            }
            assert_does_not_reach(other, &behind, BEHIND[index])?;
        }
        vnet.stop()?;
    }
    Ok(())
}

/// Replies to who is behind a guest go through the host's stack after they are translated. Without the
/// route it sends them on to wherever its default route leads.
#[test]
fn translated_reply_leaves_no_uplink_when_its_route_is_gone() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let outside = ["198.51.100.1", "2001:db8:a::1"];
    // Back to where the reply came from, and out of another uplink.
    for gateways in [outside, ["203.0.113.1", "2001:db8:b::1"]] {
        let rig = Rig::new(vec![network("front", Forward::Nat)])?;
        let behind = behind(&rig)?;
        for gateway in gateways {
            rig.host.route("default", gateway)?;
        }
        let uplinks = ["--uplink", "upx", "--uplink", "upy"];
        let mut vnet = Vnet::start_with(&rig.host, &rig.definitions(), &uplinks)?;
        let [x, y] = ["X", "Y"].map(|name| rig.place(name));
        let mut flows = Vec::new();
        for (index, address) in outside.into_iter().enumerate() {
            let server = x.node.enter(|| UdpSocket::bind(at(address, 7)))??;
            server.set_read_timeout(Some(DEADLINE))?;
            let own = at(BEHIND[index], 4000);
            let client = behind.node.udp_socket(own, at(address, 7), DEADLINE)?;
            client.send(b"question")?;
            let mut text = [0; 64];
            let (_, seen) = server.recv_from(&mut text)?;
            assert_eq!(seen.ip(), x.host_like(ip(address)));
            server.send_to(b"first", seen)?;
            assert_eq!(client.recv(&mut text)?, 5);
            flows.push((server, seen));
        }

        // Nobody puts the routes back.
        vnet.kill()?;
        rig.host.run(&["ip", "route", "del", "10.99.0.0/24"])?;
        rig.host.run(&["ip", "-6", "route", "del", "2001:db8:99::/64"])?;
        let captures = [x.capture("")?, y.capture("")?, behind.capture("ip or ip6")?];
        for (count, (server, seen)) in (1..).zip(&flows) {
            server.send_to(b"second", *seen)?;
            wait_until("the reply is dropped", DEADLINE, || {
                match vnet.drops(DropReason::PolicyRejected) {
                    Ok(dropped) if dropped == count => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })?;
        }
        for capture in captures {
            let mut packets = capture.finish()?;
            packets.retain(|packet| !packet.outgoing);
            // Neither the reply nor, in an error or a redirect about it, whom it was for.
            for packet in &packets {
                let has = |text: &[u8]| packet.data.windows(text.len()).any(|bytes| bytes == text);
                let leaked = has(b"second") || has(&[10, 99, 0, 2]) || has(&BEHIND_BYTES);
                assert!(!leaked, "{packet}\nin\n{}", listing(&packets));
            }
        }
        vnet.detach()?;
    }
    Ok(())
}
