//! Which files `vnet check` reads, and what it says of those it cannot read.

mod support;

use std::{fs, os::unix::fs::symlink};

use support::{Scratch, check, stderr, stdout};

fn network(name: &str, third: u8) -> String {
    format!(
        "<network><name>{name}</name><forward/><bridge name='{name}'/><ip address='10.0.{third}.1' prefix='24'/></network>"
    )
}

#[test]
fn directory_stands_for_its_own_xml_files_in_order() {
    let scratch = Scratch::new("directory");
    scratch.write("networks/b.xml", network("b", 2));
    scratch.write("networks/a.xml", network("a", 1));
    scratch.write("networks/c.xml~", "not read");
    scratch.write("networks/.hidden.xml", "not read");
    scratch.write("networks/deeper/d.xml", "not read");
    fs::create_dir(scratch.path().join("networks/directory.xml")).unwrap();
    let output = check(scratch.path(), &["networks"]);
    assert_eq!(stderr(&output), "");
    assert_eq!(stdout(&output), "a  nat  a  10.0.1.0/24\nb  nat  b  10.0.2.0/24\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn file_reached_twice_is_read_once() {
    let scratch = Scratch::new("twice");
    scratch.write("networks/a.xml", network("a", 1));
    fs::create_dir(scratch.path().join("networks/autostart")).unwrap();
    symlink("../a.xml", scratch.path().join("networks/autostart/a.xml")).unwrap();
    let output = check(
        scratch.path(),
        &["networks", "networks/autostart", "networks/a.xml", "./networks/../networks/a.xml"],
    );
    assert_eq!(stderr(&output), "");
    assert_eq!(stdout(&output), "a  nat  a  10.0.1.0/24\n");
}

#[test]
fn byte_order_mark_is_passed_over() {
    let scratch = Scratch::new("mark");
    scratch.write("a.xml", format!("\u{feff}{}", network("a", 1)));
    scratch.write("b.xml", "\u{feff}<a/>");
    let output = check(scratch.path(), &["a.xml"]);
    assert_eq!(stdout(&output), "a  nat  a  10.0.1.0/24\n");
    let output = check(scratch.path(), &["b.xml"]);
    assert!(stderr(&output).contains(" --> b.xml:1:1\n"), "{}", stderr(&output));
}

#[test]
fn every_unreadable_path_is_named() {
    let scratch = Scratch::new("unreadable");
    scratch.write("good.xml", network("a", 1));
    scratch.write("large.xml", " ".repeat(1024 * 1024 + 1));
    fs::create_dir(scratch.path().join("empty")).unwrap();
    symlink("gone.xml", scratch.path().join("dangling.xml")).unwrap();
    let output = check(
        scratch.path(),
        &["none.xml", "empty", "large.xml", "dangling.xml", "good.xml/below.xml", "good.xml"],
    );
    assert_eq!(
        stderr(&output),
        "\
error: cannot read this file: it does not exist
  --> none.xml
   = help: `virsh net-dumpxml NAME` prints a network's definition; libvirt keeps them in /etc/libvirt/qemu/networks

error: no definition in this directory
  --> empty
   = help: a directory stands for its *.xml files, without subdirectories

error: file is larger than 1 MiB
  --> large.xml
   = help: a network definition is a few hundred bytes long; is this another file?

error: cannot read this file: it does not exist
  --> dangling.xml
   = help: `virsh net-dumpxml NAME` prints a network's definition; libvirt keeps them in /etc/libvirt/qemu/networks

error: cannot read this file: Not a directory (os error 20)
  --> good.xml/below.xml

5 errors
"
    );
    assert_eq!(stdout(&output), "");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn file_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let scratch = Scratch::new("permission");
    scratch.write("secret.xml", network("a", 1));
    let path = scratch.path().join("secret.xml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&path).is_ok() {
        eprintln!("skipped: this user may read every file");
        return;
    }
    let output = check(scratch.path(), &["secret.xml"]);
    assert_eq!(
        stderr(&output),
        "\
error: cannot read this file: permission denied
  --> secret.xml
   = help: libvirt's own files are readable by root only: use sudo, or a copy

1 error
"
    );
}

#[test]
fn file_of_the_largest_size_is_read() {
    let scratch = Scratch::new("largest");
    let mut text = network("a", 1);
    text.push_str(&" ".repeat(1024 * 1024 - text.len()));
    scratch.write("a.xml", text);
    assert_eq!(check(scratch.path(), &["a.xml"]).status.code(), Some(0));
}
