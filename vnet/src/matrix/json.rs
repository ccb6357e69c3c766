//! The matrix for programs.

use serde::Serialize;

use super::{
    measure::Comparison,
    policy::{Details, FAMILIES, Matrix, Place},
    text,
};

/// What `vnet matrix -o json` prints.
#[derive(Debug, Serialize)]
pub struct Json<'a> {
    /// The networks.
    networks: Vec<Network<'a>>,
    /// The verdict for each pair of places and each family that both have.
    verdicts: Vec<Pair<'a>>,
    /// What probes found, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<&'a Comparison>,
}

#[derive(Debug, Serialize)]
struct Network<'a> {
    name: &'a str,
    mode: &'static str,
    mode_ipv6: &'static str,
    device: Option<&'a str>,
    subnets: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Pair<'a> {
    from: &'a str,
    to: &'a str,
    family: &'static str,
    verdict: &'static str,
}

impl<'a> Json<'a> {
    /// All of it.
    #[must_use]
    pub fn of(matrix: &'a Matrix, measured: Option<&'a Comparison>) -> Self {
        let mut verdicts = Vec::new();
        for family in FAMILIES {
            for from in matrix.judged(family) {
                for to in matrix.judged(family) {
                    let verdict = text::letter(from.verdict_to(to, family));
                    let family = text::name_of(family);
                    verdicts.push(Pair { from: &from.name, to: &to.name, family, verdict });
                }
            }
        }
        Self { networks: matrix.networks().filter_map(network).collect(), verdicts, measured }
    }
}

fn network(place: &Place) -> Option<Network<'_>> {
    let Details::Network { device, subnets, .. } = &place.details else { return None };
    let modes = place.modes()?;
    Some(Network {
        name: &place.name,
        mode: text::word(modes.ipv4),
        mode_ipv6: text::word(modes.ipv6),
        device: device.as_deref(),
        subnets: subnets.iter().map(ToString::to_string).collect(),
    })
}
