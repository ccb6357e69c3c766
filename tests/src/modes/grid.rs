//! What was found, beside what was expected.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use vnet::matrix::probe::{End, Outcome, Protocol};

use super::{Cell, Expected, Place};

/// All outcomes of one run, of one family.
#[derive(Debug, Default)]
pub struct Findings {
    cells: BTreeMap<(String, String), Vec<(Protocol, &'static str)>>,
    wrong: Vec<String>,
    count: usize,
}

impl Findings {
    /// Judges an outcome and keeps it under the names of a row and a column.
    pub fn add(
        &mut self,
        (row, column): (&str, &str),
        (from, to): (&Place, &Place),
        (protocol, destination): (Protocol, IpAddr),
        outcome: &Outcome,
        expected: Cell,
    ) {
        let own = outcome.own.unwrap_or_else(|| from.address_like(destination));
        let letter = letter(outcome, own);
        let wanted_source = match expected {
            Cell::Accept => Some(own),
            Cell::Masquerade => Some(to.host_like(destination)),
            Cell::Reject => None,
            Cell::HalfOpen => outcome.seen,
        };
        let rejected_by_host = match outcome.end {
            End::Rejected(rejection) => {
                rejection.is_port_unreachable() && from.host_side.contains(&rejection.from)
            }
            _ => expected != Cell::Reject,
        };
        let right =
            letter == expected.letter() && outcome.seen == wanted_source && rejected_by_host;
        if !right {
            let seen = outcome.seen.map_or("nothing".to_owned(), |seen| format!("source {seen}"));
            let wanted = match (expected, wanted_source) {
                (Cell::Masquerade, Some(source)) => format!("A* with source {source}"),
                (cell, _) => cell.letter().to_owned(),
            };
            self.wrong.push(format!(
                "{} ({own}) -> {} ({destination}) by {protocol}: expected {wanted}; receiver saw \
                 {seen}, sender got: {}",
                from.name, to.name, outcome.end
            ));
        }
        self.cells.entry((row.to_owned(), column.to_owned())).or_default().push((protocol, letter));
        self.count += 1;
    }

    /// How many outcomes there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Both tables and every difference; empty if there is none.
    #[must_use]
    pub fn report(&self, title: &str, expected: &Expected) -> String {
        if self.wrong.is_empty() {
            return String::new();
        }
        let mut text = format!("{title}: {} of {} are wrong\n", self.wrong.len(), self.count);
        let found = |row: &str, column: &str| self.found(row, column);
        let wanted = |row: &str, column: &str| {
            expected.cell(row, column).map_or("-", Cell::letter).to_owned()
        };
        let mut both = |name: &str, cell: &dyn Fn(&str, &str) -> String| {
            let _ = write!(text, "{name}\n{}", grid(expected, cell));
        };
        both("expected", &wanted);
        both("found (TCP/UDP/echo where they differ)", &found);
        both("found where it is wrong", &|row, column| {
            let (found, wanted) = (found(row, column), wanted(row, column));
            if found == wanted { ".".to_owned() } else { found }
        });
        for line in &self.wrong {
            let _ = writeln!(text, "  {line}");
        }
        text
    }

    fn found(&self, row: &str, column: &str) -> String {
        let key = (row.to_owned(), column.to_owned());
        let mut letters = self.cells.get(&key).cloned().unwrap_or_default();
        letters.sort_by_key(|(protocol, _)| *protocol);
        let letters: Vec<&str> = letters.into_iter().map(|(_, letter)| letter).collect();
        match letters.first() {
            None => "-".to_owned(),
            Some(first) if letters.iter().all(|letter| letter == first) => (*first).to_owned(),
            Some(_) => letters.join("/"),
        }
    }
}

/// As [`Cell`]; `x` is another error, `?` silence.
fn letter(outcome: &Outcome, own: IpAddr) -> &'static str {
    match (outcome.end, outcome.seen) {
        (End::Answered, Some(seen)) if seen == own => "A",
        (End::Answered, _) => "A*",
        (_, Some(_)) => "H",
        (End::Rejected(rejection), None) if rejection.is_port_unreachable() => "R",
        (End::Rejected(_) | End::Reset | End::NotSent(_), None) => "x",
        (End::Silence, None) => "?",
    }
}

fn grid(table: &Expected, cell: &dyn Fn(&str, &str) -> String) -> String {
    let first = table.rows().iter().map(String::len).max().unwrap_or_default();
    let mut text = format!("  {:first$}", "");
    let widths: Vec<usize> = table
        .columns()
        .iter()
        .map(|column| {
            let cells = table.rows().iter().map(|row| cell(row, column).len()).max();
            cells.unwrap_or_default().max(column.len())
        })
        .collect();
    for (column, width) in table.columns().iter().zip(&widths) {
        let _ = write!(text, "  {column:width$}");
    }
    text.push('\n');
    for row in table.rows() {
        let _ = write!(text, "  {row:first$}");
        for (column, width) in table.columns().iter().zip(&widths) {
            let _ = write!(text, "  {:width$}", cell(row, column));
        }
        text.push('\n');
    }
    text
}
