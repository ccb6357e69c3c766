//! What only the host's stack does right: the time to live, the MTU, fragments, neighbours.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Instant;

use vnet_common::reason::Handover;
use vnet_tests::lab::services::{HttpServer, Upload, content, hash};
use vnet_tests::lab::{Capture, End, Guest, Lab, Node, PortKind, listing, require_root};
use vnet_tests::vnet::Vnet;

use crate::support::*;

const ISP: &str = "203.0.113.1";
const SERVER: &str = "198.51.100.2";
const KINDS: [PortKind; 2] = [PortKind::Tap, PortKind::Veth];

/// guest --- host --- isp --- server
struct Internet {
    // Before the lab, whose end kills every process in it.
    vnet: Vnet,
    lab: Lab,
    host: Node,
    guest: Node,
    server: Node,
    /// On the wire between host and isp, at the isp.
    wire: Capture,
}

#[derive(Clone, Copy)]
struct Mtu {
    bridge: u32,
    /// Between host and isp.
    uplink: u32,
    /// Between isp and server.
    far: u32,
}

impl Default for Mtu {
    fn default() -> Self {
        Self { bridge: 1500, uplink: 1500, far: 1500 }
    }
}

impl Internet {
    fn new(kind: PortKind, mtu: Mtu) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let isp = lab.router("isp")?;
        let server = lab.station("server")?;
        // As distributions set it: what the stack forwards has to pass this as well.
        host.sysctl("net.ipv4.conf.all.rp_filter", "1")?;
        lab.wire_with_mtu(
            &End::new(&host, "eth0").address("203.0.113.2/24"),
            &End::new(&isp, "eth0").address("203.0.113.1/24"),
            mtu.uplink,
        )?;
        lab.wire_with_mtu(
            &End::new(&isp, "eth1").address("198.51.100.1/24"),
            &End::new(&server, "eth0").address("198.51.100.2/24"),
            mtu.far,
        )?;
        host.route("default", ISP)?;
        server.route("default", "198.51.100.1")?;
        host.bridge_with_mtu("virbr0", &["192.168.122.1/24"], mtu.bridge)?;
        let guest = Guest::new("guest1", kind)
            .address("192.168.122.11/24")
            .gateway("192.168.122.1")
            .mtu(mtu.bridge);
        let guest = lab.guest(&host, "virbr0", &guest)?;
        let vnet = Vnet::start(&host, &[default_network()])?;
        let wire = isp.capture("eth0", "ip")?;
        Ok(Self { vnet, lab, host, guest, server, wire })
    }

    fn finish(self) -> anyhow::Result<()> {
        let packets = self.wire.finish()?;
        assert_only_uplink_is_seen(&packets, &[UPLINK]);
        for packet in &packets {
            assert!(packet.largest_ip_packet() <= 1500, "{packet}");
        }
        for node in [&self.guest, &self.server, &self.host] {
            assert_no_checksum_errors(node)?;
        }
        finish(&self.host, self.vnet)?;
        drop(self.lab);
        Ok(())
    }
}

/// The addresses that answered, hop by hop.
fn traceroute(from: &Node, arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut command = vec!["traceroute", "-n", "-q", "1", "-w", "2", "-m", "6"];
    command.extend(arguments);
    command.push(SERVER);
    let printed = from.run(&command)?;
    let hops = printed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    Ok(hops.map(str::to_owned).collect())
}

/// What the routing table says of the way to `to`, learnt MTU included.
fn route_to(from: &Node, to: &str) -> anyhow::Result<String> {
    Ok(from.run(&["ip", "route", "get", to])?)
}

#[test]
fn traceroute_shows_the_host_the_router_and_the_target() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu::default())?;
        let _web = HttpServer::start(&net.server, at(SERVER, 80))?;
        for method in [&[][..], &["-I"], &["-T", "-p", "80"]] {
            let hops = traceroute(&net.guest, method)?;
            assert_eq!(hops, ["192.168.122.1", ISP, SERVER], "{method:?}");
        }
        assert!(net.vnet.handovers(Handover::TtlExpiring)? > 0);
        net.finish()?;
    }
    Ok(())
}

