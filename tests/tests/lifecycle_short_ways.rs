//! Short ways beside what others do with packets, and where bridges cannot be followed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vnet_common::{
    names::program,
    shortcut::{PORT_JUDGED, PORT_SHORT, PORT_TAKES_XDP},
};
use vnet_tests::{
    lab::{require_root, services::UdpEcho, wait_until},
    lifecycle::{
        DEADLINE, DEFAULT_NETWORK, ForeignFilter, ForeignTcx, ForeignXdp, Scene, Statistics,
        TCX_NEXT, send_whole_checksums,
        stations::{entered, epoch, known, ports, wait_until_alike},
    },
};

const ALL: u32 = PORT_SHORT | PORT_TAKES_XDP | PORT_JUDGED;
const ON: [&str; 2] = ["--short-ways", "on"];
const WITH_XDP: [&str; 4] = ["--short-ways", "on", "--xdp", "on"];

/// The names and indices of the host's ports of guests: the tap, the veth.
fn guests(scene: &Scene) -> Result<Vec<(String, u32)>> {
    let state = scene.state()?;
    let guests = state["guests"].as_array().into_iter().flatten();
    let found: Vec<_> = guests
        .filter_map(|guest| {
            let index = guest["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok())?;
            Some((guest["interface"].as_str()?.to_owned(), index))
        })
        .collect();
    ensure!(found.len() == 2, "{found:?}");
    Ok(found)
}

fn reasons(scene: &Scene) -> Result<Vec<String>> {
    let state = scene.state()?;
    let ways = state["shortcut"]["long_ways"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("*").to_owned();
    Ok(ways.iter().map(|way| format!("{}: {}", text(&way["port"]), text(&way["reason"]))).collect())
}

/// Waits for the flags of the first guest's port, and for what is said.
fn wait_for(scene: &Scene, flags: u32, wanted: &[&str]) -> Result<()> {
    let (_, index) = guests(scene)?.remove(0);
    wait_until(&format!("the port has {flags:#x}, and {wanted:?}"), DEADLINE, || {
        let seen = ports(scene).and_then(|ports| Ok((ports[&index].flags, reasons(scene)?)));
        match seen {
            Ok((now, said)) if now == flags && said == wanted => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    Ok(())
}

#[test]
fn what_others_do_with_packets_at_ports_and_bridges_is_not_passed_by() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut running = scene.ready(&ON)?;
    let (port, _) = guests(&scene)?.remove(0);
    let host = &scene.lab.host;
    let ip = |words: &str| host.run(&words.split(' ').collect::<Vec<_>>());
    wait_for(&scene, ALL, &[])?;

    // What libvirt's <bandwidth> makes of <inbound> at the port, and of the network's at the bridge.
    let xdp =
        |what: &str| format!("{port}: XDP leaves what is for it to TC, which has {what} there");
    ip(&format!("tc qdisc add dev {port} root handle 1: htb default 1"))?;
    wait_for(&scene, ALL & !PORT_TAKES_XDP, &[&xdp("a qdisc `htb`")])?;
    ip(&format!("tc qdisc del dev {port} root"))?;
    wait_for(&scene, ALL, &[])?;
    ip("tc qdisc add dev virbr0 root handle 1: htb default 1")?;
    wait_for(&scene, ALL & !PORT_SHORT, &["*: what is for guests meets a qdisc `htb`"])?;
    ip("tc qdisc del dev virbr0 root")?;
    wait_for(&scene, ALL, &[])?;

    // Of <outbound>: an ingress qdisc whose filters police. One without filters does nothing.
    let sends = |what: &str| format!("{port}: what it sends meets {what}");
    ip(&format!("tc qdisc add dev {port} ingress"))?;
    ip(&format!(
        "tc filter add dev {port} parent ffff: protocol ip u32 match ip dst 198.51.100.99/32 classid 1:1"
    ))?;
    wait_for(&scene, ALL & !PORT_JUDGED, &[&sends("a filter `u32`")])?;
    scene.assert_guests_get_out()?;
    ip(&format!("tc qdisc del dev {port} ingress"))?;
    wait_for(&scene, ALL, &[])?;
    let filter = |hook| ForeignFilter { interface: "virbr0", hook, priority: "7" };
    filter("egress").attach(host)?;
    wait_for(&scene, ALL & !PORT_SHORT, &["*: what is for guests meets a filter `u32`"])?;
    ip("tc qdisc del dev virbr0 clsact")?;
    wait_for(&scene, ALL, &[])?;

    // nftables' chains at interfaces.
    let table = |hook: &str, device: &str| {
        scene.write(
            "rules",
            &format!(
                "table netdev shape {{ chain c {{ type filter hook {hook} device {device} priority 0; }}; }}\n"
            ),
        )
    };
    for (hook, device, flags, said) in [
        ("ingress", port.as_str(), ALL & !PORT_JUDGED, sends("nftables (table shape)")),
        ("egress", port.as_str(), ALL & !PORT_TAKES_XDP, xdp("nftables (table shape)")),
        (
            "egress",
            "virbr0",
            ALL & !PORT_SHORT,
            "*: what is for guests meets nftables (table shape)".to_owned(),
        ),
    ] {
        host.run(&["nft", "-f", &table(hook, device)?])?;
        wait_for(&scene, flags, &[&said])?;
        ip("nft delete table netdev shape")?;
        wait_for(&scene, ALL, &[])?;
    }

    // A bridge's own setting to show its packets to the host's rules.
    ip("sysctl -qw net.bridge.bridge-nf-call-iptables=0")?;
    ip("sysctl -qw net.bridge.bridge-nf-call-ip6tables=0")?;
    ip("nft add table ip rules")?;
    host.run(&["nft", "add chain ip rules c { type filter hook forward priority 0; }"])?;
    ip("ip link set virbr0 type bridge nf_call_iptables 1")?;
    let said = "*: it shows its packets to the host's rules: `ip link set virbr0 type bridge \
                nf_call_iptables 0`";
    wait_for(&scene, ALL & !PORT_SHORT, &[said])?;
    ip("ip link set virbr0 type bridge nf_call_iptables 0")?;
    wait_for(&scene, ALL, &[])?;
    ip("nft delete table ip rules")?;
    running.terminate(DEADLINE)?.success()?;
    Ok(())
}

#[test]
fn programs_of_others_see_what_they_saw_without_short_ways() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let echo = UdpEcho::start(&scene.lab.outside, "203.0.113.1:7".parse()?)?;
    let mut running = scene.ready(&ON)?;
    let (port, _) = guests(&scene)?.remove(0);
    let host = &scene.lab.host;
    let flow = scene.lab.tap_guest.udp_socket(
        "192.168.122.11:4000".parse()?,
        echo.address(),
        Duration::from_secs(5),
    )?;
    // At the port: after our program. At the bridge: what goes to guests, and what comes from them.
    for (interface, is_ingress, flags) in [
        (port.as_str(), true, ALL & !PORT_JUDGED),
        ("virbr0", false, ALL & !PORT_SHORT),
        ("virbr0", true, ALL & !PORT_JUDGED),
    ] {
        wait_for(&scene, ALL, &[])?;
        // Before a program that is at a bridge's ingress already: next to the stack is last.
        let others = if (interface, is_ingress) == ("virbr0", true) {
            ForeignTcx::attach_first(host, interface, is_ingress, TCX_NEXT)?
        } else {
            ForeignTcx::attach(host, interface, is_ingress, TCX_NEXT)?
        };
        wait_until("the port's flags are others", DEADLINE, || {
            let (_, index) = guests(&scene).map_err(|error| error.to_string())?.remove(0);
            let now = ports(&scene).map_err(|error| error.to_string())?[&index].flags;
            if now == flags { Ok(()) } else { Err(format!("{now:#x}, {:?}", reasons(&scene))) }
        })?;
        let before = others.packets()?;
        let mut answer = [0; 16];
        for _ in 0..200 {
            flow.send(b"x")?;
            flow.recv(&mut answer)?;
        }
        let seen = others.packets()? - before;
        ensure!(seen >= 200, "{interface} {is_ingress}: {seen} of 200, {:?}", reasons(&scene));
    }
    running.terminate(DEADLINE)?.success()?;
    Ok(())
}

#[test]
fn packets_of_known_flows_go_by_xdp_and_not_by_tc() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    go_by_xdp(&Scene::with_whole_checksums()?)
}

#[test]
fn packets_of_routed_guests_go_by_xdp_and_not_by_tc() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| {
        lab.outside.run(&["ip", "route", "add", "192.168.122.0/24", "via", "203.0.113.2"])?;
        send_whole_checksums(lab)
    })?;
    let routed = DEFAULT_NETWORK.replace("<forward mode='nat'/>", "<forward mode='route'/>");
    scene.write("default.xml", &routed)?;
    go_by_xdp(&scene)
}

