//! The next process goes on with what the last one has left.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{require_root, services::UdpEcho},
    lifecycle::{DEADLINE, HOOK_STEPS, Scene},
};

use crate::support::*;

/// Steps of a start that takes a datapath over, and of a change.
const STEPS: [&str; 11] = [
    "prepared",
    "loaded",
    "taken-over",
    "guarded",
    HOOK_STEPS[0],
    HOOK_STEPS[3],
    "attached",
    "staged",
    "shown",
    "detached",
    "forwarding",
];

#[test]
fn next_run_takes_a_killed_ones_datapath_over_without_a_loss() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in ["tcx", "clsact"] {
        let scene = Scene::new()?;
        let first = scene.ready(&["--attach", mode])?;
        let traffic = Traffic::start(&scene)?;
        kill(first)?;
        let second = scene.ready(&[])?;
        let words =
            format!("going on with what an earlier run of instance `{}` has left", scene.instance);
        second.wait_for_line(&words, DEADLINE)?;
        ensure!(scene.state()?["pid"] == second.id(), "{}", scene.state()?);
        ensure!(scene.hooks()?.len() == HOOK_STEPS.len(), "{:?}", scene.hooks()?);
        // `--keep` leaves all in place, and another run goes on with that.
        kill(second)?;
        let mut third = scene.ready(&["--keep"])?;
        third.signal_and_wait(Signal::SIGTERM, DEADLINE)?;
        scene.wait_for_end()?;
        scene.assert_guests_get_out()?;
        let fourth = scene.ready(&[])?;
        traffic.finish().context(mode)?;
        scene.stop(fourth, Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn start_that_is_killed_anywhere_leaves_traffic_alone_and_the_next_one_mends_it() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| Ok(lab.host.bridge("virbr1", &["192.168.123.1/24"])?))?;
    let second = named("second", NAT, "virbr1", "<ip address='192.168.123.1' prefix='24'/>");
    let second = scene.write("second.xml", &second)?;
    kill(scene.ready(&[])?)?;
    let traffic = Traffic::start(&scene)?;
    for (index, step) in STEPS.into_iter().enumerate() {
        // With the second network and without it in turn.
        let arguments: &[&str] = if index % 2 == 0 { &[&second] } else { &[] };
        kill(scene.paused_at(step, arguments)?).context(step)?;
        scene.wait_for_end()?;
    }
    kill(scene.ready(&[])?)?;
    scene.wait_for_hooks(&HOOKS)?;
    traffic.finish()?;
    scene.detach()?;
    scene.assert_clean("after detach")
}

#[test]
fn guest_that_left_while_nobody_ran_takes_its_flows_along() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let link = scene.lab.veth_guest.run(&["ip", "-br", "link", "show", "eth0"])?;
    let mac = link.split_whitespace().nth(2).context("no MAC address")?;
    let host = format!("<dhcp><host mac='{mac}' ip='192.168.122.12'/></dhcp>");
    let definition = named(
        "default",
        NAT,
        "virbr0",
        &format!("<ip address='192.168.122.1' prefix='24'>{host}</ip>"),
    );
    scene.write("default.xml", &definition)?;
    let first = scene.ready(&[])?;
    let echo = UdpEcho::start(&scene.lab.outside, format!("{OUTSIDE}:7").parse()?)?;
    for guest in [&scene.lab.tap_guest, &scene.lab.veth_guest] {
        let deadline = Duration::from_secs(5);
        ensure!(guest.udp_ask(echo.address(), b"open", deadline)? == b"open");
    }
    kill(first)?;
    let port = scene.lab.host.port_of("guest2").context("no port")?;
    scene.lab.host.run(&["ip", "link", "delete", &port])?;
    let second = scene.ready(&[])?;
    let flows =
        || -> Result<String> { Ok(scene.vnet(&["flows", "--instance", &scene.instance])?.stdout) };
    vnet_tests::lab::wait_until(
        "the flow of the guest that is gone ends",
        DEADLINE,
        || match flows() {
            Ok(flows) if !flows.contains("192.168.122.12") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )?;
    ensure!(flows()?.contains("192.168.122.11"), "{}", flows()?);
    scene.stop_but_for(&[&port, "guest2"], second, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn what_runs_goes_on_when_the_host_no_longer_allows_it() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let first = scene.ready(&[])?;
    let traffic = Traffic::start(&scene)?;
    kill(first)?;
    // A route of others to the subnet, which a first start refuses.
    let route = ["192.168.122.0/24", "dev", "eth0", "metric", "500"];
    let ip_route = |what: &str| scene.lab.host.run(&[&["ip", "route", what], &route[..]].concat());
    ip_route("add")?;
    let words = "the host has a route to its subnet 192.168.122.0/24 by `eth0` already";
    let error = format!("ERROR] network `default`: {words}");
    // A file that is named, and then a directory.
    let mut second = scene.ready(&[])?;
    second.wait_for_line(&error, DEADLINE)?;
    second.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    let definition = scene.definition();
    applied(&scene, &[&definition], "no changes\n")?;
    let directory = std::path::Path::new(&definition).parent().context("no directory")?;
    // New, and first: what runs has the subnet.
    let twin = named("twin", NAT, "virbr9", "<ip address='192.168.122.1' prefix='24'/>");
    scene.write("a-twin.xml", &twin)?;
    let program = vnet_tests::lifecycle::program()?;
    let directory = directory.display().to_string();
    let command = [program.as_str(), "run", &directory, "--instance", &scene.instance];
    let mut third = scene.lab.host.spawn(&command)?;
    third.wait_for_line("a-twin.xml is ignored for now: ", DEADLINE)?;
    third.wait_for_line(&error, DEADLINE)?;
    third.wait_for_line("ready", DEADLINE)?;
    ensure!(scene.hooks()?.len() == HOOK_STEPS.len(), "{:?}", scene.hooks()?);
    traffic.finish()?;

    // Once it is down, it may not begin.
    third.signal_and_wait(Signal::SIGTERM, DEADLINE)?;
    let output = scene.vnet(&["run", "--instance", &scene.instance, &definition])?;
    ensure!(output.status.code() == Some(2) && output.stderr.contains(words), "{output:?}");
    ip_route("del")?;
    scene.assert_clean("in the end")
}
