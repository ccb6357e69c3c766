//! Finding the way by IPv6: neighbours, path MTU, traceroute.

use vnet_common::reason::Handover;
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig, HttpServer, Upload, content, hash};
use vnet_tests::lab::{End, Guest, Lab, Node, PortKind, require_root, wait_until};
use vnet_tests::modes::{Forward, Net};
use vnet_tests::vnet::Vnet;

use crate::support::{DEADLINE, assert_reaches, at, place};

const SERVER: &str = "2001:db8:5::80";

/// A guest, its host, a router, a server.
struct Internet {
    vnet: Vnet,
    guest: Node,
    host: Node,
    server: Node,
    lab: Lab,
}

impl Internet {
    fn new(net: &Net, kind: PortKind, far_mtu: u32) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let router = lab.router("router")?;
        let server = lab.station("server")?;
        lab.wire(
            &End::new(&host, "wan0").address("203.0.113.2/24").address("2001:db8:b::2/64"),
            &End::new(&router, "eth0").address("203.0.113.1/24").address("2001:db8:b::1/64"),
        )?;
        lab.wire_with_mtu(
            &End::new(&router, "eth1").address("2001:db8:5::1/64"),
            &End::new(&server, "eth0").address("2001:db8:5::80/64"),
            far_mtu,
        )?;
        host.route("default", "2001:db8:b::1")?;
        router.route("2001:db8:1::/64", "2001:db8:b::2")?;
        server.route("default", "2001:db8:5::1")?;
        let addresses: Vec<&str> = net.addresses.iter().map(String::as_str).collect();
        host.bridge(net.bridge, &addresses)?;
        let guest = Guest::new("guest", kind).address("10.10.1.11/24").address("2001:db8:1::11/64");
        let guest = guest.gateway("10.10.1.1").gateway("2001:db8:1::1");
        let guest = lab.guest(&host, net.bridge, &guest)?;
        let vnet = Vnet::start(&host, &[net.definition()])?;
        let source = if net.nat66 { "2001:db8:b::2" } else { "2001:db8:1::11" };
        assert_reaches(&place("guest", &guest), &place("server", &server), SERVER, source)?;
        Ok(Self { vnet, guest, host, server, lab })
    }
}

fn networks() -> [(Net, PortKind); 4] {
    let net = |forward| Net::new("net", forward, "virbr1", &["10.10.1.1/24", "2001:db8:1::1/64"]);
    [
        (net(Forward::Route), PortKind::Tap),
        (net(Forward::Nat), PortKind::Veth),
        (net(Forward::Nat).nat66(), PortKind::Tap),
        (net(Forward::Nat).nat66(), PortKind::Veth),
    ]
}

#[test]
fn path_mtu_is_learnt_through_routed_and_masqueraded_ipv6() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (net, kind) in networks() {
        let internet = Internet::new(&net, kind, 1300)?;
        let Internet { guest, server, .. } = &internet;
        let _web = HttpServer::start(server, at(SERVER, 80))?;
        // The server offers segments of 1500 as one does that is further away.
        server.run(&[
            "ip",
            "-6",
            "route",
            "replace",
            "default",
            "via",
            "2001:db8:5::1",
            "advmss",
            "1440",
        ])?;
        let body = content(500_000);
        let url = format!("http://[{SERVER}]/bytes/500000");
        let answer = guest.curl_upload(&url, &body)?;
        let wanted = Upload { bytes: 500_000, hash: hash(&body) };
        assert_eq!(Upload::parse(&answer), Some(wanted), "{net:?}");
        let learnt = guest.run(&["ip", "-6", "route", "get", SERVER])?;
        assert!(learnt.contains(" mtu 1300"), "{learnt}");
        assert!(guest.curl(&url)? == body);
        // The error quotes an echo request, too.
        guest.run(&["ip", "-6", "route", "flush", "cache"])?;
        let output = guest
            .try_run(&["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", SERVER])?;
        let told = "From 2001:db8:b::1 icmp_seq=1 Packet too big: mtu=1300";
        assert!(output.stdout.contains(told), "{}{}", output.stdout, output.stderr);
        internet.vnet.stop()?;
    }
    Ok(())
}

