//! The examples of libvirt's documentation, unchanged.
//!
//! The source is `formatnetwork.html` of libvirt 9.0.0 (package `libvirt-doc`): its whole networks,
//! and in files called `part-*` its parts of networks, with as much around them as makes them whole.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::collections::BTreeSet;

use support::files;
use vnet::definition::{self, Severity};

/// Examples that libvirt refuses as well: what it says of them, and what vnet does.
const REFUSED: [(&str, &str, &[&str]); 3] = [
    (
        "nat-ipv6-masquerade",
        "Invalid address 'fdXX:XXXX:XXXX:NNNN::' in network 'default6'",
        &["`address` of `<ip>` must be an IP address"],
    ),
    (
        "part-port-groups",
        "Unsupported <bandwidth> element in network 'port-groups' in portgroup 'engineering' with forward mode='private'",
        &[
            "`<bandwidth>` is not allowed in mode 'private'",
            "`<bandwidth>` is not allowed in mode 'private'",
        ],
    ),
    (
        "route-ipv6-only",
        "range 2001:db8:ca2:7::100 - 2001:db8:ca2::1ff is not entirely within network 2001:db8:ca2:7::1/64",
        &["this DHCP range leaves its subnet"],
    ),
];

#[test]
fn examples_of_every_mode_are_accepted_as_they_are() {
    let mut modes = BTreeSet::new();
    for file in files("documentation") {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let loaded = definition::load(&[file]);
        let errors: Vec<&str> = loaded
            .report
            .diagnostics()
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .map(|diagnostic| diagnostic.message.as_str())
            .collect();
        let expected = REFUSED.iter().find(|(refused, ..)| *refused == name);
        assert_eq!(errors, expected.map_or(&[] as &[_], |(_, _, errors)| *errors), "{name}");
        modes.extend(loaded.networks.iter().map(|network| network.forward.mode.value.name()));
    }
    // The page has no example of the modes open and vepa, and of private one that libvirt refuses.
    assert_eq!(
        modes.into_iter().collect::<Vec<_>>(),
        ["bridge", "hostdev", "isolated", "nat", "passthrough", "route"]
    );
}

#[test]
fn examples_say_nothing_that_is_unknown() {
    for file in files("documentation") {
        let report = definition::load(&[file]).report;
        let text = report.render(Severity::Note);
        assert!(!text.contains("unknown") && !text.contains("ignored"), "{text}");
    }
}
