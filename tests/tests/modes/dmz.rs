//! libvirt's example of a DMZ: guests on a bridge of the host that has the NIC as a port, so that
//! they are on the physical network with VLANs and all.

use etherparse::{EtherType, Ethernet2Header};
use vnet_tests::lab::{End, Guest, Lab, PortKind, require_root};
use vnet_tests::modes::{Forward, Net, Place, frame};
use vnet_tests::vnet::Vnet;

use crate::support::{DEADLINE, assert_does_not_reach, assert_reaches, place};

const DEFINITION: &str = "<network>\n  <name>dmz</name>\n  <forward mode='bridge'/>\n  \
                          <bridge name='br0'/>\n</network>\n";

struct Dmz {
    vnet: Vnet,
    /// On `br0` as the physical network's host.
    guests: Vec<Place>,
    /// On a NAT network of the same host.
    private: Place,
    /// A machine on the physical network.
    lan: Place,
    host: Place,
    // Last, because its end kills every process in it.
    _lab: Lab,
}

/// A host whose NIC `nic` is a port of `br0`; at the NIC's other end a machine of the LAN.
fn dmz() -> anyhow::Result<Dmz> {
    let lab = Lab::new()?;
    let host = lab.host("host")?;
    let lan = lab.station("lan")?;
    host.bridge("br0", &["198.51.100.2/24", "2001:db8:a::2/64"])?;
    lab.wire(
        &End::new(&host, "nic"),
        &End::new(&lan, "eth0").address("198.51.100.1/24").address("2001:db8:a::1/64"),
    )?;
    host.run(&["ip", "link", "set", "nic", "master", "br0"])?;
    host.route("default", "198.51.100.1")?;
    host.route("default", "2001:db8:a::1")?;
    lan.route("default", "198.51.100.2")?;
    lan.route("default", "2001:db8:a::2")?;
    let mut guests = Vec::new();
    for (number, kind) in [(11, PortKind::Tap), (12, PortKind::Veth)] {
        let name = format!("dmz{number}");
        let guest = Guest::new(&name, kind)
            .address(&format!("198.51.100.{number}/24"))
            .address(&format!("2001:db8:a::{number}/64"));
        let guest = guest.gateway("198.51.100.1").gateway("2001:db8:a::1");
        guests.push(place(&name, &lab.guest(&host, "br0", &guest)?));
    }
    let addresses = ["10.10.1.1/24", "2001:db8:1::1/64"];
    let private = Net::new("private", Forward::Nat, "virbr1", &addresses).nat66();
    host.bridge("virbr1", &addresses)?;
    let guest = Guest::tap("private").address("10.10.1.11/24").address("2001:db8:1::11/64");
    let guest = guest.gateway("10.10.1.1").gateway("2001:db8:1::1");
    let node = lab.guest(&host, "virbr1", &guest)?;
    let vnet = Vnet::start(&host, &[DEFINITION.to_owned(), private.definition()])?;
    let (lan, host) = (place("lan", &lan), place("host", &host));
    Ok(Dmz { vnet, guests, private: place("private", &node), lan, host, _lab: lab })
}

#[test]
fn dmz_guests_are_on_the_physical_network() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let dmz = dmz()?;
    let Dmz { guests, private, lan, host, .. } = &dmz;
    let [first, second] = guests.as_slice() else { panic!() };
    for (guest, v4, v6) in
        [(first, "198.51.100.11", "2001:db8:a::11"), (second, "198.51.100.12", "2001:db8:a::12")]
    {
        assert_reaches(guest, lan, "198.51.100.1", v4)?;
        assert_reaches(guest, lan, "2001:db8:a::1", v6)?;
        assert_reaches(lan, guest, v4, "198.51.100.1")?;
        assert_reaches(lan, guest, v6, "2001:db8:a::1")?;
        assert_reaches(guest, host, "198.51.100.2", v4)?;
        // The private network is behind NAT for them as for everybody outside.
        assert_reaches(private, guest, v4, "198.51.100.2")?;
        assert_reaches(private, guest, v6, "2001:db8:a::2")?;
        assert_does_not_reach(guest, private, "10.10.1.11")?;
    }
    assert_reaches(first, second, "198.51.100.12", "198.51.100.11")?;
    assert_reaches(private, lan, "198.51.100.1", "198.51.100.2")?;
    // Frames arrive with the guest's own address.
    let [guest_mac, lan_mac] =
        [first, lan].map(|place| frame::mac_of(&place.node, "eth0").unwrap());
    let arp = lan.node.run(&["ip", "neigh", "show", "198.51.100.11"])?;
    let text = guest_mac.map(|byte| format!("{byte:02x}")).join(":");
    assert!(arp.contains(&text), "{arp} instead of {text}");
    assert_ne!(guest_mac, lan_mac);
    dmz.vnet.stop()?;
    Ok(())
}

/// A frame with these bytes after its addresses.
fn tagged(macs: ([u8; 6], [u8; 6]), tags: &[(u16, u16)], text: &[u8]) -> Vec<u8> {
    let mut frame = [macs.1, macs.0].concat();
    for (protocol, tag) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    // An experimental EtherType (IEEE 802), so that no stack answers.
    frame.extend(0x88b5_u16.to_be_bytes());
    frame.extend(text);
    frame.resize(frame.len().max(64), 0);
    frame
}

#[test]
fn dmz_passes_vlan_tags_unharmed() -> anyhow::Result<()> {
    const VLAN: u16 = 0x8100;
    const SERVICE: u16 = 0x88a8;
    if !require_root() {
        return Ok(());
    }
    let dmz = dmz()?;
    let Dmz { guests, lan, .. } = &dmz;
    let [first, second] = guests.as_slice() else { panic!() };
    // VLAN 42; VLAN 4094 with priority 7; a priority tag; a tag within a service tag.
    let stacks: [&[(u16, u16)]; 5] =
        [&[(VLAN, 42)], &[(VLAN, 0xeffe)], &[(VLAN, 0x6000)], &[(SERVICE, 100), (VLAN, 42)], &[]];
    let mut number = 0;
    for (from, to) in [(first, lan), (lan, first), (second, lan), (lan, second), (first, second)] {
        let [source, destination] =
            [from, to].map(|place| frame::mac_of(&place.node, "eth0").unwrap());
        for tags in stacks {
            let text = format!("tagged {number:05}.");
            number += 1;
            let sent = tagged((source, destination), tags, text.as_bytes());
            let capture = to.capture("")?;
            frame::send(&from.node, "eth0", &sent)?;
            let found = capture.wait_for(
                |packet| packet.data.windows(text.len()).any(|window| window == text.as_bytes()),
                DEADLINE,
            )?;
            // The kernel keeps the outer tag of 802.1Q beside the data.
            let (ethernet, _) = Ethernet2Header::from_slice(&found.data)?;
            let mut received = found.data.clone();
            if let Some(tag) = found.vlan {
                let outer = tags.first().map_or(VLAN, |(protocol, _)| *protocol);
                let bytes = [outer.to_be_bytes(), tag.to_be_bytes()].concat();
                received.splice(12..12, bytes);
            } else {
                assert!(tags.is_empty() || ethernet.ether_type != EtherType(0x88b5), "{found}");
            }
            assert_eq!(received, sent, "{} to {} with {tags:x?}", from.name, to.name);
        }
    }
    dmz.vnet.stop()?;
    Ok(())
}
