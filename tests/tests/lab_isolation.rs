//! A lab is alone, and leaves nothing behind however its test ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vnet_tests::lab::services::{HttpServer, TcpEcho};
use vnet_tests::lab::{HostState, Ipv6Noise, Namespace, StandardLab, require_root, wait_until};

const DEADLINE: Duration = Duration::from_secs(20);

/// Set for the process that [`killed_test_leaves_no_namespace_interface_or_process`] kills: path of
/// the namespace in which the other end of a wire shows whether the lab's namespace is alive.
const VICTIM: &str = "VNET_LAB_VICTIM";

/// A wire from `watch` into a lab: the kernel removes both ends when either namespace goes.
fn wire_to(lab: &StandardLab, watch: &str) -> anyhow::Result<()> {
    for (node, interface) in
        [(&lab.host, "host"), (&lab.tap_guest, "tap"), (&lab.veth_guest, "veth")]
    {
        node.run(&[
            "ip", "link", "add", "watched", "type", "veth", "peer", "name", interface, "netns",
            watch,
        ])?;
    }
    Ok(())
}

fn interfaces(namespace: &Namespace) -> anyhow::Result<Vec<String>> {
    let list = || -> std::io::Result<Vec<String>> {
        let entries = fs::read_dir("/sys/class/net")?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = namespace.enter(list)??;
    names.sort();
    Ok(names)
}

fn wait_until_only_lo_is_left(watch: &Namespace) -> anyhow::Result<()> {
    wait_until("the lab's namespaces are gone", DEADLINE, || match interfaces(watch) {
        Ok(names) if names == ["lo"] => Ok(()),
        names => Err(format!("{names:?}")),
    })?;
    Ok(())
}

fn wait_until_ended(pid: u32) -> anyhow::Result<()> {
    wait_until(&format!("process {pid} has ended"), DEADLINE, || {
        // A zombie that its new parent has not reaped yet has ended as well.
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        }
    })?;
    Ok(())
}

#[test]
fn panicking_test_leaves_no_namespace_interface_or_process() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let watch = Namespace::new("watch", Ipv6Noise::Off)?;
    let before = fs::read_to_string("/proc/net/dev")?.lines().count();
    let pids = std::sync::Mutex::new(Vec::new());
    let result = std::panic::catch_unwind(|| {
        let lab = StandardLab::new().unwrap();
        wire_to(&lab, &watch.path()).unwrap();
        assert_eq!(interfaces(&watch).unwrap(), ["host", "lo", "tap", "veth"]);
        let web = HttpServer::start(&lab.outside, "203.0.113.1:80".parse().unwrap()).unwrap();
        // One that its parent abandons, in a group and session of its own.
        let script = "setsid sleep 1000 >/dev/null 2>&1 & echo pid $!; exec sleep 1000";
        let running = lab.host.spawn(&["sh", "-c", script]).unwrap();
        let line = running.wait_for_line("pid ", DEADLINE).unwrap();
        pids.lock().unwrap().extend([running.id(), line[4..].parse().unwrap()]);
        let _capture = lab.host.capture("virbr0", "").unwrap();
        assert!(web.peers().len() == 1, "fails on purpose");
    });
    assert!(result.is_err());
    for pid in pids.into_inner()? {
        wait_until_ended(pid)?;
    }
    wait_until_only_lo_is_left(&watch)?;
    assert_eq!(fs::read_to_string("/proc/net/dev")?.lines().count(), before);
    Ok(())
}

#[test]
fn killed_test_leaves_no_namespace_interface_or_process() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    if let Ok(watch) = std::env::var(VICTIM) {
        let lab = StandardLab::new()?;
        wire_to(&lab, &watch)?;
        let running = lab.tap_guest.spawn(&["ping", "-q", "192.168.122.1"])?;
        let echo = TcpEcho::start(&lab.host, "192.168.122.1:7".parse()?)?;
        let _tcpdump = lab.host.tcpdump("eth0", "")?;
        println!("\nvictim is ready: {}", running.id());
        std::thread::sleep(Duration::from_secs(1000));
        drop(echo);
        return Ok(());
    }
    let watch = Namespace::new("watch", Ipv6Noise::Off)?;
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["--exact", "killed_test_leaves_no_namespace_interface_or_process", "--nocapture"])
        .env(VICTIM, watch.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let ready = lines.find_map(|line| {
        line.unwrap().strip_prefix("victim is ready: ").map(|pid| pid.parse::<u32>().unwrap())
    });
    let before_kill = interfaces(&watch)?;
    victim.kill()?;
    victim.wait()?;
    assert_eq!(before_kill, ["host", "lo", "tap", "veth"]);
    wait_until_ended(ready.unwrap())?;
    wait_until_only_lo_is_left(&watch)?;
    Ok(())
}

