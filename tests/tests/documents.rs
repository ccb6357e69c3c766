//! What documents name can be found: the files that they link to; and of `docs/nat.md` the tests, with no requirement
//! left out.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each document's requirements, as the table below its heading has them, parts of them aside.
const REQUIREMENTS: [(&str, &[&str]); 5] = [
    ("RFC 4787", &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14"]),
    ("RFC 5382", &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]),
    ("RFC 5508", &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]),
    (
        "RFC 6888",
        &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"],
    ),
    ("RFC 7857", &["2", "2.1", "2.2", "3", "4", "5", "6", "7", "7.1", "8", "9", "10", "11", "12"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page() -> String {
    fs::read_to_string(root().join("docs/nat.md")).unwrap()
}

/// The cells of each row of the tables below a heading that begins with `heading`.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let section = page.lines().skip_while(|line| {
        !line.trim_start_matches('#').trim_start().starts_with(heading) || !line.starts_with('#')
    });
    let section = section.skip(1).take_while(|line| !line.starts_with('#'));
    let table = section.filter(|line| line.starts_with('|'));
    // A heading and a line of dashes come first.
    table.skip(2).map(|line| line.trim_matches('|').split('|').map(cell).collect()).collect()
}

fn cell(text: &str) -> String {
    text.trim().to_owned()
}

/// The names in backquotes that have the form of a test's.
fn tests_in(text: &str) -> Vec<&str> {
    let is_part_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let is_name = |text: &&str| text.contains("::") && text.chars().all(is_part_of_a_name);
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(is_name).collect()
}

/// The file that holds `module` of the test program or crate `program`, and the one that declares
/// that module.
fn files(program: &str, module: &[&str]) -> (PathBuf, PathBuf) {
    let (directory, main) = sources(program);
    // A unit test's own module stands in its file.
    match module.iter().filter(|module| **module != "tests").copied().collect::<Vec<_>>()[..] {
        [] => (main.clone(), main),
        [module] => (directory.join(module).with_extension("rs"), main),
        _ => panic!("{program}::{module:?}: modules in modules are not looked for"),
    }
}

/// The directory of a test program's or crate's modules, and its main file.
fn sources(program: &str) -> (PathBuf, PathBuf) {
    let root = root();
    if program == "vnet_common" {
        let directory = root.join("vnet-common/src");
        return (directory.clone(), directory.join("lib.rs"));
    }
    for package in ["tests", "vnet"] {
        let directory = root.join(package).join("tests").join(program);
        for main in [directory.join("main.rs"), directory.with_extension("rs")] {
            if main.is_file() {
                return (directory, main);
            }
        }
    }
    panic!("no test program is called {program}")
}

/// Panics unless the test is there.
fn assert_is_a_test(name: &str) {
    let parts: Vec<&str> = name.split("::").collect();
    let [program, module @ .., test] = &parts[..] else { panic!("{name} names no test program") };
    let (file, declaring) = files(program, module);
    let read = |path: &Path| {
        fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{name}: {}: {error}", path.display()))
    };
    if declaring != file {
        let module = module[0];
        let declared = read(&declaring).lines().any(|line| {
            let line = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            line == format!("mod {module};")
        });
        assert!(declared, "{name}: {} does not have that module", declaring.display());
    }
    let source = read(&file);
    let signature = format!("fn {test}(");
    let is_marked = |place: usize| source[..place].trim_end().ends_with("#[test]");
    let mut places = source.match_indices(&signature).map(|(place, _)| place);
    let is_there = places.any(is_marked);
    assert!(is_there, "docs/nat.md names {name}, which is no test of {}", file.display());
}

#[test]
fn every_test_that_the_page_on_nat_names_exists() {
    let page = page();
    let tests = tests_in(&page);
    assert!(tests.len() > 50, "{tests:?}");
    for test in tests {
        assert_is_a_test(test);
    }
}

#[test]
fn every_requirement_has_a_row_with_a_test_or_an_honest_no() {
    let page = page();
    for (document, requirements) in REQUIREMENTS {
        let rows = rows(&page, document);
        for row in &rows {
            let [number, asked, does, tests] = &row[..] else { panic!("{document}: {row:?}") };
            assert!(!number.is_empty() && !asked.is_empty() && !does.is_empty(), "{row:?}");
            let shown = !tests_in(tests).is_empty();
            assert!(shown || does.starts_with("**No**"), "{document} {number}: neither nor");
            let reason = does.trim_start_matches("**No**").trim_matches([' ', ':', ',']);
            assert!(!reason.is_empty(), "{document} {number}: no reason is given");
        }
        let is_part = |number: &str| number.ends_with(|last: char| last.is_ascii_lowercase());
        let numbers: Vec<&str> =
            rows.iter().map(|row| row[0].as_str()).filter(|number| !is_part(number)).collect();
        assert_eq!(numbers, requirements, "{document}");
    }
}

#[test]
fn every_row_on_what_works_behind_the_nat_says_how_or_why_not() {
    let page = page();
    let rows = rows(&page, "What works behind it");
    assert!(rows.len() >= 20, "{}", rows.len());
    for row in rows {
        let [what, verdict, how, _] = &row[..] else { panic!("{row:?}") };
        assert!(!what.is_empty() && !how.is_empty(), "{row:?}");
        let known =
            ["works", "not supported", "stays"].iter().any(|word| verdict.starts_with(word));
        assert!(known, "{row:?}");
    }
}

/// The documents of the repository.
fn documents() -> Vec<PathBuf> {
    let directories = [root(), root().join("docs")];
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let files = entries.map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The targets of links and pictures, but for what is code.
fn links(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    // What is between backquotes has odd numbers.
    let plain = lines.flat_map(|line| line.split('`').step_by(2));
    plain
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .collect()
}

#[test]
fn every_file_that_a_document_links_to_exists() {
    let documents = documents();
    assert!(documents.len() > 8, "{documents:?}");
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let is_there = document.parent().unwrap().join(file).exists();
            assert!(is_there, "{} links to {link}, which is not there", document.display());
        }
    }
}

#[test]
fn links_are_found_but_not_in_code() {
    let text = "[a](b.md#c), ![d](e/f.svg)\n```text\n[g](h)\n```\n`[i](j)` and [`k`](l)\n";
    assert_eq!(links(text), ["b.md#c", "e/f.svg", "l"]);
}
