//! A run that ends as asked leaves the host as it found it, whatever it found.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{StandardLab, require_root},
    lifecycle::{DEADLINE, ForeignFilter, ForeignTcx, Scene, TCX_NEXT, TCX_PASS},
};

const MODES: [&str; 2] = ["tcx", "clsact"];

/// Serves the guests, then ends by the signal.
fn serve_and_stop(scene: &Scene, mode: &str, signal: Signal) -> Result<()> {
    let running = scene.ready(&["--attach", mode])?;
    scene.assert_guests_get_out()?;
    let forwarding = scene.lab.host.sysctl_value("net.ipv4.ip_forward")?;
    ensure!(forwarding == "1", "net.ipv4.ip_forward = {forwarding}");
    let output = scene.stop(running, signal)?;
    ensure!(output.stdout == "ready\n", "{:?}", output.stdout);
    Ok(())
}

fn with(arrange: impl Fn(&StandardLab) -> Result<()>) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (mode, signal) in MODES.into_iter().zip([Signal::SIGTERM, Signal::SIGINT]) {
        let scene = Scene::with(&arrange)?;
        serve_and_stop(&scene, mode, signal).context(mode)?;
    }
    Ok(())
}

#[test]
fn host_without_forwarding_and_without_bpffs_is_left_so() -> Result<()> {
    with(|_| Ok(()))
}

#[test]
fn host_that_forwards_goes_on_forwarding() -> Result<()> {
    with(|lab| {
        lab.host.run(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])?;
        lab.host.sysctl("net.ipv4.ip_forward", "1")?;
        Ok(lab.host.sysctl("net.ipv4.conf.lo.forwarding", "0")?)
    })
}

#[test]
fn forwarding_of_single_interfaces_is_kept() -> Result<()> {
    with(|lab| {
        lab.host.sysctl("net.ipv4.conf.virbr0.forwarding", "1")?;
        lab.host.sysctl("net.ipv4.conf.default.forwarding", "1")?;
        Ok(lab.host.sysctl("net.ipv4.conf.all.accept_redirects", "0")?)
    })
}

#[test]
fn interface_with_forwarding_of_its_own_may_go_meanwhile() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| {
        lab.host.run(&["ip", "link", "add", "gone9", "type", "bridge"])?;
        Ok(lab.host.sysctl("net.ipv4.conf.gone9.forwarding", "1")?)
    })?;
    let mut running = scene.ready(&[])?;
    scene.lab.host.run(&["ip", "link", "delete", "gone9"])?;
    let output = running.terminate(DEADLINE)?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    ensure!(!output.stderr.contains("ERROR"), "{}", output.stderr);
    scene.assert_clean_but_for(&["gone9"], "after an interface went")
}

/// At all four hooks: ingress and egress of the uplink and of the bridge.
fn filters_of_others() -> impl Iterator<Item = ForeignFilter> {
    ["eth0", "virbr0"].into_iter().flat_map(|interface| {
        // The last is the priority that ours would have.
        ["1", "49"].into_iter().flat_map(move |priority| {
            ["ingress", "egress"].into_iter().map(move |hook| ForeignFilter {
                interface,
                hook,
                priority,
            })
        })
    })
}

#[test]
fn clsact_and_filters_of_others_stay() -> Result<()> {
    with(|lab| filters_of_others().try_for_each(|filter| filter.attach(&lab.host)))
}

#[test]
fn clsact_to_which_others_add_filters_meanwhile_stays() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut running = scene.ready(&["--attach", "clsact"])?;
    let filter = ForeignFilter { interface: "eth0", hook: "egress", priority: "7" };
    filter.attach(&scene.lab.host)?;
    let output = running.terminate(DEADLINE)?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let filters = scene.lab.host.run(&["tc", "filter", "show", "dev", "eth0", "egress"])?;
    ensure!(filters.contains("pref 7 u32") && !filters.contains("bpf"), "{filters}");
    // Nothing else is left.
    scene.lab.host.run(&["tc", "qdisc", "del", "dev", "eth0", "clsact"])?;
    scene.assert_clean("after the filter is gone")
}

#[test]
fn tcx_programs_of_others_stay_and_see_the_packets() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut others = Vec::new();
    let scene = Scene::with(|lab| {
        for (interface, ingress) in
            [("eth0", true), ("eth0", false), ("virbr0", true), ("virbr0", false)]
        {
            let other = ForeignTcx::attach(&lab.host, interface, ingress, TCX_NEXT)?;
            others.push((format!("ingress of {interface}: {ingress}"), other));
        }
        Ok(())
    })?;
    for mode in MODES {
        let before = packets(&others)?;
        serve_and_stop(&scene, mode, Signal::SIGTERM).context(mode)?;
        for ((name, after), before) in packets(&others)?.into_iter().zip(before) {
            // Three pings of each of two guests pass every hook.
            ensure!(after >= before.1 + 6, "{mode}: {name}: {} and then {after}", before.1);
        }
    }
    Ok(())
}

#[test]
fn programs_of_others_that_pass_packets_on_let_none_out_untranslated() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut others = Vec::new();
    let scene = Scene::with(|lab| {
        others.push(ForeignTcx::attach(&lab.host, "eth0", false, TCX_PASS)?);
        Ok(())
    })?;
    let running = scene.ready(&[])?;
    let capture = scene.lab.outside.capture("eth0", "icmp[icmptype] == icmp-echo")?;
    // IP options take the way through the host's stack, whose packets only the egress hook sees.
    scene.lab.veth_guest.run(&[
        "ping",
        "-n",
        "-c",
        "3",
        "-i",
        "0.2",
        "-T",
        "tsonly",
        "203.0.113.1",
    ])?;
    let packets = capture.finish()?;
    ensure!(packets.len() == 3, "{packets:?}");
    for packet in &packets {
        ensure!(packet.source() == Some([203, 0, 113, 2].into()), "{packet}");
    }
    ensure!(others[0].packets()? >= 3, "the other program still sees packets");
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

fn packets(others: &[(String, ForeignTcx)]) -> Result<Vec<(String, u64)>> {
    others.iter().map(|(name, other)| Ok((name.clone(), other.packets()?))).collect()
}

#[test]
fn hang_up_does_not_end_the_daemon() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    running.signal(Signal::SIGHUP)?;
    running.wait_for_line("[INFO ] no changes", DEADLINE)?;
    scene.assert_guests_get_out()?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn idle_daemon_uses_no_time_to_speak_of() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    scene.assert_guests_get_out()?;
    let before = cpu_milliseconds(running.id())?;
    // Time has to pass: what is measured is what an idle daemon uses in it.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let used = cpu_milliseconds(running.id())? - before;
    ensure!(used < 50, "{used} ms of CPU in 3 s");
    println!("idle: {used} ms of CPU in 3 s, {} resident", resident(running.id())?);
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

/// User and system time, see `proc_pid_stat(5)`.
fn cpu_milliseconds(process: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|f| f.parse().unwrap_or(0)).sum();
    // USER_HZ is 100.
    Ok(ticks * 10)
}

fn resident(process: u32) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.context("no VmRSS")?.trim().to_owned())
}
