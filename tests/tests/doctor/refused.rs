//! What keeps definitions from running on a host is said before anything is changed.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{HostState, require_bonding, require_root},
    lifecycle::Scene,
};

use crate::support::*;

/// `vnet apply` of a file has to be refused with this error and change nothing; doctor says the same.
fn refused(scene: &Scene, definition: &str, check: &str, message: &str) -> Result<String> {
    let file = scene.write("refused.xml", definition)?;
    let before = HostState::read(&scene.lab.host)?;
    let output = scene.vnet(&["apply", "--instance", &scene.instance, &file])?;
    ensure!((output.status.code(), output.stdout.as_str()) == (Some(2), ""), "{output:?}");
    ensure!(output.stderr.contains(&format!("error: {message}")), "{}", output.stderr);
    let difference = before.difference(&HostState::read(&scene.lab.host)?);
    ensure!(difference.is_empty(), "{difference}");
    let mend = mend("fail", &findings(&scene.lab.host, definition, check));
    ensure!(output.stderr.contains(&mend), "{} does not say {mend}", output.stderr);
    Ok(mend)
}

/// Nothing is in the way any more.
fn accepted(scene: &Scene, definition: &str, check: &str) -> Result<()> {
    let file = scene.write("accepted.xml", definition)?;
    let output = scene.vnet(&["apply", "--dry-run", "--instance", &scene.instance, &file])?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    ensure!(!output.stderr.contains("what mends it"), "{}", output.stderr);
    ensure!(findings(&scene.lab.host, definition, check) == ok());
    Ok(())
}

#[test]
fn subnet_to_which_the_host_has_another_route_is_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let host = &scene.lab.host;
    host.run(&["ip", "route", "add", "192.168.122.0/24", "dev", "eth0", "metric", "9"])?;
    let message =
        "network `default`: the host has a route to its subnet 192.168.122.0/24 by `eth0`";
    let mend = refused(&scene, DEFINITION, "subnet", message)?;
    let (_, command) = mend.split_once("is not needed, ").unwrap();
    host.run(&["sh", "-c", command])?;
    accepted(&scene, DEFINITION, "subnet")
}

#[test]
fn subnet_and_bridge_of_another_instance_are_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| Ok(lab.host.bridge("virbr1", &["192.168.122.129/25"])?))?;
    let running = scene.ready(&[])?;
    let other = "<network><name>other</name><forward mode='nat'/><bridge name='virbr1'/>\
                 <ip address='192.168.122.129' prefix='25'/></network>";
    let file = scene.write("other.xml", other)?;
    let instance = format!("{}-b", scene.instance);
    let refused = |file: &str, message: &str| {
        let output = scene.vnet(&["apply", "--instance", &instance, file])?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(output.stderr.contains(message), "{}", output.stderr);
        anyhow::Ok(())
    };
    let theirs = format!("network `default` of instance `{}`", scene.instance);
    refused(
        &file,
        &format!("its subnet 192.168.122.128/25 overlaps 192.168.122.0/24 of {theirs}"),
    )?;
    refused(&scene.definition(), &format!("its bridge `virbr0` is that of {theirs}"))?;
    // What runs may be applied again.
    let output = scene.vnet(&["apply", "--instance", &scene.instance, &scene.definition()])?;
    ensure!(output.stdout == "no changes\n", "{output:?}");
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn host_that_keeps_every_port_for_itself_is_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    scene.lab.host.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    let message =
        "network `default`: its guests are masqueraded to ports 1024-65535, and the host keeps";
    let command = refused(&scene, DEFINITION, "ports", message)?;
    scene.lab.host.run(&["sh", "-c", &command])?;
    accepted(&scene, DEFINITION, "ports")?;
    // A part of them is worth a warning.
    let narrow = DEFINITION.replace(
        "<forward mode='nat'/>",
        "<forward mode='nat'><nat><port start='32000' end='33999'/></nat></forward>",
    );
    mend("warn", &findings(&scene.lab.host, &narrow, "ports"));
    Ok(())
}

#[test]
fn bond_that_loses_guests_frames_is_refused() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    let scene = Scene::with(|lab| {
        let host = &lab.host;
        let add = ["ip", "link", "add", "bond0", "type", "bond", "mode", "balance-tlb"];
        host.run(&[&add[..], &["miimon", "100"]].concat())?;
        host.run(&["ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1"])?;
        host.run(&["ip", "link", "set", "wire0", "master", "bond0"])?;
        host.run(&["ip", "link", "set", "bond0", "master", "virbr0", "up"])?;
        Ok(())
    })?;
    let message =
        "bond `bond0` has mode 5 (balance-tlb), which puts its slaves' MAC addresses in the place";
    let command = refused(&scene, DEFINITION, "bond", message)?;
    scene.lab.host.run(&["sh", "-c", &command])?;
    accepted(&scene, DEFINITION, "bond")?;
    scene.lab.host.run(&["ip", "link", "set", "bond0", "type", "bond", "miimon", "0"])?;
    let command = mend("fail", &findings(&scene.lab.host, DEFINITION, "bond"));
    scene.lab.host.run(&["sh", "-c", &command])?;
    accepted(&scene, DEFINITION, "bond")
}
