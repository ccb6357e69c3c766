//! The policy held against real probes.

use std::net::IpAddr;

use serde::{Serialize, Serializer};
use vnet_common::{family::Family, policy::Verdict};

use super::{
    policy::{Details, FAMILIES, Matrix, Place, is_of},
    probe::{self, End, Namespace, Options, Outcome, Probe, ProbeError, Protocol},
    text,
};

/// A place and a network namespace that stands for it.
#[derive(Debug)]
pub struct Target {
    place: String,
    namespace: Namespace,
}

/// `--probe` names something that is not there.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is no such place.
    #[error("there is no `{name}` to probe; there are {}", known.join(", "))]
    NoPlace {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Only the host is known without being told its namespace.
    #[error("`--probe {name}` needs a network namespace: `--probe {name}=NETNS`")]
    NoNamespace {
        /// The place.
        name: String,
    },
    /// One place alone has nobody to talk to.
    #[error("probes need at least two places: repeat `--probe NAME=NETNS`")]
    TooFew,
    /// A probe could not be made.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// What the probes found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Every ordered pair of namespaces that have a family in common.
    pub pairs: Vec<Pair>,
}

/// A pair of namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// The source: the place, and its namespace.
    pub from: String,
    /// The destination likewise.
    pub to: String,
    /// The family.
    #[serde(serialize_with = "family_name")]
    pub family: Family,
    /// What the policy says.
    #[serde(serialize_with = "verdict_letter")]
    pub policy: Verdict,
    /// What TCP found.
    pub tcp: Measured,
    /// What UDP found.
    pub udp: Measured,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// `A`, `A*`, `R` as the policy's letters; `H` it arrived and the answer did not; `x` another
    /// error; `-` nothing came back.
    pub letter: &'static str,
    /// The source that the receiver saw.
    pub seen: Option<IpAddr>,
    /// How it differs from the policy.
    pub difference: Option<String>,
}

impl Target {
    /// Reads `NAME=NETNS`, or `host` for the namespace of the calling thread.
    pub fn parse(text: &str, matrix: &Matrix) -> Result<Self, TargetError> {
        let (name, namespace) = match text.split_once('=') {
            Some((name, namespace)) => (name, Some(namespace)),
            None => (text, None),
        };
        if !matrix.places.iter().any(|place| place.name == name) {
            let known = matrix.places.iter().map(|place| place.name.clone()).collect();
            return Err(TargetError::NoPlace { name: name.to_owned(), known });
        }
        let namespace = match namespace {
            Some(namespace) => Namespace::open(namespace)?,
            None if name == "host" => Namespace::current()?,
            None => return Err(TargetError::NoNamespace { name: name.to_owned() }),
        };
        Ok(Self { place: name.to_owned(), namespace })
    }

    fn label(&self) -> String {
        match self.place.as_str() {
            "host" => "host".to_owned(),
            place => format!("{place} ({})", self.namespace.name()),
        }
    }
}

/// Probes every ordered pair of targets by TCP and UDP in each family that both have.
pub async fn measure(matrix: &Matrix, targets: &[Target]) -> Result<Comparison, TargetError> {
    if targets.len() < 2 {
        return Err(TargetError::TooFew);
    }
    let mut ends = Vec::new();
    for target in targets {
        let place = matrix.places.iter().find(|place| place.name == target.place);
        let Some(place) = place else { continue };
        let addresses = target.namespace.addresses()?.into_iter().map(|(_, address)| address);
        ends.push(Endpoint { target, place, addresses: addresses.collect() });
    }
    let mut planned = Vec::new();
    for family in FAMILIES {
        for (index, from) in ends.iter().enumerate() {
            for (other, to) in ends.iter().enumerate() {
                let destination = to.address_from(from, family).filter(|_| from.has(family));
                if let Some(destination) = destination.filter(|_| index != other) {
                    planned.push(Planned { family, from, to, destination });
                }
            }
        }
    }
    let probes: Vec<Probe<'_>> = planned.iter().flat_map(Planned::probes).collect();
    let outcomes = probe::run(&probes, &Options::default()).await?;
    let pairs = planned.iter().zip(outcomes.chunks_exact(2)).map(|(planned, outcomes)| {
        let Planned { family, from, to, .. } = *planned;
        let policy = from.place.verdict_to(to.place, family);
        let judge = |outcome| judge(from.place, to.place, policy, outcome);
        Pair {
            from: from.target.label(),
            to: to.target.label(),
            family,
            policy,
            tcp: judge(&outcomes[0]),
            udp: judge(&outcomes[1]),
        }
    });
    Ok(Comparison { pairs: pairs.collect() })
}

