//! Definitions that nobody would write on purpose.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::{fs, path::Path, sync::LazyLock};

use proptest::prelude::*;
use support::files;
use vnet::definition::{self, Loaded, Severity, SourceId};

static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let files = files("valid").into_iter().chain(files("broken"));
    files.map(|file| fs::read(file).unwrap()).collect()
});

/// Pieces that definitions are made of, and pieces that break them.
const PIECES: [&str; 24] = [
    "<",
    ">",
    "/>",
    "</ip>",
    "<ip ",
    "<network>",
    "'",
    "\"",
    "&",
    "&#10;",
    "&#x202e;",
    "]]>",
    "<!--",
    "<![CDATA[",
    "<?xml?>",
    "='",
    "\u{fffd}",
    "\t",
    "\r\n",
    "4294967296",
    "::",
    "/33",
    "<portgroup name='a' default='yes'/>",
    "xmlns:x='y' ",
];

#[derive(Debug, Clone)]
enum Change {
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize, prop::sample::Index),
    Replace(prop::sample::Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    use prop::sample::Index;
    prop_oneof![
        (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<Index>(), 0..PIECES.len()).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (any::<Index>(), 1..200_usize, any::<Index>())
            .prop_map(|(at, length, to)| Change::Repeat(at, length, to)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let slots = bytes.len() + 1;
    match change {
        Change::Remove(at, length) => {
            let at = at.index(slots);
            bytes.drain(at..(at + length).min(slots - 1));
        }
        Change::Insert(at, piece) => {
            let at = at.index(slots);
            bytes.splice(at..at, PIECES[*piece].bytes());
        }
        Change::Repeat(at, length, to) => {
            let at = at.index(slots);
            let piece = bytes[at..(at + length).min(slots - 1)].to_vec();
            let to = to.index(slots);
            bytes.splice(to..to, piece);
        }
        Change::Replace(at, byte) => {
            let at = at.index(slots);
            if let Some(place) = bytes.get_mut(at) {
                *place = *byte;
            }
        }
    }
}

/// Whatever the text, it is a network or an error, and every position is in the text.
fn examine(text: &str) -> Loaded {
    let loaded = definition::load_text(Path::new("net.xml"), text);
    assert_eq!(loaded.networks.len(), usize::from(!loaded.report.has_errors()), "{text}");
    let rendered = loaded.report.render(Severity::Note);
    assert_eq!(rendered.is_empty(), loaded.report.diagnostics().is_empty());
    assert!(!rendered.chars().any(|c| c.is_control() && c != '\n'), "{rendered:?}");
    for diagnostic in loaded.report.diagnostics() {
        let source: SourceId = diagnostic.span.source;
        let Some(bytes) = &diagnostic.span.bytes else { continue };
        let text = loaded.report.sources().get(source).text().unwrap();
        assert!(text.get(bytes.clone()).is_some(), "{diagnostic:?} in {text}");
    }
    loaded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_definitions_never_panic(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let mut bytes = file.get(&CORPUS).clone();
        for change in &changes {
            apply(&mut bytes, change);
        }
        examine(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_value_of_any_attribute_never_panics(
        value in "[^<&'\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}\u{fffe}\u{ffff}]{0,30}",
        which in any::<prop::sample::Index>(),
    ) {
        const EVERYTHING: &str = include_str!("corpus/valid/nat-everything.xml");
        let quoted: Vec<(usize, &str)> = EVERYTHING.split('\'').enumerate().collect();
        let slots: Vec<usize> = quoted.iter().map(|(at, _)| *at).filter(|at| at % 2 == 1).collect();
        let changed = which.get(&slots);
        let text: Vec<&str> = quoted
            .iter()
            .map(|(at, part)| if at == changed { value.as_str() } else { part })
            .collect();
        examine(&text.join("'"));
    }
}

#[test]
fn deep_nesting_is_no_danger() {
    let (open, close) = ("<a>".repeat(40_000), "</a>".repeat(40_000));
    let inside = |parent: &str| {
        format!(
            "<network><name>n</name><forward/><bridge name='b'/><ip address='10.0.0.1'/><{parent}>{open}{close}</{parent}></network>"
        )
    };
    assert!(!examine(&inside("metadata")).report.has_errors());
    assert!(!examine(&inside("description")).report.has_errors());
    assert!(!examine(&inside("dns")).report.has_errors());
    assert!(examine(&open).report.has_errors());
    assert!(examine(&format!("{open}{close}")).report.has_errors());
}

#[test]
fn too_many_attributes_are_refused_at_once() {
    let attributes: Vec<String> = (0..100_000).map(|number| format!("a{number}=''")).collect();
    let loaded = examine(&format!("<network>\n<!-- ' --><a {}/></network>", attributes.join(" ")));
    assert_eq!(loaded.report.diagnostics().len(), 1);
    assert_eq!(loaded.report.diagnostics()[0].message, "this tag has more than 256 attributes");
    assert!(loaded.report.render(Severity::Error).contains(" --> net.xml:2:11\n"));
}

#[test]
fn too_many_elements_are_refused() {
    let loaded = examine(&format!("<network>{}</network>", "<a/>".repeat(200_000)));
    assert_eq!(
        loaded.report.render(Severity::Error),
        "error: file has more than 100000 elements and texts\n  --> net.xml\n"
    );
}

#[test]
fn long_lists_of_problems_are_cut_and_stay_errors() {
    let text = format!(
        "<network><name>n</name><bridge name='b'/>{}<mtu size='x'/></network>",
        "<x/>".repeat(500)
    );
    let loaded = examine(&text);
    assert_eq!(loaded.report.diagnostics().len(), 101);
    let last = loaded.report.diagnostics().last().unwrap();
    assert_eq!(last.message, "401 more problems from here on are not listed");
    assert_eq!(last.severity, Severity::Error);
}
