//! The matrix for people.

use std::{fmt::Write as _, iter};

use vnet_common::{
    family::Family,
    policy::{Mode, Verdict},
};

use super::{
    measure::{Comparison, Measured},
    policy::{Details, FAMILIES, Matrix, Place},
};
use crate::report::text::{Column, count, table, words};

const WIDTH: usize = 100;

/// What the policy says: the comparison of the networks, then who may talk to whom.
#[must_use]
pub fn policy(matrix: &Matrix) -> String {
    let mut text = comparison(matrix);
    text.push_str("\nWho may open connections to whom (rows to columns)");
    let grids = FAMILIES.map(|family| grid(matrix, family));
    let [ipv4, ipv6] = &grids;
    if ipv4 == ipv6 {
        let _ = write!(text, ", IPv4 and IPv6\n{ipv4}");
    } else {
        let with_networks = FAMILIES.into_iter().zip(&grids).filter(|(family, _)| {
            matrix.networks().any(|network| network.has(*family) && !network.is_bridged())
        });
        for (family, grid) in with_networks {
            let _ = write!(text, "\n{}\n{grid}", name_of(family));
        }
    }
    let _ = write!(text, "\n{}", legend(matrix));
    text
}

/// What probes found, beside the policy.
#[must_use]
pub fn measured(comparison: &Comparison) -> String {
    let headings = ["FROM", "TO", "FAMILY", "POLICY", "TCP", "UDP", "SOURCE SEEN", ""];
    let columns = headings.map(words);
    let rows = comparison.pairs.iter().map(|pair| {
        let letters = |measured: &Measured| measured.letter.to_owned();
        let seen = pair.seen().map_or("-".to_owned(), |seen| seen.to_string());
        vec![
            pair.from.clone(),
            pair.to.clone(),
            name_of(pair.family).to_owned(),
            letter(pair.policy).to_owned(),
            letters(&pair.tcp),
            letters(&pair.udp),
            seen,
            if pair.differs() { "differs".to_owned() } else { String::new() },
        ]
    });
    let mut text = format!("\nMeasured\n{}", table(&columns, None, rows));
    for pair in comparison.pairs.iter().filter(|pair| pair.differs()) {
        for (protocol, measured) in [("TCP", &pair.tcp), ("UDP", &pair.udp)] {
            if let Some(why) = &measured.difference {
                let _ = writeln!(text, "{} to {} by {protocol}: {why}", pair.from, pair.to);
            }
        }
    }
    let probes = comparison.pairs.len() as u64 * 2;
    let differing = comparison.pairs.iter().filter(|pair| pair.differs()).count() as u64;
    let _ = match differing {
        0 => writeln!(text, "{} probes: as the policy says", count(probes)),
        1 => writeln!(text, "{} probes: 1 pair differs from the policy", count(probes)),
        _ => writeln!(text, "{} probes: {differing} pairs differ from the policy", count(probes)),
    };
    text
}

/// The letter of a verdict, as the project's table of the policy has it.
#[must_use]
pub fn letter(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "A",
        Verdict::Masquerade => "A*",
        Verdict::LeaveToHost => "F",
        Verdict::Reject => "R",
    }
}

/// The family's name.
#[must_use]
pub fn name_of(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

fn comparison(matrix: &Matrix) -> String {
    let headings = ["NETWORK", "MODE", "TO HOST", "TO OTHER GUESTS", "TO OUTSIDE", "FROM OUTSIDE"];
    let columns = headings.map(words);
    let host: Vec<&Place> =
        matrix.places.iter().filter(|place| place.details == Details::Host).collect();
    let outside: Vec<&Place> = matrix.outside().collect();
    let rows = matrix.networks().map(|network| {
        let to = |others: &[&Place]| {
            answer(network, |family| ways(others, |other| network.verdict_to(other, family)))
        };
        // One bridge: what vnet does not forbid there the host's firewall does not see.
        let among = answer(network, |family| match network.verdict_to(network, family) {
            Verdict::Reject => "no".to_owned(),
            _ => "yes".to_owned(),
        });
        let from =
            answer(network, |family| ways(&outside, |other| other.verdict_to(network, family)));
        let cells = [to(&host), among, to(&outside), from];
        [network.name.clone(), mode(network)].into_iter().chain(cells).collect()
    });
    table(&columns, None, rows)
}

/// libvirt's word for a mode.
#[must_use]
pub fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Nat => "nat",
        Mode::Route => "route",
        Mode::Open => "open",
        Mode::Bridged => "bridge",
        Mode::Isolated => "isolated",
    }
}

