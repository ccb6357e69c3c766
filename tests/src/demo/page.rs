//! The page on the terminal: headings, checks as they are made, and the last line.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;

/// Columns of what a check says of its subject, so that the results stand in line.
const SUBJECT: usize = 44;

/// What a check has found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) passed: bool,
    pub(super) text: String,
}

impl Finding {
    pub(super) fn new(passed: bool, text: impl Into<String>) -> Self {
        Self { passed, text: text.into() }
    }
}

/// The page; any thread may write to it.
#[derive(Debug)]
pub(super) struct Page {
    colour: bool,
    /// Whether a line can be replaced by a later one.
    live: bool,
    started: Instant,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    passed: usize,
    failed: Vec<String>,
    /// A line without an end is on the terminal.
    pending: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

impl Page {
    pub(super) fn on_stdout() -> Self {
        let live = io::stdout().is_terminal() && env::var_os("TERM").is_some_and(|t| t != "dumb");
        let colour = live && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour, live, started: Instant::now(), record: Mutex::default() }
    }

    /// A title with an empty line above.
    pub(super) fn heading(&self, title: &str) {
        self.print(&format!("\n{}\n", self.paint(Colour::Bold, title)));
    }

    /// Lines as they are.
    pub(super) fn text(&self, text: &str) {
        self.print(&format!("{}\n", text.trim_end()));
    }

    /// Says what is being done while `work` does it; nothing remains of that.
    pub(super) fn meanwhile<T>(&self, doing: &str, work: impl FnOnce() -> T) -> T {
        self.pending(doing);
        let result = work();
        self.print("");
        result
    }

    /// A check with a line of its own. An error is a failure and its text the finding.
    pub(super) fn check(&self, subject: &str, work: impl FnOnce() -> Result<Finding>) {
        self.pending(subject);
        let Finding { passed, text } =
            work().unwrap_or_else(|error| Finding::new(false, format!("{error:#}")));
        self.line(subject, passed, &text);
    }

    /// A check that has passed already.
    pub(super) fn passed(&self, subject: &str, text: &str) {
        self.line(subject, true, text);
    }

    /// A check that is shown elsewhere; a failure is repeated at the end.
    pub(super) fn count(&self, subject: &str, Finding { passed, text }: Finding) {
        let mut record = self.lock();
        if passed {
            record.passed += 1;
        } else {
            record.failed.push(format!("{subject}: {text}"));
        }
    }

    /// The demonstration could not go on.
    pub(super) fn failure(&self, reason: &str) {
        self.line("the demonstration", false, reason);
    }

    /// The last line, and what failed if anything did.
    pub(super) fn conclude(&self) -> ExitCode {
        let record = self.lock();
        let seconds = self.started.elapsed().as_secs_f32();
        let (last, code) = if record.failed.is_empty() {
            let text = format!("demo: all {} checks passed", record.passed);
            (format!("{} ({seconds:.1} s)", self.paint(Colour::Green, &text)), ExitCode::SUCCESS)
        } else {
            let (failed, all) = (record.failed.len(), record.failed.len() + record.passed);
            let text = format!("demo: {failed} of {all} checks failed:");
            let list = record.failed.join("\n  ");
            (format!("{}\n  {list}", self.paint(Colour::Red, &text)), ExitCode::FAILURE)
        };
        write(&format!("\n{last}\n"));
        code
    }

    /// From now on only the holder of the result prints.
    pub(super) fn take_over(&self) -> MutexGuard<'_, Record> {
        let mut record = self.lock();
        self.end_pending(&mut record);
        record
    }

    /// The text, in colour if the terminal has any.
    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        // ISO 6429, Select Graphic Rendition.
        let code = match colour {
            Colour::Bold => "1",
            Colour::Dim => "2",
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "1;31",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[m") } else { text.to_owned() }
    }

    fn line(&self, subject: &str, passed: bool, text: &str) {
        let (word, colour) =
            if passed { ("ok    ", Colour::Green) } else { ("FAILED", Colour::Red) };
        let (word, shown) =
            (self.paint(colour, word), text.trim_end().replace('\n', "\n         "));
        self.print(&format!("  {word} {subject:<SUBJECT$} {shown}\n"));
        self.count(subject, Finding::new(passed, text.lines().next().unwrap_or_default()));
    }

    fn pending(&self, doing: &str) {
        if self.live {
            self.print("");
            write(&format!("  {}", self.paint(Colour::Dim, &format!("...    {doing}"))));
            self.lock().pending = true;
        }
    }

    fn print(&self, text: &str) {
        let mut record = self.lock();
        self.end_pending(&mut record);
        write(text);
    }

    fn end_pending(&self, record: &mut Record) {
        if std::mem::take(&mut record.pending) && self.live {
            // Back to the first column, erase the line.
            write("\r\x1b[K");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader that has gone away (`| head`) does not stop the checks.
pub(super) fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
