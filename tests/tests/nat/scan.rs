//! A guest that scans the world, and others that open flows meanwhile.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::Value;
use vnet_common::reason::DropReason;
use vnet_tests::lab::services::{Scan, Scanner};
use vnet_tests::lab::{Guest, Node, StandardLab, require_root, wait_until};
use vnet_tests::vnet::{Vnet, nat_network};

use crate::support::*;

/// New flows of each protocol that each of the others opens during a scan.
const FLOWS: usize = 100;
/// Flows that one guest may have unless it is set.
const DEFAULT_LIMIT: usize = 16384;
/// Packets that have to be refused before the others begin, so that the scan is in full course.
const REFUSED: u64 = 1000;
const TAP_GUEST: &str = "192.168.122.11";
const VETH_GUEST: &str = "192.168.122.12";

/// Drops of a network by reason.
fn drops(status: &Value, network: &str) -> Vec<(String, u64)> {
    let networks = status["networks"].as_array().unwrap();
    let of_network = networks.iter().find(|one| one["name"] == network).unwrap();
    let drops = of_network["drops"].as_array().unwrap().iter();
    let drop = |drop: &Value| {
        (drop["reason"].as_str().unwrap().to_owned(), drop["packets"].as_u64().unwrap())
    };
    drops.map(drop).collect()
}

/// Opens so many flows of each protocol, one after the other; the first that fails fails the test.
/// Nothing is sent twice: what is lost is a failure.
fn assert_opens_flows(node: &Node, count: usize) -> anyhow::Result<()> {
    for index in 0..count {
        let question = format!("{} {index}", node.name());
        let answer = node.udp_ask(at(OUTSIDE, 7), question.as_bytes(), DEADLINE)?;
        assert_eq!(answer, question.as_bytes());
        assert_echoes(&node.tcp_connect(at(OUTSIDE, 7), DEADLINE)?, 100);
    }
    Ok(())
}

fn wait_for_refusals(vnet: &Vnet, reason: DropReason, count: u64) -> anyhow::Result<()> {
    wait_until("the scan is at its limit", DEADLINE, || {
        let refused = vnet.drops(reason).map_err(|error| error.to_string())?;
        if refused >= count { Ok(()) } else { Err(format!("{refused} refused")) }
    })?;
    Ok(())
}

/// While one guest of the network `default` scans, its neighbour and a guest of another network open
/// flows; every one succeeds, and the only drops are the scanner's.
fn scan_changes_nothing_for_others(scan: Scan) -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for tap_scans in [true, false] {
        let StandardLab { host, tap_guest, veth_guest, outside, lab } = StandardLab::new()?;
        host.bridge("virbr1", &["172.16.20.1/24"])?;
        let other = Guest::veth("other").address("172.16.20.11/24").gateway("172.16.20.1");
        let other = lab.guest(&host, "virbr1", &other)?;
        let networks = [default_network(), nat_network("second", "virbr1", &["172.16.20.1/24"])];
        let vnet = Vnet::start(&host, &networks)?;
        let _servers = echo_servers(&outside)?;
        let (scanner, scanner_address, neighbour) = if tap_scans {
            (&tap_guest, TAP_GUEST, &veth_guest)
        } else {
            (&veth_guest, VETH_GUEST, &tap_guest)
        };
        let running = Scanner::start(scanner, ip(scanner_address), scan)?;
        wait_for_refusals(&vnet, DropReason::GuestFlowLimit, REFUSED)?;
        let before = vnet.drops(DropReason::GuestFlowLimit)?;
        assert_opens_flows(neighbour, FLOWS)?;
        assert_opens_flows(&other, FLOWS)?;
        wait_for_refusals(&vnet, DropReason::GuestFlowLimit, before + REFUSED)?;
        drop(running);

        let status = vnet.status()?;
        let of_scanner = drops(&status, "default");
        let [(reason, refused)] = of_scanner.as_slice() else { panic!("{of_scanner:?}") };
        assert_eq!(reason, DropReason::GuestFlowLimit.id());
        println!("{scan:?}: {} refused while others opened {} flows", refused - before, 4 * FLOWS);
        assert_eq!(drops(&status, "second"), []);
        let flows = vnet.flows()?;
        let its_own = flows.iter().filter(|flow| flow.inside.ip() == ip(scanner_address));
        assert_eq!(its_own.count(), DEFAULT_LIMIT);
        finish(&host, vnet)?;
    }
    Ok(())
}

#[test]
fn guest_that_scans_by_udp_changes_nothing_for_others() -> anyhow::Result<()> {
    scan_changes_nothing_for_others(Scan::Udp)
}

#[test]
fn guest_that_scans_by_syn_changes_nothing_for_others() -> anyhow::Result<()> {
    scan_changes_nothing_for_others(Scan::Syn)
}

