//! Modes and monitoring that are refused, with the reason and the command that mends it.

use anyhow::{Result, ensure};
use vnet_tests::{
    lab::{StandardLab, require_bonding},
    lifecycle::Scene,
};

const DEFINITION: &str = vnet_tests::lifecycle::DEFAULT_NETWORK;

/// `bond0` with a slave, as a port of the guests' bridge or as the uplink.
fn add_bond(lab: &StandardLab, mode: &str, is_port: bool) -> Result<()> {
    let host = &lab.host;
    host.run(&["ip", "link", "add", "bond0", "type", "bond", "mode", mode, "miimon", "100"])?;
    let mut lines = Vec::new();
    if is_port {
        lines.push("link add wire0 type veth peer name wire1".to_owned());
        lines.push("link set wire0 master bond0".to_owned());
        lines.push("link set bond0 master virbr0 up".to_owned());
    } else {
        lines.push("address flush dev eth0".to_owned());
        lines.push("link set eth0 down".to_owned());
        lines.push("link set eth0 master bond0".to_owned());
        lines.push("link set bond0 up".to_owned());
        lines.push("address add 203.0.113.2/24 dev bond0".to_owned());
        lines.push("route add default via 203.0.113.1".to_owned());
    }
    host.ip_batch(&lines)?;
    Ok(())
}

/// The error is exactly this one, and after its command there is none.
fn refused(mode: &str, is_port: bool, reason: &str) -> Result<()> {
    let scene = Scene::with(|lab| add_bond(lab, mode, is_port))?;
    let apply = |word: &str| {
        let file = scene.write("bond.xml", DEFINITION)?;
        scene.vnet(&["apply", word, "--instance", &scene.instance, &file])
    };
    let slave = if is_port { "wire0" } else { "eth0" };
    let mend = format!(
        "ip link set bond0 down && ip link set {slave} nomaster && ip link set bond0 type bond mode \
         active-backup miimon 100 && ip link set {slave} down && ip link set {slave} master bond0 && \
         ip link set bond0 up"
    );
    let expected = format!(
        "error: bond `bond0` has mode {reason}; modes 1, 2 and 4 do not; what mends it: {mend}"
    );
    let output = apply("--dry-run")?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(output.stderr.contains(&expected), "{}\nis not\n{expected}", output.stderr);
    scene.lab.host.run(&["sh", "-c", &mend])?;
    if !is_port {
        scene.lab.host.run(&["ip", "route", "replace", "default", "via", "203.0.113.1"])?;
    }
    let output = apply("--dry-run")?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    ensure!(!output.stderr.contains("bond"), "{}", output.stderr);
    Ok(())
}

const IN_TURN: &str =
    "which sends a connection's packets by all slaves in turn, so that they overtake each other";
const SEVERAL: &str = "which sends everything by every slave, so that it arrives several times";

#[test]
fn mode_0_is_refused() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    refused("balance-rr", true, &format!("0 (balance-rr), {IN_TURN}"))?;
    refused("balance-rr", false, &format!("0 (balance-rr), {IN_TURN}"))
}

#[test]
fn mode_3_is_refused() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    refused("broadcast", true, &format!("3 (broadcast), {SEVERAL}"))?;
    refused("broadcast", false, &format!("3 (broadcast), {SEVERAL}"))
}

#[test]
fn mode_5_is_refused() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    let frames = "5 (balance-tlb), which puts its slaves' MAC addresses in the place of the guests', so that \
                  answers are lost";
    let packets = "5 (balance-tlb), which sends by each slave with another MAC address, so that networks that \
                   expect one address at one MAC address drop what comes from the others";
    refused("balance-tlb", true, frames)?;
    refused("balance-tlb", false, packets)
}

#[test]
fn mode_6_is_refused() -> Result<()> {
    if !require_bonding() {
        return Ok(());
    }
    let frames = "6 (balance-alb), which puts its slaves' MAC addresses in the place of the guests', in their \
                  ARP answers as well, so that answers are lost";
    let packets = "6 (balance-alb), which sends by each slave with another MAC address, and gives each \
                   neighbour another one in its ARP answers, so that networks that expect one address at one \
                   MAC address drop what comes from the others";
    refused("balance-alb", true, frames)?;
    refused("balance-alb", false, packets)
}
