//! The units, the rights that they give, and what the daemon tells systemd.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, id},
    time::Duration,
};

use nix::sys::signal::Signal;
use vnet::notify;
use vnet_tests::lab::{Node, Running, StandardLab, require_root, wait_until};
use vnet_tests::lifecycle::{self, DEFAULT_NETWORK};

const DEADLINE: Duration = Duration::from_secs(30);
/// What loading and attaching programs needs.
const FOR_PROGRAMS: [&str; 3] = ["bpf", "net_admin", "perfmon"];
/// What dnsmasq needs beyond it: see `services::privileges`.
const FOR_DNSMASQ: [&str; 5] = ["kill", "net_bind_service", "net_raw", "setgid", "setuid"];

fn units() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let mut units: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    units.sort();
    units
}

/// The values of a setting, in their order.
fn values<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
}

/// A directory that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("vnet-{name}-{}", id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn units_are_in_order_and_well_confined() -> anyhow::Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        // Past the test harness, which would keep it to itself.
        let _ = writeln!(io::stderr(), "skipped: there is no systemd-analyze (package systemd)");
        return Ok(());
    }
    let place = Place::new("units");
    let program = lifecycle::program()?;
    assert_eq!(
        units().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["vnet.service", "vnet@.service"]
    );
    for (name, text) in units() {
        let path = place.0.join(&name);
        fs::write(&path, text.replace("/usr/bin/vnet", &program))?;
        let verify =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output()?;
        let said = String::from_utf8(verify.stdout)? + &String::from_utf8(verify.stderr)?;
        assert!(verify.status.success() && said.is_empty(), "{name}: {said}");
        // In tenths, of 10; a service without any confinement has 9.6.
        let confined = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=31", "--no-pager"])
            .arg(&path)
            .output()?;
        let said = String::from_utf8(confined.stdout)? + &String::from_utf8(confined.stderr)?;
        assert!(confined.status.success(), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn units_use_options_that_there_are_and_grant_what_is_needed_and_no_more() -> anyhow::Result<()> {
    let help = Command::new(lifecycle::program()?).args(["run", "--help"]).output()?;
    let help = String::from_utf8(help.stdout)?;
    let needed: BTreeSet<String> = FOR_PROGRAMS
        .iter()
        .chain(&FOR_DNSMASQ)
        .map(|name| format!("CAP_{}", name.to_uppercase()))
        .collect();
    for (name, text) in units() {
        let [command] = values(&text, "ExecStart")[..] else { panic!("{name}: one ExecStart") };
        let options = command.split(' ').filter(|word| word.starts_with("--"));
        for option in options {
            assert!(help.split_whitespace().any(|word| word == option), "{name}: {option}");
        }
        let granted: BTreeSet<String> = values(&text, "CapabilityBoundingSet")
            .iter()
            .flat_map(|line| line.split(' '))
            .map(str::to_owned)
            .collect();
        assert_eq!(granted, needed, "{name}");
    }
    Ok(())
}

/// `vnet run` as root with these capabilities and no others. systemd has mounted bpffs beforehand.
fn run_with(
    host: &Node,
    place: &Place,
    capabilities: &[&str],
    arguments: &[&str],
) -> anyhow::Result<Running> {
    let definition = place.0.join("default.xml");
    fs::write(&definition, DEFAULT_NETWORK)?;
    let set = format!("-all,+{}", capabilities.join(",+"));
    let program = lifecycle::program()?;
    let definition = definition.display().to_string();
    let instance = place.0.file_name().unwrap().to_str().unwrap();
    let mut command =
        vec!["setpriv", "--bounding-set", &set, "--inh-caps", "-all", &program, "run", &definition];
    command.extend(["--instance", instance]);
    command.extend(arguments);
    Ok(host.spawn(&command)?)
}

fn lab_with_bpffs() -> anyhow::Result<StandardLab> {
    let lab = StandardLab::new()?;
    lab.host.run(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    Ok(lab)
}

#[test]
fn three_capabilities_suffice_to_serve_guests() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = lab_with_bpffs()?;
    for hook in ["auto", "clsact"] {
        let place = Place::new(&format!("unit-{hook}"));
        let mut vnet = run_with(&lab.host, &place, &FOR_PROGRAMS, &["--attach", hook])?;
        vnet.wait_for_line("ready", DEADLINE)?;
        let ping = lab.tap_guest.ping("203.0.113.1", 3)?;
        assert_eq!((ping.sent, ping.received), (3, 3));
        let output = vnet.terminate(DEADLINE)?.success()?;
        assert!(!output.stderr.contains("ERROR"), "{}", output.stderr);
    }
    Ok(())
}

#[test]
fn each_of_the_three_capabilities_is_needed_and_named() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = lab_with_bpffs()?;
    for without in FOR_PROGRAMS {
        let place = Place::new(&format!("no-{without}"));
        let others: Vec<_> = FOR_PROGRAMS.into_iter().filter(|name| *name != without).collect();
        let output = run_with(&lab.host, &place, &others, &[])?.wait(DEADLINE)?;
        assert_eq!(output.status.code(), Some(2));
        let name = format!("CAP_{}", without.to_uppercase());
        let expected = format!("error: missing {name}: run as root, or grant {name} with ");
        assert!(output.stderr.starts_with(&expected), "{}", output.stderr);
    }
    Ok(())
}

#[test]
fn missing_bpffs_is_named_because_mounting_it_needs_more() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("unit-bpffs");
    let output = run_with(&lab.host, &place, &FOR_PROGRAMS, &[])?.wait(DEADLINE)?;
    assert!(
        output.stderr.contains("no BPF file system is mounted, and mounting one"),
        "{}",
        output.stderr
    );
    let left = Path::new("/run/vnet").join(place.0.file_name().unwrap());
    assert!(!left.exists(), "{}: {}", left.display(), output.stderr);
    Ok(())
}

