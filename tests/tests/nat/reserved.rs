//! Ports that the host has set aside for others who need no socket, as containers' are.

use std::net::SocketAddr;

use aya::maps::{Array, Map, MapData};
use vnet_common::names::map;
use vnet_common::port_map::{self, Place, PortMap};
use vnet_tests::lab::services::UdpEcho;
use vnet_tests::lab::{StandardLab, require_root, wait_until};
use vnet_tests::programs::Plain;
use vnet_tests::vnet::Vnet;

use crate::support::*;

const SYSCTL: &str = "net.ipv4.ip_local_reserved_ports";
const RESERVED: std::ops::RangeInclusive<u16> = 20000..=20009;
const TAP_GUEST: &str = "192.168.122.11";

/// Whether the programs take a port for reserved.
fn is_reserved(nat: &Nat, port: u16) -> anyhow::Result<bool> {
    let pin = nat.vnet.pinned(map::RESERVED_PORTS);
    nat.lab.host.enter(|| -> anyhow::Result<bool> {
        let map = Map::Array(MapData::from_pin(pin)?);
        let reserved = Array::<_, Plain<PortMap>>::try_from(map)?;
        let Plain(ports) = reserved.get(&port_map::RESERVED_PORTS, 0)?;
        let place = Place::of_port(port);
        Ok(ports.taken[place.word as usize] & place.bit != 0)
    })?
}

#[test]
fn guests_get_no_reserved_port_until_it_is_free_again_and_forwards_may_have_one()
-> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    lab.host.sysctl(SYSCTL, "20000-20009")?;
    let options = "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'><vnet:forward \
                   protocol='udp' port='20001' to='192.168.122.11' to-port='7'/></vnet:options>\
                   </metadata>";
    let network = default_network().replacen("</name>", &format!("</name>{options}"), 1);
    let vnet = Vnet::start(&lab.host, &[network])?;
    let nat = Nat { vnet, lab };
    let outside = &nat.lab.outside;
    let server = UdpEcho::start(outside, at(OUTSIDE, 7))?;
    let seen_of = |port: u16| -> anyhow::Result<u16> {
        for guest in nat.guests() {
            let socket = guest.udp_socket(at("0.0.0.0", port), server.address(), DEADLINE)?;
            assert_udp_echoes(&socket, b"which port?");
        }
        let peers = server.peers();
        let [first, second] = [peers[peers.len() - 2].port(), peers[peers.len() - 1].port()];
        assert_ne!(first, second);
        assert!(!RESERVED.contains(&second), "{second}");
        Ok(first)
    };
    let first = seen_of(20003)?;
    assert!(!RESERVED.contains(&first), "{first}");
    // The port beside them is kept.
    assert_eq!(seen_of(20010)?, 20010);
    let _guest_server = UdpEcho::start(&nat.lab.tap_guest, at(TAP_GUEST, 7))?;
    assert_eq!(outside.udp_ask(at(UPLINK, 20001), b"forward", DEADLINE)?, b"forward");

    // The kernel tells nobody of the change.
    nat.lab.host.sysctl(SYSCTL, "20000-20004")?;
    wait_until("the change is followed", DEADLINE, || match is_reserved(&nat, 20005) {
        Ok(false) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert!(is_reserved(&nat, 20004)?);
    let socket = nat.lab.tap_guest.udp_socket(at("0.0.0.0", 20005), server.address(), DEADLINE)?;
    assert_udp_echoes(&socket, b"free again");
    assert_eq!(server.peers().last().map(SocketAddr::port), Some(20005));
    nat.finish()
}