#[test]
fn traceroute6_shows_the_host_the_router_and_the_target() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (net, kind) in networks() {
        let internet = Internet::new(&net, kind, 1500)?;
        let _web = HttpServer::start(&internet.server, at(SERVER, 80))?;
        for method in [&[][..], &["-I"], &["-T", "-p", "80"]] {
            let mut command = vec!["traceroute", "-6", "-n", "-q", "1", "-w", "1"];
            command.extend(method);
            command.push(SERVER);
            let output = internet.guest.run(&command)?;
            let hops: Vec<&str> =
                output.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert_eq!(hops, ["2001:db8:1::1", "2001:db8:b::1", SERVER], "{method:?}\n{output}");
        }
        assert!(internet.vnet.handovers(Handover::TtlExpiring)? > 0);
        internet.vnet.stop()?;
    }
    Ok(())
}

#[test]
fn neighbours_are_found_again_after_they_were_forgotten() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (net, kind) in networks() {
        let internet = Internet::new(&net, kind, 1500)?;
        let [guest, server] =
            [&internet.guest, &internet.server].map(|node| place(node.name(), node));
        let source = if net.nat66 { "2001:db8:b::2" } else { "2001:db8:1::11" };
        for _round in 0..3 {
            for node in [&internet.host, &internet.guest] {
                node.run(&["ip", "-6", "neigh", "flush", "all"])?;
            }
            assert_reaches(&guest, &server, SERVER, source)?;
            if !net.nat66 {
                internet.host.run(&["ip", "-6", "neigh", "flush", "all"])?;
                assert_reaches(&server, &guest, "2001:db8:1::11", SERVER)?;
            }
        }
        internet.vnet.stop()?;
    }
    Ok(())
}

#[test]
fn fragments_of_ipv6_cross_both_ways() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (net, kind) in networks() {
        for far in [1500, 1300] {
            let internet = Internet::new(&net, kind, far)?;
            let ping = internet.guest.ping_with(SERVER, 5, &["-s", "4000"])?;
            // The first may be what the path's MTU is learnt by.
            assert!(ping.received >= 4, "{net:?} over {far}: {ping:?}");
            internet.vnet.stop()?;
        }
    }
    Ok(())
}

/// The guest's first global IPv6 address, once it has one and a default route.
fn autoconfigured(guest: &Node) -> anyhow::Result<String> {
    Ok(wait_until("the guest has an address and a default route", DEADLINE, || {
        let show = |arguments: &[&str]| guest.run(arguments).map_err(|error| error.to_string());
        let routes = show(&["ip", "-6", "route", "show", "default"])?;
        let addresses =
            show(&["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "global"])?;
        let address = addresses.split_whitespace().nth(3).and_then(|word| word.split_once('/'));
        match address {
            Some((address, _)) if routes.contains("via fe80::") => Ok(address.to_owned()),
            _ => Err(format!("{routes}{addresses}")),
        }
    })?)
}

#[test]
fn guests_configure_themselves_by_router_advertisements() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (net, kind) in networks() {
        let internet = Internet::new(&net, kind, 1500)?;
        let Internet { host, server, lab, .. } = &internet;
        let guest = lab.guest(host, net.bridge, &Guest::new("fresh", kind))?;
        // libvirt's way to say so (`src/network/bridge_driver.c`).
        let options = ["--dhcp-range=2001:db8:1::1,ra-only", "--enable-ra"];
        let config =
            DnsmasqConfig { interface: net.bridge, options: &options, ..DnsmasqConfig::default() };
        let _dnsmasq = Dnsmasq::start(host, &config)?;
        for (name, value) in [
            ("accept_ra", "1"),
            ("autoconf", "1"),
            ("router_solicitations", "3"),
            ("disable_ipv6", "0"),
        ] {
            guest.sysctl(&format!("net/ipv6/conf/eth0/{name}"), value)?;
        }
        let address = autoconfigured(&guest)?;
        assert!(address.starts_with("2001:db8:1:"), "{address}");
        let source = if net.nat66 { "2001:db8:b::2" } else { &address };
        let [guest, server] =
            [("fresh", &guest), ("server", server)].map(|(n, node)| place(n, node));
        assert_reaches(&guest, &server, SERVER, source)?;
        if !net.nat66 {
            assert_reaches(&server, &guest, &address, SERVER)?;
        }
        internet.vnet.stop()?;
    }
    Ok(())
}
