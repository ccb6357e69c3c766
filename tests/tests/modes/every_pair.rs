//! Every ordered pair of places, by every protocol and both families, against the table.

use std::net::IpAddr;

use vnet::matrix::probe::{Outcome, Probe, Protocol};
use vnet_tests::lab::{CapturedPacket, require_root};
use vnet_tests::modes::{
    Arrivals, Cell, Expected, Findings, Kind, Net, Place, Rig, Unsolicited, libvirt_rules,
    nine_networks,
};
use vnet_tests::vnet::Vnet;

use crate::support::{ip, run};

/// What holds wherever NAT networks are masqueraded: for IPv4, and for IPv6 with
/// `<nat ipv6='yes'/>`. The diagonal is guest to guest of one network.
const MASQUERADED: &str = "
            nat-a nat-b nat-x route-a route-b route-x isolated-a isolated-b open X  Y  host
nat-a       A     R     R     A*      A*      R       R          R          A*   A* A* A
nat-b       R     A     R     A*      A*      R       R          R          A*   A* A* A
nat-x       R     R     A     R       R       R       R          R          R    A* R  A
route-a     R     R     R     A       A       R       R          R          A    A  A  A
route-b     R     R     R     A       A       R       R          R          A    A  A  A
route-x     R     R     R     R       R       A       R          R          R    A  R  A
isolated-a  R     R     R     R       R       R       A          R          R    R  R  A
isolated-b  R     R     R     R       R       R       R          A          R    R  R  A
open        R     R     R     A       A       R       R          R          A    A  A  A
X           R     R     R     A       A       A       R          R          A    -  A  A
Y           R     R     R     A       A       R       R          R          A    A  -  A
host        A     A     A     A       A       A       A          A          A    A  A  -
";

/// IPv6 without `<nat ipv6='yes'/>`: NAT networks are routed.
const ROUTED: &str = "
            nat-a nat-b nat-x route-a route-b route-x isolated-a isolated-b open X  Y  host
nat-a       A     A     R     A       A       R       R          R          A    A  A  A
nat-b       A     A     R     A       A       R       R          R          A    A  A  A
nat-x       R     R     A     R       R       R       R          R          R    A  R  A
route-a     A     A     R     A       A       R       R          R          A    A  A  A
route-b     A     A     R     A       A       R       R          R          A    A  A  A
route-x     R     R     R     R       R       A       R          R          R    A  R  A
isolated-a  R     R     R     R       R       R       A          R          R    R  R  A
isolated-b  R     R     R     R       R       R       R          A          R    R  R  A
open        A     A     R     A       A       R       R          R          A    A  A  A
X           A     A     A     A       A       A       R          R          A    -  A  A
Y           A     A     R     A       A       R       R          R          A    A  -  A
host        A     A     A     A       A       A       A          A          A    A  A  -
";

/// What libvirt's own rules do, found with the same probes: H is half-open.
const LIBVIRT: &str = "
            nat-a nat-b nat-x route-a route-b route-x isolated-a isolated-b open X  Y  host
nat-a       A     R     R     A*      A*      R       R          R          A*   A* A* A
nat-b       R     A     R     A*      A*      R       R          R          A*   A* A* A
nat-x       R     R     A     H       H       R       R          R          R    A* R  A
route-a     R     R     R     A       A       R       R          R          A    A  A  A
route-b     R     R     R     A       A       R       R          R          A    A  A  A
route-x     R     R     R     H       H       A       R          R          R    A  R  A
isolated-a  R     R     R     H       H       R       A          R          R    R  R  A
isolated-b  R     R     R     H       H       R       R          A          R    R  R  A
open        R     R     R     A       A       R       R          R          A    A  A  A
X           R     R     R     A       A       A       R          R          A    -  A  A
Y           R     R     R     A       A       R       R          R          A    A  -  A
host        A     A     A     A       A       A       A          A          A    A  A  -
";

/// What is expected of one family.
struct Table {
    networks: Expected,
    /// From one subnet of `nat-a` to the other.
    between_subnets: Cell,
}

/// A connection of the table.
struct Pair<'a> {
    row: &'a str,
    column: &'a str,
    from: &'a Place,
    to: &'a Place,
    destination: IpAddr,
    expected: Cell,
}

/// The place that stands for a row, and for a column of that row.
fn places<'a>(rig: &'a Rig, row: &str, column: &str) -> (&'a Place, &'a Place) {
    let is_network = |name: &str| rig.nets.iter().any(|net| net.name == name);
    let first = |name: &str| if is_network(name) { format!("{name}.1") } else { name.to_owned() };
    let to = if row == column { format!("{column}.2") } else { first(column) };
    (rig.place(&first(row)), rig.place(&to))
}

/// Where `from` would connect to reach `to`: the host is known by its address beside the sender.
fn destination(from: &Place, to: &Place, like: IpAddr) -> IpAddr {
    if to.name == "host" { from.host_like(like) } else { to.address_like(like) }
}

/// Every pair of the table, and of the second subnet of `nat-a`.
fn pairs<'a>(rig: &'a Rig, table: &'a Table, like: IpAddr) -> Vec<Pair<'a>> {
    let (table, between_subnets) = (&table.networks, table.between_subnets);
    let mut pairs = Vec::new();
    for row in table.rows() {
        for column in table.columns() {
            let Some(expected) = table.cell(row, column) else { continue };
            let (from, to) = places(rig, row, column);
            let destination = destination(from, to, like);
            pairs.push(Pair { row, column, from, to, destination, expected });
        }
    }
    let second = rig.place("nat-a.3");
    let second_row = "nat-a";
    for column in table.columns() {
        let Some(expected) = table.cell(second_row, column) else { continue };
        let (first, to) = places(rig, second_row, column);
        let ways = if column == second_row {
            vec![(first, second, between_subnets), (second, first, between_subnets)]
        } else {
            vec![(second, to, expected)]
        };
        for (from, to, expected) in ways {
            let destination = destination(from, to, like);
            pairs.push(Pair { row: second_row, column, from, to, destination, expected });
        }
    }
    pairs
}