#[test]
fn smaller_mtu_beyond_a_router_is_learnt_by_the_guest() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu { far: 1300, ..Mtu::default() })?;
        let web = HttpServer::start(&net.server, at(SERVER, 80))?;
        // The server offers segments of 1500 as one does that is further away.
        net.server.run(&[
            "ip",
            "route",
            "replace",
            "default",
            "via",
            "198.51.100.1",
            "advmss",
            "1460",
        ])?;
        let body = content(1_000_000);
        let url = format!("http://{}/bytes/1000000", web.address());
        let answer = net.guest.curl_upload(&url, &body)?;
        let wanted = Upload { bytes: 1_000_000, hash: hash(&body) };
        assert_eq!(Upload::parse(&answer), Some(wanted));
        let learnt = route_to(&net.guest, SERVER)?;
        assert!(learnt.contains(" mtu 1300"), "{learnt}");
        assert!(net.guest.curl(&url)? == body);
        net.finish()?;
    }
    Ok(())
}

#[test]
fn ping_that_may_not_be_fragmented_is_told_the_mtu() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu { far: 1300, ..Mtu::default() })?;
        let output = net
            .guest
            .try_run(&["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1472", SERVER])?;
        let told = "From 203.0.113.1 icmp_seq=1 Frag needed and DF set (mtu = 1300)";
        assert!(output.stdout.contains(told), "{}", output.stdout);
        assert_eq!(net.guest.ping_with(SERVER, 1, &["-M", "do", "-s", "1272"])?.received, 1);
        // Larger than the guest's own link: its own stack says so.
        let output = net
            .guest
            .try_run(&["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "4000", SERVER])?;
        let said = output.stdout + &output.stderr;
        assert!(said.contains("message too long, mtu"), "{said}");
        net.finish()?;
    }
    Ok(())
}

#[test]
fn fragments_cross_both_ways() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (kind, far_wire) in [
        (PortKind::Tap, 1500),
        (PortKind::Veth, 1500),
        (PortKind::Tap, 1300),
        (PortKind::Veth, 1300),
    ] {
        let net = Internet::new(kind, Mtu { far: far_wire, ..Mtu::default() })?;
        let servers = echo_servers(&net.server)?;
        let ping = net.guest.ping_with(SERVER, 5, &["-M", "dont", "-s", "4000"])?;
        assert_eq!(ping.received, 5, "{kind:?} over {far_wire}");
        for length in [8192, 1473, 20_000, 60_000] {
            let question = content(length);
            let answer = net.guest.udp_ask(at(SERVER, 7), &question, DEADLINE)?;
            assert!(answer == question, "{kind:?} over {far_wire}: {length} bytes");
        }
        assert!(servers.1.peers().iter().all(|peer| peer.ip() == ip(UPLINK)));
        net.finish()?;
    }
    Ok(())
}

#[test]
fn bridge_may_have_a_smaller_mtu_than_the_uplink() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu { bridge: 1300, ..Mtu::default() })?;
        let web = HttpServer::start(&net.server, at(SERVER, 80))?;
        let _echo = echo_servers(&net.server)?;
        // The guest asks for segments that its own link does not take, as one does behind another
        // router: so the host has to tell the server.
        net.guest.run(&[
            "ip",
            "route",
            "replace",
            "default",
            "via",
            "192.168.122.1",
            "advmss",
            "1460",
        ])?;
        let url = format!("http://{}/bytes/1000000", web.address());
        let body = content(1_000_000);
        assert!(net.guest.curl(&url)? == body);
        let learnt = route_to(&net.server, UPLINK)?;
        assert!(learnt.contains(" mtu 1300"), "{learnt}");
        let answer = net.guest.curl_upload(&url, &body)?;
        assert_eq!(Upload::parse(&answer).map(|upload| upload.hash), Some(hash(&body)));
        assert_eq!(net.guest.ping_with(SERVER, 3, &["-M", "dont", "-s", "4000"])?.received, 3);
        let question = content(8192);
        assert!(net.guest.udp_ask(at(SERVER, 7), &question, DEADLINE)? == question);
        assert!(net.vnet.handovers(Handover::OverMtu)? > 0);
        net.finish()?;
    }
    Ok(())
}

#[test]
fn first_packet_finds_its_way_with_an_empty_neighbour_table() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let _servers = echo_servers(&nat.lab.outside)?;
    let flush = |node: &Node| node.run(&["ip", "neigh", "flush", "all"]);
    for guest in nat.guests() {
        let capture = nat.lab.outside.capture("eth0", "tcp[tcpflags] == tcp-syn")?;
        for round in 0..3 {
            flush(&nat.lab.host)?;
            let output = guest.run(&["ping", "-n", "-c", "1", "-W", "1", OUTSIDE])?;
            assert!(output.contains(" 0% packet loss"), "round {round}: {output}");
            flush(&nat.lab.host)?;
            let begin = Instant::now();
            let stream = guest.tcp_connect(at(OUTSIDE, 7), DEADLINE)?;
            // Before the guest would have sent its SYN again (RFC 6298 section 2.1).
            assert!(begin.elapsed().as_millis() < 1000, "round {round}: {:?}", begin.elapsed());
            // And in mid-connection.
            flush(&nat.lab.host)?;
            assert_echoes(&stream, 10_000);
        }
        let syns = capture.finish()?;
        assert_eq!(syns.len(), 3, "{}", listing(&syns));
        assert_only_uplink_is_seen(&syns, &[UPLINK]);
    }
    nat.finish()
}

