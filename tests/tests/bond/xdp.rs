//! Native XDP at a bond, by all its slaves.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use vnet_tests::{
    lab::{Guest, require_bonding, wait_until},
    lifecycle::ForeignXdp,
    vnet::{Vnet, nat_network},
};

use crate::support::*;

const TAKEN: &str = "its slave `s1`: another XDP program is there";

fn at_bond(vnet: &Vnet) -> Result<Value> {
    let status = vnet.status()?;
    let all = status["shortcut"]["xdp"].as_array().context("no devices for XDP")?;
    all.iter().find(|device| device["interface"] == "bond0").cloned().context("no bond0")
}

/// Frames of a flow come in by whatever slave the bond listens to; the flow goes on while slaves fail, are taken
/// out and come back, with the same loss as the host's own, which XDP leaves to the stack.
#[test]
fn xdp_of_a_bond_goes_on_while_its_slaves_fail() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    for mode in ["active-backup", "balance-xor"] {
        let bonded = Bonded::new(mode)?;
        bonded.send_whole_checksums()?;
        let host = &bonded.host;
        host.add_address("bond0", "203.0.113.2/24")?;
        host.run(&["ip", "route", "add", "default", "via", STATION])?;
        host.bridge("virbr0", &["192.168.122.1/24"])?;
        let guest = Guest::tap("guest1").address("192.168.122.11/24").gateway("192.168.122.1");
        let guest = bonded.lab.guest(host, "virbr0", &guest)?;
        let echo = bonded.echo()?;
        let own = |port| host.udp_socket(at("203.0.113.2", port), echo.address(), DEADLINE);
        is_no_worse(|more| {
            let before = bonded.losses([own(501 + more)?, own(502 + more)?])?;
            let arguments = ["--short-ways", "on", "--xdp", "on"];
            let network = nat_network("default", "virbr0", &["192.168.122.1/24"]);
            let vnet = Vnet::start_with(host, &[network], &arguments)?;
            ensure!(at_bond(&vnet)?["reason"] == json!(null), "{mode}: {}", at_bond(&vnet)?);
            // XDP comes before what tcpdump sees.
            let port = 4000 + more;
            let filter = format!("udp src port 7 and dst port {port}");
            let witness = host.capture("bond0", &filter)?;
            let socket = at("192.168.122.11", port);
            let socket = guest.udp_socket(socket, echo.address(), DEADLINE)?;
            let with = bonded.losses([socket, own(503 + more)?])?;
            let seen = witness.finish()?.len();
            let all = echo.peers().iter().filter(|peer| peer.port() == port).count();
            ensure!(seen * 2 < all, "{mode}: {seen} of {all} have met the bond's own hooks");
            ensure!(at_bond(&vnet)?["reason"] == json!(null), "{mode}: {}", at_bond(&vnet)?);
            vnet.stop()?;
            let after = bonded.losses([own(504 + more)?, own(505 + more)?])?;
            Ok(Lost { with, without: [before, after] })
        })?;
    }
    Ok(())
}

#[test]
fn slave_with_a_program_of_its_own_keeps_xdp_from_its_bond_until_it_has_gone() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    let bonded = Bonded::new("active-backup")?;
    let host = &bonded.host;
    host.add_address("bond0", "203.0.113.2/24")?;
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    let foreign = ForeignXdp::attach(host, "s1")?;
    let network = nat_network("default", "virbr0", &["192.168.122.1/24"]);
    let arguments = ["--uplink", "bond0", "--short-ways", "on", "--xdp", "on"];
    let vnet = Vnet::start_with(host, &[network], &arguments)?;
    ensure!(at_bond(&vnet)?["reason"] == TAKEN, "{}", at_bond(&vnet)?);
    drop(foreign);
    wait_until("XDP is on at the bond", DEADLINE, || {
        let device = at_bond(&vnet).map_err(|error| error.to_string())?;
        if device["reason"] == json!(null) { Ok(()) } else { Err(device.to_string()) }
    })?;
    Ok(vnet.stop()?)
}
