//! What comes from outside unasked, and what host and guests say to each other.

use std::io::ErrorKind;

use vnet_common::reason::DropReason;
use vnet_tests::lab::services::{TcpEcho, UdpEcho};
use vnet_tests::lab::{Error, Node, listing, require_root};

use crate::support::*;

/// A connection is refused by an RST, at once.
fn assert_refused(from: &Node, to: &str, port: u16) {
    match from.tcp_connect(at(to, port), DEADLINE) {
        Err(Error::System { source, .. }) => {
            assert_eq!(source.kind(), ErrorKind::ConnectionRefused, "{to}:{port}");
        }
        other => panic!("{to}:{port}: {other:?}"),
    }
}

#[test]
fn unsolicited_connection_to_the_uplink_is_the_hosts_own() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let (host, outside) = (&nat.lab.host, &nat.lab.outside);
    let _servers = nat.guests().map(|guest| echo_servers(guest).unwrap());
    let server = TcpEcho::start(outside, at(OUTSIDE, 80))?;
    // A mapping whose port somebody could guess.
    let known = tcp_from(&nat.lab.tap_guest, v4("0.0.0.0", 20_000), v4(OUTSIDE, 80))?;
    assert_echoes(&known, 100);
    assert_eq!(server.peers(), [at(UPLINK, 20_000)]);
    outside.add_address("eth0", "203.0.113.66/24")?;

    let bridge = host.capture("virbr0", "ip and src net 203.0.113.0/24")?;
    assert_refused(outside, UPLINK, 7);
    assert_refused(outside, UPLINK, 20_000);
    let other_remote = tcp_from(outside, v4("203.0.113.66", 80), v4(UPLINK, 20_000));
    let refused = other_remote.unwrap_err().downcast::<nix::errno::Errno>()?;
    assert_eq!(refused, nix::errno::Errno::ECONNREFUSED);
    assert!(outside.udp_ask(at(UPLINK, 7), b"anybody?", SILENCE).is_err());
    // The host's own server gets what is meant for it.
    let _own = TcpEcho::start(host, at(UPLINK, 22))?;
    assert_echoes(&outside.tcp_connect(at(UPLINK, 22), DEADLINE)?, 100_000);
    assert_eq!(outside.ping(UPLINK, 3)?.received, 3);

    let packets = bridge.finish()?;
    assert!(packets.is_empty(), "{}", listing(&packets));
    assert_echoes(&known, 100);
    nat.finish()
}

#[test]
fn guests_address_cannot_be_reached_from_outside() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let (host, outside) = (&nat.lab.host, &nat.lab.outside);
    let _servers = nat.guests().map(|guest| echo_servers(guest).unwrap());
    outside.route("192.168.122.0/24", UPLINK)?;
    let bridge = host.capture("virbr0", "ip and src net 203.0.113.0/24")?;
    for address in ["192.168.122.11", "192.168.122.12"] {
        assert_unreachable(outside, address)?;
    }
    // An address that no guest has.
    assert_unreachable(outside, "192.168.122.99")?;
    let packets = bridge.finish()?;
    assert!(packets.is_empty(), "{}", listing(&packets));
    assert!(nat.vnet.drops(DropReason::PolicyRejected)? >= 9);
    // The route does not hurt what guests begin.
    let _server = TcpEcho::start(outside, at(OUTSIDE, 80))?;
    for guest in nat.guests() {
        assert_echoes(&guest.tcp_connect(at(OUTSIDE, 80), DEADLINE)?, 10_000);
    }
    nat.finish()
}

#[test]
fn host_and_guests_reach_each_other() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let host = &nat.lab.host;
    let servers = ["192.168.122.1", UPLINK].map(|own| {
        // UDP answers from the address that was asked only if it is bound to it.
        let udp = UdpEcho::start(host, at(own, 7)).unwrap();
        (TcpEcho::start(host, at(own, 7)).unwrap(), udp)
    });
    for (guest, address) in nat.guests().into_iter().zip(["192.168.122.11", "192.168.122.12"]) {
        let (tcp, udp) = echo_servers(guest)?;
        assert_eq!(host.ping(address, 3)?.received, 3);
        assert_echoes(&host.tcp_connect(at(address, 7), DEADLINE)?, 300_000);
        assert_eq!(host.udp_ask(at(address, 7), b"guest?", DEADLINE)?, b"guest?");
        for peer in tcp.peers().into_iter().chain(udp.peers()) {
            assert_eq!(peer.ip(), ip("192.168.122.1"));
        }
        // The gateway, and the host under its address outside.
        for own in ["192.168.122.1", UPLINK] {
            assert_eq!(guest.ping(own, 3)?.received, 3, "{own}");
            assert_echoes(&guest.tcp_connect(at(own, 7), DEADLINE)?, 300_000);
            assert_eq!(guest.udp_ask(at(own, 7), b"host?", DEADLINE)?, b"host?");
        }
        for (tcp, udp) in &servers {
            for peers in [tcp.peers(), udp.peers()] {
                assert_eq!(peers.last().unwrap().ip(), ip(address));
            }
        }
    }
    // Nothing of this was translated.
    assert_eq!(nat.vnet.flows()?, []);
    nat.finish()
}

#[test]
fn guests_of_one_bridge_reach_each_other_as_themselves() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    let [one, other] = nat.guests();
    let servers = echo_servers(other)?;
    assert_eq!(one.ping("192.168.122.12", 3)?.received, 3);
    assert_echoes(&one.tcp_connect(at("192.168.122.12", 7), DEADLINE)?, 300_000);
    assert_eq!(servers.0.peers()[0].ip(), ip("192.168.122.11"));
    assert_eq!(nat.vnet.flows()?, []);
    nat.finish()
}

#[test]
fn guest_that_pings_the_uplinks_address_is_answered_by_the_host() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let nat = Nat::new()?;
    for guest in nat.guests() {
        assert_eq!(guest.ping(UPLINK, 3)?.received, 3);
    }
    assert_eq!(nat.vnet.flows()?, []);
    nat.finish()
}
