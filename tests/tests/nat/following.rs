//! The host changes while guests talk.

use std::net::SocketAddr;
use std::time::Duration;

use vnet_tests::lab::services::{TcpEcho, UdpEcho};
use vnet_tests::lab::{
    CapturedPacket, End, Guest, Lab, Node, PortKind, Running, StandardLab, require_root, wait_until,
};
use vnet_tests::vnet::Vnet;

use crate::support::*;

/// Beyond both uplinks.
const SERVER: &str = "192.0.2.1";
const KINDS: [PortKind; 2] = [PortKind::Tap, PortKind::Veth];

/// guest --- host === isp1, isp2 === server: two ways to one server, the first in use.
struct TwoWays {
    // Before the lab, whose end kills every process in it.
    vnet: Vnet,
    lab: Lab,
    host: Node,
    guest: Node,
    isps: [Node; 2],
    udp: UdpEcho,
    tcp: TcpEcho,
}

/// The host's address, the provider's address, and the provider's uplink.
const WAYS: [(&str, &str, &str); 2] =
    [("203.0.113.2", "203.0.113.1", "eth0"), ("198.51.100.2", "198.51.100.1", "eth1")];

impl TwoWays {
    fn new(kind: PortKind, uplinks: usize) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let server = lab.station("server")?;
        server.run(&["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])?;
        let isps = [lab.router("isp1")?, lab.router("isp2")?];
        for (number, isp) in isps.iter().enumerate() {
            let number = number + 1;
            let inner = format!("eth{number}");
            let (near, far) = (format!("10.{number}.0.1"), format!("10.{number}.0.2"));
            lab.wire(
                &End::new(isp, "inner").address(&format!("{near}/24")),
                &End::new(&server, &inner).address(&format!("{far}/24")),
            )?;
            isp.route(SERVER, &far)?;
            let network = WAYS[number - 1].1.rsplit_once('.').unwrap().0.to_owned() + ".0/24";
            server.route(&network, &near)?;
        }
        for (way, isp) in isps.iter().enumerate().take(uplinks) {
            connect(&lab, &host, isp, way)?;
        }
        host.bridge("virbr0", &["192.168.122.1/24"])?;
        host.run(&["ip", "route", "add", "default", "via", WAYS[0].1])?;
        let guest =
            Guest::new("guest1", kind).address("192.168.122.11/24").gateway("192.168.122.1");
        let guest = lab.guest(&host, "virbr0", &guest)?;
        let vnet = Vnet::start(&host, &[default_network()])?;
        let (tcp, udp) =
            (TcpEcho::start(&server, at(SERVER, 7))?, UdpEcho::start(&server, at(SERVER, 7))?);
        Ok(Self { vnet, lab, host, guest, isps, udp, tcp })
    }

    /// The guest's new flows are seen from this address from now on.
    fn wait_for_new_flows_from(&self, address: &str) -> anyhow::Result<()> {
        wait_until(&format!("new flows come from {address}"), DEADLINE, || {
            let asked = self.guest.udp_ask(at(SERVER, 7), b"who am I?", Duration::from_millis(100));
            asked.map_err(|error| error.to_string())?;
            let seen = self.udp.peers().last().copied();
            if seen.is_some_and(|peer| peer.ip() == ip(address)) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })?;
        let stream = self.guest.tcp_connect(at(SERVER, 7), DEADLINE)?;
        assert_echoes(&stream, 50_000);
        assert_eq!(self.tcp.peers().last().map(SocketAddr::ip), Some(ip(address)));
        assert_eq!(self.guest.ping(SERVER, 3)?.received, 3);
        Ok(())
    }
}

fn connect(lab: &Lab, host: &Node, isp: &Node, way: usize) -> anyhow::Result<()> {
    let (own, theirs, name) = WAYS[way];
    lab.wire(
        &End::new(host, name).address(&format!("{own}/24")),
        &End::new(isp, "eth0").address(&format!("{theirs}/24")),
    )?;
    Ok(())
}

/// A ping that goes on until it is told to stop; every answer is a line.
fn endless_ping(guest: &Node) -> anyhow::Result<Running> {
    let ping = guest.spawn(&["ping", "-n", "-i", "0.02", SERVER])?;
    ping.wait_for_line("bytes from", DEADLINE)?;
    Ok(ping)
}

fn wait_for_more_answers(ping: &Running) -> anyhow::Result<()> {
    let answers = || ping.stdout().lines().filter(|line| line.contains("bytes from")).count();
    let before = answers();
    wait_until("the running ping is answered again", DEADLINE, || {
        let now = answers();
        if now >= before + 5 { Ok(()) } else { Err(format!("{before} answers before, {now} now")) }
    })?;
    Ok(())
}

/// Its old flow is ended, and a new one goes on.
fn assert_running_ping_comes_from(vnet: &Vnet, address: &str) -> anyhow::Result<()> {
    let flows = vnet.flows()?;
    // The other pings sent three.
    let running = flows.iter().filter(|flow| flow.protocol == "icmp" && flow.outbound.packets > 3);
    let external: Vec<_> = running.map(|flow| flow.outside.ip()).collect();
    assert_eq!(external, [ip(address)]);
    Ok(())
}

#[test]
fn new_flows_follow_the_route_to_another_uplink_and_back() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = TwoWays::new(kind, 2)?;
        let wires = [net.isps[0].capture("eth0", "ip")?, net.isps[1].capture("eth0", "ip")?];
        net.wait_for_new_flows_from(WAYS[0].0)?;
        let ping = endless_ping(&net.guest)?;
        // The client of a connection that the change will cut.
        let old = net.guest.tcp_connect(at(SERVER, 7), DEADLINE)?;
        assert_echoes(&old, 1000);
        for way in [1, 0] {
            net.host.run(&["ip", "route", "replace", "default", "via", WAYS[way].1])?;
            net.wait_for_new_flows_from(WAYS[way].0)?;
            wait_for_more_answers(&ping)?;
            assert_running_ping_comes_from(&net.vnet, WAYS[way].0)?;
        }
        drop(ping);
        for (wire, (address, ..)) in wires.into_iter().zip(WAYS) {
            assert_only_uplink_is_seen(&wire.finish()?, &[address]);
        }
        finish(&net.host, net.vnet)?;
        drop(net.lab);
    }
    Ok(())
}

