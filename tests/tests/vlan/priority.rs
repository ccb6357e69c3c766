//! Priority tags: a priority of 802.1p without a VLAN, which a receiver treats as no tag.

use std::time::Duration;

use vnet_tests::lab::services::{TcpEcho, UdpEcho};
use vnet_tests::lab::{StandardLab, listing, require_vlan};
use vnet_tests::vnet::{Vnet, nat_network};

use crate::support::*;

const UPLINK: &str = "203.0.113.2";
const OUTSIDE: &str = "203.0.113.1";
const GATEWAY: &str = "192.168.122.1";
/// Priority 5, identifier 0.
const PRIORITY_TAG: u16 = 5 << 13;

fn start() -> anyhow::Result<(Vnet, StandardLab)> {
    let lab = StandardLab::new()?;
    let network = nat_network("default", "virbr0", &["192.168.122.1/24"]);
    Ok((Vnet::start(&lab.host, &[network])?, lab))
}

#[test]
fn guest_that_sends_priority_tags_is_masqueraded() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let (vnet, lab) = start()?;
    for guest in [&lab.tap_guest, &lab.veth_guest] {
        let tagged = add_priority(guest, "eth0", 5)?;
        let (gateway, own) = (mac_of(&lab.host, "virbr0")?, guest_address(guest.name()));
        guest.ip_batch(&[
            // The answers come without a tag, so nothing is resolved through this device.
            format!("neighbour add {GATEWAY} lladdr {gateway} dev {tagged}"),
            format!("route replace default via {GATEWAY} dev {tagged} src {own} onlink"),
        ])?;
    }
    let tcp = TcpEcho::start(&lab.outside, at(OUTSIDE, 7))?;
    let udp = UdpEcho::start(&lab.outside, at(OUTSIDE, 7))?;
    let port = lab.host.port_of("guest1").unwrap();
    let (at_port, at_uplink) = (lab.host.capture(&port, "ip")?, lab.host.capture("eth0", "")?);
    for guest in [&lab.tap_guest, &lab.veth_guest] {
        assert_eq!(guest.udp_ask(udp.address(), b"who am I?", DEADLINE)?, b"who am I?");
        assert_echoes(guest, tcp.address(), 100_000)?;
    }
    for peer in tcp.peers().into_iter().chain(udp.peers()) {
        assert_eq!(peer.ip(), ip(UPLINK));
    }
    let sent: Vec<_> = at_port.finish()?.into_iter().filter(|packet| !packet.outgoing).collect();
    assert!(!sent.is_empty());
    for packet in &sent {
        assert_eq!(tag(packet), Some(PRIORITY_TAG), "{packet}");
    }
    let packets = at_uplink.finish()?;
    for packet in packets.iter().filter(|packet| packet.outgoing) {
        let source = packet.source().filter(std::net::IpAddr::is_ipv4);
        assert!(source.is_none_or(|source| source == ip(UPLINK)), "{}", listing(&packets));
    }
    vnet.stop()?;
    Ok(())
}

#[test]
fn priority_tagged_answers_never_leak() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let (vnet, lab) = start()?;
    let tagged = add_priority(&lab.outside, "eth0", 5)?;
    let host = mac_of(&lab.host, "eth0")?;
    lab.outside.ip_batch(&[
        format!("neighbour add {UPLINK} lladdr {host} dev {tagged}"),
        format!("route add {UPLINK}/32 dev {tagged} src {OUTSIDE}"),
    ])?;
    let udp = UdpEcho::start(&lab.outside, at(OUTSIDE, 7))?;
    let at_uplink = lab.host.capture("eth0", "ip")?;
    let at_guest = lab.veth_guest.capture("eth0", "ip")?;
    // Translated, or left to the host's stack, which has no such socket: either is right.
    let answer = lab.veth_guest.udp_ask(udp.address(), b"who am I?", Duration::from_secs(2));
    at_uplink.wait_for(|packet| tag(packet) == Some(PRIORITY_TAG), DEADLINE)?;
    for packet in at_uplink.finish()? {
        let host_side = if packet.outgoing { packet.source() } else { packet.destination() };
        assert_eq!(host_side, Some(ip(UPLINK)), "{packet}");
    }
    let received: Vec<_> =
        at_guest.finish()?.into_iter().filter(|packet| !packet.outgoing).collect();
    for packet in &received {
        let addresses = (packet.source(), packet.destination());
        assert_eq!(addresses, (Some(ip(OUTSIDE)), Some(ip("192.168.122.12"))), "{packet}");
    }
    assert_eq!(answer.is_ok(), !received.is_empty(), "{}", listing(&received));
    vnet.stop()?;
    Ok(())
}

fn guest_address(name: &str) -> &'static str {
    if name == "guest1" { "192.168.122.11" } else { "192.168.122.12" }
}
