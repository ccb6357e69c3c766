//! Sources that are not the sender's go nowhere.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use vnet_common::reason::DropReason;
use vnet_tests::lab::{Result, require_root, wait_until};
use vnet_tests::modes::{Arrivals, Forward, Net, Place, Rig, frame, nine_networks};
use vnet_tests::vnet::Vnet;

use crate::support::{DEADLINE, ip};

/// Sources for a guest of `nat-a`, `route-a` or `isolated-a`.
const FROM_GUESTS: [&str; 19] = [
    // Guests of other networks, and addresses of theirs that nobody has.
    "10.10.5.11",
    "10.10.9.200",
    "2001:db8:10:5::11",
    "2001:db8:10:9::200",
    // The host: of another bridge, of the own one, of an uplink.
    "10.10.5.1",
    "2001:db8:10:5::1",
    "198.51.100.2",
    "2001:db8:a::2",
    // Outside.
    "198.51.100.1",
    "203.0.113.77",
    "192.0.2.1",
    "2001:db8:a::1",
    "2001:db8:ffff::1",
    // Nobody.
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.5",
    "255.255.255.255",
    "::1",
    "ff02::5",
];

/// Sources for a host outside, towards a guest of `route-a`.
const FROM_OUTSIDE: [&str; 10] = [
    "10.10.1.11",
    "10.10.4.12",
    "10.10.7.11",
    "10.10.9.11",
    "10.10.4.1",
    "2001:db8:10:1::11",
    "2001:db8:10:4::12",
    "2001:db8:10:7::11",
    "2001:db8:10:9::11",
    "2001:db8:10:4::1",
];

struct Spoof<'a> {
    from: &'a Place,
    source: IpAddr,
    destination: IpAddr,
    text: String,
}

fn spoofs(rig: &Rig) -> Vec<Spoof<'_>> {
    let mut spoofs = Vec::new();
    let mut add = |from, source: &str, destinations: &[&str]| {
        let source = ip(source);
        for destination in destinations.iter().map(|text| ip(text)) {
            if destination.is_ipv4() == source.is_ipv4() {
                let text = format!("spoof {:05}.", spoofs.len());
                spoofs.push(Spoof { from, source, destination, text });
            }
        }
    };
    for guest in ["nat-a.1", "nat-a.2", "route-a.1", "isolated-a.1"] {
        for source in FROM_GUESTS {
            // Outside, a guest that may be reached, a guest that may not, the host.
            add(
                rig.place(guest),
                source,
                &[
                    "198.51.100.1",
                    "10.10.5.12",
                    "10.10.8.11",
                    "198.51.100.2",
                    "2001:db8:a::1",
                    "2001:db8:10:5::12",
                    "2001:db8:10:8::11",
                    "2001:db8:a::2",
                ],
            );
        }
    }
    for outside in ["X", "Y"] {
        for source in FROM_OUTSIDE {
            add(rig.place(outside), source, &["10.10.4.11", "2001:db8:10:4::11"]);
        }
    }
    spoofs
}

impl Spoof<'_> {
    fn send(&self, rig: &Rig) -> anyhow::Result<()> {
        let macs = rig.macs_to_host(self.from)?;
        let addresses = (self.source, self.destination);
        let frame = frame::udp(macs, addresses, (4000, 4000), self.text.as_bytes());
        Ok(frame::send(&self.from.node, "eth0", &frame)?)
    }
}

impl fmt::Display for Spoof<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {} to {}", self.from.name, self.source, self.destination)
    }
}

/// Waits until so many packets are counted as spoofed.
fn wait_for_count(vnet: &Vnet, wanted: u64, deadline: Duration) -> Result<u64> {
    wait_until(&format!("{wanted} are counted as spoofed-source"), deadline, || {
        match vnet.drops(DropReason::SpoofedSource) {
            Ok(now) if now >= wanted => Ok(now),
            other => Err(format!("{other:?}")),
        }
    })
}

/// The spoofs that are not counted when they are sent alone.
fn uncounted(rig: &Rig, vnet: &Vnet, spoofs: &[Spoof<'_>]) -> anyhow::Result<Vec<String>> {
    let mut uncounted = Vec::new();
    for spoof in spoofs {
        let before = vnet.drops(DropReason::SpoofedSource)?;
        spoof.send(rig)?;
        if wait_for_count(vnet, before + 1, DEADLINE / 40).is_err() {
            uncounted.push(format!("{spoof}\n"));
        }
    }
    Ok(uncounted)
}

#[test]
fn spoofed_sources_go_nowhere_and_are_counted() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for nat66 in [false, true] {
        let nets = nine_networks().into_iter().map(|net| if nat66 { net.nat66() } else { net });
        let rig = Rig::new(nets.collect())?;
        let vnet = Vnet::start(&rig.host, &rig.definitions())?;
        let spoofs = spoofs(&rig);
        let arrivals = Arrivals::start(&rig.places)?;
        for spoof in &spoofs {
            spoof.send(&rig)?;
        }
        let all = spoofs.len() as u64;
        let counted = wait_for_count(&vnet, all, DEADLINE / 2);
        let uncounted = match counted {
            Ok(counted) => {
                assert_eq!(counted, all);
                Vec::new()
            }
            Err(_) => uncounted(&rig, &vnet, &spoofs)?,
        };
        let arrived = arrivals.finish()?;
        let mut leaked = Vec::new();
        for spoof in &spoofs {
            for place in rig.places.iter().filter(|place| place.name != "host") {
                for packet in arrived.with_text(&place.name, spoof.text.as_bytes()) {
                    leaked.push(format!("{spoof} arrived at {}: {packet}\n", place.name));
                }
            }
        }
        assert!(
            leaked.is_empty() && uncounted.is_empty(),
            "NAT66: {nat66}; leaked:\n{}not counted as spoofed-source:\n{}",
            leaked.concat(),
            uncounted.concat()
        );
        vnet.stop()?;
    }
    Ok(())
}