#[test]
fn guest_that_takes_all_ports_it_may_have_leaves_others_theirs() -> anyhow::Result<()> {
    const RANGE: usize = 1000;
    if !require_root() {
        return Ok(());
    }
    let StandardLab { host, tap_guest, veth_guest, outside, lab: _lab } = StandardLab::new()?;
    let nat = "<forward mode='nat'><nat><port start='20000' end='20999'/></nat></forward>";
    let network = default_network().replace("<forward mode='nat'/>", nat);
    let vnet = Vnet::start(&host, &[network])?;
    let _servers = echo_servers(&outside)?;
    let running = Scanner::start(&tap_guest, ip(TAP_GUEST), Scan::Udp)?;
    wait_for_refusals(&vnet, DropReason::GuestFlowLimit, REFUSED)?;
    // Flows of one protocol have a port each.
    assert_opens_flows(&veth_guest, RANGE / 4)?;
    drop(running);

    let of_guests = drops(&vnet.status()?, "default");
    assert_eq!(of_guests.len(), 1, "{of_guests:?}");
    assert_eq!(of_guests[0].0, DropReason::GuestFlowLimit.id());
    let flows = vnet.flows()?;
    let ports = |address: &str, protocol: &str| -> Vec<u16> {
        let of_guest = flows.iter().filter(|flow| flow.inside.ip() == ip(address));
        let of_protocol = of_guest.filter(|flow| flow.protocol == protocol);
        of_protocol.map(|flow| flow.outside.port()).collect()
    };
    let unique = |ports: &[u16]| ports.iter().copied().collect::<BTreeSet<u16>>();
    for own in [ports(VETH_GUEST, "udp"), ports(VETH_GUEST, "tcp")] {
        // The guest's kernel chooses some of its own ports twice.
        assert!(own.len() > RANGE / 4 - 20, "{}", own.len());
        assert_eq!(unique(&own).len(), own.len(), "{own:?}");
        assert!(own.iter().all(|port| (20000..=20999).contains(port)), "{own:?}");
    }
    let scanned = ports(TAP_GUEST, "udp");
    assert_eq!(scanned.len(), DEFAULT_LIMIT);
    // What the scanner has no port of its own for shares ports, also those of others, towards other
    // remotes.
    assert_eq!(unique(&scanned).len(), RANGE);
    finish(&host, vnet)
}

/// How long each of so many new flows waits for its first answer.
fn round_trips(node: &Node, count: usize) -> anyhow::Result<Vec<Duration>> {
    node.enter(|| -> anyhow::Result<Vec<Duration>> {
        let ask = |_| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(at(OUTSIDE, 7))?;
            socket.set_read_timeout(Some(DEADLINE))?;
            let start = Instant::now();
            socket.send(b"first")?;
            socket.recv(&mut [0; 8])?;
            Ok(start.elapsed())
        };
        (0..count).map(ask).collect()
    })?
}

/// What so many per cent do not exceed.
fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

/// The latency of a neighbour's new flows beside an idle guest, beside one that sends as fast as it can
/// in one flow, and beside one that scans as fast as it can. They take turns, and each round is compared
/// with itself, so that the machine's moods are the same for all.
#[test]
fn latency_of_new_flows_beside_a_scan() -> anyhow::Result<()> {
    const ROUNDS: usize = 50;
    const FLOWS: usize = 100;
    const PERCENTILES: [usize; 2] = [50, 99];
    if std::env::var_os("VNET_TEST_SCALE").is_none() {
        println!("skipped: it measures times, for a quiet machine; VNET_TEST_SCALE=1 runs it");
        return Ok(());
    }
    if !require_root() {
        return Ok(());
    }
    let cases = [("idle", None), ("one flow", Some(Scan::Nothing)), ("scan", Some(Scan::Udp))];
    let lab = StandardLab::new()?;
    let vnet = Vnet::start(&lab.host, &[default_network()])?;
    let nat = Nat { vnet, lab };
    let (scanner, neighbour) = (&nat.lab.veth_guest, &nat.lab.tap_guest);
    let _servers = echo_servers(&nat.lab.outside)?;
    let mut sent = [(0, Duration::ZERO); 3];
    // By case and percentile, the microseconds of each round.
    let mut rounds: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (index, (_, scan)) in cases.iter().enumerate() {
            let running =
                scan.map(|scan| Scanner::start(scanner, ip(VETH_GUEST), scan)).transpose()?;
            wait_until("it sends", DEADLINE, || match &running {
                Some(running) if running.sent() < 5000 => Err(running.sent().to_string()),
                _ => Ok(()),
            })?;
            let (before, start) = (running.as_ref().map_or(0, Scanner::sent), Instant::now());
            let times = round_trips(neighbour, FLOWS)?;
            sent[index].0 += running.as_ref().map_or(0, Scanner::sent) - before;
            sent[index].1 += start.elapsed();
            let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
            for (percent, of_rounds) in PERCENTILES.into_iter().zip(&mut rounds[index]) {
                of_rounds.push(percentile(times.clone(), percent));
            }
        }
    }
    for (index, (name, _)) in cases.iter().enumerate() {
        let (packets, took) = sent[index];
        let rate = u128::from(packets) / took.as_millis();
        println!("{name}: {rate} packets a millisecond beside the neighbour's");
        for (which, percent) in PERCENTILES.into_iter().enumerate() {
            let of_rounds = &rounds[index][which];
            let ratio_to = |other: usize| {
                let pairs = of_rounds.iter().zip(&rounds[other][which]);
                percentile(pairs.map(|(one, other)| one / other).collect(), 50)
            };
            println!(
                "  {percent} %: {:.0} us, {:.2} of idle, {:.2} of one flow",
                percentile(of_rounds.clone(), 50),
                ratio_to(0),
                ratio_to(1)
            );
        }
    }
    // What the CPUs do not take of it, the kernel's queue in front of vnet drops.
    let of_scan = drops(&nat.vnet.status()?, "default");
    println!("{DEFAULT_LIMIT} flows of the scan; refused: {of_scan:?}");
    nat.finish()
}
