//! Which addresses guests are masqueraded to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use vnet::matrix::probe::{End, Probe, Protocol};
use vnet_tests::lab::{Guest, PortKind, require_root};
use vnet_tests::modes::{Forward, Net, Place, Rig};
use vnet_tests::vnet::Vnet;

use crate::support::{assert_none_reaches, assert_reaches, ip, place, run};

const POOL: [&str; 2] = ["192.0.2.64", "192.0.2.71"];

#[test]
fn pool_gives_each_guest_one_address_of_its_own() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let pool = format!("<address start='{}' end='{}'/>", POOL[0], POOL[1]);
    let net = Net::new("pooled", Forward::Nat, "virbr1", &["10.10.1.1/24"]).in_nat(&pool);
    let rig = Rig::new(vec![net])?;
    for outside in ["X", "Y"] {
        let gateway = rig.place(outside).host_like(ip("0.0.0.0")).to_string();
        // Their default route leads to the host, and so to the pool.
        assert!(rig.place(outside).node.run(&["ip", "route"])?.contains(&gateway));
    }
    let mut guests: Vec<Place> = Vec::new();
    for number in 20..28 {
        let name = format!("guest{number}");
        let kind = if number % 2 == 0 { PortKind::Tap } else { PortKind::Veth };
        let guest = Guest::new(&name, kind).address(&format!("10.10.1.{number}/24"));
        let node = rig.lab.guest(&rig.host, "virbr1", &guest.gateway("10.10.1.1"))?;
        guests.push(place(&name, &node));
    }
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let mut seen: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for _round in 0..3 {
        for guest in &guests {
            for (outside, address) in [("X", "198.51.100.1"), ("Y", "203.0.113.1")] {
                let (from, to, destination) =
                    (&guest.probe, &rig.place(outside).probe, ip(address));
                let probes =
                    Protocol::ALL.map(|protocol| Probe { from, to, destination, protocol });
                for outcome in run(&probes)? {
                    assert_eq!(outcome.end, End::Answered, "{} to {outside}", guest.name);
                    seen.entry(&guest.name).or_default().extend(outcome.seen);
                }
            }
        }
    }
    let [first, last] = POOL.map(|text| text.parse::<Ipv4Addr>().unwrap());
    let mut used = BTreeSet::new();
    for (guest, addresses) in &seen {
        assert_eq!(addresses.len(), 1, "{guest}: {addresses:?}");
        let IpAddr::V4(address) = addresses.first().unwrap() else { panic!("{addresses:?}") };
        assert!((first..=last).contains(address), "{guest}: {address}");
        used.insert(*address);
    }
    assert!(used.len() > 1, "eight guests use {used:?} only");
    vnet.stop()?;
    Ok(())
}

#[test]
fn mappings_let_in_nobody_but_whom_the_guest_talks_to() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (v4, remote, other, guest_address, external) in [
        (true, "198.51.100.1", "203.0.113.1", "10.10.1.11", "198.51.100.2"),
        (false, "2001:db8:a::1", "2001:db8:b::1", "2001:db8:1::11", "2001:db8:a::2"),
    ] {
        let net = Net::new("nat", Forward::Nat, "virbr1", &["10.10.1.1/24", "2001:db8:1::1/64"]);
        let rig = Rig::new(vec![net.nat66()])?;
        let vnet = Vnet::start(&rig.host, &rig.definitions())?;
        let [guest, x, y] = ["nat.1", "X", "Y"].map(|name| rig.place(name));
        let udp = |place: &Place, address: &str| {
            let socket = place.node.enter(|| std::net::UdpSocket::bind((ip(address), 4000)));
            let socket = socket.unwrap().unwrap();
            socket.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
            socket
        };
        let inside = udp(guest, guest_address);
        let answerer = udp(x, remote);
        inside.send_to(b"question", (ip(remote), 4000))?;
        let mut text = [0; 32];
        let (_, mapped) = answerer.recv_from(&mut text)?;
        assert_eq!(mapped.ip(), ip(external));
        // Another port of the remote, and another remote: both by the mapping's address.
        let other_port = x.node.enter(|| std::net::UdpSocket::bind((ip(remote), 4001)))??;
        other_port.send_to(b"other port", mapped)?;
        udp(y, other).send_to(b"other host", mapped)?;
        answerer.send_to(b"answer", mapped)?;
        let (length, from) = inside.recv_from(&mut text)?;
        assert_eq!((&text[..length], from.ip()), (&b"answer"[..], ip(remote)), "v4: {v4}");
        inside.set_nonblocking(true)?;
        let more = inside.recv_from(&mut text);
        assert!(more.is_err(), "{more:?}");
        vnet.stop()?;
    }
    Ok(())
}

#[test]
fn guests_reach_routed_guests_with_the_address_of_their_bridge() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let addresses = ["10.10.1.1/24", "10.20.1.1/24", "2001:db8:1::1/64", "2001:db8:21::1/64"];
    let nat = Net::new("nat", Forward::Nat, "virbr1", &addresses).nat66();
    // The address beside the receiver, not the first of the bridge.
    let addresses = ["10.10.2.1/24", "10.20.2.1/24", "2001:db8:2::1/64", "2001:db8:22::1/64"];
    let route = Net::new("route", Forward::Route, "virbr2", &addresses);
    let rig = Rig::new(vec![nat, route])?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let mut back = Vec::new();
    for guest in ["nat.1", "nat.3"].map(|name| rig.place(name)) {
        for (name, destination, source) in [
            ("route.1", "10.10.2.11", "10.10.2.1"),
            ("route.3", "10.20.2.13", "10.20.2.1"),
            ("route.1", "2001:db8:2::11", "2001:db8:2::1"),
            ("route.3", "2001:db8:22::13", "2001:db8:22::1"),
        ] {
            assert_reaches(guest, rig.place(name), destination, source)?;
            let own = guest.address_like(ip(destination)).to_string();
            back.push((rig.place(name), guest, own));
        }
    }
    assert_none_reaches(&back)?;
    vnet.stop()?;
    Ok(())
}
