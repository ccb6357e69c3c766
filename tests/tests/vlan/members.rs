//! `<vlan>` on a bridge that filters by VLAN: who receives what, shown by packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use vnet_tests::lab::services::UdpEcho;
use vnet_tests::lab::{Capture, CapturedPacket, End, Guest, Lab, Node, listing, require_vlan};
use vnet_tests::vnet::Vnet;

use crate::support::*;

/// The address of every VLAN's station in the LAN.
const STATION: &str = "10.0.0.1";
/// What the NIC's port carries beside the default VLAN.
const TRUNK: [u16; 2] = [42, 47];

/// A filtering bridge whose port `eth0` is a trunk. Beyond it there is one station in each VLAN, all with
/// the same address, so that an answer does not come from a wrong one unnoticed.
struct Lan {
    // Before the lab, whose end kills every process in it.
    vnet: Vnet,
    host: Node,
    guests: Vec<Node>,
    /// By VLAN; `None` is the default one, which is not tagged on the wire.
    stations: Vec<(Option<u16>, Node)>,
    _lab: Lab,
}

impl Lan {
    /// The n-th guest has the MAC address 52:54:00:00:00:0n and the address 10.0.0.1n; `before` is done
    /// before vnet starts.
    fn new(
        networks: &[String],
        guests: &[Guest],
        before: impl FnOnce(&Node, &[Node]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let host = filtering_bridge(&lab)?;
        let plug = |(n, guest): (usize, &Guest)| {
            lab.guest(&host, "br0", &guest.clone().address(&format!("10.0.0.1{}/24", n + 1)))
        };
        let guests = guests.iter().enumerate().map(plug).collect::<Result<Vec<_>, _>>()?;
        let beyond = lab.station("untagged")?;
        let end = End::new(&beyond, "eth0").address("10.0.0.1/24");
        lab.wire(&End::new(&host, "eth0"), &end)?;
        host.run(&["ip", "link", "set", "eth0", "master", "br0"])?;
        let mut stations = Vec::new();
        for identifier in TRUNK {
            host.run(&["bridge", "vlan", "add", "dev", "eth0", "vid", &identifier.to_string()])?;
            stations.push((Some(identifier), tagged_station(&lab, &beyond, identifier)?));
        }
        stations.push((None, beyond));
        before(&host, &guests)?;
        let vnet = Vnet::start(&host, networks)?;
        Ok(Self { vnet, host, guests, stations, _lab: lab })
    }

    fn port(&self, guest: &Node) -> String {
        self.host.port_of(guest.name()).unwrap()
    }

    /// Every guest's untagged frames are of its VLAN: with that tag at the trunk, without one at the
    /// other members, and with nobody else; and so are the answers.
    fn assert_members(&self, vlans: &[Option<u16>]) -> anyhow::Result<()> {
        let echoes = self.stations.iter();
        let echoes = echoes.map(|(_, station)| UdpEcho::start(station, at(STATION, 7)));
        let echoes = echoes.collect::<Result<Vec<_>, _>>()?;
        let trunk = self.host.capture("eth0", "")?;
        let ports = self.guests.iter().map(|guest| self.host.capture(&self.port(guest), ""));
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        for (n, one) in self.guests.iter().enumerate() {
            for (m, _) in self.guests.iter().enumerate().filter(|(m, _)| *m != n) {
                let (together, to) = (vlans[n] == vlans[m], format!("10.0.0.1{}", m + 1));
                let wait = if together { "30" } else { "0.5" };
                let received = one.ping_with(&to, 1, &["-W", wait])?.received;
                assert_eq!(received, u32::from(together), "{} to {to}", one.name());
            }
            let answer = one.udp_ask(at(STATION, 7), b"which one?", DEADLINE)?;
            assert_eq!(answer, b"which one?");
        }

        for ((identifier, _), echo) in self.stations.iter().zip(echoes) {
            let of_vlan = (1..).zip(vlans).filter(|(_, vlan)| *vlan == identifier);
            let members: BTreeSet<IpAddr> = of_vlan.map(|(n, _)| address(n)).collect();
            let peers: BTreeSet<IpAddr> = echo.peers().iter().map(SocketAddr::ip).collect();
            assert_eq!(peers, members, "asked the station of VLAN {identifier:?}");
        }
        let trunk = trunk.finish()?;
        let ports = ports.into_iter().map(Capture::finish).collect::<Result<Vec<_>, _>>()?;
        for (n, vlan) in vlans.iter().enumerate() {
            let sent = from(n, &trunk);
            assert!(sent.iter().copied().any(is_broadcast), "{}", listing(&trunk));
            assert!(sent.iter().any(|packet| packet.ports().is_some()), "{}", listing(&trunk));
            for packet in sent {
                assert_eq!(identifier(packet), *vlan, "guest {}: {packet}", n + 1);
            }
            for (m, port) in ports.iter().enumerate() {
                let seen = from(n, port);
                assert_eq!(seen.iter().copied().any(is_broadcast), vlans[m] == *vlan);
                assert!(vlans[m] == *vlan || seen.is_empty(), "{}", listing(port));
                assert!(seen.iter().all(|packet| tag(packet).is_none()), "{}", listing(port));
            }
        }
        Ok(())
    }
}

/// A machine of its own behind a VLAN device of the wire's far end.
fn tagged_station(lab: &Lab, beyond: &Node, identifier: u16) -> anyhow::Result<Node> {
    let name = format!("vlan{identifier}");
    let station = lab.station(&name)?;
    let (vid, path) = (identifier.to_string(), station.path());
    let add = ["ip", "link", "add", "link", "eth0", "name", &name, "type", "vlan", "id", &vid];
    beyond.run(&add)?;
    beyond.run(&["ip", "link", "set", &name, "netns", &path])?;
    station.ip_batch(&[
        format!("link set {name} up"),
        format!("address add {STATION}/24 dev {name}"),
    ])?;
    Ok(station)
}

/// The n-th guest's address.
fn address(n: u8) -> IpAddr {
    ip(&format!("10.0.0.1{n}"))
}

/// The frames of the guest of this index.
fn from(guest: usize, packets: &[CapturedPacket]) -> Vec<&CapturedPacket> {
    let mac = [0x52, 0x54, 0, 0, 0, guest as u8 + 1];
    packets.iter().filter(|packet| packet.data.get(6..12) == Some(&mac)).collect()
}

/// Whether it goes to everybody, as an ARP request does.
fn is_broadcast(packet: &CapturedPacket) -> bool {
    packet.data.starts_with(&[0xff; 6])
}

const RED: &str = "<vlan><tag id='42'/></vlan>";
const BLUE: &str = "<portgroup name='blue' default='yes'><vlan><tag id='47'/></vlan></portgroup>";

#[test]
fn guests_are_in_the_vlan_of_their_network_and_in_no_other() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let guests = [Guest::tap("first"), Guest::veth("second"), Guest::tap("stranger")];
    // The port group that is the default one counts more than the network.
    for (vlan, own, other) in [
        (RED.to_owned(), 42, "47"),
        (BLUE.to_owned(), 47, "42"),
        (format!("{RED}{BLUE}"), 47, "42"),
    ] {
        let lan = Lan::new(&[bridged("lan", "", &vlan)], &guests, |host, guests| {
            // Who plugged this one in has put it into another VLAN.
            let port = host.port_of(guests[2].name()).unwrap();
            host.run(&["bridge", "vlan", "del", "dev", &port, "vid", "1"])?;
            let vid = ["vid", other, "pvid", "untagged"];
            host.run(&[&["bridge", "vlan", "add", "dev", &port], vid.as_slice()].concat())?;
            Ok(())
        })?;
        for guest in &lan.guests[..2] {
            let wanted = format!("{own} PVID Egress Untagged");
            wait_for_vlans(&lan.host, &lan.port(guest), &[&wanted])?;
        }
        lan.assert_members(&[Some(own), Some(own), other.parse().ok()])?;
        lan.vnet.stop()?;
    }
    Ok(())
}