struct Planned<'a> {
    family: Family,
    from: &'a Endpoint<'a>,
    to: &'a Endpoint<'a>,
    destination: IpAddr,
}

impl<'a> Planned<'a> {
    fn probes(&self) -> [Probe<'a>; 2] {
        let (from, to) = (&self.from.target.namespace, &self.to.target.namespace);
        let destination = self.destination;
        [Protocol::Tcp, Protocol::Udp].map(|protocol| Probe { from, to, destination, protocol })
    }
}

struct Endpoint<'a> {
    target: &'a Target,
    place: &'a Place,
    addresses: Vec<IpAddr>,
}

impl Endpoint<'_> {
    fn has(&self, family: Family) -> bool {
        self.place.has(family) && self.addresses.iter().any(|address| is_of(*address, family))
    }

    /// The address by which `from` knows this end.
    fn address_from(&self, from: &Self, family: Family) -> Option<IpAddr> {
        let mut own = self.addresses.iter().copied().filter(|address| is_of(*address, family));
        let beside = |candidates: &[IpAddr]| {
            candidates
                .iter()
                .copied()
                .find(|address| is_of(*address, family) && self.addresses.contains(address))
        };
        match (&self.place.details, &from.place.details) {
            (Details::Network { subnets, .. }, _) => {
                own.find(|address| subnets.iter().any(|subnet| subnet.contains(address)))
            }
            (Details::Host, Details::Network { gateways, .. }) => beside(gateways),
            (Details::Host, Details::Outside { addresses }) => beside(addresses),
            _ => own.next(),
        }
    }
}

impl Pair {
    /// Whether the probes did not find what the policy says.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.tcp.difference.is_some() || self.udp.difference.is_some()
    }

    /// The source that the receiver saw.
    #[must_use]
    pub fn seen(&self) -> Option<IpAddr> {
        self.tcp.seen.or(self.udp.seen)
    }
}

impl Comparison {
    /// Whether any pair differs.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.pairs.iter().any(Pair::differs)
    }
}

fn judge(from: &Place, to: &Place, policy: Verdict, outcome: &Outcome) -> Measured {
    let letter = letter(outcome);
    let expected = text::letter(policy);
    let wrong_source =
        outcome.seen.filter(|seen| policy == Verdict::Masquerade && !masquerade(from, to, *seen));
    let difference = if policy == Verdict::LeaveToHost {
        None
    } else if letter != expected {
        Some(match outcome.seen {
            Some(seen) => format!("{expected} expected; {}, source seen {seen}", outcome.end),
            None => format!("{expected} expected; {}", outcome.end),
        })
    } else {
        wrong_source.map(|seen| format!("source seen {seen}, which is no address to masquerade to"))
    };
    Measured { letter, seen: outcome.seen, difference }
}

/// Whether a guest of `from` may be seen with this address there.
fn masquerade(from: &Place, to: &Place, seen: IpAddr) -> bool {
    let pool = match (&from.details, &to.details, seen) {
        (Details::Network { pool: Some(pool), .. }, Details::Outside { .. }, IpAddr::V4(seen)) => {
            return (pool.start..=pool.end).contains(&seen);
        }
        (_, Details::Outside { addresses }, _) => addresses,
        (_, Details::Network { masquerade, .. }, _) => masquerade,
        (_, Details::Host, _) => return false,
    };
    pool.contains(&seen)
}

fn letter(outcome: &Outcome) -> &'static str {
    match (outcome.end, outcome.seen) {
        (End::Answered, seen) if seen == outcome.own => "A",
        (End::Answered, _) => "A*",
        (_, Some(_)) => "H",
        (End::Rejected(rejection), None) if rejection.is_port_unreachable() => "R",
        (End::Rejected(_) | End::Reset | End::NotSent(_), None) => "x",
        (End::Silence, None) => "-",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn family_name<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text::name_of(*family))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn verdict_letter<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text::letter(*verdict))
}
