//! Interfaces that have no hooks of vnet, and what other people do to the host's own rules.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{Icmpv6Type, PacketBuilder};
use vnet_tests::lab::{End, listing, require_root};
use vnet_tests::modes::{Net, Place, Rig, frame, libvirt_rules, nine_networks};
use vnet_tests::vnet::Vnet;

use crate::support::*;

const PEER: [&str; 2] = ["10.8.0.2", "2001:db8:8::2"];
const OPEN_TO_ALL: [&str; 3] = ["route-a.1", "route-b.1", "open.1"];
const CLOSED: [&str; 6] =
    ["nat-a.1", "nat-b.1", "nat-x.1", "route-x.1", "isolated-a.1", "isolated-b.1"];

/// Another way into the host, as a VPN: not an uplink.
fn vpn(rig: &Rig) -> anyhow::Result<Place> {
    let peer = rig.lab.station("vpn")?;
    rig.lab.wire(
        &End::new(&rig.host, "vpn0").address("10.8.0.1/24").address("2001:db8:8::1/64"),
        &End::new(&peer, "eth0").address("10.8.0.2/24").address("2001:db8:8::2/64"),
    )?;
    peer.route("default", "10.8.0.1")?;
    peer.route("default", "2001:db8:8::1")?;
    Ok(place("vpn", &peer))
}

/// To every guest that outside may not reach, by both families.
fn from_vpn<'a>(rig: &'a Rig, vpn: &'a Place) -> Vec<(&'a Place, &'a Place, String)> {
    let to = |name: &str| {
        let guest = rig.place(name);
        PEER.map(|like| (vpn, guest, guest.address_like(ip(like)).to_string()))
    };
    CLOSED.into_iter().flat_map(to).collect()
}

#[test]
fn interface_without_hooks_obeys_the_policy() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    let vpn = vpn(&rig)?;
    let arguments = ["--uplink", "upx", "--uplink", "upy"];
    let vnet = Vnet::start_with(&rig.host, &rig.definitions(), &arguments)?;
    assert_none_reaches(&from_vpn(&rig, &vpn))?;
    for peer in PEER {
        for name in OPEN_TO_ALL {
            let guest = rig.place(name);
            let address = guest.address_like(ip(peer)).to_string();
            assert_reaches(&vpn, guest, &address, peer)?;
            assert_reaches(guest, &vpn, peer, &address)?;
        }
        for name in CLOSED {
            let guest = rig.place(name);
            let gateway = guest.host_like(ip(peer)).to_string();
            assert_rejected(guest, &vpn, peer, &gateway)?;
        }
    }
    vnet.stop()?;
    Ok(())
}

#[test]
fn flushing_the_hosts_rules_opens_nothing() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    let vpn = vpn(&rig)?;
    rig.host.nft(&libvirt_rules(&rig.nets))?;
    let arguments = ["--uplink", "upx", "--uplink", "upy"];
    let vnet = Vnet::start_with(&rig.host, &rig.definitions(), &arguments)?;
    let [x, routed, nat] = ["X", "route-a.1", "nat-a.1"].map(|name| rig.place(name));
    let all = || -> anyhow::Result<()> {
        assert_none_reaches(&from_vpn(&rig, &vpn))?;
        // X is the uplink of that one.
        for name in CLOSED.into_iter().filter(|name| *name != "route-x.1") {
            let guest = rig.place(name);
            for like in PEER.map(ip) {
                let (address, uplink) = (guest.address_like(like), x.host_like(like));
                assert_rejected(x, guest, &address.to_string(), &uplink.to_string())?;
            }
        }
        assert_reaches(x, routed, "10.10.4.11", "198.51.100.1")?;
        assert_reaches(nat, x, "198.51.100.1", "198.51.100.2")?;
        assert_reaches(nat, x, "2001:db8:a::1", "2001:db8:a::2")
    };
    all()?;
    rig.host.nft("flush ruleset")?;
    all()?;
    vnet.stop()?;
    Ok(())
}

/// What goes to guests through the stack is rejected at the bridge, and the sender is answered through
/// the interface that it came from, which has no hook of ours.
#[test]
fn interface_without_hooks_gets_this_icmpv6_error_byte_by_byte() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    let vpn = vpn(&rig)?;
    let arguments = ["--uplink", "upx", "--uplink", "upy"];
    let vnet = Vnet::start_with(&rig.host, &rig.definitions(), &arguments)?;
    let macs = (frame::mac_of(&vpn.node, "eth0")?, frame::mac_of(&rig.host, "vpn0")?);
    // The host knows the peer's link-layer address already.
    assert_eq!(vpn.node.ping("2001:db8:8::1", 1)?.received, 1);
    let (peer, own) = (ip(PEER[1]), "2001:db8:8::1".parse()?);
    for (port, name) in (9000..).zip(CLOSED) {
        for length in [0, 4, 1400] {
            let guest = rig.place(name);
            let to = guest.address_like(peer);
            let sent = frame::udp(macs, (peer, to), (port, 7), &vec![0x5a; length]);
            let capture = vpn.capture("icmp6")?;
            frame::send(&vpn.node, "eth0", &sent)?;
            let answer = capture
                .wait_for(|packet| packet.icmp().is_some_and(|(kind, _)| kind < 128), DEADLINE)?;

            // As the stack was about to send it on, up to what every transport knows its flow by.
            let mut quoted = sent[14..14 + 40 + 8].to_vec();
            quoted[7] -= 1;
            // Kernels before 6.7 do not tell the programs which address the host would take.
            let IpAddr::V6(gateway) = guest.host_like(peer) else { panic!("{name}") };
            let error = |source: Ipv6Addr| {
                let IpAddr::V6(to) = peer else { panic!("{peer}") };
                let mut bytes = Vec::new();
                PacketBuilder::ethernet2(macs.1, macs.0)
                    .ipv6(source.octets(), to.octets(), 64)
                    .icmpv6(Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port))
                    .write(&mut bytes, &quoted)
                    .unwrap();
                bytes
            };
            let answers = [own, gateway].map(error);
            let expected = answers.iter().find(|bytes| **bytes == answer.data);
            let all = capture.finish()?;
            assert_eq!(&answer.data, expected.unwrap_or(&answers[0]), "{name}: {}", listing(&all));
            let errors =
                all.iter().filter(|packet| packet.icmp().is_some_and(|(kind, _)| kind < 128));
            assert_eq!(errors.count(), 1, "{name}: {}", listing(&all));
        }
    }
    vnet.stop()?;
    Ok(())
}
