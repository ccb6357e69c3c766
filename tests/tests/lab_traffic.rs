//! Packets cross the lab as they would cross a real host.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use vnet_tests::lab::services::{HttpServer, IperfServer, TcpEcho, UdpEcho, Upload, content, hash};
use vnet_tests::lab::{Checksum, End, Guest, Lab, StandardLab, listing, require_root};

const DEADLINE: Duration = Duration::from_secs(10);

fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

#[test]
fn guests_on_tap_and_veth_reach_each_other_and_the_host_over_the_bridge() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    for (from, to) in [
        (&lab.tap_guest, "192.168.122.12"),
        (&lab.veth_guest, "192.168.122.11"),
        (&lab.tap_guest, "192.168.122.1"),
        (&lab.veth_guest, "192.168.122.1"),
        (&lab.host, "192.168.122.11"),
        (&lab.host, "192.168.122.12"),
        (&lab.host, "203.0.113.1"),
    ] {
        let ping = from.ping(to, 3)?;
        assert_eq!((ping.sent, ping.received), (3, 3), "{} to {to}", from.name());
    }
    // No route and no forwarding: nothing leaves the host.
    assert_eq!(lab.tap_guest.ping("203.0.113.1", 1)?.received, 0);
    Ok(())
}

#[test]
fn segments_of_64_kib_cross_a_tap_a_bridge_and_a_router_whole() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    lab.host.forwarding(true)?;
    lab.outside.route("192.168.122.0/24", "203.0.113.2")?;
    let server = IperfServer::start(&lab.outside, "203.0.113.1:5201".parse()?)?;

    for direction in [&["-n", "64M"][..], &["-n", "64M", "-R"]] {
        let port = lab.host.port_of("guest1").unwrap();
        let on_port = lab.host.capture_headers(&port, "tcp")?;
        let on_uplink = lab.host.capture_headers("eth0", "tcp")?;
        let report = server.measure(&lab.tap_guest, direction)?;
        assert!(report.sent >= 64 << 20, "{}", report.sent);
        // The server does not read what is on its way when the client says that it is done.
        assert!(report.received >= 32 << 20, "{}", report.received);

        for capture in [on_port, on_uplink] {
            let packets = capture.finish()?;
            let largest = packets.iter().map(|packet| packet.length).max().unwrap();
            assert!(largest > 32 * 1024, "{direction:?}: largest frame is {largest}");
            for packet in &packets {
                assert!(packet.largest_ip_packet() <= 1500, "{packet}");
                packet.verify_checksums().map_err(anyhow::Error::msg)?;
            }
            let partial = packets.iter().any(|packet| packet.checksum == Checksum::Partial);
            assert!(partial, "{direction:?}: no checksum was left to the NIC");
        }
    }
    Ok(())
}

#[test]
fn without_offloads_no_frame_exceeds_the_mtu_and_every_checksum_is_complete() -> anyhow::Result<()>
{
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("host")?;
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    let echo = TcpEcho::start(&host, "192.168.122.1:7".parse()?)?;
    for (guest, address) in [(Guest::tap("guest1"), 11), (Guest::veth("guest2"), 12)] {
        let guest = guest.address(&format!("192.168.122.{address}/24")).without_offloads();
        let guest = lab.guest(&host, "virbr0", &guest)?;
        let port = host.port_of(guest.name()).unwrap();
        let capture = host.capture(&port, &format!("tcp and src 192.168.122.{address}"))?;
        let stream = guest.tcp_connect(echo.address(), DEADLINE)?;
        let sent = content(100_000);
        let mut back = vec![0; sent.len()];
        std::thread::scope(|scope| {
            let (mut reader, mut writer) = (&stream, &stream);
            let sent = &sent;
            let writing = scope.spawn(move || writer.write_all(sent));
            reader.read_exact(&mut back).and(writing.join().unwrap())
        })?;
        assert_eq!(back, sent);
        let packets = capture.finish()?;
        assert!(packets.len() > 100_000 / 1448, "{}", packets.len());
        for packet in &packets {
            assert!(packet.length <= 1514, "{packet}");
            assert_ne!(packet.checksum, Checksum::Partial, "{packet}");
            packet.verify_checksums().map_err(anyhow::Error::msg)?;
        }
    }
    Ok(())
}