#[test]
fn unplugged_guest_is_gone_and_its_address_can_be_used_again() -> anyhow::Result<()> {
    use vnet_tests::lab::Guest;
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let StandardLab { host, tap_guest, veth_guest, lab, .. } = lab;
    for (guest, address) in [(tap_guest, "192.168.122.11"), (veth_guest, "192.168.122.12")] {
        let port = host.port_of(guest.name()).unwrap();
        let mut sleeper = guest.spawn(&["sleep", "1000"])?;
        let before = interfaces(&host)?;
        assert!(before.contains(&port), "{before:?}");
        lab.unplug(&host, &guest)?;
        assert!(!sleeper.wait(DEADLINE)?.status.success());
        assert_eq!(interfaces(&host)?.len(), before.len() - 1);
        assert_eq!(host.ping(address, 1)?.received, 0);
        let next = Guest::tap("next").address(&format!("{address}/24"));
        let next = lab.guest(&host, "virbr0", &next)?;
        // The host still knows the MAC of the guest before.
        next.ping("192.168.122.1", 1)?;
        assert_eq!(host.ping(address, 1)?.received, 1);
        lab.unplug(&host, &next)?;
    }
    Ok(())
}

#[test]
fn labs_with_equal_names_and_addresses_do_not_disturb_each_other() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    std::thread::scope(|scope| {
        let labs = [1_usize, 2, 3].map(|number| {
            scope.spawn(move || -> anyhow::Result<()> {
                let lab = StandardLab::new()?;
                lab.host.nft_masquerade("virbr0", "192.168.122.0/24", None)?;
                let web = HttpServer::start(&lab.outside, "203.0.113.1:80".parse()?)?;
                for _ in 0..number {
                    let size = number * 100_000;
                    let url = format!("http://203.0.113.1/bytes/{size}");
                    assert_eq!(lab.tap_guest.curl(&url)?.len(), size);
                }
                assert_eq!(web.peers().len(), number);
                Ok(())
            })
        });
        labs.into_iter().try_for_each(|lab| lab.join().unwrap())
    })
}

#[test]
fn bpffs_mounted_in_one_namespace_is_seen_in_no_other() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let [one, other] = ["one", "other"].map(|name| Namespace::new(name, Ipv6Noise::Off).unwrap());
    one.run(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    one.run(&["mkdir", "/sys/fs/bpf/vnet"])?;
    // The kernel may have put files of its own there as well.
    assert!(one.run(&["ls", "/sys/fs/bpf"])?.contains("vnet\n"));
    assert_eq!(other.run(&["ls", "/sys/fs/bpf"])?, "");
    let difference = HostState::read(&other)?.difference(&HostState::read(&one)?);
    for shown in
        ["+ /sys/fs/bpf: /sys/fs/bpf/vnet\n", "+ /sys/fs/bpf: mounted: bpf /sys/fs/bpf bpf "]
    {
        assert!(difference.contains(shown), "{difference}");
    }
    Ok(())
}

#[test]
fn picture_shows_bridges_guests_and_the_way_outside() -> anyhow::Result<()> {
    use vnet_tests::lab::End;
    if !require_root() {
        return Ok(());
    }
    let start = Instant::now();
    let standard = StandardLab::new()?;
    println!("built in {:?}", start.elapsed());
    let server = standard.lab.station("server")?;
    standard.lab.wire_with_mtu(
        &End::new(&standard.outside, "eth1").address("198.51.100.1/24"),
        &End::new(&server, "eth0").address("198.51.100.2/24"),
        1400,
    )?;
    let expected = "\
host
  |-- eth0 203.0.113.2/24 <---> outside eth0 203.0.113.1/24
  |     `-- eth1 198.51.100.1/24 (mtu 1400) <---> server eth0 198.51.100.2/24 (mtu 1400)
  `-- virbr0 192.168.122.1/24 (bridge)
        |-- vnet3 (tap) === guest1 eth0 192.168.122.11/24 via 192.168.122.1
        `-- veth4 (veth) === guest2 eth0 192.168.122.12/24 via 192.168.122.1
";
    assert_eq!(standard.lab.picture(), expected);
    Ok(())
}
