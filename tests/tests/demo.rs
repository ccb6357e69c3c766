//! The demonstration, end to end, as `cargo xtask run` calls it.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vnet_tests::lab::require_root;

const DEMO: &str = env!("CARGO_BIN_EXE_vnet-demo");

/// What every good run prints, at the start of a line.
const KEY_LINES: [&str; 18] = [
    "  host",
    "  ok     vnet run default.xml --instance demo-",
    "  guest1      -                   ok                  ok                  ok",
    "  guest2      ok                  -                   ok                  ok",
    "  host        ok                  ok                  -                   ok",
    "  ok     what libvirt's NAT mode promises",
    "  ok     guest1 (tap) downloads 8 MiB over HTTP       content as sent, ",
    "  ok     guest2 (veth) uploads 4 MiB over HTTP        content as sent, ",
    "  ok     guest2 (veth) asks port 53 over UDP          10 of 10 answered",
    "  ok     addresses that the outside saw               203.0.113.2 in ",
    "  ok     host# nft list ruleset                       (empty)",
    "  ok     host# conntrack --count                      0",
    "  ok     guest1 (tap) -> outside ",
    "  ok     outside -> guest1 (tap) ",
    "host# vnet status",
    "  ok     vnet ends by itself                          exit status: 0",
    "  ok     /run/vnet and /sys/fs/bpf/vnet               nothing of this instance",
    "demo: all 33 checks passed",
];

#[test]
fn demonstration_passes_all_its_checks_and_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let child = start().unwrap();
    let id = child.id();
    let (text, stderr, code) = read(&child.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{text}");
    for wanted in KEY_LINES {
        assert!(text.lines().any(|line| line.starts_with(wanted)), "no {wanted:?} in:\n{text}");
    }
    let escape = text.contains('\x1b');
    assert!(!escape, "escape sequences where there is no terminal:\n{text}");
    assert!(text.contains("\n  cargo xtask run -- "), "{text}");
    assert_nothing_is_left(id);
}

#[test]
fn interrupted_demonstration_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = start().unwrap();
        let id = child.id();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        while !text.contains("ready after") {
            assert_ne!(lines.read_line(&mut text).unwrap(), 0, "{text}");
        }
        assert!(instance_directory(id).exists());
        kill(Pid::from_raw(id.cast_signed()), signal).unwrap();
        lines.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("\ndemo: interrupted; nothing is left behind\n"), "{text}");
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32));
        assert_nothing_is_left(id);
    }
}

#[test]
fn user_without_root_rights_is_told_the_command() {
    let mut command = Command::new(DEMO);
    if nix::unistd::geteuid().is_root() {
        // `nobody`, as far as the kernel is concerned.
        command.uid(65534).gid(65534);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return eprintln!("skipped: another user cannot run {DEMO}: {error}"),
    };
    let (stdout, stderr, code) = read(&output);
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    let command = format!("sudo {}", Path::new(DEMO).canonicalize().unwrap().display());
    assert_eq!(
        stderr,
        format!("vnet-demo: namespaces and BPF programs need root rights; run: {command}\n")
    );
}

/// Says why not, if not; where everything has to be there, that is a failure.
fn can_run() -> bool {
    let reason = if !require_root() {
        return false;
    } else if !Path::new(DEMO).with_file_name("vnet").exists() {
        "there is no vnet beside vnet-demo; run `cargo xtask test`".to_owned()
    } else if let Err(error) = vnet::object::object() {
        error.to_string()
    } else {
        return true;
    };
    assert!(env::var_os("VNET_REQUIRE_ROOT").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
    false
}

fn start() -> io::Result<Child> {
    let mut command = Command::new(DEMO);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn()
}

fn read(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

fn instance_directory(demo: u32) -> std::path::PathBuf {
    format!("/run/vnet/demo-{demo}").into()
}

fn assert_nothing_is_left(demo: u32) {
    assert!(!instance_directory(demo).exists());
    assert!(!Path::new(&format!("/sys/fs/bpf/vnet/demo-{demo}")).exists());
}
