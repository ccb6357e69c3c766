//! Native XDP comes, is switched, and goes, and the host is left as it was found.

use std::time::Duration;

use anyhow::{Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use vnet_common::{
    guard::Mac,
    names::map,
    shortcut::{BridgePort, PORT_TAKES_XDP},
};
use vnet_tests::{
    lab::{require_root, require_vlan, services::UdpEcho, wait_until},
    lifecycle::{
        DEADLINE, Scene,
        stations::{entered, epoch, wait_until_alike},
    },
};

fn uplink(scene: &Scene) -> Result<String> {
    Ok(scene.lab.host.run(&["ip", "-d", "link", "show", "eth0"])?)
}

fn has_xdp(scene: &Scene) -> Result<bool> {
    Ok(uplink(scene)?.contains("prog/xdp "))
}

fn device(scene: &Scene) -> Result<Value> {
    Ok(scene.state()?["shortcut"]["xdp"][0].clone())
}

fn switch(scene: &Scene, setting: &str, wanted: &str) -> Result<()> {
    let output = scene.vnet(&["apply", "--instance", &scene.instance, "--xdp", setting])?;
    ensure!(output.stdout == wanted, "{setting}: {}{}", output.stdout, output.stderr);
    Ok(())
}

#[test]
fn xdp_is_switched_while_flows_go_on_and_leaves_the_host_as_it_was() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with_whole_checksums()?;
    let echo = UdpEcho::start(&scene.lab.outside, "203.0.113.1:7".parse()?)?;
    let running = scene.ready(&["--short-ways", "on", "--xdp", "off"])?;
    let here = "192.168.122.11:4000".parse()?;
    let flow = scene.lab.tap_guest.udp_socket(here, echo.address(), Duration::from_secs(5))?;
    let ask = |question: &[u8]| -> Result<()> {
        let mut answer = [0; 16];
        for _ in 0..20 {
            flow.send(question)?;
            let length = flow.recv(&mut answer)?;
            ensure!(&answer[..length] == question);
        }
        Ok(())
    };
    ask(b"off")?;
    ensure!(!has_xdp(&scene)?);
    ensure!(device(&scene)?["reason"] == "--xdp off", "{}", device(&scene)?);
    for _ in 0..3 {
        switch(&scene, "on", "~ settings\n    xdp: off -> on\n")?;
        ensure!(has_xdp(&scene)?, "{}", uplink(&scene)?);
        ensure!(device(&scene)?["reason"] == json!(null), "{}", device(&scene)?);
        ask(b"on")?;
        switch(&scene, "on", "no changes\n")?;
        switch(&scene, "off", "~ settings\n    xdp: on -> off\n")?;
        ensure!(!has_xdp(&scene)?, "{}", uplink(&scene)?);
        ask(b"off again")?;
    }
    ensure!(echo.peers().iter().all(|peer| peer == &echo.peers()[0]), "{:?}", echo.peers());
    switch(&scene, "on", "~ settings\n    xdp: off -> on\n")?;
    let mut running = running;
    running.terminate(DEADLINE)?.success()?;
    ensure!(!has_xdp(&scene)?, "{}", uplink(&scene)?);
    scene.assert_clean("on")
}

#[test]
fn xdp_is_not_used_on_its_own_where_frames_lack_their_checksums() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut running = scene.ready(&["--short-ways", "on", "--xdp", "auto"])?;
    ensure!(!has_xdp(&scene)?, "{}", uplink(&scene)?);
    let reason = "frames from a veth lack their checksums, unless its peer has `ethtool -K PEER tx \
                  off`: then `--xdp on`";
    ensure!(device(&scene)?["reason"] == reason, "{}", device(&scene)?);
    let wanted = format!("no native XDP at `eth0`, where packets go by TC alone: {reason}");
    let said = running.stderr();
    ensure!(said.matches(&wanted).count() == 1, "{said}");
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("auto")
}

#[test]
fn sigkill_at_any_step_of_the_short_ways_leaves_what_detach_takes_down() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for step in ["short-ways", "attached-uplink_xdp-eth0", "stations"] {
        let scene = Scene::new()?;
        let mut running = scene.paused_at(step, &["--short-ways", "on", "--xdp", "on"])?;
        running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
        scene.wait_for_end()?;
        scene.detach()?;
        ensure!(!has_xdp(&scene)?, "{step}: {}", uplink(&scene)?);
        scene.assert_clean(step)?;
    }
    Ok(())
}

