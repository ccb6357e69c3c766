//! The reachability table, as data and as text.

use std::fmt::{self, Write as _};

/// Columns of a row's name, and of a cell.
const NAME: usize = 12;
const CELL: usize = 20;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// An answer.
    Reached,
    /// Somebody said no: an ICMP error, or a TCP reset.
    Refused,
    /// Nothing in time.
    Silence,
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reached => "ok",
            Self::Refused => "refused",
            Self::Silence => "no answer",
        })
    }
}

/// How one node reaches another, and whether it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) ping: Answer,
    pub(super) tcp: Answer,
    pub(super) promised: bool,
}

impl Cell {
    /// Whether the network's mode is kept: both ways work, or neither does.
    pub(super) fn is_kept(self) -> bool {
        [self.ping, self.tcp].iter().all(|&answer| (answer == Answer::Reached) == self.promised)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ping == self.tcp {
            write!(formatter, "{}", self.ping)?;
        } else {
            write!(formatter, "{}, TCP {}", self.ping, self.tcp)?;
        }
        if self.is_kept() { Ok(()) } else { formatter.write_str(" (!)") }
    }
}

/// Rows are the nodes that ask, columns those that are asked; a node does not ask itself.
/// `paint` may add escape sequences to a cell's text.
pub(super) fn render(
    names: &[&str],
    cells: &[Vec<Option<Cell>>],
    paint: impl Fn(Option<Cell>, &str) -> String,
) -> String {
    let mut text = format!("  {:<NAME$}", "from \\ to");
    for name in names {
        // Writing to a string does not fail.
        let _ = write!(text, "{name:<CELL$}");
    }
    for (name, row) in names.iter().zip(cells) {
        let _ = write!(text.truncate_end(), "\n  {name:<NAME$}");
        for &cell in row {
            let shown = cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string());
            let padding = " ".repeat(CELL.saturating_sub(shown.len()));
            let _ = write!(text, "{}{padding}", paint(cell, &shown));
        }
    }
    text.truncate_end();
    text
}

trait TruncateEnd {
    /// Removes blanks at the end.
    fn truncate_end(&mut self) -> &mut Self;
}

impl TruncateEnd for String {
    fn truncate_end(&mut self) -> &mut Self {
        self.truncate(self.trim_end().len());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(ping: Answer, tcp: Answer, promised: bool) -> Cell {
        Cell { ping, tcp, promised }
    }

    #[test]
    fn table_has_a_row_for_who_asks_and_a_column_for_who_is_asked() {
        use Answer::{Reached, Refused, Silence};
        let cells = [
            vec![None, Some(cell(Reached, Reached, true)), Some(cell(Silence, Reached, true))],
            vec![Some(cell(Refused, Refused, false)), None, Some(cell(Reached, Refused, false))],
            vec![Some(cell(Silence, Silence, false)), Some(cell(Silence, Silence, true)), None],
        ];
        let text = render(&["guest1", "host", "outside"], &cells, |_, text| text.to_owned());
        assert_eq!(
            text,
            "  from \\ to   guest1              host                outside
  guest1      -                   ok                  no answer, TCP ok (!)
  host        refused             -                   ok, TCP refused (!)
  outside     no answer           no answer (!)       -"
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let cells =
            [vec![None, Some(cell(Answer::Reached, Answer::Reached, true))], vec![None, None]];
        let text = render(&["a", "b"], &cells, |_, text| format!("<{text}>"));
        let plain = render(&["a", "b"], &cells, |_, text| text.to_owned());
        assert_eq!(text.replace(['<', '>'], ""), plain);
    }

    #[test]
    fn mode_is_kept_only_if_ping_and_tcp_agree_with_it() {
        use Answer::{Reached, Refused, Silence};
        let kept = |ping, tcp, promised| cell(ping, tcp, promised).is_kept();
        assert!(kept(Reached, Reached, true));
        assert!(!kept(Reached, Silence, true));
        assert!(!kept(Refused, Reached, true));
        assert!(kept(Refused, Silence, false));
        assert!(!kept(Refused, Reached, false));
    }
}