#[test]
fn guests_of_a_shared_bridge_are_in_the_vlan_of_the_network_that_knows_them() -> anyhow::Result<()>
{
    if !require_vlan() {
        return Ok(());
    }
    let guest = |n| format!("<vnet:guest mac='52:54:00:00:00:0{n}'/>");
    let networks = [
        bridged("red", &format!("{}{}", guest(1), guest(3)), RED),
        bridged("blue", &guest(2), BLUE),
    ];
    let guests = ["red1", "blue", "red2", "nobodys"].map(Guest::tap);
    let lan = Lan::new(&networks, &guests, |_, _| Ok(()))?;
    for (guest, wanted) in lan.guests.iter().zip([42, 47, 42, 1]) {
        let wanted = format!("{wanted} PVID Egress Untagged");
        wait_for_vlans(&lan.host, &lan.port(guest), &[&wanted])?;
    }
    lan.assert_members(&[Some(42), Some(47), Some(42), None])?;
    lan.vnet.stop()?;
    Ok(())
}

#[test]
fn guest_of_a_trunk_is_in_each_of_its_vlans() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let vlan = "<vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='47'/></vlan>";
    let networks = [bridged("lan", "", vlan)];
    let lan = Lan::new(&networks, &[Guest::tap("guest")], |_, _| Ok(()))?;
    let port = lan.port(&lan.guests[0]);
    wait_for_vlans(&lan.host, &port, &["42 PVID Egress Untagged", "47"])?;
    lan.assert_members(&[Some(42)])?;

    let guest = &lan.guests[0];
    add_vlan(guest, "eth0", 47, "192.0.2.11/24")?;
    add_vlan(guest, "eth0", 99, "203.0.113.11/24")?;
    let (_, blue) = &lan.stations[1];
    blue.add_address("vlan47", "192.0.2.1/24")?;
    let echo = UdpEcho::start(blue, at("192.0.2.1", 7))?;
    let (trunk, at_port) = (lan.host.capture("eth0", "")?, lan.host.capture(&port, "")?);
    // The bridge has not been told of this one, and drops it.
    assert_eq!(guest.ping_with("203.0.113.1", 1, &["-W", "0.5"])?.received, 0);
    assert_eq!(guest.udp_ask(echo.address(), b"which one?", DEADLINE)?, b"which one?");
    assert_eq!(echo.peers()[0].ip(), ip("192.0.2.11"));
    let (trunk, at_port) = (trunk.finish()?, at_port.finish()?);
    let tags = |packets| from(0, packets).into_iter().map(identifier).collect::<BTreeSet<_>>();
    // Beside them it may ask for its neighbours of the native VLAN again.
    let tagged = BTreeSet::from([Some(47), Some(99)]);
    assert!(tags(&at_port).is_superset(&tagged), "{}", listing(&at_port));
    let passed = tags(&trunk);
    assert!(passed.contains(&Some(47)), "{}", listing(&trunk));
    assert!(passed.is_subset(&BTreeSet::from([Some(42), Some(47)])), "{}", listing(&trunk));
    lan.vnet.stop()?;
    Ok(())
}