#[test]
fn next_run_takes_xdp_over_and_detach_takes_it_off() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut running = scene.ready(&["--short-ways", "on", "--xdp", "on"])?;
    let first = device(&scene)?["program_id"].clone();
    running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    ensure!(has_xdp(&scene)?);
    let mut running = scene.ready(&["--short-ways", "on", "--xdp", "on"])?;
    let second = device(&scene)?["program_id"].clone();
    ensure!(second.is_u64() && first != second, "{first} {second}");
    ensure!(uplink(&scene)?.contains(&format!("prog/xdp id {second} ")), "{}", uplink(&scene)?);
    running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    let mut running = scene.ready(&["--short-ways", "on", "--xdp", "off"])?;
    ensure!(!has_xdp(&scene)?, "{}", uplink(&scene)?);
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("taken over")
}

/// What the device for XDP says, once it says that.
fn wait_for_reason(scene: &Scene, wanted: &Value) -> Result<()> {
    wait_until("the device says why", DEADLINE, || {
        let reason = device(scene).map_err(|error| error.to_string())?["reason"].clone();
        if &reason == wanted { Ok(()) } else { Err(reason.to_string()) }
    })?;
    Ok(())
}

#[test]
fn tagged_device_that_comes_later_takes_xdp_off_until_the_nic_leaves_tags_on() -> Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let scene = Scene::with_whole_checksums()?;
    let host = &scene.lab.host;
    let mut running = scene.ready(&["--short-ways", "on", "--xdp", "on"])?;
    ensure!(has_xdp(&scene)?, "{}", uplink(&scene)?);
    host.run(&["ip", "link", "add", "eth0.7", "link", "eth0", "type", "vlan", "id", "7"])?;
    // A veth leaves neither kind on.
    let reason = "it takes VLAN tags off frames before XDP sees them: `ethtool -K eth0 rxvlan off \
                  rx-vlan-stag-hw-parse off`";
    wait_for_reason(&scene, &json!(reason))?;
    ensure!(!has_xdp(&scene)?, "{}", uplink(&scene)?);
    let said = format!("no native XDP at `eth0`, where packets go by TC alone: {reason}");
    ensure!(running.stderr().matches(&said).count() == 1, "{}", running.stderr());
    scene.assert_guests_get_out()?;
    let leave_tags = ["ethtool", "-K", "eth0", "rxvlan", "off", "rx-vlan-stag-hw-parse", "off"];
    host.run(&leave_tags)?;
    wait_for_reason(&scene, &json!(null))?;
    ensure!(has_xdp(&scene)?, "{}", uplink(&scene)?);
    host.run(&["ethtool", "-K", "eth0", "rxvlan", "on", "rx-vlan-stag-hw-parse", "on"])?;
    wait_for_reason(&scene, &json!(reason))?;
    host.run(&["ip", "link", "delete", "eth0.7"])?;
    wait_for_reason(&scene, &json!(null))?;
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("tags")
}

/// The flags of a port in the tables of the short ways; none if it is not there.
fn port_flags(scene: &Scene, ifindex: u32) -> Result<Option<u32>> {
    let pins = scene.state()?["pins"].as_str().unwrap_or_default().to_owned();
    let pin = format!("{pins}/maps/{}", map::BRIDGE_PORTS);
    let ports: HashMap<_, u32, BridgePort> =
        HashMap::try_from(Map::HashMap(scene.lab.host.enter(|| MapData::from_pin(pin))??))?;
    Ok(ports.get(&ifindex, 0).ok().map(|port| port.flags))
}

/// How many moves the programs were told of.
fn moves(scene: &Scene) -> Result<u32> {
    let pins = scene.state()?["pins"].as_str().unwrap_or_default().to_owned();
    let pin = format!("{pins}/maps/{}", map::MOVES);
    let moves: Array<_, u32> =
        Array::try_from(Map::Array(scene.lab.host.enter(|| MapData::from_pin(pin))??))?;
    Ok(moves.get(&0, 0)?)
}