/// Most packets of the tap's guest take short ways out and XDP's in.
fn go_by_xdp(scene: &Scene) -> Result<()> {
    let echo = UdpEcho::start(&scene.lab.outside, "203.0.113.1:7".parse()?)?;
    let statistics = Statistics::begin()?;
    let mut running = scene.ready(&WITH_XDP)?;
    let flow = scene.lab.tap_guest.udp_socket(
        "192.168.122.11:4000".parse()?,
        echo.address(),
        Duration::from_secs(5),
    )?;
    let ask = |times: u32| -> Result<()> {
        let mut answer = [0; 16];
        for _ in 0..times {
            flow.send(b"x")?;
            flow.recv(&mut answer)?;
        }
        Ok(())
    };
    wait_until_alike(scene)?;
    // Until the ways are found, and the first that TC has sent have arrived: a second has most of them.
    wait_until(
        "most answers go by XDP, and most questions straight from the port",
        DEADLINE,
        || {
            let count = || -> Result<[u64; 4]> {
                let runs = |name| statistics.runs_of(scene, name);
                Ok([
                    runs(program::UPLINK_XDP)?,
                    runs(program::UPLINK_INGRESS)?,
                    runs(program::PORT_SHORTCUT)?,
                    runs(program::BRIDGE_INGRESS)?,
                ])
            };
            let measured = || -> Result<[u64; 4]> {
                let before = count()?;
                ask(500)?;
                let after = count()?;
                Ok([0, 1, 2, 3].map(|at| after[at] - before[at]))
            };
            match measured() {
                Ok([xdp, ingress, _, bridge]) if xdp >= 500 && ingress < 100 && bridge < 100 => {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        },
    )?;
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("by XDP")
}

#[test]
fn uplink_with_an_xdp_program_of_others_goes_by_tc_until_that_is_gone() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with_whole_checksums()?;
    let others = ForeignXdp::attach(&scene.lab.host, "eth0")?;
    let mut running = scene.ready(&WITH_XDP)?;
    let device = || -> Result<Value> { Ok(scene.state()?["shortcut"]["xdp"][0].clone()) };
    ensure!(device()?["reason"] == "another XDP program is there", "{}", device()?);
    scene.assert_guests_get_out()?;
    let said =
        "no native XDP at `eth0`, where packets go by TC alone: another XDP program is there";
    ensure!(running.stderr().matches(said).count() == 1, "{}", running.stderr());
    drop(others);
    wait_until("XDP is on", DEADLINE, || match device() {
        Ok(device) if device["program_id"].is_u64() && device["reason"] == json!(null) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    scene.assert_guests_get_out()?;
    ensure!(running.stderr().matches(said).count() == 1, "{}", running.stderr());
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("after others' XDP")
}

#[test]
fn change_that_is_rolled_back_leaves_short_ways_and_xdp_as_they_were() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| {
        lab.host.bridge("virbr1", &["192.168.123.1/24"])?;
        send_whole_checksums(lab)
    })?;
    let mut running = scene.ready(&WITH_XDP)?;
    wait_until_alike(&scene)?;
    let (flags, state, hooks) = (ports(&scene)?, scene.state()?, scene.hooks()?);
    ensure!(state["shortcut"]["xdp"][0]["program_id"].is_u64(), "{state}");
    // As many as the kernel lets at a hook (BPF_MPROG_MAX): ours cannot be attached.
    let others = (0..63).map(|_| ForeignTcx::attach(&scene.lab.host, "virbr1", true, TCX_NEXT));
    let others = others.collect::<Result<Vec<_>>>()?;
    let second = "<network><name>second</name><forward mode='nat'/><bridge name='virbr1'/>\
                  <ip address='192.168.123.1' prefix='24'/></network>";
    let (first, second) = (scene.definition(), scene.write("second.xml", second)?);
    let more = ["apply", "--instance", &scene.instance, "--xdp", "off", &first, &second];
    let output = scene.vnet(&more)?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(output.stderr.contains("error: cannot attach"), "{}", output.stderr);
    ensure!(ports(&scene)? == flags && scene.hooks()? == hooks, "{:?}", ports(&scene)?);
    ensure!(scene.state()?["shortcut"] == state["shortcut"], "{}", scene.state()?);
    let uplink = scene.lab.host.run(&["ip", "-d", "link", "show", "eth0"])?;
    ensure!(uplink.contains("prog/xdp "), "{uplink}");
    scene.assert_guests_get_out()?;
    // It goes on to be followed.
    let again = ["apply", "--instance", &scene.instance, "--xdp", "off"];
    let output = scene.vnet(&again)?;
    ensure!(output.stdout == "~ settings\n    xdp: on -> off\n", "{output:?}");
    drop(others);
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("rolled back")
}

#[test]
fn switches_plan_nothing_anew_and_survive_the_daemon() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with_whole_checksums()?;
    let mut running = scene.ready(&["--short-ways", "on", "--xdp", "off"])?;
    scene.assert_guests_get_out()?;
    wait_until_alike(&scene)?;
    let switch = |words: &[&str], wanted: &str| -> Result<()> {
        let output = scene.vnet(&[&["apply", "--instance", &scene.instance], words].concat())?;
        ensure!(output.stdout == wanted, "{words:?}: {output:?}");
        Ok(())
    };
    let before = epoch(&scene)?;
    switch(&["--xdp", "on"], "~ settings\n    xdp: off -> on\n")?;
    ensure!(epoch(&scene)? == before, "flows are judged anew");
    switch(&["--xdp", "off"], "~ settings\n    xdp: on -> off\n")?;
    switch(&["--xdp", "on"], "~ settings\n    xdp: off -> on\n")?;
    ensure!(epoch(&scene)? == before, "flows are judged anew");
    switch(&["--short-ways", "off"], "~ settings\n    short-ways: on -> off\n")?;
    ensure!(epoch(&scene)? != before && ports(&scene)?.is_empty(), "{:?}", ports(&scene)?);
    switch(&["--short-ways", "on"], "~ settings\n    short-ways: off -> on\n")?;
    ensure!(ports(&scene)?.len() == 2, "{:?}", ports(&scene)?);
    switch(&["--short-ways", "off"], "~ settings\n    short-ways: on -> off\n")?;

    running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    // One that says nothing of it goes on with it.
    let mut command = vec!["run".to_owned(), scene.definition()];
    command.extend(["--instance".to_owned(), scene.instance.clone()]);
    let program = vnet_tests::lifecycle::program()?;
    let words: Vec<&str> =
        [program.as_str()].into_iter().chain(command.iter().map(String::as_str)).collect();
    let mut running = scene.lab.host.spawn(&words)?;
    running.wait_for_line("ready", DEADLINE)?;
    let state = scene.state()?;
    let seen = (&state["shortcut"]["on"], &state["shortcut"]["setting"]);
    ensure!(seen == (&json!(false), &json!("on")), "{state}");
    running.terminate(DEADLINE)?.success()?;
    // With nothing to take over there are the defaults.
    let mut running = scene.lab.host.spawn(&words)?;
    running.wait_for_line("ready", DEADLINE)?;
    let state = scene.state()?;
    let seen = (&state["shortcut"]["on"], &state["shortcut"]["setting"]);
    ensure!(seen == (&json!(true), &json!("auto")), "{state}");
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("restarted")
}

