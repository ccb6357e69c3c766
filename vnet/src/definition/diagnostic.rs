//! Problems found in definitions, and where they are.

use std::{fmt, ops::Range};

use serde::{Serialize, Serializer};

use super::source::{SourceId, Sources};

/// More problems than this in one file are counted, not listed.
const LISTED_PER_FILE: usize = 100;

/// How grave a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The definition is refused.
    Error,
    /// The definition is accepted, but does not do all that it says.
    Warning,
    /// Worth knowing; nothing is lost.
    Note,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The file.
    pub source: SourceId,
    /// Byte offsets in the file's text; none for the file as a whole.
    pub bytes: Option<Range<usize>>,
}

/// A value and where it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The attribute or element that holds it.
    pub span: Span,
}

/// A second place that explains a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// What is there, as the start of a sentence that the position ends.
    pub what: String,
    /// The place.
    pub span: Span,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How grave it is.
    pub severity: Severity,
    /// Where it is.
    pub span: Span,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands beside the caret.
    pub label: Option<String>,
    /// Another place that has to do with it.
    pub related: Option<Related>,
    /// What would be right.
    pub help: Option<String>,
}

/// The problems of one run, ready to be shown.
#[derive(Debug)]
pub struct Report {
    sources: Sources,
    diagnostics: Vec<Diagnostic>,
}

impl Span {
    /// The bytes `range` of a file.
    #[must_use]
    pub fn new(source: SourceId, range: Range<usize>) -> Self {
        Self { source, bytes: Some(range) }
    }

    /// The character at a byte offset.
    #[must_use]
    pub fn at(source: SourceId, offset: usize) -> Self {
        Self::new(source, offset..offset)
    }

    /// A file as a whole.
    #[must_use]
    pub fn whole(source: SourceId) -> Self {
        Self { source, bytes: None }
    }

    fn order(&self) -> (SourceId, usize) {
        (self.source, self.bytes.as_ref().map_or(0, |bytes| bytes.start))
    }
}

impl<T> Located<T> {
    /// The same place with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Located<U> {
        Located { value: f(self.value), span: self.span }
    }
}

impl<T: fmt::Display> fmt::Display for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A located value is written as the value alone.
impl<T: Serialize> Serialize for Located<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl Diagnostic {
    pub(super) fn new(severity: Severity, span: Span, message: impl Into<String>) -> Self {
        Self { severity, span, message: message.into(), label: None, related: None, help: None }
    }

    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, span, message)
    }

    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, span, message)
    }

    pub(super) fn note(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, span, message)
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn related(mut self, what: impl Into<String>, span: &Span) -> Self {
        self.related = Some(Related { what: what.into(), span: span.clone() });
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Report {
    pub(super) fn new(sources: Sources, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| (diagnostic.span.order(), diagnostic.severity));
        Self { sources, diagnostics: shorten(&diagnostics) }
    }

    /// Every problem, in the order of files and positions.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The files that the problems are in.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Whether any problem is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many problems are as grave as `severity`.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    pub(super) fn has_errors_in(&self, source: SourceId) -> bool {
        self.diagnostics.iter().any(|diagnostic| {
            diagnostic.severity == Severity::Error && diagnostic.span.source == source
        })
    }
}

/// Cuts each file's list at its limit; the last entry counts the rest and is as grave as they are.
fn shorten(diagnostics: &[Diagnostic]) -> Vec<Diagnostic> {
    let mut kept = Vec::with_capacity(diagnostics.len());
    for of_one_file in diagnostics.chunk_by(|a, b| a.span.source == b.span.source) {
        let (listed, rest) = of_one_file.split_at(of_one_file.len().min(LISTED_PER_FILE));
        kept.extend_from_slice(listed);
        if let Some((first, gravest)) =
            rest.first().zip(rest.iter().map(|diagnostic| diagnostic.severity).min())
        {
            kept.push(Diagnostic::new(
                gravest,
                first.span.clone(),
                format!("{} more problems from here on are not listed", rest.len()),
            ));
        }
    }
    kept
}