#[test]
fn kernel_masquerade_hides_guests_and_keeps_content_both_ways() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    assert_eq!(lab.host.nft_ruleset()?, "");
    assert_eq!(lab.host.conntrack_count()?, 0);
    lab.host.nft_masquerade("virbr0", "192.168.122.0/24", None)?;
    let web = HttpServer::start(&lab.outside, "203.0.113.1:80".parse()?)?;
    let echo = UdpEcho::start(&lab.outside, "203.0.113.1:7".parse()?)?;
    let witness = lab.outside.tcpdump("eth0", "ip")?;
    let outside = lab.outside.capture("eth0", "ip")?;

    for guest in [&lab.tap_guest, &lab.veth_guest] {
        let got = guest.curl("http://203.0.113.1/bytes/3000000")?;
        assert_eq!((got.len(), hash(&got)), (3_000_000, hash(&content(3_000_000))));
        let body = content(2_000_001);
        let answer = guest.curl_upload("http://203.0.113.1/upload", &body)?;
        let wanted = Upload { bytes: 2_000_001, hash: hash(&body) };
        assert_eq!(Upload::parse(&answer), Some(wanted));
        assert_eq!(guest.ping("203.0.113.1", 2)?.received, 2);
        let answer = guest.udp_ask(echo.address(), b"hello", DEADLINE)?;
        assert_eq!(answer, b"hello");
    }

    let uplink = ip("203.0.113.2");
    assert_eq!(web.peers().len(), 4);
    assert_eq!(echo.peers().len(), 2);
    for peer in web.peers().into_iter().chain(echo.peers()) {
        assert_eq!(Some(peer.ip()), uplink);
    }
    let packets = outside.finish()?;
    for packet in &packets {
        let addresses = [packet.source(), packet.destination()];
        assert!(addresses.contains(&uplink) && addresses.contains(&ip("203.0.113.1")), "{packet}");
        packet.verify_checksums().map_err(anyhow::Error::msg)?;
    }
    let seen = witness.finish_as_text()?;
    assert_eq!(seen.len(), packets.len(), "{}\n{}", seen.join("\n"), listing(&packets));
    assert!(!seen.iter().any(|line| line.contains("192.168.122.")), "{}", seen.join("\n"));
    assert!(lab.host.conntrack_count()? > 0);
    Ok(())
}

#[test]
fn traceroute_and_path_mtu_work_through_a_router_outside() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("host")?;
    host.forwarding(true)?;
    let isp = lab.router("isp")?;
    let server = lab.station("server")?;
    lab.wire(
        &End::new(&host, "eth0").address("203.0.113.2/24"),
        &End::new(&isp, "eth0").address("203.0.113.1/24"),
    )?;
    lab.wire_with_mtu(
        &End::new(&isp, "eth1").address("198.51.100.1/24"),
        &End::new(&server, "eth0").address("198.51.100.2/24"),
        1400,
    )?;
    host.route("default", "203.0.113.1")?;
    server.route("default", "198.51.100.1")?;

    let capture = host.capture("eth0", "icmp and src 203.0.113.1")?;
    assert_eq!(host.ping_with("198.51.100.2", 1, &["-t", "1"])?.received, 0);
    assert_eq!(host.ping_with("198.51.100.2", 1, &["-M", "do", "-s", "1400"])?.received, 0);
    assert_eq!(host.ping_with("198.51.100.2", 1, &["-M", "do", "-s", "1372"])?.received, 1);
    let packets = capture.finish()?;
    // Time exceeded in transit; fragmentation needed (RFC 792, RFC 1191).
    let errors: Vec<_> = packets.iter().filter_map(vnet_tests::lab::CapturedPacket::icmp).collect();
    assert_eq!(errors, [(11, 0), (3, 4)], "{}", listing(&packets));
    Ok(())
}

#[test]
fn ipv6_works_between_guest_and_outside() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("host")?;
    host.forwarding(true)?;
    host.bridge("virbr0", &["192.168.122.1/24", "fd00:122::1/64"])?;
    let guest = Guest::tap("guest1").address("fd00:122::11/64").gateway("fd00:122::1");
    let guest = lab.guest(&host, "virbr0", &guest)?;
    let outside = lab.outside(&host, "eth0", "outside", "2001:db8::2/64", "2001:db8::1/64")?;
    outside.route("fd00:122::/64", "2001:db8::2")?;
    let capture = outside.capture("eth0", "icmp6[0] == 128")?;
    assert_eq!(guest.ping("2001:db8::1", 2)?.received, 2);
    let packets = capture.finish()?;
    assert_eq!(packets.len(), 2, "{}", listing(&packets));
    for packet in &packets {
        assert_eq!(packet.source(), ip("fd00:122::11"));
        packet.verify_checksums().map_err(anyhow::Error::msg)?;
    }
    Ok(())
}