/// The mode of a network, as its definition says it.
fn mode(network: &Place) -> String {
    let mode = network.modes().map_or("", |modes| word(modes.ipv4));
    match &network.details {
        Details::Network { device: Some(device), .. } => format!("{mode} dev={device}"),
        _ => mode.to_owned(),
    }
}

/// An answer for each family that the network has, or one if they are the same.
fn answer(network: &Place, of: impl Fn(Family) -> String) -> String {
    if network.is_bridged() {
        return "as on the LAN".to_owned();
    }
    let answers: Vec<(Family, String)> = FAMILIES
        .into_iter()
        .filter(|family| network.has(*family))
        .map(|family| (family, of(family)))
        .collect();
    match answers.as_slice() {
        [] => "-".to_owned(),
        [(_, one)] => one.clone(),
        [(_, one), (_, other)] if one == other => one.clone(),
        several => {
            let lines: Vec<String> = several
                .iter()
                .map(|(family, answer)| format!("{}: {answer}", name_of(*family)))
                .collect();
            lines.join("\n")
        }
    }
}

/// One word if it is the same at all places, else the word for those that are not refused.
fn ways(others: &[&Place], verdict: impl Fn(&Place) -> Verdict) -> String {
    let word = |verdict| match verdict {
        Verdict::Accept => "yes",
        Verdict::Masquerade => "by NAT",
        Verdict::LeaveToHost => "host decides",
        Verdict::Reject => "no",
    };
    let verdicts: Vec<(&Place, Verdict)> =
        others.iter().map(|other| (*other, verdict(other))).collect();
    let open: Vec<&(&Place, Verdict)> =
        verdicts.iter().filter(|(_, verdict)| *verdict != Verdict::Reject).collect();
    match open.first() {
        None => word(Verdict::Reject).to_owned(),
        Some((_, first)) if open.len() == verdicts.len() => word(*first).to_owned(),
        Some((_, first)) => {
            let names: Vec<&str> =
                open.iter().map(|(place, _)| place.name.trim_start_matches("outside:")).collect();
            format!("{} ({} only)", word(*first), names.join(", "))
        }
    }
}

/// A row for each source, a column for each destination; columns have numbers instead of names if
/// they would not fit.
fn grid(matrix: &Matrix, family: Family) -> String {
    let places: Vec<&Place> = matrix.judged(family).collect();
    let cell = |from: &Place, to: &Place| match (&from.details, &to.details) {
        (Details::Host, Details::Host) => "-",
        (Details::Outside { .. }, Details::Outside { .. }) if from == to => "-",
        _ => letter(from.verdict_to(to, family)),
    };
    let longest = places.iter().map(|place| place.name.len()).max().unwrap_or_default();
    let all: usize = places.iter().map(|place| place.name.len() + 2).sum();
    let fits = longest + all <= WIDTH;
    let numbered = |(number, place): (usize, &Place)| format!("{number} {}", place.name);
    let rows: Vec<String> = if fits {
        places.iter().map(|place| place.name.clone()).collect()
    } else {
        (1..).zip(places.iter().copied()).map(numbered).collect()
    };
    let headings: Vec<String> = if fits {
        rows.clone()
    } else {
        (1..=places.len()).map(|number| number.to_string()).collect()
    };
    let header: Vec<String> = iter::once(String::new()).chain(headings).collect();
    let lines = places.iter().zip(&rows).map(|(from, name)| {
        let cells = places.iter().map(|to| cell(from, to).to_owned());
        iter::once(name.clone()).chain(cells).collect::<Vec<_>>()
    });
    let columns: Vec<Column> = header.iter().map(|_| words("")).collect();
    let all: Vec<Vec<String>> = iter::once(header.clone()).chain(lines).collect();
    // The headings are data, so they are the first row.
    table(&columns, None, all).trim_start_matches('\n').to_owned()
}

/// The letters that occur.
fn legend(matrix: &Matrix) -> String {
    let meanings = [
        (Verdict::Accept, "accepted"),
        (Verdict::Masquerade, "accepted, with an address of the host as the source"),
        (Verdict::LeaveToHost, "vnet makes no verdict: the host's own firewall decides"),
        (Verdict::Reject, "rejected with an ICMP port-unreachable"),
    ];
    let occurs = |wanted: Verdict| {
        FAMILIES.into_iter().any(|family| {
            let places: Vec<&Place> = matrix.judged(family).collect();
            places.iter().any(|from| places.iter().any(|to| from.verdict_to(to, family) == wanted))
        })
    };
    let mut text = String::new();
    for (verdict, meaning) in meanings.into_iter().filter(|(verdict, _)| occurs(*verdict)) {
        let _ = writeln!(text, "{:<2}  {meaning}", letter(verdict));
    }
    text
}
