//! Bulk transfers with and without offloads.

use vnet_tests::lab::services::{HttpServer, IperfServer, content};
use vnet_tests::lab::{Checksum, Guest, Lab, Node, require_root};
use vnet_tests::vnet::{Flow, Vnet};
use vnet_tests::xdp;

use crate::support::*;

const MIB: u64 = 1 << 20;

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// One transfer with its captures: content of the account, sizes and checksums are right.
fn transfer(nat: &Nat, guest: &Node, server: &IperfServer, way: Way) -> anyhow::Result<()> {
    let (outside, host) = (&nat.lab.outside, &nat.lab.host);
    let (sender, arguments) = match way {
        Way::Up => (guest, &["-n", "128M"][..]),
        Way::Down => (outside, &["-n", "128M", "-R"][..]),
    };
    let port = host.port_of(guest.name()).unwrap();
    let captures = [host.capture_headers(&port, "tcp")?, outside.capture_headers("eth0", "ip")?];
    let before = counters(sender)?;
    let report = server.measure(guest, arguments)?;
    let after = counters(sender)?;
    // The sender may stop with some on its way, which it counts and the receiver does not read.
    assert!(report.sent >= 128 * MIB, "{}", report.sent);
    assert!(report.received >= 64 * MIB, "{}", report.received);

    let sent = after["TcpOutSegs"] - before["TcpOutSegs"];
    let again = after["TcpRetransSegs"] - before["TcpRetransSegs"];
    assert!(sent > report.received / 1448, "{sent}");
    // Loss by full queues is TCP's way to find its rate; a broken translation loses far more.
    assert!(again * 50 <= sent, "{again} of {sent} segments were sent again");

    let [on_port, on_wire] = captures.map(|capture| capture.finish().unwrap());
    assert_only_uplink_is_seen(&on_wire, &[UPLINK]);
    for packet in on_port.iter().chain(&on_wire) {
        assert!(packet.largest_ip_packet() <= 1500, "{packet}");
        packet.verify_checksums().unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let flow = nat.vnet.flows()?.into_iter().max_by_key(|flow| volume(flow, way)).unwrap();
    let (bytes, packets) = (volume(&flow, way), traffic(&flow, way).packets);
    // Headers of the super-packets come on top of the payload.
    let possible = report.received..report.sent * 11 / 10;
    assert!(possible.contains(&bytes), "{flow:?} of {possible:?}");
    // XDP sees what the wire has, and wires that feed it send no super-packets.
    assert!(
        bytes / packets > 10_000 || xdp::needs_checksums(),
        "super-packets were cut before translation: {flow:?}"
    );
    Ok(())
}

fn traffic(flow: &Flow, way: Way) -> vnet_common::flow::Traffic {
    match way {
        Way::Up => flow.outbound,
        Way::Down => flow.inbound,
    }
}

fn volume(flow: &Flow, way: Way) -> u64 {
    traffic(flow, way).bytes
}

fn bulk(guest: fn(&Nat) -> &Node, way: Way) -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let guest = guest(&nat).clone();
    let server = IperfServer::start(&nat.lab.outside, at(OUTSIDE, 5201))?;
    transfer(&nat, &guest, &server, way)?;
    for node in [&guest, &nat.lab.outside, &nat.lab.host] {
        assert_no_checksum_errors(node)?;
    }
    nat.finish()
}

#[test]
fn tap_guest_sends_bulk_in_super_packets() -> anyhow::Result<()> {
    bulk(|nat| &nat.lab.tap_guest, Way::Up)
}

#[test]
fn tap_guest_receives_bulk_in_super_packets() -> anyhow::Result<()> {
    bulk(|nat| &nat.lab.tap_guest, Way::Down)
}

#[test]
fn veth_guest_sends_bulk_in_super_packets() -> anyhow::Result<()> {
    bulk(|nat| &nat.lab.veth_guest, Way::Up)
}

#[test]
fn veth_guest_receives_bulk_in_super_packets() -> anyhow::Result<()> {
    bulk(|nat| &nat.lab.veth_guest, Way::Down)
}

#[test]
fn without_offloads_every_frame_fits_the_mtu_and_every_checksum_is_complete() -> anyhow::Result<()>
{
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let host = lab.host("host")?;
    let outside = lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    host.offloads_off("eth0")?;
    outside.offloads_off("eth0")?;
    let vnet = Vnet::start(&host, &[default_network()])?;
    let web = HttpServer::start(&outside, at(OUTSIDE, 80))?;
    for (guest, last) in [(Guest::tap("guest1"), 11), (Guest::veth("guest2"), 12)] {
        let guest = guest.address(&format!("192.168.122.{last}/24")).gateway("192.168.122.1");
        let guest = lab.guest(&host, "virbr0", &guest.without_offloads())?;
        let capture = outside.capture("eth0", "ip")?;
        let url = format!("http://{}/bytes/500000", web.address());
        assert!(guest.curl(&url)? == content(500_000));
        guest.curl_upload(&url, &content(500_000))?;
        let packets = capture.finish()?;
        assert_only_uplink_is_seen(&packets, &[UPLINK]);
        for packet in &packets {
            assert!(packet.length <= 1514, "{packet}");
            assert_ne!(packet.checksum, Checksum::Partial, "{packet}");
        }
        assert_no_checksum_errors(&guest)?;
    }
    assert_no_checksum_errors(&outside)?;
    assert!(vnet.flows()?.iter().all(|flow| flow.protocol == "tcp"));
    finish(&host, vnet)
}