/// As Docker sets it.
#[test]
fn firewall_that_forwards_nothing_does_not_cut_guests_off() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let _servers = echo_servers(&nat.lab.outside)?;
    nat.lab.host.run(&["nft", "add", "table", "inet", "filter"])?;
    let chain = "{ type filter hook forward priority 0; policy drop; }";
    nat.lab.host.run(&["nft", "add", "chain", "inet", "filter", "forward", chain])?;
    for guest in nat.guests() {
        for _round in 0..3 {
            nat.lab.host.run(&["ip", "neigh", "flush", "all"])?;
            assert_eq!(guest.ping(OUTSIDE, 1)?.received, 1);
            nat.lab.host.run(&["ip", "neigh", "flush", "all"])?;
            assert_echoes(&guest.tcp_connect(at(OUTSIDE, 7), DEADLINE)?, 10_000);
        }
    }
    nat.lab.host.run(&["nft", "delete", "table", "inet", "filter"])?;
    nat.finish()
}

#[test]
fn uplink_may_have_a_smaller_mtu_than_the_bridge() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu { uplink: 1400, ..Mtu::default() })?;
        // Its sockets let routers fragment what they send.
        net.server.sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
        let web = HttpServer::start(&net.server, at(SERVER, 80))?;
        let _echo = echo_servers(&net.server)?;
        let output = net
            .guest
            .try_run(&["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1472", SERVER])?;
        let told = "From 192.168.122.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)";
        assert!(output.stdout.contains(told), "{}", output.stdout);
        net.guest.run(&["ip", "route", "flush", "cache"])?;
        let url = format!("http://{}/bytes/1000000", web.address());
        let body = content(1_000_000);
        let answer = net.guest.curl_upload(&url, &body)?;
        assert_eq!(Upload::parse(&answer).map(|upload| upload.hash), Some(hash(&body)));
        let learnt = route_to(&net.guest, SERVER)?;
        assert!(learnt.contains(" mtu 1400"), "{learnt}");
        assert!(net.guest.curl(&url)? == body);
        assert_eq!(net.guest.ping_with(SERVER, 3, &["-M", "dont", "-s", "4000"])?.received, 3);
        // From now on the guest's do as well.
        net.guest.sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
        net.guest.run(&["ip", "route", "flush", "cache"])?;
        for length in [1450, 8192] {
            let question = content(length);
            assert!(net.guest.udp_ask(at(SERVER, 7), &question, DEADLINE)? == question);
        }
        assert!(net.vnet.handovers(Handover::OverMtu)? > 0);
        net.finish()?;
    }
    Ok(())
}

#[test]
fn packets_with_ip_options_go_through_the_hosts_stack() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu::default())?;
        // Record route and time stamps (RFC 791 section 3.1).
        for option in [&["-R"][..], &["-T", "tsonly"]] {
            assert_eq!(net.guest.ping_with(SERVER, 3, option)?.received, 3, "{option:?}");
        }
        assert!(net.vnet.handovers(Handover::IpOptions)? >= 10);
        net.finish()?;
    }
    Ok(())
}

#[test]
fn closed_ports_answer_with_errors_in_both_directions() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu::default())?;
        let asking = net.guest.udp_socket(at("0.0.0.0", 0), at(SERVER, 9), DEADLINE)?;
        asking.send(b"anybody?")?;
        let refused = asking.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert!(net.guest.tcp_connect(at(SERVER, 9), DEADLINE).is_err());

        // The guest's socket is gone when the answer comes; the server's socket is told.
        let server = net.server.enter(|| UdpSocket::bind((SERVER, 7)))??;
        server.set_read_timeout(Some(DEADLINE))?;
        let asking = net.guest.udp_socket(at("0.0.0.0", 0), at(SERVER, 7), DEADLINE)?;
        asking.send(b"question")?;
        let (_, peer) = server.recv_from(&mut [0; 16])?;
        assert_eq!(peer.ip(), ip(UPLINK));
        drop(asking);
        server.connect(peer)?;
        server.send(b"too late")?;
        let refused = server.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        net.finish()?;
    }
    Ok(())
}