#[test]
#[ignore = "a part of the test below, which runs it as a process of its own"]
fn tell_everything() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        notify::ready("3 networks");
        notify::reloading("reading the definitions");
        notify::ready("4 networks");
        notify::status("1 network waits for its bridge");
        let mut watchdog = notify::Watchdog::of_service_manager();
        let tick = tokio::time::timeout(Duration::from_secs(5), watchdog.tick());
        // Without a watchdog there is nothing to wait for.
        let _ = tick.await;
        notify::stopping("taking everything down");
    });
}

/// What [`tell_everything`] sends to its service manager.
fn told(place: &Place, watchdog: Option<Duration>) -> anyhow::Result<Vec<String>> {
    let path = place.0.join("notify");
    let socket = UnixDatagram::bind(&path)?;
    let mut command = Command::new(env::current_exe()?);
    command.args(["--exact", "tell_everything", "--ignored"]).env("NOTIFY_SOCKET", &path);
    command.env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    if let Some(watchdog) = watchdog {
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    }
    let output = command.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 4096];
    let mut messages = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        messages.push(String::from_utf8(buffer[..length].to_vec())?);
    }
    fs::remove_file(path)?;
    Ok(messages)
}

#[test]
fn systemd_is_told_of_start_reload_watchdog_and_end() -> anyhow::Result<()> {
    let place = Place::new("notify");
    let messages = told(&place, Some(Duration::from_millis(100)))?;
    assert_eq!(messages.len(), 6, "{messages:?}");
    assert_eq!(messages[0], "READY=1\nSTATUS=3 networks\n");
    let reloading: Vec<&str> = messages[1].lines().collect();
    assert_eq!((reloading[0], reloading[2]), ("RELOADING=1", "STATUS=reading the definitions"));
    let when: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse()?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().unwrap().parse()?;
    assert!(when > 0 && Duration::from_micros(when).as_secs_f64() <= uptime + 1.0, "{when}");
    assert_eq!(messages[2], "READY=1\nSTATUS=4 networks\n");
    assert_eq!(messages[3], "STATUS=1 network waits for its bridge\n");
    assert_eq!(messages[4], "WATCHDOG=1\n");
    assert_eq!(messages[5], "STOPPING=1\nSTATUS=taking everything down\n");
    Ok(())
}

/// What a datagram socket has got, from the words of each message that matter here.
fn received(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let mut messages = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let words = message.lines().filter(|line| !line.starts_with("MONOTONIC_USEC="));
        messages.push(words.collect::<Vec<_>>().join(" "));
    }
    messages
}

#[test]
fn daemon_tells_systemd_how_it_is_from_its_start_to_its_end() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let place = Place::new("notify-run");
    fs::write(place.0.join("default.xml"), DEFAULT_NETWORK)?;
    let path = place.0.join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let (program, definitions) = (lifecycle::program()?, place.0.display().to_string());
    let instance = place.0.file_name().unwrap().to_str().unwrap();
    let mut daemon = lab.host.spawn(&[
        "env",
        &variable,
        "WATCHDOG_USEC=200000",
        &program,
        "run",
        &definitions,
        "--instance",
        instance,
    ])?;
    let mut messages = Vec::new();
    let mut wait_for = |wanted: &str| {
        wait_until(wanted, DEADLINE, || {
            messages.extend(received(&socket));
            match messages.iter().position(|message| message == wanted) {
                Some(at) => {
                    messages.drain(..=at);
                    Ok(())
                }
                None => Err(format!("{messages:?}")),
            }
        })
    };
    wait_for("READY=1 STATUS=1 network")?;
    wait_for("WATCHDOG=1")?;
    wait_for("WATCHDOG=1")?;
    daemon.signal(Signal::SIGHUP)?;
    wait_for("RELOADING=1 STATUS=reading the definitions again")?;
    wait_for("READY=1 STATUS=1 network")?;
    // Also if there is nothing good to be read.
    fs::write(place.0.join("bad.xml"), "<network>")?;
    wait_for("STATUS=1 network, 1 file ignored")?;
    daemon.signal(Signal::SIGHUP)?;
    wait_for("RELOADING=1 STATUS=reading the definitions again")?;
    wait_for("READY=1 STATUS=1 network, 1 file ignored")?;
    lab.host.run(&["ip", "link", "delete", "virbr0"])?;
    wait_for("STATUS=1 network, 1 without a bridge, 1 file ignored")?;
    daemon.terminate(DEADLINE)?.success()?;
    wait_for("STOPPING=1 STATUS=taking everything down")?;
    Ok(())
}
