//! Sources that are not the sender's go nowhere.

use std::net::IpAddr;

use vnet_common::reason::DropReason;
use vnet_tests::lab::{require_root, wait_until};
use vnet_tests::modes::{Arrivals, Forward, Net, Place, Rig, frame, nine_networks};
use vnet_tests::vnet::Vnet;

use crate::support::{DEADLINE, ip};

/// Sources for a guest of `nat-a`, `route-a` or `isolated-a`.
const FROM_GUESTS: [&str; 20] = [
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
    "fe80::dead",
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
            // Outside, a guest that may be reached, a guest that may not.
            add(
                rig.place(guest),
                source,
                &[
                    "198.51.100.1",
                    "10.10.5.12",
                    "10.10.8.11",
                    "2001:db8:a::1",
                    "2001:db8:10:5::12",
                    "2001:db8:10:8::11",
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
        let mut counted = 0;
        let mut miscounted = Vec::new();
        for spoof in &spoofs {
            let macs = rig.macs_to_host(spoof.from)?;
            let addresses = (spoof.source, spoof.destination);
            let frame = frame::udp(macs, addresses, (4000, 4000), spoof.text.as_bytes());
            frame::send(&spoof.from.node, "eth0", &frame)?;
            let reached = wait_until("it is counted", DEADLINE / 20, || {
                match vnet.drops(DropReason::SpoofedSource) {
                    Ok(now) if now > counted => Ok(now),
                    other => Err(format!("{other:?}")),
                }
            });
            match reached {
                Ok(now) if now == counted + 1 => counted = now,
                other => {
                    miscounted.push(format!(
                        "{} as {} to {}: {other:?} after {counted}\n",
                        spoof.from.name, spoof.source, spoof.destination
                    ));
                    counted = vnet.drops(DropReason::SpoofedSource)?;
                }
            }
        }
        let arrived = arrivals.finish()?;
        let mut leaked = Vec::new();
        for spoof in &spoofs {
            for place in rig.places.iter().filter(|place| place.name != "host") {
                for packet in arrived.with_text(&place.name, spoof.text.as_bytes()) {
                    leaked.push(format!(
                        "{} as {} arrived at {}: {packet}\n",
                        spoof.from.name, spoof.source, place.name
                    ));
                }
            }
        }
        assert!(leaked.is_empty(), "leaked:\n{}", leaked.concat());
        assert!(miscounted.is_empty(), "not counted as spoofed-source:\n{}", miscounted.concat());
        vnet.stop()?;
    }
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
