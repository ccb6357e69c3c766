//! What IPv6 and `<route>` change on a host, and that the end takes it back.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{Node, Running, StandardLab, killed_by, require_root, wait_until},
    lifecycle::{DEADLINE, DEFAULT_NETWORK, Scene},
};

const IPV6: &str = "<ip family='ipv6' address='fd00:122::1' prefix='64'/>";
const ROUTES: &str = "<route address='10.9.0.0' prefix='16' gateway='192.168.122.11'/>\
                      <route family='ipv6' address='fd00:9::' prefix='48' gateway='fd00:122::11' \
                      metric='7'/>";
const IPV4_ROUTE: &str = "10.9.0.0/16 via 192.168.122.11 dev virbr0";
const IPV6_ROUTE: &str = "fd00:9::/48 via fd00:122::11 dev virbr0";

/// The scene of a network of both families with a mode and further elements. `arrange` changes the
/// host before.
fn scene(
    forward: &str,
    rest: &str,
    arrange: impl FnOnce(&StandardLab) -> Result<()>,
) -> Result<Scene> {
    let scene = Scene::with(|lab| {
        give_ipv6(&lab.host)?;
        arrange(lab)
    })?;
    let text = DEFAULT_NETWORK
        .replace("<forward mode='nat'/>", forward)
        .replace("</network>", &format!("{IPV6}{rest}</network>"));
    scene.write("default.xml", &text)?;
    Ok(scene)
}

fn give_ipv6(host: &Node) -> Result<()> {
    host.sysctl("net.ipv6.conf.virbr0.disable_ipv6", "0")?;
    host.run(&["ip", "address", "add", "fd00:122::1/64", "dev", "virbr0", "nodad"])?;
    Ok(())
}

fn forwarding(scene: &Scene, interface: &str) -> Result<String> {
    Ok(scene.lab.host.sysctl_value(&format!("net/ipv6/conf/{interface}/forwarding"))?)
}

/// How a run ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Asked,
    KilledAndDetached,
}

fn end(scene: &Scene, mut running: Running, end: End, changed: &[&str]) -> Result<()> {
    match end {
        End::Asked => {
            let output = scene.stop_but_for(changed, running, Signal::SIGTERM)?;
            ensure!(!output.stderr.contains("ERROR"), "{}", output.stderr);
        }
        End::KilledAndDetached => {
            let output = running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
            ensure!(killed_by(output.status, Signal::SIGKILL), "{:?}", output.status);
            scene.wait_for_end()?;
            ensure!(forwarding(scene, "all")? == "1");
            scene.detach()?;
            scene.assert_clean_but_for(changed, "after vnet detach")?;
        }
    }
    Ok(())
}

#[test]
fn ipv6_forwarding_of_every_interface_is_given_back_as_it_was() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for how in [End::Asked, End::KilledAndDetached] {
        let scene = scene("<forward mode='nat'/>", "", |lab| {
            lab.host.run(&["ip", "link", "add", "gone9", "type", "bridge"])?;
            lab.host.run(&["ip", "link", "add", "name.9", "type", "bridge"])?;
            for interface in ["virbr0", "gone9", "name.9"] {
                lab.host.sysctl(&format!("net/ipv6/conf/{interface}/forwarding"), "1")?;
            }
            Ok(())
        })?;
        let running = scene.ready(&[])?;
        for interface in ["all", "default", "lo", "eth0", "virbr0", "name.9"] {
            ensure!(forwarding(&scene, interface)? == "1", "{interface}");
        }
        scene.lab.host.run(&["ip", "link", "delete", "gone9"])?;
        scene.lab.host.run(&["ip", "link", "add", "new9", "type", "bridge"])?;
        ensure!(forwarding(&scene, "new9")? == "1");
        end(&scene, running, how, &["gone9", "new9"])?;
        ensure!(forwarding(&scene, "new9")? == "0", "{how:?}");
        ensure!(forwarding(&scene, "name.9")? == "1", "{how:?}");
    }
    Ok(())
}

#[test]
fn interfaces_that_appear_end_with_the_default_that_they_would_have_had() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for how in [End::Asked, End::KilledAndDetached] {
        let scene = scene("<forward mode='route'/>", "", |lab| {
            lab.host.run(&["ip", "link", "add", "again9", "type", "bridge"])?;
            lab.host.run(&["ip", "link", "add", "old9", "type", "bridge"])?;
            lab.host.sysctl("net.ipv6.conf.default.forwarding", "1")?;
            lab.host.sysctl("net.ipv4.conf.default.forwarding", "1")?;
            Ok(())
        })?;
        let running = scene.ready(&[])?;
        scene.lab.host.run(&["ip", "link", "delete", "again9"])?;
        scene.lab.host.run(&["ip", "link", "add", "again9", "type", "bridge"])?;
        scene.lab.host.run(&["ip", "link", "set", "old9", "name", "renamed9"])?;
        end(&scene, running, how, &["again9", "old9", "renamed9"])?;
        for family in ["ipv4", "ipv6"] {
            let value = |interface: &str| {
                scene.lab.host.sysctl_value(&format!("net/{family}/conf/{interface}/forwarding"))
            };
            ensure!(value("again9")? == "1", "{how:?} {family}");
            ensure!(value("renamed9")? == "0", "{how:?} {family}");
            ensure!(value("default")? == "1" && value("all")? == "0", "{how:?} {family}");
        }
    }
    Ok(())
}

