//! Networks that come and go on bridges that are in use.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{Guest, Node, SteadyUdp, require_root, services::UdpEcho},
    lifecycle::Scene,
};

use crate::support::*;

const TIMES: usize = 10;
const PAUSE: Duration = Duration::from_micros(500);
/// Steps of a start at which a bridge is, or is about to be, a network's.
const STEPS: [&str; 6] = [
    "named",
    "attached-bridge_egress-virbr1",
    "attached-bridge_ingress-virbr1",
    "attached",
    "staged",
    "shown",
];

/// A guest on a bridge that is no network's, and somebody of the host whom it talks to.
fn scene() -> Result<(Scene, Node)> {
    let mut guest = None;
    let scene = Scene::with(|lab| {
        lab.host.bridge("virbr1", &["192.168.123.1/24"])?;
        let third = Guest::veth("guest3").address("192.168.123.11/24").gateway("192.168.123.1");
        guest = Some(lab.lab.guest(&lab.host, "virbr1", &third)?);
        Ok(())
    })?;
    Ok((scene, guest.context("no guest")?))
}

fn second(scene: &Scene, forward: &str) -> Result<String> {
    let second = named("second", forward, "virbr1", "<ip address='192.168.123.1' prefix='24'/>");
    scene.write("second.xml", &second)
}

fn talk(scene: &Scene, guest: &Node) -> Result<(SteadyUdp, UdpEcho)> {
    let echo = UdpEcho::start(&scene.lab.host, "192.168.123.1:7".parse()?)?;
    let from = "192.168.123.11:4000".parse()?;
    Ok((SteadyUdp::start_paced(guest, from, echo.address(), PAUSE)?, echo))
}

fn ensure_unbroken(udp: SteadyUdp) -> Result<()> {
    let report = udp.finish();
    ensure!(report.sent > 0 && report.answered == report.sent, "{report:?}");
    ensure!((report.lost, report.refused) == (0, 0), "{report:?}");
    Ok(())
}

#[test]
fn network_that_comes_and_goes_costs_the_guests_of_its_bridge_no_packet() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for forward in [NAT, ""] {
        let (scene, guest) = scene()?;
        let second = second(&scene, forward)?;
        let daemon = scene.ready(&[])?;
        let (udp, _echo) = talk(&scene, &guest)?;
        let definition = scene.definition();
        for _ in 0..TIMES {
            for files in [&[&definition[..], &second][..], &[&definition]] {
                let output = apply(&scene, files)?;
                ensure!(output.status.success(), "{output:?}");
            }
        }
        ensure_unbroken(udp)?;
        scene.stop(daemon, Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn start_that_is_killed_costs_the_guests_of_a_new_networks_bridge_no_packet() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (scene, guest) = scene()?;
    let second = second(&scene, NAT)?;
    kill(scene.ready(&[])?)?;
    let (udp, _echo) = talk(&scene, &guest)?;
    for step in STEPS {
        kill(scene.paused_at(step, &[&second])?).context(step)?;
        scene.wait_for_end()?;
        // And back to where the bridge is nobody's.
        kill(scene.ready(&[])?).context(step)?;
        scene.wait_for_end()?;
    }
    ensure_unbroken(udp)?;
    scene.detach()?;
    scene.assert_clean("after detach")
}
