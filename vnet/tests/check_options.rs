//! The reference of vnet's own options (`docs/options.md`) and their schema.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::{
    env, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use roxmltree::Node;
use support::{Scratch, check, corpus, files, stderr};
use vnet::definition::{self, ForwardMode, Severity};

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
    assert_eq!(examples.len(), 9);
    for example in examples {
        let text = if example.starts_with("<network>") { example } else { network(&example) };
        let loaded = definition::load_text("n.xml".as_ref(), &text);
        assert!(!loaded.report.has_errors(), "{}", loaded.report.render(Severity::Error));
        assert!(loaded.networks[0].options.span.is_some(), "{text}");
    }
}

#[test]
fn network_that_libvirt_leaves_open_is_masqueraded_where_the_options_say_so() {
    let options = |element: &str| {
        format!("<vnet:options xmlns:vnet='urn:vnet:options:1'>{element}</vnet:options>")
    };
    for (element, ipv6) in [("<vnet:masquerade/>", false), ("<vnet:masquerade ipv6='yes'/>", true)]
    {
        let text = of_mode("open", &options(element));
        let loaded = definition::load_text("n.xml".as_ref(), &text);
        assert!(!loaded.report.has_errors(), "{}", loaded.report.render(Severity::Error));
        let forward = &loaded.networks[0].forward;
        let nat = forward.nat.as_ref().unwrap();
        assert_eq!(forward.mode.value, ForwardMode::Nat);
        assert_eq!(nat.ipv6.as_ref().map(|ipv6| ipv6.value), Some(ipv6));
        assert_eq!((nat.ports.start, nat.ports.end), (1024, 65535));
    }
    for mode in ["nat", "route", "isolated", "bridge"] {
        let text = of_mode(mode, &options("<vnet:masquerade/>"));
        let report = definition::load_text("n.xml".as_ref(), &text).report.render(Severity::Error);
        let message = "error: `<vnet:masquerade>` is for networks of mode 'open', not for mode";
        assert!(report.starts_with(message), "{mode}: {report}");
    }
}

/// A network of each mode that has a bridge.
fn of_mode(mode: &str, options: &str) -> String {
    let network = network(options);
    match mode {
        "nat" => network,
        "isolated" => network.replace("<forward/>", ""),
        "route" | "open" => network.replace("<forward/>", &format!("<forward mode='{mode}'/>")),
        "bridge" => {
            let (start, _) = network.split_once("<ip ").unwrap();
            let start = start.replace("<forward/>", "<forward mode='bridge'/>");
            format!("{start}</network>")
        }
        other => panic!("{other}"),
    }
}

