//! Definitions that differ from what runs.

use std::{fs, io, net::UdpSocket, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{
        Running, SteadyTcp, require_root,
        services::{TcpEcho, UdpEcho},
        wait_until,
    },
    lifecycle::{DEADLINE, Scene},
};

use crate::support::*;

const SOON: Duration = Duration::from_secs(5);
const NEW: &str = "+ default (nat, virbr0, 192.168.122.0/24)\n";

fn assert_guests_do_not_get_out(scene: &Scene) -> Result<()> {
    let ping = scene.lab.tap_guest.ping(OUTSIDE, 1)?;
    ensure!(ping.received == 0, "{ping:?}");
    Ok(())
}

/// The same steps with a daemon and without one.
fn changes(scene: &Scene, daemon: Option<&Running>) -> Result<()> {
    let (definition, hooks) = (scene.definition(), scene.hooks()?);
    applied(scene, &[&definition], "no changes\n")?;
    let isolated = scene.write("isolated.xml", &network("", ""))?;
    let output = apply(scene, &[&isolated])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    ensure!(
        output.stdout.starts_with("~ default\n    forward.mode: nat -> isolated\n"),
        "{}",
        output.stdout
    );
    assert_guests_do_not_get_out(scene)?;
    // The hooks have not been touched.
    ensure!(scene.hooks()? == hooks, "{:?}", scene.hooks()?);
    let output = apply(scene, &["--dry-run", &definition])?;
    ensure!(output.stdout.contains("forward.mode: isolated -> nat\n"), "{output:?}");
    assert_guests_do_not_get_out(scene)?;
    let output = apply(scene, &["-o", "json", &definition])?;
    let json: serde_json::Value = serde_json::from_str(&output.stdout)?;
    ensure!(json[0]["change"] == "changed" && json[0]["name"] == "default", "{json}");
    scene.assert_guests_get_out()?;
    if let Some(daemon) = daemon {
        ensure!(scene.state()?["pid"] == daemon.id());
    }
    Ok(())
}

#[test]
fn apply_without_a_daemon_starts_changes_and_leaves_the_datapath() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let definition = scene.definition();
    applied(&scene, &["--dry-run", &definition], NEW)?;
    scene.assert_clean("after a dry run")?;
    applied(&scene, &[&definition], NEW)?;
    scene.wait_for_end()?;
    scene.assert_guests_get_out()?;
    changes(&scene, None)?;
    scene.detach()?;
    scene.assert_clean("after detach")
}