/// What ways depend on: moves that were told of, and the epoch.
fn validity(scene: &Scene) -> Result<(u32, u32)> {
    Ok((moves(scene)?, epoch(scene)?))
}

/// Until the ways of before hold no longer: soon after the tables say so.
fn wait_until_over(scene: &Scene, before: (u32, u32)) -> Result<()> {
    wait_until("ways are looked for anew", Duration::from_secs(2), || {
        let now = validity(scene).map_err(|error| error.to_string())?;
        if now == before { Err(format!("{now:?}")) } else { Ok(()) }
    })?;
    Ok(())
}

/// Index and name of the port of the guest in a container.
fn container_port(scene: &Scene) -> Result<(u32, String)> {
    let shown =
        scene.lab.host.run(&["ip", "-j", "link", "show", "type", "veth", "master", "virbr0"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    let index = shown[0]["ifindex"].as_u64().unwrap_or_default();
    Ok((u32::try_from(index)?, shown[0]["ifname"].as_str().unwrap_or_default().to_owned()))
}

#[test]
fn port_that_takes_no_frames_of_xdp_any_more_gets_none_and_one_that_goes_is_forgotten() -> Result<()>
{
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with_whole_checksums()?;
    let guest = &scene.lab.veth_guest;
    guest.run(&["ethtool", "-K", "eth0", "gro", "on"])?;
    let mut running = scene.ready(&["--short-ways", "on", "--xdp", "on"])?;
    let (port, name) = container_port(&scene)?;
    let wait_for = |what: &str, wanted: Option<u32>| -> Result<()> {
        wait_until(what, Duration::from_secs(2), || {
            let flags = port_flags(&scene, port).map_err(|error| error.to_string())?;
            let takes = flags.map(|flags| flags & PORT_TAKES_XDP);
            if takes == wanted { Ok(()) } else { Err(format!("{flags:?}")) }
        })?;
        Ok(())
    };
    if port_flags(&scene, port)?.is_some_and(|flags| flags & PORT_TAKES_XDP == 0) {
        eprintln!("skipped: this kernel does not tell which devices take frames of XDP");
        running.terminate(DEADLINE)?.success()?;
        return Ok(());
    }
    for _ in 0..2 {
        wait_for("the port takes frames", Some(PORT_TAKES_XDP))?;
        let before = validity(&scene)?;
        guest.run(&["ethtool", "-K", "eth0", "gro", "off"])?;
        wait_for("the port takes none", Some(0))?;
        wait_until_over(&scene, before)?;
        guest.run(&["ethtool", "-K", "eth0", "gro", "on"])?;
    }
    wait_for("the port takes frames", Some(PORT_TAKES_XDP))?;
    let before = validity(&scene)?;
    scene.lab.host.run(&["ip", "link", "set", &name, "nomaster"])?;
    wait_for("the port is none of the bridge", None)?;
    wait_until_over(&scene, before)?;
    running.terminate(DEADLINE)?.success()?;
    Ok(())
}

/// Programs at guests' ports without a guard.
fn port_hooks(scene: &Scene) -> Result<usize> {
    let state = scene.state()?;
    let hooks = state["hooks"].as_array().into_iter().flatten();
    Ok(hooks.filter(|hook| hook["program"] == "port_shortcut").count())
}

/// Entries of the tables of the short ways.
fn entries(scene: &Scene) -> Result<usize> {
    let pins = scene.state()?["pins"].as_str().unwrap_or_default().to_owned();
    let open = |name: &str| -> Result<MapData> {
        let pin = format!("{pins}/maps/{name}");
        Ok(scene.lab.host.enter(|| MapData::from_pin(pin))??)
    };
    let ports: HashMap<_, u32, BridgePort> =
        HashMap::try_from(Map::HashMap(open(map::BRIDGE_PORTS)?))?;
    let addresses: Array<_, Mac> = Array::try_from(Map::Array(open(map::BRIDGE_ADDRESSES)?))?;
    let addresses = addresses.iter().flatten().filter(|mac| *mac != Mac::NONE);
    Ok(ports.keys().count() + addresses.count() + entered(scene)?.len())
}

#[test]
fn short_ways_that_are_switched_off_leave_no_trace() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with_whole_checksums()?;
    let mut running = scene.ready(&["--short-ways", "off", "--xdp", "on"])?;
    let switch = |setting: &str, wanted: &str| -> Result<()> {
        let arguments = ["apply", "--instance", &scene.instance, "--short-ways", setting];
        let output = scene.vnet(&arguments)?;
        ensure!(output.stdout == wanted, "{setting}: {}{}", output.stdout, output.stderr);
        Ok(())
    };
    let assert_off = || -> Result<()> {
        scene.assert_guests_get_out()?;
        ensure!(!has_xdp(&scene)? && port_hooks(&scene)? == 0, "{}", uplink(&scene)?);
        ensure!(entries(&scene)? == 0, "{}", entries(&scene)?);
        let status = scene.vnet(&["status", "--instance", &scene.instance])?.stdout;
        ensure!(status.contains("\nShort ways are off (`vnet apply --short-ways on`)\n"));
        ensure!(!status.contains("XDP") && !status.contains("long way"), "{status}");
        Ok(())
    };
    assert_off()?;
    let vain = "`--xdp on` does nothing with `--short-ways off`";
    ensure!(running.stderr().matches(vain).count() == 1, "{}", running.stderr());
    for _ in 0..2 {
        switch("on", "~ settings\n    short-ways: off -> on\n")?;
        ensure!(has_xdp(&scene)? && port_hooks(&scene)? == 2, "{}", scene.state()?);
        scene.assert_guests_get_out()?;
        wait_until_alike(&scene)?;
        ensure!(entries(&scene)? >= 5, "{}", entries(&scene)?);
        switch("on", "no changes\n")?;
        switch("off", "~ settings\n    short-ways: on -> off\n")?;
        assert_off()?;
    }
    switch("on", "~ settings\n    short-ways: off -> on\n")?;
    running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    // The next run is told what is wanted.
    let mut running = scene.ready(&["--short-ways", "off"])?;
    assert_off()?;
    running.terminate(DEADLINE)?.success()?;
    scene.assert_clean("off")
}

#[test]
fn stations_follow_the_bridge_and_no_port_fills_the_table() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut running = scene.ready(&["--short-ways", "on"])?;
    scene.assert_guests_get_out()?;
    wait_until_alike(&scene)?;
    ensure!(entered(&scene)?.len() >= 2, "{:?}", entered(&scene)?);
    let ports: Vec<String> = scene.state()?["guests"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|guest| Some(guest["interface"].as_str()?.to_owned()))
        .collect();
    ensure!(ports.len() >= 2, "{ports:?}");
    let bridge = |verb: &str, mac: &str, port: &str| {
        scene.lab.host.run(&["bridge", "fdb", verb, mac, "dev", port, "master", "static"])
    };
    let mac = "52:54:00:aa:bb:cc";
    bridge("add", mac, &ports[0])?;
    wait_until_alike(&scene)?;
    bridge("replace", mac, &ports[1])?;
    wait_until_alike(&scene)?;
    ensure!(entered(&scene)?.contains_key(mac));
    bridge("del", mac, &ports[1])?;
    wait_until_alike(&scene)?;
    ensure!(!entered(&scene)?.contains_key(mac));

    // More than the port may have, at once.
    let before = entered(&scene)?.len();
    let port = &ports[1];
    let lines: Vec<String> = (0..3000)
        .map(|number| {
            let (high, low) = (number / 256, number % 256);
            format!("fdb add 52:54:01:00:{high:02x}:{low:02x} dev {port} master static\n")
        })
        .collect();
    let file = scene.write("fdb", &lines.concat())?;
    scene.lab.host.run(&["bridge", "-batch", &file])?;
    wait_until("the port has as many as it may", DEADLINE, || {
        let count = entered(&scene).map_err(|error| error.to_string())?.len();
        if (64..=64 + before).contains(&count) { Ok(()) } else { Err(count.to_string()) }
    })?;
    ensure!(running.stderr().matches("packets of more of them take no short way").count() == 1);
    scene.lab.host.run(&["bridge", "fdb", "flush", "dev", port, "master"])?;
    scene.lab.host.run(&["ip", "link", "set", port, "down"])?;
    scene.lab.host.run(&["ip", "link", "set", port, "up"])?;
    running.terminate(DEADLINE)?.success()?;
    Ok(())
}
