//! `vnet doctor`: what on this host stands in vnet's way, and what mends it.

mod examine;
mod facts;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use serde::Serialize;

use crate::plan::beside::Advice;

pub use examine::examine;
pub use facts::{Facts, NetworkFacts, Service, gather};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// vnet works, but some packets may not get where they should.
    Warn,
    /// vnet does not work until it is mended.
    Fail,
}

/// What one check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// A command, or what to do.
    pub mend: Option<String>,
}

impl Finding {
    fn of(advice: &Advice) -> Self {
        let Advice { check, is_fatal, message, mend, .. } = advice.clone();
        let level = if is_fatal { Level::Fail } else { Level::Warn };
        Self { check, level, message, mend: Some(mend) }
    }

    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, message: message.into(), mend: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, message: message.into(), mend: Some(mend.into()) }
    }

    fn fail(check: &'static str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, message: message.into(), mend: Some(mend.into()) }
    }
}

/// The findings for people: a line each, and below it what mends it.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { check, level, message, mend } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        // A string takes everything.
        let _ = writeln!(text, "{level:4}  {check:width$}  {message}");
        if let Some(mend) = mend {
            let _ = writeln!(text, "{:1$}  {mend}", "", width + 6);
        }
    }
    text
}
