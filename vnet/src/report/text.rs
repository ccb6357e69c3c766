//! Numbers and tables as people read them.

use std::time::Duration;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets::NOTHING};

/// A count, exact below 10 000, else rounded down to three digits and a power of 1000, as
/// `ip -human` does.
pub fn count(value: u64) -> String {
    const SUFFIXES: [char; 6] = ['k', 'M', 'G', 'T', 'P', 'E'];
    if value < 10_000 {
        return value.to_string();
    }
    let mut thousandth = 1;
    let mut suffixes = SUFFIXES.into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    while value / thousandth >= 1_000_000 {
        thousandth *= 1000;
        suffix = suffixes.next().unwrap_or_default();
    }
    let thousandths = value / thousandth;
    let (whole, rest) = (thousandths / 1000, thousandths % 1000);
    match whole {
        0..10 => format!("{whole}.{:02}{suffix}", rest / 10),
        10..100 => format!("{whole}.{}{suffix}", rest / 100),
        _ => format!("{whole}{suffix}"),
    }
}

/// A time span by its two largest units, rounded down.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A column of a table: its heading and the side to which its cells lean.
pub struct Column(&'static str, CellAlignment);

/// A column of words.
pub const fn words(heading: &'static str) -> Column {
    Column(heading, CellAlignment::Left)
}

/// A column of numbers.
pub const fn numbers(heading: &'static str) -> Column {
    Column(heading, CellAlignment::Right)
}

/// A table without lines. Words are wrapped if it would be wider than `width` characters.
pub fn table(
    columns: &[Column],
    width: Option<u16>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if let Some(width) = width {
        table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(columns.iter().map(|Column(heading, _)| *heading)).add_rows(rows);
    let last = columns.len().saturating_sub(1);
    for (index, (column, Column(_, alignment))) in table.column_iter_mut().zip(columns).enumerate()
    {
        column.set_padding((0, if index == last { 0 } else { 2 }));
        column.set_cell_alignment(*alignment);
        if *alignment == CellAlignment::Right {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits() {
        for (value, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0k"),
            (12_345, "12.3k"),
            (123_456, "123k"),
            (999_999, "999k"),
            (1_000_000, "1.00M"),
            (1_239_999, "1.23M"),
            (45_678_900_000, "45.6G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3_599, "59m59s"),
            (3_661, "1h01m"),
            (86_399, "23h59m"),
            (90_000, "1d01h"),
            (40_000_000, "462d23h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_table_has_no_trailing_spaces_and_leans_numbers_right() {
        let rows = [["a", "1"], ["longer", "100"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&[words("NAME"), numbers("N")], None, rows),
            "NAME      N\na         1\nlonger  100\n"
        );
    }
}
