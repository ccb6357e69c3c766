//! `vnet check` beside libvirt's own verdict on some six hundred definitions.
//!
//! Each file in `corpus/libvirt` is a list of cases: a name, what the network driver of libvirt
//! 9.0.0 said to `virsh -c network:///system net-define`, the definition, and below `---` what
//! `vnet check` says, without notes. Where the two disagree, `because:` says why.
//! `BLESS=1` writes vnet's part anew.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::{fmt::Write as _, fs, path::PathBuf};

use support::corpus;
use vnet::definition::{self, Report, Severity};

struct Case<'a> {
    name: &'a str,
    /// Everything above `---`, as it is written.
    head: &'a str,
    accepted: bool,
    because: Option<&'a str>,
    definition: &'a str,
    expected: &'a str,
}

impl<'a> Case<'a> {
    fn read(text: &'a str) -> Self {
        let (head, expected) = text.split_once("---\n").unwrap();
        let (name, rest) = head.split_once('\n').unwrap();
        let (verdict, rest) = rest.split_once('\n').unwrap();
        let (because, definition) = match rest.strip_prefix("because: ") {
            Some(rest) => {
                let (because, definition) = rest.split_once('\n').unwrap();
                (Some(because), definition)
            }
            None => (None, rest),
        };
        let accepted = match verdict.strip_prefix("libvirt: ").unwrap() {
            "accepted" => true,
            refused => refused.strip_prefix("refused, ").map(|_| false).unwrap(),
        };
        Self { name, head, accepted, because, definition, expected: expected.trim_end() }
    }

    fn check(&self) -> Report {
        definition::load_text("n.xml".as_ref(), self.definition).report
    }
}

fn files() -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> =
        corpus().join("libvirt").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

fn cases(text: &str) -> impl Iterator<Item = Case<'_>> {
    text.split("=== ").skip(1).map(Case::read)
}

/// One line for each error and warning.
fn said(report: &Report) -> String {
    let mut said = String::new();
    for diagnostic in report.diagnostics() {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => continue,
        };
        let position = report.position(&diagnostic.span).replace("n.xml:", "");
        let _ = write!(said, "{position} {severity}: {}", diagnostic.message);
        for part in [&diagnostic.label, &diagnostic.help].into_iter().flatten() {
            let _ = write!(said, " | {part}");
        }
        said.push('\n');
    }
    said.trim_end().to_owned()
}

#[test]
fn what_libvirt_refuses_is_refused_and_what_it_accepts_is_accepted() {
    let mut count = 0;
    let mut wrong = String::new();
    for (_, text) in files() {
        for case in cases(&text) {
            count += 1;
            let accepted = !case.check().has_errors();
            if (accepted == case.accepted) == case.because.is_some() {
                let _ = writeln!(
                    wrong,
                    "{}: accepted by vnet {accepted}, by libvirt {}, because {:?}",
                    case.name, case.accepted, case.because
                );
            }
        }
    }
    assert_eq!(wrong, "");
    assert!(count >= 500, "only {count} cases");
}

#[test]
fn every_case_is_answered_in_these_words() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = String::new();
    for (file, text) in files() {
        let mut blessed = Vec::new();
        for case in cases(&text) {
            let said = said(&case.check());
            if said != case.expected {
                let _ = writeln!(wrong, "{}:\n- {}\n+ {said}", case.name, case.expected);
            }
            let end = if said.is_empty() { "" } else { "\n" };
            blessed.push(format!("=== {}---\n{said}{end}", case.head));
        }
        if bless {
            fs::write(&file, blessed.join("\n")).unwrap();
        }
    }
    assert!(bless || wrong.is_empty(), "{wrong}");
}
