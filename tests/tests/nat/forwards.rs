//! Ports of the host that lead to guests, seen from outside and from other guests.

use std::net::SocketAddr;

use vnet_tests::lab::services::{HttpServer, TcpEcho, UdpEcho};
use vnet_tests::lab::{StandardLab, require_root, wait_until};
use vnet_tests::vnet::Vnet;

use crate::support::*;

const TAP_GUEST: &str = "192.168.122.11";

/// The standard lab's network with options of vnet's own.
fn network_with(options: &str) -> String {
    let options = format!(
        "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{options}</vnet:options></metadata>"
    );
    default_network().replacen("</name>", &format!("</name>{options}"), 1)
}

fn lab_with(options: &str) -> anyhow::Result<Nat> {
    let lab = StandardLab::new()?;
    let vnet = Vnet::start(&lab.host, &[network_with(options)])?;
    Ok(Nat { vnet, lab })
}

const FORWARDS: &str = "<vnet:forward protocol='tcp' port='8080' to='192.168.122.11' to-port='80'/>\
     <vnet:forward protocol='udp' address='203.0.113.2' port='9000' last-port='9009' to='192.168.122.11' \
     to-port='7000'/>";

#[test]
fn outside_reaches_a_guest_by_forwarded_ports_with_its_own_address() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = lab_with(FORWARDS)?;
    let (guest, outside) = (&nat.lab.tap_guest, &nat.lab.outside);
    let web = HttpServer::start(guest, at(TAP_GUEST, 80))?;
    let wire = outside.capture("eth0", "ip")?;
    let page = outside.curl(&format!("http://{UPLINK}:8080/bytes/1000000"))?;
    assert_eq!(page.len(), 1_000_000);
    assert_eq!(web.peers().iter().map(SocketAddr::ip).collect::<Vec<_>>(), [ip(OUTSIDE)]);
    for port in [7000, 7004, 7009] {
        let server = UdpEcho::start(guest, at(TAP_GUEST, port))?;
        let answer = outside.udp_ask(at(UPLINK, port + 2000), b"range", DEADLINE)?;
        assert_eq!(answer, b"range");
        assert_eq!(server.peers()[0].ip(), ip(OUTSIDE));
    }
    // The ports beside them are the host's own.
    assert!(outside.udp_ask(at(UPLINK, 9010), b"anybody?", SILENCE).is_err());
    assert!(outside.tcp_connect(at(UPLINK, 80), SILENCE).is_err());
    assert_only_uplink_is_seen(&wire.finish()?, &[UPLINK]);
    nat.finish()
}

#[test]
fn guests_reach_each_other_by_forwarded_ports_with_the_hosts_address() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = lab_with(FORWARDS)?;
    let (server, client) = (&nat.lab.tap_guest, &nat.lab.veth_guest);
    let echo = TcpEcho::start(server, at(TAP_GUEST, 80))?;
    let wire = nat.lab.outside.capture("eth0", "ip")?;
    for (guest, count) in [(client, 1), (server, 2)] {
        let stream = guest.tcp_connect(at(UPLINK, 8080), DEADLINE)?;
        assert_echoes(&stream, 1_000_000);
        assert_eq!(echo.peers().len(), count);
        assert_eq!(echo.peers()[count - 1].ip(), ip(UPLINK));
    }
    // Nobody listens: the guest's ICMP error comes back the same way.
    let socket = client.udp_socket(at("0.0.0.0", 0), at(UPLINK, 9001), DEADLINE)?;
    socket.send(b"anybody?")?;
    let refused = socket.recv(&mut [0; 9]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_no_checksum_errors(server)?;
    assert_no_checksum_errors(client)?;
    let packets = wire.finish()?;
    assert!(packets.is_empty(), "{}", vnet_tests::lab::listing(&packets));
    nat.finish()
}

