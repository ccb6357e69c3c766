//! What every test of the modes needs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vnet::matrix::probe::{self, End, Options, Outcome, Probe, ProbeError, Protocol};
use vnet_tests::lab::{Namespace, Node, Result};
use vnet_tests::modes::Place;

pub const DEADLINE: Duration = Duration::from_secs(10);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Below the ephemeral ports, so that a port tells one probe from all others.
const FIRST_PORT: u16 = 10_000;

/// Makes the probes on a runtime of their own.
pub fn run(probes: &[Probe<'_>]) -> Result<Vec<Outcome>, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Options { first_port: Some(FIRST_PORT), ..Options::default() };
    runtime.block_on(probe::run(probes, &options))
}

/// Probes by every protocol; the outcomes in the order of [`Protocol::ALL`].
pub fn probe(from: &Place, to: &Place, destination: &str) -> anyhow::Result<Vec<Outcome>> {
    let (from, to, destination) = (&from.probe, &to.probe, ip(destination));
    let probe = |protocol| Probe { from, to, destination, protocol };
    Ok(run(&Protocol::ALL.map(probe))?)
}

/// Every protocol gets there, and the receiver sees this source.
pub fn assert_reaches(
    from: &Place,
    to: &Place,
    destination: &str,
    source: &str,
) -> anyhow::Result<()> {
    for (protocol, outcome) in Protocol::ALL.into_iter().zip(probe(from, to, destination)?) {
        let found = (outcome.end, outcome.seen);
        let what = format!("{} to {} ({destination}) by {protocol}", from.name, to.name);
        assert_eq!(found, (End::Answered, Some(ip(source))), "{what}");
    }
    Ok(())
}

/// No protocol gets there, and each is answered with a port-unreachable from this address.
pub fn assert_rejected(
    from: &Place,
    to: &Place,
    destination: &str,
    by: &str,
) -> anyhow::Result<()> {
    for (protocol, outcome) in Protocol::ALL.into_iter().zip(probe(from, to, destination)?) {
        let what = format!("{} to {} ({destination}) by {protocol}", from.name, to.name);
        assert_eq!(outcome.seen, None, "{what}");
        let End::Rejected(rejection) = outcome.end else { panic!("{what}: {}", outcome.end) };
        assert!(rejection.is_port_unreachable() && rejection.from == ip(by), "{what}: {rejection}");
    }
    Ok(())
}

/// No protocol gets there, with or without an answer.
pub fn assert_does_not_reach(from: &Place, to: &Place, destination: &str) -> anyhow::Result<()> {
    assert_none_reaches(&[(from, to, destination.to_owned())])
}

/// As [`assert_does_not_reach`] for many pairs at a time, because silence takes its time.
pub fn assert_none_reaches(pairs: &[(&Place, &Place, String)]) -> anyhow::Result<()> {
    let probes = pairs.iter().flat_map(|(from, to, destination)| {
        let (from, to, destination) = (&from.probe, &to.probe, ip(destination));
        Protocol::ALL.map(|protocol| Probe { from, to, destination, protocol })
    });
    let probes: Vec<Probe<'_>> = probes.collect();
    let outcomes = run(&probes)?;
    for ((from, to, destination), outcomes) in pairs.iter().zip(outcomes.chunks_exact(3)) {
        for (protocol, outcome) in Protocol::ALL.into_iter().zip(outcomes) {
            let what = format!("{} to {} ({destination}) by {protocol}", from.name, to.name);
            assert_eq!(outcome.seen, None, "{what}");
            assert_ne!(outcome.end, End::Answered, "{what}");
        }
    }
    Ok(())
}

/// A place for probes that the rig did not make.
pub fn place(name: &str, node: &Node) -> Place {
    let probe = probe::Namespace::open(&Namespace::path(node)).unwrap();
    let (addresses, host_side) = (Vec::new(), Vec::new());
    Place { name: name.to_owned(), network: None, node: node.clone(), addresses, host_side, probe }
}
