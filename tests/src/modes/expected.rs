//! A table of who may open connections to whom, as a test writes it down.

use std::collections::BTreeMap;

/// What the table says of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// `A`: the connection works and the receiver sees the sender's own address.
    Accept,
    /// `A*`: it works and the receiver sees the host's address on the receiver's side.
    Masquerade,
    /// `R`: it is answered with an ICMP port-unreachable by the host, and nothing arrives.
    Reject,
    /// `H`: half-open, it arrives and the answer does not.
    HalfOpen,
}

/// The table. Rows are sources, columns destinations, by names of networks, outside hosts, `host`.
#[derive(Debug)]
pub struct Expected {
    rows: Vec<String>,
    columns: Vec<String>,
    cells: BTreeMap<(String, String), Cell>,
}

impl Expected {
    /// Reads a table: a line of columns, then one line for each row. `-` is no pair.
    ///
    /// # Panics
    /// If it is not a table.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let header = lines.next().unwrap_or_default();
        let columns: Vec<String> = header.split_whitespace().map(str::to_owned).collect();
        let (mut rows, mut cells) = (Vec::new(), BTreeMap::new());
        for line in lines {
            let mut words = line.split_whitespace();
            let row = words.next().unwrap_or_default().to_owned();
            let letters: Vec<&str> = words.collect();
            assert_eq!(letters.len(), columns.len(), "{line}");
            for (column, letter) in columns.iter().zip(letters) {
                let cell = match letter {
                    "A" => Cell::Accept,
                    "A*" => Cell::Masquerade,
                    "R" => Cell::Reject,
                    "H" => Cell::HalfOpen,
                    "-" => continue,
                    other => panic!("`{other}` in {line}"),
                };
                cells.insert((row.clone(), column.clone()), cell);
            }
            rows.push(row);
        }
        Self { rows, columns, cells }
    }

    /// The names of the rows.
    #[must_use]
    pub fn rows(&self) -> &[String] {
        &self.rows
    }

    /// The names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// What it says of a pair, if it is one.
    #[must_use]
    pub fn cell(&self, row: &str, column: &str) -> Option<Cell> {
        self.cells.get(&(row.to_owned(), column.to_owned())).copied()
    }
}

impl Cell {
    /// Its letter.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Accept => "A",
            Self::Masquerade => "A*",
            Self::Reject => "R",
            Self::HalfOpen => "H",
        }
    }
}