#[test]
fn new_flows_take_the_uplinks_new_address() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = TwoWays::new(kind, 1)?;
        let wire = net.isps[0].capture("eth0", "ip")?;
        net.wait_for_new_flows_from("203.0.113.2")?;
        let ping = endless_ping(&net.guest)?;
        for (old, new) in [("203.0.113.2", "203.0.113.7"), ("203.0.113.7", "203.0.113.200")] {
            // The address takes its routes along.
            net.host.ip_batch(&[
                format!("address del {old}/24 dev eth0"),
                format!("address add {new}/24 dev eth0"),
                "route add default via 203.0.113.1".to_owned(),
            ])?;
            net.wait_for_new_flows_from(new)?;
            wait_for_more_answers(&ping)?;
            assert_running_ping_comes_from(&net.vnet, new)?;
        }
        drop(ping);
        let packets = wire.finish()?;
        assert_only_uplink_is_seen(&packets, &["203.0.113.2", "203.0.113.7", "203.0.113.200"]);
        finish(&net.host, net.vnet)?;
    }
    Ok(())
}

#[test]
fn uplink_that_is_deleted_and_made_again_is_used_again() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = TwoWays::new(kind, 1)?;
        net.wait_for_new_flows_from(WAYS[0].0)?;
        let ping = endless_ping(&net.guest)?;
        let before = net.host.run(&["ip", "-o", "link", "show", "eth0"])?;
        let mut captured = Vec::new();
        for _ in 0..2 {
            net.host.run(&["ip", "link", "delete", "eth0"])?;
            // Listens before the host's end can send anything.
            let isp = &net.isps[0];
            isp.run(&[
                "ip",
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                &net.host.path(),
            ])?;
            let wire = isp.capture("eth0", "ip")?;
            isp.ip_batch(&[
                "address add 203.0.113.1/24 dev eth0".into(),
                "link set eth0 up".into(),
            ])?;
            net.host.ip_batch(&[
                "address add 203.0.113.2/24 dev eth0".into(),
                "link set eth0 up".into(),
                "route add default via 203.0.113.1".into(),
            ])?;
            net.wait_for_new_flows_from(WAYS[0].0)?;
            wait_for_more_answers(&ping)?;
            captured.extend(wire.finish()?);
        }
        let after = net.host.run(&["ip", "-o", "link", "show", "eth0"])?;
        assert_ne!(before.split(':').next(), after.split(':').next(), "index of eth0");
        drop(ping);
        assert_only_uplink_is_seen(&captured, &[WAYS[0].0]);
        finish(&net.host, net.vnet)?;
    }
    Ok(())
}

#[test]
fn uplink_that_appears_later_is_used() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = TwoWays::new(kind, 1)?;
        net.wait_for_new_flows_from(WAYS[0].0)?;
        let ping = endless_ping(&net.guest)?;
        connect(&net.lab, &net.host, &net.isps[1], 1)?;
        let wire = net.isps[1].capture("eth0", "ip")?;
        net.host.run(&["ip", "route", "replace", "default", "via", WAYS[1].1])?;
        net.wait_for_new_flows_from(WAYS[1].0)?;
        wait_for_more_answers(&ping)?;
        drop(ping);
        assert_only_uplink_is_seen(&wire.finish()?, &[WAYS[1].0]);
        finish(&net.host, net.vnet)?;
    }
    Ok(())
}

#[test]
fn nothing_untranslated_leaves_while_vnet_starts_and_ends() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let wire = lab.outside.capture("eth0", "ip")?;
    let pings = [&lab.tap_guest, &lab.veth_guest]
        .map(|guest| guest.spawn(&["ping", "-n", "-q", "-i", "0.002", OUTSIDE]).unwrap());
    for _ in 0..3 {
        let vnet = Vnet::start(&lab.host, &[default_network()])?;
        let seen = |packet: &CapturedPacket| packet.outgoing && packet.icmp() == Some((0, 0));
        wire.wait_for(seen, DEADLINE)?;
        vnet.stop()?;
    }
    drop(pings);
    assert_only_uplink_is_seen(&wire.finish()?, &[UPLINK]);
    Ok(())
}