fn probes<'a>(pairs: &[Pair<'a>]) -> Vec<Probe<'a>> {
    let of = |pair: &Pair<'a>| {
        let Pair { from, to, destination, .. } = *pair;
        let probe =
            move |protocol| Probe { from: &from.probe, to: &to.probe, destination, protocol };
        Protocol::ALL.map(probe)
    };
    pairs.iter().flat_map(of).collect()
}

/// Probes a table and complains of what differs, also of what arrived though it was rejected.
fn probe_table(rig: &Rig, table: &Table, like: IpAddr) -> anyhow::Result<Findings> {
    let pairs = pairs(rig, table, like);
    let arrivals = Arrivals::start(&rig.places)?;
    let outcomes = run(&probes(&pairs))?;
    let arrived = arrivals.finish()?;
    let mut findings = Findings::default();
    for (pair, outcomes) in pairs.iter().zip(outcomes.chunks_exact(Protocol::ALL.len())) {
        for (protocol, outcome) in Protocol::ALL.into_iter().zip(outcomes) {
            let Pair { row, column, from, to, destination, expected } = *pair;
            // Also what nobody was told of: a connection's first packet alone.
            let first = arrived.opening(&to.name, protocol, destination, outcome.port);
            let seen = outcome.seen.or(first.and_then(CapturedPacket::source));
            let outcome = Outcome { seen, ..*outcome };
            let what = (protocol, destination);
            findings.add((row, column), (from, to), what, &outcome, expected);
        }
    }
    Ok(findings)
}

/// Sends packets that look like answers where nobody has asked, and complains of those that arrive
/// where no connection may be opened.
fn probe_unsolicited(rig: &Rig, table: &Table, like: IpAddr) -> anyhow::Result<String> {
    let pairs = pairs(rig, table, like);
    let mut wrong = Vec::new();
    let arrivals = Arrivals::start(&rig.places)?;
    let mut number = 0;
    let mut sent = Vec::new();
    // Last what the host sends, which arrives: then all that was sent before it has arrived as well.
    let (from_host, others): (Vec<_>, Vec<_>) =
        pairs.iter().partition(|pair| pair.from.name == "host");
    for pair in others.into_iter().chain(from_host) {
        // What is masqueraded has no meaning without a connection.
        if pair.to.name == "host" || pair.expected == Cell::Masquerade {
            continue;
        }
        for kind in Kind::ALL {
            let packet = Unsolicited::new(kind, pair.destination, number);
            number += 1;
            packet.send(pair.from)?;
            sent.push((pair, packet));
        }
    }
    for (pair, packet) in sent.iter().filter(|(pair, _)| pair.from.name == "host") {
        arrivals.wait_for(&pair.to.name, packet.kind, packet.port)?;
    }
    let arrived = arrivals.finish()?;
    for (pair, packet) in sent {
        let count = arrived.unsolicited(&pair.to.name, packet.kind, packet.port).count();
        let wanted = usize::from(pair.expected != Cell::Reject);
        if count != wanted {
            wrong.push(format!(
                "{} -> {} ({}): {count} unsolicited {:?} arrived, expected {wanted}\n",
                pair.from.name, pair.to.name, pair.destination, packet.kind
            ));
        }
    }
    Ok(wrong.concat())
}

/// Holds both families against their tables.
fn assert_tables(rig: &Rig, ipv4: &str, ipv6: &str, between_subnets: Cell) -> anyhow::Result<()> {
    let mut report = String::new();
    let mut count = 0;
    for (family, table, like) in [("IPv4", ipv4, ip("0.0.0.0")), ("IPv6", ipv6, ip("::"))] {
        let table = Table { networks: Expected::parse(table), between_subnets };
        let findings = probe_table(rig, &table, like)?;
        count += findings.count();
        report += &findings.report(&format!("{family}, connections"), &table.networks);
        report += &probe_unsolicited(rig, &table, like)?;
    }
    assert!(report.is_empty(), "{report}");
    assert!(count > 800, "{count} probes only");
    Ok(())
}

fn every_pair(nets: Vec<Net>, ipv6: &str) -> anyhow::Result<()> {
    let rig = Rig::new(nets)?;
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    assert_tables(&rig, MASQUERADED, ipv6, Cell::Accept)?;
    vnet.stop()?;
    Ok(())
}

#[test]
fn every_pair_is_as_the_table_says_with_routed_ipv6() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    every_pair(nine_networks(), ROUTED)
}

#[test]
fn every_pair_is_as_the_table_says_with_nat66() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    every_pair(nine_networks().into_iter().map(Net::nat66).collect(), MASQUERADED)
}

#[test]
fn libvirts_own_rules_do_the_same_but_for_what_they_leave_half_open() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    rig.host.forwarding(true)?;
    // The stack rejects as often as it is asked to.
    for (name, value) in [
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv4.icmp_msgs_per_sec", "100000"),
        ("net.ipv4.icmp_msgs_burst", "100000"),
        ("net.ipv6.icmp.ratelimit", "0"),
    ] {
        rig.host.sysctl(name, value)?;
    }
    rig.host.nft(&libvirt_rules(&rig.nets))?;
    // They masquerade between the subnets of one network, too.
    assert_tables(&rig, LIBVIRT, LIBVIRT, Cell::Masquerade)
}
