//! Every element and attribute of libvirt's schema has a decision: `corpus/schema.txt`.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use roxmltree::{Document, Node};
use support::{corpus, files};
use vnet::definition::{self, Severity};

struct Row<'a> {
    /// Not yet in the schema of libvirt 9.0.
    later: bool,
    path: &'a str,
    decision: &'a str,
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (later, line) = match line.strip_prefix("+ ") {
                Some(line) => (true, line),
                None => (false, line),
            };
            let (path, decision) = line.split_once(' ').unwrap();
            Row { later, path, decision: decision.trim() }
        })
        .collect()
}

fn table() -> String {
    fs::read_to_string(corpus().join("schema.txt")).unwrap()
}

fn path_of(node: Node) -> String {
    let mut names: Vec<&str> = node
        .ancestors()
        .filter(Node::is_element)
        .map(|element| element.tag_name().name())
        .collect();
    names.reverse();
    names.join("/")
}

/// The paths of all elements and attributes in a definition, but not of what is in `<metadata>`.
fn paths(document: &Document) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for node in document.descendants().filter(Node::is_element) {
        let path = path_of(node);
        if path.contains("/metadata/") {
            continue;
        }
        paths.extend(node.attributes().map(|attribute| format!("{path}/@{}", attribute.name())));
        paths.insert(path);
    }
    paths
}

/// The path of what begins at a byte of a definition.
fn path_at(document: &Document, at: usize) -> String {
    let around = |node: &Node| node.is_element() && node.range().contains(&at);
    let node = document.descendants().rfind(around).unwrap();
    let path = path_of(node);
    match node.attributes().find(|attribute| attribute.range().start == at) {
        Some(attribute) => format!("{path}/@{}", attribute.name()),
        None => path,
    }
}

/// Whether a message is about a network as a whole, wherever it stands.
fn whole(message: &str) -> bool {
    message.starts_with("not served by vnet")
}

/// Whether one of two paths leads to what is around the other.
fn related(one: &str, other: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
    };
    within(one, other) || within(other, one)
}

#[test]
fn every_decision_is_what_check_says() {
    let table = table();
    let cases: String = corpus()
        .join("libvirt")
        .read_dir()
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let definitions: Vec<_> = files("valid")
        .into_iter()
        .filter(|file| file.file_stem().unwrap() != "unknown-names")
        .map(|file| (fs::read_to_string(&file).unwrap(), definition::load(&[file]).report))
        .collect();
    let definitions: Vec<_> = definitions
        .iter()
        .map(|(text, report)| {
            let document = Document::parse(text).unwrap();
            let said: Vec<(Severity, &str, String)> = report
                .diagnostics()
                .iter()
                .map(|entry| {
                    let at = entry.span.bytes.as_ref().unwrap().start;
                    (entry.severity, entry.message.as_str(), path_at(&document, at))
                })
                .collect();
            (paths(&document), said)
        })
        .collect();

    let mut wrong = String::new();
    for Row { path, decision, .. } in rows(&table) {
        if let Some(text) = decision.strip_prefix("refused: ") {
            if !cases.contains(&format!("error: {text}")) {
                let _ = writeln!(wrong, "{path}: no case is refused with: {text}");
            }
            continue;
        }
        let holding: Vec<_> =
            definitions.iter().filter(|(paths, _)| paths.contains(path)).collect();
        if holding.is_empty() {
            let _ = writeln!(wrong, "{path}: in no definition of corpus/valid");
            continue;
        }
        let (severity, text) = if let Some(text) = decision.strip_prefix("warning: ") {
            (Severity::Warning, text)
        } else if let Some(text) = decision.strip_prefix("note: ") {
            (Severity::Note, text)
        } else {
            assert!(matches!(decision, "implemented" | "libvirt"), "{path}: {decision}");
            let named = |(severity, message, at): &(Severity, &str, String)| {
                *severity == Severity::Error
                    || (*at == path && message.contains("unknown") | message.contains("ignored"))
            };
            if holding.iter().any(|(_, said)| said.iter().any(named)) {
                let _ = writeln!(wrong, "{path}: is {decision}, but check says otherwise");
            }
            continue;
        };
        // These stand at an attribute that is there in any case, beside what they are about.
        let beside = |at: &str| {
            let end = ["/@mode", "/@name"].iter().find_map(|end| at.strip_suffix(end));
            related(path, end.unwrap_or(at))
        };
        let told = holding.iter().any(|(_, said)| {
            said.iter().any(|(grave, message, at)| {
                *grave == severity && *message == text && (whole(message) || beside(at))
            })
        });
        if !told {
            let _ = writeln!(wrong, "{path}: check does not say: {decision}");
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn table_is_the_schema_of_libvirt() {
    let directory = std::env::var("LIBVIRT_SCHEMAS")
        .unwrap_or_else(|_| "/usr/share/libvirt/schemas".to_owned());
    let directory = Path::new(&directory);
    if !directory.join("network.rng").exists() {
        println!(
            "skipped: {} has no network.rng (package libvirt0; LIBVIRT_SCHEMAS names another place)",
            directory.display()
        );
        return;
    }
    let texts: Vec<String> = ["network.rng", "networkcommon.rng", "basictypes.rng"]
        .iter()
        .map(|name| fs::read_to_string(directory.join(name)).unwrap())
        .collect();
    let documents: Vec<_> = texts.iter().map(|text| Document::parse(text).unwrap()).collect();
    let mut schema = BTreeSet::new();
    let start = definition_of(&documents, "network").unwrap();
    collect(&documents, start, "", &mut schema);

    let table = table();
    let rows = rows(&table);
    let known: BTreeSet<String> = rows.iter().map(|row| row.path.to_owned()).collect();
    assert_eq!(known.len(), rows.len(), "a path is in the table twice");
    let missing: Vec<_> = schema.difference(&known).collect();
    assert!(missing.is_empty(), "in the schema, not in the table: {missing:#?}");
    let required: BTreeSet<String> =
        rows.iter().filter(|row| !row.later).map(|row| row.path.to_owned()).collect();
    let invented: Vec<_> = required.difference(&schema).collect();
    assert!(invented.is_empty(), "in the table, not in the schema: {invented:#?}");
}

fn definition_of<'a>(documents: &'a [Document<'a>], name: &str) -> Option<Node<'a, 'a>> {
    documents
        .iter()
        .flat_map(|document| document.root_element().children())
        .find(|node| node.tag_name().name() == "define" && node.attribute("name") == Some(name))
}

/// Follows a pattern of RELAX NG, as far as it names elements and attributes.
fn collect(documents: &[Document], pattern: Node, path: &str, paths: &mut BTreeSet<String>) {
    for node in pattern.children().filter(Node::is_element) {
        let name = node.attribute("name").unwrap_or_default();
        match node.tag_name().name() {
            "element" => {
                let inner =
                    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
                paths.insert(inner.clone());
                if name != "metadata" {
                    collect(documents, node, &inner, paths);
                }
            }
            "attribute" => {
                paths.insert(format!("{path}/@{name}"));
            }
            "ref" => {
                if let Some(definition) = definition_of(documents, name) {
                    collect(documents, definition, path, paths);
                }
            }
            _ => collect(documents, node, path, paths),
        }
    }
}
