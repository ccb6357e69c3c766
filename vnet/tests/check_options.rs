//! The reference of vnet's own options (`docs/options.md`) and their schema.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::{fs, path::PathBuf, process::Command};

use support::{Scratch, files};
use vnet::definition::{self, Severity};

fn document(name: &str) -> PathBuf {
    repository().join("docs").join(name)
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The XML examples of the reference.
fn examples() -> Vec<String> {
    let text = fs::read_to_string(document("options.md")).unwrap();
    let blocks = text.split("```xml\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0.to_owned()).collect()
}

/// A NAT network around `<vnet:options>`, as the reference has it.
fn network(options: &str) -> String {
    format!(
        "<network><name>n</name><metadata>{options}</metadata><forward/><bridge name='b'/>
        <ip address='192.168.122.1' prefix='24'>
        <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>"
    )
}

/// The `<vnet:options>` of a text.
fn options(text: &str) -> Option<&str> {
    let (end, close) = (text.find("</vnet:options>")?, "</vnet:options>");
    Some(&text[text.find("<vnet:options")?..end + close.len()])
}

#[test]
fn examples_of_the_reference_are_right() {
    let examples = examples();
    assert_eq!(examples.len(), 8);
    for example in examples {
        let text = if example.starts_with("<network>") { example } else { network(&example) };
        let loaded = definition::load_text("n.xml".as_ref(), &text);
        assert!(!loaded.report.has_errors(), "{}", loaded.report.render(Severity::Error));
        assert!(loaded.networks[0].options.span.is_some(), "{text}");
    }
}

#[test]
fn reference_names_every_element_and_attribute() {
    let text = fs::read_to_string(document("options.md")).unwrap();
    let schema = fs::read_to_string(document("vnet-options.rng")).unwrap();
    let schema = roxmltree::Document::parse(&schema).unwrap();
    let names = schema
        .descendants()
        .filter(|node| matches!(node.tag_name().name(), "element" | "attribute"));
    let mut count = 0;
    for node in names {
        let name = node.attribute("name").unwrap();
        let shown = if node.has_tag_name((node.tag_name().namespace().unwrap(), "element")) {
            format!("<vnet:{name}")
        } else {
            format!("{name}='")
        };
        assert!(text.contains(&shown), "the reference does not show {shown}");
        count += 1;
    }
    assert_eq!(count, 35);
}

#[test]
fn schema_agrees_with_check() {
    if Command::new("xmllint").arg("--version").output().is_err() {
        println!("skipped: xmllint is not installed (package libxml2-utils)");
        return;
    }
    let scratch = Scratch::new("schema");
    let valid = |text: &str| {
        scratch.write("options.xml", text);
        let output = Command::new("xmllint")
            .args(["--noout", "--relaxng"])
            .arg(document("vnet-options.rng"))
            .arg(scratch.path().join("options.xml"))
            .output()
            .unwrap();
        match output.status.code() {
            Some(0) => true,
            // What xmllint's manual calls a validation error.
            Some(3) => false,
            _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        }
    };
    for example in examples() {
        assert!(valid(options(&example).unwrap()), "{example}");
    }
    for file in files("valid") {
        if let Some(options) = options(&fs::read_to_string(file).unwrap()) {
            assert!(valid(options), "{options}");
        }
    }
    let wrong = [
        "<vnet:uplinks dev='eth1'/>",
        "<vnet:uplink/>",
        "<vnet:uplink dev='an-interface-name'/>",
        "<vnet:filtering mode='open'/>",
        "<vnet:limits flows='0'/>",
        "<vnet:limits ports='64513'/>",
        "<vnet:limits rate='1'/>",
        "<vnet:timeouts udp='0'/>",
        "<vnet:timeouts sctp='300'/>",
        "<vnet:guard from=''/>",
        "<vnet:guard from='static dhcp'/>",
        "<vnet:guard mac='true'/>",
        "<vnet:guard/><vnet:guard/>",
        "<vnet:guest/>",
        "<vnet:guest mac='53:54:00:00:00:01'/>",
        "<vnet:guest mac='52:54:00:00:00:01'><vnet:address/></vnet:guest>",
        "<vnet:forward protocol='icmp' port='1' to='192.168.122.2'/>",
        "<vnet:forward protocol='tcp' to='192.168.122.2'/>",
        "<vnet:forward protocol='tcp' port='65536' to='192.168.122.2'/>",
        "<vnet:forward protocol='tcp' port='80'/>",
        "<guard/>",
        "text",
    ];
    for inside in wrong {
        let options =
            format!("<vnet:options xmlns:vnet='urn:vnet:options:1'>{inside}</vnet:options>");
        assert!(!valid(&options), "the schema accepts {inside}");
        let loaded = definition::load_text("n.xml".as_ref(), &network(&options));
        assert!(loaded.report.has_errors(), "check accepts {inside}");
    }
}
