//! Diagnostics as text for people and as entries for programs.

use std::{fmt::Write as _, ops::Range, path::Path};

use serde::Serialize;
use unicode_width::UnicodeWidthChar;

use super::{
    diagnostic::{Diagnostic, Report, Severity, Span},
    source::Source,
};

/// The most columns of a source line that are shown.
const WIDTH_LIMIT: usize = 120;
/// The columns kept before the caret in a line that is cut.
const CONTEXT: usize = 30;
const TAB: &str = "    ";
const CUT: &str = "...";

/// A problem as an entry of JSON output.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    severity: Severity,
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    message: &'a str,
    label: Option<&'a str>,
    help: Option<&'a str>,
}

impl Report {
    /// The problems at least as grave as `least`, each with the line it is in and a caret, as
    /// text that ends in a newline; empty if there are none.
    #[must_use]
    pub fn render(&self, least: Severity) -> String {
        let mut out = String::new();
        for diagnostic in self.diagnostics().iter().filter(|entry| entry.severity <= least) {
            if !out.is_empty() {
                out.push('\n');
            }
            self.render_one(diagnostic, &mut out);
        }
        out
    }

    /// Every problem as an entry of JSON output.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.diagnostics().iter().map(|diagnostic| {
            let source = self.sources().get(diagnostic.span.source);
            let position = diagnostic.span.bytes.as_ref().map(|bytes| source.position(bytes.start));
            Entry {
                severity: diagnostic.severity,
                file: source.path().display().to_string(),
                line: position.map(|(line, _)| line),
                column: position.map(|(_, column)| column),
                message: &diagnostic.message,
                label: diagnostic.label.as_deref(),
                help: diagnostic.help.as_deref(),
            }
        })
    }

    /// `file:line:column`, or the file alone.
    #[must_use]
    pub fn position(&self, span: &Span) -> String {
        let source = self.sources().get(span.source);
        let path = visible_path(source.path());
        match &span.bytes {
            Some(bytes) => {
                let (line, column) = source.position(bytes.start);
                format!("{path}:{line}:{column}")
            }
            None => path,
        }
    }

    fn render_one(&self, diagnostic: &Diagnostic, out: &mut String) {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let source = self.sources().get(diagnostic.span.source);
        let line = diagnostic.span.bytes.as_ref().map(|bytes| source.position(bytes.start).0);
        let gutter = line.map_or(1, |line| line.to_string().len());
        let mut text = format!(
            "{severity}: {}\n {:gutter$}--> {}\n",
            diagnostic.message,
            "",
            self.position(&diagnostic.span)
        );
        if let (Some(line), Some(bytes)) = (line, &diagnostic.span.bytes) {
            let (shown, caret) = excerpt(source, line, bytes);
            let label = diagnostic.label.as_deref().unwrap_or_default();
            let _ = write!(
                text,
                " {:gutter$} |\n {line} | {shown}\n {:gutter$} | {:indent$}{} {label}",
                "",
                "",
                "",
                "^".repeat(caret.len()),
                indent = caret.start,
            );
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        if let Some(related) = &diagnostic.related {
            let position = self.position(&related.span);
            let _ = writeln!(text, " {:gutter$} = note: {} {position}", "", related.what);
        }
        if let Some(help) = &diagnostic.help {
            let _ = writeln!(text, " {:gutter$} = help: {help}", "");
        }
        out.push_str(&text);
    }
}

/// A value from a file, made fit to stand in a one-line message.
pub(super) fn visible(value: &str) -> String {
    const LIMIT: usize = 60;
    let mut shown: String = value.chars().take(LIMIT).map(printable).collect();
    if value.chars().nth(LIMIT).is_some() {
        shown.push_str(CUT);
    }
    shown
}

fn visible_path(path: &Path) -> String {
    path.display().to_string().chars().map(printable).collect()
}

/// Terminal control and text direction characters would let a file rewrite its own report.
fn printable(character: char) -> char {
    match character {
        '\n' | '\r' | '\t' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ if character.is_control() => '\u{fffd}',
        _ => character,
    }
}

/// The line as it is shown and the columns of it to underline.
fn excerpt(source: &Source, line: usize, bytes: &Range<usize>) -> (String, Range<usize>) {
    let (text, offset) = source.line(line);
    let mut cells: Vec<(char, usize)> = Vec::new();
    let (mut column, mut start, mut end) = (0, None, None);
    for (at, character) in text.char_indices() {
        if at + offset >= bytes.start {
            start.get_or_insert(column);
        }
        if at + offset >= bytes.end {
            end.get_or_insert(column);
        }
        if character == '\t' {
            cells.extend(TAB.chars().map(|space| (space, 1)));
            column += TAB.len();
        } else {
            let shown = printable(character);
            let width = shown.width().unwrap_or(0);
            cells.push((shown, width));
            column += width;
        }
    }
    let start = start.unwrap_or(column);
    let end = end.unwrap_or(column).max(start + 1);
    if column <= WIDTH_LIMIT {
        return (cells.into_iter().map(|(character, _)| character).collect(), start..end);
    }
    cut(&cells, column, start..end)
}

/// The part of a long line around the caret.
fn cut(cells: &[(char, usize)], width: usize, caret: Range<usize>) -> (String, Range<usize>) {
    let from = if caret.end <= WIDTH_LIMIT { 0 } else { caret.start.saturating_sub(CONTEXT) };
    let to = (from + WIDTH_LIMIT).min(width);
    let (mut shown, mut column, mut shift) = (String::new(), 0, None);
    if from > 0 {
        shown.push_str(CUT);
    }
    for &(character, width) in cells {
        if column >= from && column + width <= to {
            shift.get_or_insert(column);
            shown.push(character);
        }
        column += width;
    }
    if to < width {
        shown.push_str(CUT);
    }
    let lead = if from > 0 { CUT.len() } else { 0 };
    let shift = shift.unwrap_or(from);
    let start = caret.start - shift + lead;
    let end = caret.end.min(to).max(caret.start + 1) - shift + lead;
    (shown, start..end)
}
