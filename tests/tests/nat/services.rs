//! Services on the host beside vnet.

use std::net::SocketAddr;

use vnet_common::reason::DropReason;
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig, TcpEcho, UdpEcho, content};
use vnet_tests::lab::{Guest, PortKind, require_root, wait_until};

use crate::support::*;

#[test]
fn guest_gets_its_address_and_its_names_from_dnsmasq_on_the_bridge() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let host = &nat.lab.host;
    let dnsmasq = Dnsmasq::start(
        host,
        &DnsmasqConfig {
            interface: "virbr0",
            dhcp_range: Some(("192.168.122.100", "192.168.122.120")),
            names: &[("web.example", OUTSIDE)],
            ..DnsmasqConfig::default()
        },
    )?;
    let _server = TcpEcho::start(&nat.lab.outside, at(OUTSIDE, 7))?;
    let capture = nat.lab.outside.capture("eth0", "ip")?;
    for (name, kind) in [("new1", PortKind::Tap), ("new2", PortKind::Veth)] {
        let guest = nat.lab.lab.guest(host, "virbr0", &Guest::new(name, kind))?;
        let lease = guest.dhcp("eth0", DEADLINE)?;
        assert!((100..=120).contains(&lease.address.octets()[3]), "{lease:?}");
        assert_eq!(
            (lease.server, lease.prefix_length),
            (v4("192.168.122.1", 0).ip().to_owned(), 24)
        );
        let (router, name_server) = (lease.router.unwrap(), lease.name_server.unwrap());
        guest.add_address("eth0", &format!("{}/{}", lease.address, lease.prefix_length))?;
        guest.route("default", &router.to_string())?;
        let name_server = at(&name_server.to_string(), 53);
        assert_eq!(name_server, at("192.168.122.1", 53));
        let found = guest.resolve(name_server, "web.example", DEADLINE)?;
        assert_eq!(found, [*v4(OUTSIDE, 0).ip()]);
        assert_echoes(&guest.tcp_connect(at(OUTSIDE, 7), DEADLINE)?, 10_000);
    }
    assert!(dnsmasq.log().contains("DHCPACK(virbr0)"), "{}", dnsmasq.log());
    assert_only_uplink_is_seen(&capture.finish()?, &[UPLINK]);
    drop(dnsmasq);
    nat.finish()
}

#[test]
fn hosts_own_connections_work_beside_guests_with_the_same_ports() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let (host, outside) = (&nat.lab.host, &nat.lab.outside);
    let tcp = TcpEcho::start(outside, at(OUTSIDE, 7))?;
    let udp = UdpEcho::start(outside, at(OUTSIDE, 7))?;
    // The host's sockets are there first: a port outside of the ephemeral range, and one inside.
    let mut streams = Vec::new();
    let mut sockets = Vec::new();
    for port in [20_000, 40_000] {
        for node in [host, &nat.lab.tap_guest, &nat.lab.veth_guest] {
            let stream = tcp_from(node, v4("0.0.0.0", port), v4(OUTSIDE, 7))?;
            assert_echoes(&stream, 10_000);
            streams.push(stream);
            let socket = node.udp_socket(at("0.0.0.0", port), udp.address(), DEADLINE)?;
            assert_udp_echoes(&socket, node.name().as_bytes());
            sockets.push(socket);
        }
    }
    for (stream, socket) in streams.iter().zip(&sockets) {
        assert_echoes(stream, 10_000);
        assert_udp_echoes(socket, b"still there?");
    }
    for (peers, count) in [(tcp.peers(), 6), (udp.peers(), 12)] {
        assert_eq!(peers.len(), count);
        let mut ports: Vec<u16> = peers.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6, "{peers:?}");
        assert_eq!((peers[0].port(), peers[3].port()), (20_000, 40_000), "{peers:?}");
    }
    nat.finish()
}

#[test]
fn guests_leave_the_hosts_ephemeral_ports_alone() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let (host, outside) = (&nat.lab.host, &nat.lab.outside);
    let tcp = TcpEcho::start(outside, at(OUTSIDE, 7))?;
    // The guest is first, and the host comes with the same port afterwards.
    for port in [33_000, 40_000, 60_999] {
        let guest = tcp_from(&nat.lab.tap_guest, v4("0.0.0.0", port), v4(OUTSIDE, 7))?;
        assert_echoes(&guest, 10_000);
        let own = tcp_from(host, v4("0.0.0.0", port), v4(OUTSIDE, 7))?;
        assert_echoes(&own, 10_000);
        assert_echoes(&guest, 10_000);
        let [.., of_guest, of_host] = tcp.peers()[..] else { panic!("{:?}", tcp.peers()) };
        assert_eq!(of_host.port(), port);
        assert!(!(32_768..=60_999).contains(&of_guest.port()), "{of_guest}");
    }
    nat.finish()
}

#[test]
fn socat_carries_a_stream_through_the_masquerade() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let sent = content(1 << 20);
    for guest in nat.guests() {
        let listen = format!("TCP-LISTEN:9000,reuseaddr,range={UPLINK}/32");
        let mut receiver = nat.lab.outside.spawn(&["socat", "-u", &listen, "STDOUT"])?;
        // socat itself tries again until the other one listens.
        let connect = format!("TCP:{OUTSIDE}:9000,retry=100,interval=0.05");
        guest.run_with_input(&["socat", "-u", "STDIN", &connect], &sent)?;
        receiver.wait(DEADLINE)?.success()?;
        assert!(receiver.stdout_bytes() == sent, "the stream changed on its way");
    }
    nat.finish()
}

#[test]
fn log_names_the_reason_and_the_ends_of_a_dropped_packet() -> anyhow::Result<()> {
    const SPOOFED: &str = "10.99.9.9";
    if !require_root() {
        return Ok(());
    }
    for (arguments, is_logged) in [(&["--log", "debug"][..], true), (&[], false)] {
        let nat = Nat::with(arguments)?;
        let guest = &nat.lab.veth_guest;
        guest.add_address("eth0", &format!("{SPOOFED}/32"))?;
        let ping = ["ping", "-n", "-c", "1", "-W", "1", "-I", SPOOFED, OUTSIDE];
        assert!(guest.try_run(&ping)?.success().is_err());
        assert_eq!(nat.vnet.drops(DropReason::SpoofedSource)?, 1);
        let record = format!("drop=spoofed-source protocol=1 {SPOOFED} -> {OUTSIDE}");
        if is_logged {
            wait_until("the drop is logged", DEADLINE, || {
                let log = nat.vnet.log();
                if log.contains(&record) { Ok(()) } else { Err(log) }
            })?;
        } else {
            assert!(!nat.vnet.log().contains("drop="), "{}", nat.vnet.log());
        }
        nat.finish()?;
    }
    Ok(())
}
