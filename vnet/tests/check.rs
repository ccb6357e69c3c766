//! `vnet check` on the corpus: every word that it says.
//!
//! The expected output stands beside each definition. After an intended change,
//! `BLESS=1 cargo test -p vnet --test check` writes it anew, to be read in the diff.

mod support;

use support::{Scratch, check, compare, corpus, files, stderr, stdout};

#[test]
fn broken_definitions_are_refused_in_these_words() {
    let mut differences = Vec::new();
    let files = files("broken");
    assert!(files.len() >= 20, "only {} kinds", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let output = check(&corpus().join("broken"), &[name]);
        differences.extend(compare(&file.with_extension("stderr"), &stderr(&output)));
        assert_eq!(stdout(&output), "", "{name}");
        assert_eq!(output.status.code(), Some(2), "{name}");
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn valid_definitions_are_accepted_in_these_words() {
    let mut differences = Vec::new();
    for file in files("valid") {
        let name = file.file_name().unwrap().to_str().unwrap();
        let output = check(&corpus().join("valid"), &["--verbose", name]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
        differences.extend(compare(&file.with_extension("stderr"), &stderr(&output)));
        differences.extend(compare(&file.with_extension("stdout"), &stdout(&output)));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn valid_definitions_stand_beside_each_other() {
    let output = check(&corpus(), &["valid"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "\
direct                bridge       -        -
switch                bridge       ovsbr0   -
vlans                 bridge       br1      -
host-bridge           bridge       br0      -
default               nat          virbr0   192.168.122.0/24
dmz                   bridge       br-dmz   -
pool                  hostdev      -        -
functions             hostdev      -        -
wire                  isolated     virbr6   -
private               isolated     virbr5   172.20.0.0/24
macvtap-passthrough   passthrough  -        -
macvtap-private       private      -        -
macvtap-vepa          vepa         -        -
everything            nat          virbr2   10.2.0.0/16,10.3.0.0/24,2001:db8:2::/64
minimal               nat          virbr1   192.168.200.0/24
unfiltered            open         virbr4   198.51.100.128/25
small                 nat          virbr10  192.168.210.0/24
guarded               nat          virbr8   10.20.0.0/24,2001:db8:20::/64
routed                route        virbr3   198.51.100.0/25,2001:db8:3::/64
unknown-names-inside  nat          virbr9   192.168.99.0/24
servers               route        virbr30  203.0.113.64/27,2001:db8:30::/64
"
    );
}

#[test]
fn networks_that_cannot_stand_beside_each_other_are_refused() {
    let output = check(&corpus(), &["across"]);
    let expected = corpus().join("across/expected.stderr");
    assert_eq!(compare(&expected, &stderr(&output)), None);
    assert_eq!(stdout(&output), "");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn json_names_networks_and_problems() {
    let scratch = Scratch::new("json");
    scratch.write(
        "net.xml",
        "<network><name>n</name><forward/><bridge name='b' x='1'/><ip address='10.0.0.1'/></network>",
    );
    let output = check(scratch.path(), &["-o", "json", "net.xml", "none.xml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "");
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        json["diagnostics"],
        serde_json::json!([
            {
                "severity": "warning",
                "file": "net.xml",
                "line": 1,
                "column": 51,
                "message": "unknown attribute `x` of `<bridge>` is ignored",
                "label": null,
                "help": "the attributes of `<bridge>` are: name, zone, stp, delay, macTableManager",
            },
            {
                "severity": "error",
                "file": "none.xml",
                "line": null,
                "column": null,
                "message": "cannot read this file: it does not exist",
                "label": null,
                "help": "`virsh net-dumpxml NAME` prints a network's definition; libvirt keeps them in /etc/libvirt/qemu/networks",
            },
        ])
    );
    let network = &json["networks"][0];
    assert_eq!(json["networks"].as_array().unwrap().len(), 1);
    assert_eq!(network["name"], "n");
    assert_eq!(network["forward"]["mode"], "nat");
    assert_eq!(
        network["forward"]["nat"],
        serde_json::json!({ "ipv6": null, "addresses": null, "ports": { "start": 1024, "end": 65535 } })
    );
    assert_eq!(network["ips"][0]["address"], "10.0.0.1");
    assert_eq!(network["ips"][0]["prefix"], 8);
}

#[test]
fn check_wants_a_path() {
    let output = check(&corpus(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("<FILE|DIR>..."), "{}", stderr(&output));
}