/// Guests may trust their host.
#[test]
fn outside_does_not_pass_for_the_host() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks())?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let arrivals = Arrivals::start(&rig.places)?;
    let routed = rig.place("route-a.1");
    let spoofs = ["X", "Y"].map(|name| rig.place(name)).into_iter().flat_map(|outside| {
        ["198.51.100.2", "203.0.113.2", "2001:db8:a::2", "2001:db8:b::2"].map(|source| {
            let (source, text) = (ip(source), format!("{} as {source}.", outside.name));
            Spoof { from: outside, source, destination: routed.address_like(source), text }
        })
    });
    let spoofs: Vec<Spoof<'_>> = spoofs.collect();
    for spoof in &spoofs {
        spoof.send(&rig)?;
    }
    for name in ["X", "Y"] {
        let outside = rig.place(name);
        for source in ["0.0.0.0", "::"].map(|like| outside.address_like(ip(like))) {
            // Whatever was sent before has gone its way.
            let destination = routed.address_like(source);
            crate::support::assert_reaches(
                outside,
                routed,
                &destination.to_string(),
                &source.to_string(),
            )?;
        }
    }
    let arrived = arrivals.finish()?;
    let leaked: Vec<String> = spoofs
        .iter()
        .filter(|spoof| arrived.with_text(&routed.name, spoof.text.as_bytes()).next().is_some())
        .map(ToString::to_string)
        .collect();
    assert!(leaked.is_empty(), "arrived: {leaked:#?}");
    vnet.stop()?;
    Ok(())
}

/// Addresses that are of one link only stay there, which is nobody's crime.
#[test]
fn link_local_sources_stay_on_their_link() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let arrivals = Arrivals::start(&rig.places)?;
    let [nat, routed, x] = ["nat-a.1", "route-a.1", "X"].map(|name| rig.place(name));
    for (from, destination) in [
        (nat, "2001:db8:a::1"),
        (nat, "2001:db8:10:5::11"),
        (routed, "2001:db8:a::1"),
        (routed, "2001:db8:10:5::11"),
        (x, "2001:db8:10:4::11"),
    ] {
        let text = "link-local.".to_owned();
        Spoof { from, source: ip("fe80::dead"), destination: ip(destination), text }.send(&rig)?;
    }
    let (source, text) = (ip("2001:db8:10:4::11"), "global.".to_owned());
    Spoof { from: routed, source, destination: ip("2001:db8:a::1"), text }.send(&rig)?;
    arrivals.wait_for_text("X", b"global.")?;
    // The other senders' packets are in the same queue of the host.
    crate::support::assert_reaches(nat, x, "2001:db8:a::1", "2001:db8:a::2")?;
    crate::support::assert_reaches(x, routed, "2001:db8:10:4::11", "2001:db8:a::1")?;
    let arrived = arrivals.finish()?;
    for place in rig.places.iter().filter(|place| place.name != "host") {
        let forwarded: Vec<String> = arrived
            .with_text(&place.name, b"link-local.")
            .filter(|packet| packet.icmp().is_none())
            .map(ToString::to_string)
            .collect();
        assert!(forwarded.is_empty(), "at {}: {forwarded:?}", place.name);
    }
    vnet.stop()?;
    Ok(())
}

#[test]
fn sources_of_the_own_network_pass() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let route = Net::new("route", Forward::Route, "virbr1", &["10.10.4.1/24", "2001:db8:4::1/64"]);
    let rig = Rig::new(vec![route])?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let arrivals = Arrivals::start(&rig.places)?;
    let guest = rig.place("route.1");
    // Of another guest of the network: only the guard could tell.
    for (source, destination) in [
        ("10.10.4.11", "198.51.100.1"),
        ("10.10.4.77", "198.51.100.1"),
        ("2001:db8:4::11", "2001:db8:a::1"),
        ("2001:db8:4::77", "2001:db8:a::1"),
    ] {
        let text = format!("source {source}.");
        let macs = rig.macs_to_host(guest)?;
        let addresses = (ip(source), ip(destination));
        frame::send(
            &guest.node,
            "eth0",
            &frame::udp(macs, addresses, (4000, 4000), text.as_bytes()),
        )?;
        arrivals.wait_for_text("X", text.as_bytes())?;
    }
    let arrived = arrivals.finish()?;
    let seen = arrived.with_text("X", b"source 10.10.4.77.").next().unwrap().source();
    assert_eq!(seen, Some(ip("10.10.4.77")));
    assert_eq!(vnet.drops(DropReason::SpoofedSource)?, 0);
    vnet.stop()?;
    Ok(())
}
