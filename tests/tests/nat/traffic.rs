//! What a guest does all day.

use std::net::{SocketAddr, UdpSocket};

use vnet_tests::lab::services::{HttpServer, TcpEcho, UdpEcho, Upload, content, hash};
use vnet_tests::lab::{listing, require_root};

use crate::support::*;

#[test]
fn guests_ping_download_upload_and_ask_behind_the_uplinks_address() -> anyhow::Result<()> {
    everyday(&[])
}

#[test]
fn clsact_does_what_tcx_does() -> anyhow::Result<()> {
    everyday(&["--attach", "clsact"])
}

fn everyday(arguments: &[&str]) -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::with(arguments)?;
    let outside = &nat.lab.outside;
    let web = HttpServer::start(outside, at(OUTSIDE, 80))?;
    let echo = UdpEcho::start(outside, at(OUTSIDE, 53))?;
    let witness = outside.tcpdump("eth0", "ip")?;
    let capture = outside.capture("eth0", "ip")?;
    for guest in nat.guests() {
        let ping = guest.ping(OUTSIDE, 3)?;
        assert_eq!((ping.sent, ping.received), (3, 3), "{}", guest.name());
        let got = guest.curl("http://203.0.113.1/bytes/3000000")?;
        assert_eq!((got.len(), hash(&got)), (3_000_000, hash(&content(3_000_000))));
        let body = content(2_000_001);
        let answer = guest.curl_upload("http://203.0.113.1/upload", &body)?;
        let wanted = Upload { bytes: 2_000_001, hash: hash(&body) };
        assert_eq!(Upload::parse(&answer), Some(wanted));
        for length in [0, 1, 2, 47, 512, 1472] {
            let question = content(length);
            assert_eq!(guest.udp_ask(echo.address(), &question, DEADLINE)?, question);
        }
    }
    assert_eq!((web.peers().len(), echo.peers().len()), (4, 12));
    for peer in web.peers().into_iter().chain(echo.peers()) {
        assert_eq!(peer.ip(), ip(UPLINK));
    }
    let packets = capture.finish()?;
    assert_only_uplink_is_seen(&packets, &[UPLINK]);
    let seen = witness.finish_as_text()?;
    assert_eq!(seen.len(), packets.len(), "{}\n{}", seen.join("\n"), listing(&packets));
    assert!(!seen.iter().any(|line| line.contains("192.168.122.")), "{}", seen.join("\n"));
    for node in [outside, &nat.lab.tap_guest, &nat.lab.veth_guest] {
        assert_no_checksum_errors(node)?;
    }
    nat.finish()
}

#[test]
fn many_flows_of_two_guests_do_not_mix() -> anyhow::Result<()> {
    const FLOWS: usize = 40;
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let tcp = TcpEcho::start(&nat.lab.outside, at(OUTSIDE, 7))?;
    let udp = UdpEcho::start(&nat.lab.outside, at(OUTSIDE, 7))?;
    let capture = nat.lab.outside.capture("eth0", "ip")?;
    let mut streams = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..FLOWS {
        for guest in nat.guests() {
            streams.push(guest.tcp_connect(tcp.address(), DEADLINE)?);
            sockets.push(guest.udp_socket(at("0.0.0.0", 0), udp.address(), DEADLINE)?);
        }
    }
    for (number, (stream, socket)) in streams.iter().zip(&sockets).enumerate() {
        assert_echoes(stream, 1000 + number);
        assert_udp_echoes(socket, format!("question {number}").as_bytes());
    }
    for protocol in ["tcp", "udp"] {
        let flows = nat.vnet.flows()?;
        let flows: Vec<_> = flows.iter().filter(|flow| flow.protocol == protocol).collect();
        assert_eq!(flows.len(), 2 * FLOWS);
        let mut ports: Vec<u16> = flows.iter().map(|flow| flow.outside.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 2 * FLOWS, "{protocol}: a port serves two endpoints");
    }
    assert_only_uplink_is_seen(&capture.finish()?, &[UPLINK]);
    nat.finish()
}

#[test]
fn guests_with_the_same_source_port_get_different_external_ports() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let tcp = TcpEcho::start(&nat.lab.outside, at(OUTSIDE, 7))?;
    let udp = UdpEcho::start(&nat.lab.outside, at(OUTSIDE, 7))?;
    let streams = nat.guests().map(|guest| {
        let stream = tcp_from(guest, v4("0.0.0.0", 20_000), v4(OUTSIDE, 7)).unwrap();
        assert_echoes(&stream, 5000);
        stream
    });
    for stream in &streams {
        // The first connection still works beside the second.
        assert_echoes(stream, 5000);
    }
    let sockets = nat.guests().map(|guest| {
        let socket = guest.udp_socket(at("0.0.0.0", 20_000), udp.address(), DEADLINE).unwrap();
        assert_udp_echoes(&socket, guest.name().as_bytes());
        socket
    });
    for socket in &sockets {
        assert_udp_echoes(socket, b"still there");
    }
    let ports = [tcp.peers(), udp.peers()].map(|peers| {
        assert!(peers.iter().all(|peer| peer.ip() == ip(UPLINK)), "{peers:?}");
        peers.iter().map(SocketAddr::port).collect::<Vec<_>>()
    });
    // The first keeps its port (RFC 4787 section 4.2.1), the second cannot.
    assert_eq!(ports[0][0], 20_000);
    assert_ne!(ports[0][1], 20_000);
    assert_eq!(ports[1][0], 20_000);
    assert_ne!(ports[1][1], 20_000);
    assert_eq!(ports[1][..2], ports[1][2..]);
    nat.finish()
}

#[test]
fn one_socket_has_one_external_port_for_all_remotes() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    nat.lab.outside.add_address("eth0", "203.0.113.9/24")?;
    let servers = [(OUTSIDE, 7), (OUTSIDE, 8), ("203.0.113.9", 7)]
        .map(|(address, port)| UdpEcho::start(&nat.lab.outside, at(address, port)).unwrap());
    for guest in nat.guests() {
        // An ephemeral port of the host's, which is never kept.
        let socket = guest.enter(|| UdpSocket::bind("0.0.0.0:40000"))??;
        socket.set_read_timeout(Some(DEADLINE))?;
        for server in &servers {
            socket.connect(server.address())?;
            assert_udp_echoes(&socket, b"who am I?");
        }
    }
    let first = servers[0].peers();
    for server in &servers {
        assert_eq!(server.peers(), first, "RFC 4787 REQ-1: endpoint-independent mapping");
    }
    assert_eq!(first.len(), 2);
    assert_ne!(first[0], first[1]);
    assert!(first.iter().all(|peer| !(32_768..=60_999).contains(&peer.port())), "{first:?}");
    nat.finish()
}