#[test]
fn only_families_that_are_forwarded_are_turned_on() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let isolated = scene("", "", |_| Ok(()))?;
    let running = isolated.ready(&[])?;
    ensure!(forwarding(&isolated, "all")? == "0");
    ensure!(isolated.lab.host.sysctl_value("net.ipv4.ip_forward")? == "0");
    isolated.stop(running, Signal::SIGTERM)?;

    let ipv4 = Scene::new()?;
    let running = ipv4.ready(&[])?;
    ensure!(forwarding(&ipv4, "all")? == "0");
    ensure!(ipv4.lab.host.sysctl_value("net.ipv4.ip_forward")? == "1");
    ipv4.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn host_that_would_lose_its_advertised_routes_is_left_alone() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = scene("<forward mode='nat'/>", "", |lab| {
        lab.host.sysctl("net.ipv6.conf.eth0.disable_ipv6", "0")?;
        lab.host.sysctl("net.ipv6.conf.eth0.accept_ra", "1")?;
        lab.host.run(&["ip", "address", "add", "2001:db8::2/64", "dev", "eth0", "nodad"])?;
        let route = "ip -6 route add default via 2001:db8::1 dev eth0 proto ra";
        lab.host.run(&route.split(' ').collect::<Vec<_>>())?;
        Ok(())
    })?;
    let output = scene.start(&[])?.wait(DEADLINE)?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let error = "error: interface `eth0` has IPv6 routes from router advertisements, which the \
                 kernel drops when the host forwards IPv6, as network `default` needs: have it \
                 accept them all the same with `sysctl -w net.ipv6.conf.eth0.accept_ra=2`\n";
    ensure!(output.stderr.ends_with(error), "{}", output.stderr);
    scene.assert_clean("after the refusal")?;

    scene.lab.host.sysctl("net.ipv6.conf.eth0.accept_ra", "2")?;
    let running = scene.ready(&[])?;
    scene.stop_but_for(&["eth0/accept_ra"], running, Signal::SIGTERM)?;
    Ok(())
}

fn routes(scene: &Scene) -> Result<String> {
    let ipv4 = scene.lab.host.run(&["ip", "-4", "route"])?;
    Ok(ipv4 + &scene.lab.host.run(&["ip", "-6", "route"])?)
}

fn wait_for_routes(scene: &Scene) -> Result<()> {
    wait_until("both routes are there", DEADLINE, || {
        let routes = routes(scene).map_err(|error| format!("{error:#}"))?;
        let there = [IPV4_ROUTE, IPV6_ROUTE].iter().all(|route| routes.contains(route));
        if there { Ok(()) } else { Err(routes) }
    })?;
    Ok(())
}

#[test]
fn routes_to_subnets_behind_guests_come_and_go() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for how in [End::Asked, End::KilledAndDetached] {
        let scene = scene("<forward mode='route'/>", ROUTES, |_| Ok(()))?;
        let running = scene.ready(&[])?;
        let found = routes(&scene)?;
        ensure!(found.contains(&format!("{IPV4_ROUTE} proto static metric 1")), "{found}");
        ensure!(found.contains(&format!("{IPV6_ROUTE} proto static metric 7")), "{found}");
        // Down, the bridge loses its routes.
        scene.lab.host.run(&["ip", "link", "set", "virbr0", "down"])?;
        scene.lab.host.run(&["ip", "link", "set", "virbr0", "up"])?;
        scene.lab.host.run(&[
            "ip",
            "address",
            "replace",
            "fd00:122::1/64",
            "dev",
            "virbr0",
            "nodad",
        ])?;
        wait_for_routes(&scene)?;
        end(&scene, running, how, &[])?;
    }
    Ok(())
}

#[test]
fn routes_come_again_with_a_bridge_that_is_made_anew() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = scene("<forward mode='route'/>", ROUTES, |_| Ok(()))?;
    let running = scene.ready(&[])?;
    let host = &scene.lab.host;
    host.run(&["ip", "link", "delete", "virbr0"])?;
    running.wait_for_line("there is no bridge `virbr0` on this host", DEADLINE)?;
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    give_ipv6(host)?;
    wait_for_routes(&scene)?;
    scene.stop_but_for(
        &["virbr0", "veth", "vnet", "192.168.122.", "fd00:"],
        running,
        Signal::SIGTERM,
    )?;
    let left = routes(&scene)?;
    ensure!(!left.contains(IPV4_ROUTE) && !left.contains(IPV6_ROUTE), "{left}");
    Ok(())
}

#[test]
fn route_that_is_there_already_stays_and_another_in_its_place_is_told_of() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = scene("<forward mode='route'/>", ROUTES, |lab| {
        for route in [
            "ip route add 10.9.0.0/16 via 192.168.122.11 dev virbr0 metric 1",
            "ip -6 route add fd00:9::/48 via fd00:122::12 dev virbr0 metric 7",
        ] {
            lab.host.run(&route.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    })?;
    let running = scene.ready(&[])?;
    running.wait_for_line(
        "network `default`: the host has another route to fd00:9::/48 with metric 7 than <route \
         gateway='fd00:122::11'> says, which counts: `ip route delete fd00:9::/48 metric 7` makes \
         room",
        DEADLINE,
    )?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn bridge_that_is_not_as_defined_is_told_of_and_served() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = scene("<forward mode='nat'/>", "<mtu size='9000'/>", |lab| {
        lab.host.sysctl("net.ipv6.conf.virbr0.disable_ipv6", "1")?;
        Ok(())
    })?;
    let running = scene.ready(&[])?;
    for line in [
        "network `default`: bridge `virbr0` has an MTU of 1500 bytes, which counts, and not the \
         9000 of <mtu size='9000'/>: `ip link set virbr0 mtu 9000`",
        "network `default`: IPv6 is off on bridge `virbr0`, so that guests have no IPv6: `sysctl \
         -w net.ipv6.conf.virbr0.disable_ipv6=0`, then give it the addresses of its <ip>s",
    ] {
        running.wait_for_line(line, DEADLINE)?;
    }
    scene.assert_guests_get_out()?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}