#[test]
fn forward_without_an_address_follows_the_uplinks() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = lab_with(FORWARDS)?;
    let (host, outside) = (&nat.lab.host, &nat.lab.outside);
    let echo = TcpEcho::start(&nat.lab.tap_guest, at(TAP_GUEST, 80))?;
    let old = outside.tcp_connect(at(UPLINK, 8080), DEADLINE)?;
    assert_echoes(&old, 1000);
    host.add_address("eth0", "203.0.113.77/24")?;
    wait_until("the new address has the forward", DEADLINE, || {
        outside.tcp_connect(at("203.0.113.77", 8080), SILENCE).map_err(|error| error.to_string())
    })?;
    // What was open lives on.
    assert_echoes(&old, 1000);
    host.run(&["ip", "address", "del", "203.0.113.77/24", "dev", "eth0"])?;
    assert_echoes(&old, 1000);
    assert!(echo.peers().len() >= 2);
    nat.finish()
}

#[test]
fn anybody_reaches_an_open_mapping_and_strangers_no_other() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (options, is_open) in [("<vnet:filtering mode='endpoint-independent'/>", true), ("", false)]
    {
        let nat = lab_with(options)?;
        let (guest, outside) = (&nat.lab.tap_guest, &nat.lab.outside);
        let _server = UdpEcho::start(outside, at(OUTSIDE, 7))?;
        let socket = guest.udp_socket(at("0.0.0.0", 20_000), at(OUTSIDE, 7), DEADLINE)?;
        assert_udp_echoes(&socket, b"open a mapping");
        drop(socket);
        let _guest_server = UdpEcho::start(guest, at("0.0.0.0", 20_000))?;
        let deadline = if is_open { DEADLINE } else { SILENCE };
        let stranger = outside.udp_socket(at(OUTSIDE, 0), at(UPLINK, 20_000), deadline)?;
        if is_open {
            assert_udp_echoes(&stranger, b"stranger");
        } else {
            stranger.send(b"stranger")?;
            assert!(stranger.recv(&mut [0; 9]).is_err());
        }
        nat.finish()?;
    }
    Ok(())
}

#[test]
fn flows_of_a_guest_whose_port_is_gone_end_and_no_others() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let link = lab.veth_guest.run(&["ip", "-br", "link", "show", "eth0"])?;
    let mac = link.split_whitespace().nth(2).unwrap();
    let options = format!(
        "{FORWARDS}<vnet:guest mac='{mac}'><vnet:address ip='192.168.122.12'/></vnet:guest>"
    );
    let vnet = Vnet::start(&lab.host, &[network_with(&options)])?;
    let _server = UdpEcho::start(&lab.outside, at(OUTSIDE, 7))?;
    for guest in [&lab.tap_guest, &lab.veth_guest] {
        assert_eq!(guest.udp_ask(at(OUTSIDE, 7), b"open", DEADLINE)?, b"open");
    }
    let port = lab.host.port_of("guest2").unwrap();
    lab.host.run(&["ip", "link", "delete", &port])?;
    wait_until("the flow of the guest that is gone ends", DEADLINE, || {
        let flows = vnet.flows().map_err(|error| error.to_string())?;
        let inside: Vec<_> = flows.iter().map(|flow| flow.inside.ip()).collect();
        if inside == [ip(TAP_GUEST)] { Ok(()) } else { Err(format!("{inside:?}")) }
    })?;
    finish(&lab.host, vnet)
}

#[test]
fn flows_of_an_address_that_went_away_end_without_a_packet() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = lab_with("")?;
    let _server = UdpEcho::start(&nat.lab.outside, at(OUTSIDE, 7))?;
    assert_eq!(nat.lab.tap_guest.udp_ask(at(OUTSIDE, 7), b"open", DEADLINE)?, b"open");
    assert_eq!(nat.vnet.flows()?.len(), 1);
    nat.lab.host.ip_batch(&[
        "address add 203.0.113.9/24 dev eth0".to_owned(),
        "address del 203.0.113.2/24 dev eth0".to_owned(),
    ])?;
    wait_until("the flow ends", DEADLINE, || {
        let flows = nat.vnet.flows().map_err(|error| error.to_string())?;
        if flows.is_empty() { Ok(()) } else { Err(format!("{flows:?}")) }
    })?;
    nat.finish()
}