#[test]
fn stations_are_right_again_after_more_changes_than_the_kernel_kept() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut running = scene.ready(&ON)?;
    scene.assert_guests_get_out()?;
    wait_until_alike(&scene)?;
    let ports = guests(&scene)?;
    let own = entered(&scene)?;
    let (mac, at) = own
        .iter()
        .find(|(_, at)| **at == ports[0].1)
        .map(|(mac, at)| (mac.clone(), *at))
        .context("the first guest is known")?;
    // While nobody reads: a flood, and a guest that moves to the other port among it.
    running.signal(Signal::SIGSTOP)?;
    let other = &ports[1].0;
    let flood = |verb: &str| -> String {
        let lines: Vec<String> = (0..20_000)
            .map(|number: u32| {
                let [_, high, middle, low] = number.to_be_bytes();
                let mac = format!("52:54:02:{high:02x}:{middle:02x}:{low:02x}");
                format!("fdb {verb} {mac} dev {other} master static\n")
            })
            .collect();
        lines.concat()
    };
    let (add, delete) = (scene.write("add", &flood("add"))?, scene.write("del", &flood("del"))?);
    let host = &scene.lab.host;
    host.run(&["bridge", "-batch", &add])?;
    host.run(&["bridge", "fdb", "replace", &mac, "dev", other, "master", "static"])?;
    host.run(&["bridge", "-batch", &delete])?;
    running.signal(Signal::SIGCONT)?;
    let start = Instant::now();
    wait_until_alike(&scene)?;
    ensure!(entered(&scene)?.get(&mac) == Some(&ports[1].1), "{:?} {at}", entered(&scene)?);
    let lost = "notifications of forwarding databases were lost: reading them again";
    ensure!(running.stderr().contains(lost), "after {:?}: {}", start.elapsed(), running.stderr());
    // What was learned and becomes the host's own is no station any more.
    host.run(&["bridge", "fdb", "replace", &mac, "dev", other, "master", "local"])?;
    wait_until_alike(&scene)?;
    ensure!(!entered(&scene)?.contains_key(&mac), "{:?}", entered(&scene)?);
    running.terminate(DEADLINE)?.success()?;
    Ok(())
}

#[test]
fn station_that_the_bridge_ages_out_is_no_station() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut running = scene.ready(&ON)?;
    scene.assert_guests_get_out()?;
    wait_until_alike(&scene)?;
    let (_, tap) = guests(&scene)?.remove(0);
    ensure!(entered(&scene)?.values().any(|at| *at == tap), "{:?}", entered(&scene)?);
    // In hundredths of a second.
    scene.lab.host.run(&["ip", "link", "set", "virbr0", "type", "bridge", "ageing_time", "200"])?;
    wait_until("programs know how long it is", DEADLINE, || {
        match ports(&scene).map(|ports| ports[&tap].ageing_ms) {
            Ok(2000) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    wait_until("guests that are silent are forgotten", DEADLINE, || {
        match (known(&scene), entered(&scene)) {
            (Ok(known), Ok(entered)) if known.is_empty() && entered.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    scene.assert_guests_get_out()?;
    wait_until_alike(&scene)?;
    running.terminate(DEADLINE)?.success()?;
    Ok(())
}