#[test]
fn daemon_takes_the_order_to_apply() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    changes(&scene, Some(&running))?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn hang_up_has_the_daemon_read_its_definitions_again() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    scene.write("default.xml", &network("", ""))?;
    running.signal(Signal::SIGHUP)?;
    running.wait_for_line("[INFO ] ~ default", DEADLINE)?;
    assert_guests_do_not_get_out(&scene)?;
    // What cannot be read changes nothing.
    scene.write("default.xml", "<network>")?;
    running.signal(Signal::SIGHUP)?;
    running.wait_for_line("the definitions are left as they were", DEADLINE)?;
    scene.write("default.xml", &network(NAT, ""))?;
    running.signal(Signal::SIGHUP)?;
    wait_until("guests get out again", DEADLINE, || {
        scene.assert_guests_get_out().map_err(|error| format!("{error:#}"))
    })?;
    scene.stop_but_for(&[], running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn networks_come_and_go_and_keep_their_slots_and_flows() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| Ok(lab.host.bridge("virbr1", &["192.168.123.1/24"])?))?;
    let running = scene.ready(&[])?;
    let echo = TcpEcho::start(&scene.lab.outside, format!("{OUTSIDE}:7").parse()?)?;
    let flows = SteadyTcp::open(&scene.lab.tap_guest, echo.address(), 3)?;
    let second = named("second", NAT, "virbr1", "<ip address='192.168.123.1' prefix='24'/>");
    let second = scene.write("a-second.xml", &second)?;
    let definition = scene.definition();
    // The new one comes first, the old one keeps its slot.
    applied(&scene, &[&second, &definition], "+ second (nat, virbr1, 192.168.123.0/24)\n")?;
    let slots = |state: &serde_json::Value| -> Vec<(String, u64)> {
        let networks = state["networks"].as_array().cloned().unwrap_or_default();
        let slot = |network: &serde_json::Value| {
            Some((network["name"].as_str()?.to_owned(), network["slot"].as_u64()?))
        };
        networks.iter().filter_map(slot).collect()
    };
    ensure!(
        slots(&scene.state()?) == [("second".to_owned(), 2), ("default".to_owned(), 1)],
        "{:?}",
        scene.state()?
    );
    scene.wait_for_hooks(&[
        "egress of eth0",
        "ingress of eth0",
        "egress of virbr0",
        "ingress of virbr0",
        "egress of virbr1",
        "ingress of virbr1",
    ])?;
    applied(&scene, &[&definition], "- second\n")?;
    scene.wait_for_hooks(&HOOKS)?;
    let (rounds, broken) = flows.finish();
    ensure!(rounds > 0 && broken.is_empty(), "{rounds} {broken:?}");
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn what_a_network_that_goes_had_changed_on_the_host_is_given_back() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| Ok(lab.host.bridge("virbr1", &["192.168.123.1/24"])?))?;
    let host = &scene.lab.host;
    let isolated = "<ip address='192.168.123.1' prefix='24'/>";
    let alone = scene.write("alone.xml", &named("alone", "", "virbr1", isolated))?;
    let route = "<port isolated='yes'/>\
                 <route address='10.9.0.0' prefix='16' gateway='192.168.122.11'/>";
    let behind_guest = scene.write("routed.xml", &network(NAT, route))?;
    for mode in ["tcx", "clsact"] {
        let running = scene.ready(&["--attach", mode])?;
        apply(&scene, &[&behind_guest, &alone])?;
        let routes = || host.run(&["ip", "route", "show", "10.9.0.0/16"]);
        ensure!(routes()?.contains("via 192.168.122.11 dev virbr0"), "{}", routes()?);
        ensure!(host.sysctl_value("net.ipv4.ip_forward")? == "1");
        let port = format!("/sys/class/net/{}/brport/isolated", host.port_of("guest1").unwrap());
        let is_isolated = || host.enter(|| fs::read_to_string(&port));
        ensure!(is_isolated()??.trim() == "1");
        let output = apply(&scene, &[&alone])?;
        ensure!(output.stdout == "- default\n", "{output:?}");
        ensure!(routes()?.is_empty(), "{}", routes()?);
        ensure!(is_isolated()??.trim() == "0");
        ensure!(host.sysctl_value("net.ipv4.ip_forward")? == "0", "{mode}");
        let qdiscs = host.run(&["tc", "qdisc", "show", "dev", "virbr0"])?;
        ensure!(!qdiscs.contains("clsact"), "{qdiscs}");
        scene.stop(running, Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn flows_that_the_new_definitions_do_not_allow_end_and_no_others() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let (guest, outside) = (&scene.lab.tap_guest, &scene.lab.outside);
    let options = |options: &str| {
        let options = format!(
            "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{options}</vnet:options>\
             </metadata>"
        );
        scene.write("default.xml", &network(NAT, &options))
    };
    let forward = "<vnet:forward protocol='udp' port='9000' to='192.168.122.11' to-port='7000'/>";
    options(&format!("{forward}<vnet:limits flows='100'/>"))?;
    let running = scene.ready(&[])?;
    let inside = UdpEcho::start(guest, "192.168.122.11:7000".parse()?)?;
    let echo = UdpEcho::start(outside, format!("{OUTSIDE}:7").parse()?)?;
    let own = guest.udp_socket("192.168.122.11:4000".parse()?, echo.address(), SOON)?;
    let ask = |socket: &UdpSocket, question: &[u8]| -> io::Result<bool> {
        socket.send(question)?;
        let mut answer = [0; 16];
        Ok(socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == question))
    };
    let stranger = outside.udp_socket(
        format!("{OUTSIDE}:5000").parse()?,
        "203.0.113.2:9000".parse()?,
        SOON,
    )?;
    ensure!(ask(&own, b"own")? && ask(&stranger, b"forwarded")?);
    ensure!(inside.peers().len() == 1, "{:?}", inside.peers());
    let flows = || -> Result<Vec<String>> {
        let output = scene.vnet(&["flows", "-o", "json", "--instance", &scene.instance])?;
        let flows: serde_json::Value = serde_json::from_str(&output.stdout)?;
        let all = flows["flows"].as_array().or(flows.as_array()).cloned().unwrap_or_default();
        let remote = |flow: &serde_json::Value| {
            let remote = &flow["remote"];
            format!("{}:{}", remote["address"].as_str().unwrap_or("?"), remote["port"])
        };
        let mut remotes: Vec<_> = all.iter().map(remote).collect();
        remotes.sort_unstable();
        Ok(remotes)
    };
    ensure!(flows()? == ["203.0.113.1:5000", "203.0.113.1:7"], "{:?}", flows()?);

    // Another limit ends nothing.
    options(&format!("{forward}<vnet:limits flows='200'/>"))?;
    apply(&scene, &[&scene.definition()])?;
    ensure!(ask(&own, b"again")? && ask(&stranger, b"again")?);
    // Without the forward its flow ends, also without a packet.
    options("<vnet:limits flows='200'/>")?;
    apply(&scene, &[&scene.definition()])?;
    wait_until("the forward's flow alone ends", DEADLINE, || match flows() {
        Ok(remotes) if remotes == ["203.0.113.1:7"] => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(ask(&own, b"and again")?);
    ensure!(echo.peers().iter().all(|peer| *peer == echo.peers()[0]));
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}