#[test]
fn options_are_accepted_in_every_mode_that_the_reference_names() {
    let text = fs::read_to_string(document("options.md")).unwrap();
    let scratch = Scratch::new("modes");
    let mut count = 0;
    // The lines of the overview: | [`uplink`](#uplink) | what for | where |
    for row in text.lines().filter(|line| line.starts_with("| [`")) {
        let name = row.split('`').nth(1).unwrap();
        let place = row.split('|').nth(3).unwrap().trim();
        let modes: &[&str] = match place.split(';').next().unwrap() {
            "all modes" | "all modes with a bridge" => {
                &["nat", "route", "isolated", "open", "bridge"]
            }
            "nat" => &["nat"],
            "open" => &["open"],
            other => panic!("unknown place: {other}"),
        };
        let (_, section) = text.split_once(&format!("\n## {name}\n")).unwrap();
        let (_, example) = section.split_once("```xml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        assert!(example.contains(&format!("<vnet:{name}")), "{example}");
        // The rest of a whole network is its mode's.
        let example = options(example).unwrap();
        for mode in modes {
            let file = format!("{name}-{mode}.xml");
            scratch.write(&file, of_mode(mode, example));
            let output = check(scratch.path(), &[&file]);
            let said = stderr(&output);
            assert!(output.status.success(), "{name} in mode {mode}:\n{said}");
            assert!(!said.contains("error"), "{name} in mode {mode}:\n{said}");
            let no_address = *mode == "bridge" && name == "guard";
            let warnings = said.lines().filter(|line| line.starts_with("warning: "));
            let ours = warnings.filter(|line| !line.contains("DHCP is not served"));
            assert_eq!(ours.count() > 0, no_address, "{name} in mode {mode}:\n{said}");
            count += 1;
        }
    }
    assert_eq!(count, 3 * 5 + 4 + 1);
}

/// An element with its attributes and children, whatever the quotes and the order of attributes.
fn canonical(node: Node<'_, '_>) -> String {
    let name = |name: &str, namespace: Option<&str>| match namespace {
        Some(namespace) => format!("{{{namespace}}}{name}"),
        None => name.to_owned(),
    };
    let attribute = |a: roxmltree::Attribute<'_, '_>| {
        format!(" {}={:?}", name(a.name(), a.namespace()), a.value())
    };
    let mut attributes: Vec<_> = node.attributes().map(attribute).collect();
    attributes.sort();
    let children: String = node.children().filter(Node::is_element).map(canonical).collect();
    let tag = name(node.tag_name().name(), node.tag_name().namespace());
    format!("<{tag}{}>{children}</>", attributes.concat())
}

fn canonical_options(text: &str) -> String {
    let document = roxmltree::Document::parse(text).unwrap();
    let is_options = |node: &Node<'_, '_>| node.has_tag_name(("urn:vnet:options:1", "options"));
    let found: Vec<_> = document.descendants().filter(is_options).collect();
    assert_eq!(found.len(), 1, "{text}");
    canonical(found[0])
}

#[test]
fn libvirt_keeps_the_options() {
    if Command::new("virsh").arg("--version").output().is_err() {
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(io::stderr(), "skipped: virsh is not installed (package libvirt-clients)");
        return;
    }
    let examples = examples();
    let of_reference = examples.iter().map(|example| {
        if example.starts_with("<network>") { example.clone() } else { network(example) }
    });
    let of_corpus = fs::read_to_string(corpus().join("valid/options.xml")).unwrap();
    let scratch = Scratch::new("libvirt");
    let mut count = 0;
    for text in of_reference.chain([of_corpus]) {
        // The test driver has a network of that name already.
        let text = text.replace("<name>default<", "<name>n<");
        let before = roxmltree::Document::parse(&text).unwrap();
        let mut names = before.descendants().filter(|node| node.has_tag_name("name"));
        let name = names.find_map(|node| node.text()).unwrap();
        scratch.write("n.xml", &text);
        let dumped = define_and_dump(scratch.path(), name);
        assert_eq!(canonical_options(&dumped), canonical_options(&text));
        scratch.write("dumped.xml", &dumped);
        let output = check(scratch.path(), &["dumped.xml"]);
        assert!(output.status.success(), "{}", stderr(&output));
        count += 1;
    }
    assert_eq!(count, 10);
}

/// What libvirt makes of the definition `n.xml`. The test driver needs no daemon and touches nothing.
fn define_and_dump(directory: &Path, name: &str) -> String {
    let run = |commands: &str| {
        let output = Command::new("virsh")
            .args(["-q", "-c", "test:///default", commands])
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // The driver's state ends with the connection.
    let printed = run(&format!("net-define n.xml; net-dumpxml {name}"));
    let start = printed.find("<network").unwrap_or_else(|| panic!("{printed}"));
    printed[start..].to_owned()
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
    assert_eq!(count, 37);
}

#[test]
fn schema_agrees_with_check() {
    if Command::new("xmllint").arg("--version").output().is_err() {
        // `cargo xtask test` has installed it.
        assert!(env::var_os("VNET_REQUIRE_ROOT").is_none(), "xmllint is not installed");
        let _ = writeln!(io::stderr(), "skipped: xmllint is not installed (cargo xtask setup)");
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
        "<vnet:masquerade ipv6='maybe'/>",
        "<vnet:masquerade mode='nat'/>",
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
