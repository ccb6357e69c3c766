//! A bond below a bridge with guarded guests on it, as production hosts have it.

use anyhow::{Context as _, Result};
use vnet_tests::{
    lab::{Guest, Node, require_bonding},
    vnet::Vnet,
};

use crate::support::*;

const LAN: &str = "<network>
  <name>lan</name>
  <metadata>
    <vnet:options xmlns:vnet='urn:vnet:options:1'><vnet:guard from='learn'/></vnet:options>
  </metadata>
  <forward mode='bridge'/>
  <bridge name='br0'/>
</network>
";

/// As `masquerades` in `nat`.
fn bridges(mode: &'static str) -> Result<()> {
    let bonded = Bonded::new(mode)?;
    let host = &bonded.host;
    host.bridge("br0", &["203.0.113.2/24"])?;
    host.run(&["ip", "link", "set", "bond0", "master", "br0"])?;
    let plug = |guest: Guest, address| bonded.lab.guest(host, "br0", &guest.address(address));
    let tap_guest = plug(Guest::tap("guest1"), "203.0.113.11/24")?;
    let veth_guest = plug(Guest::veth("guest2"), "203.0.113.12/24")?;
    take_the_slaves_of(host, &veth_guest)?;
    let echo = bonded.echo()?;
    let losses = |port| {
        bonded.losses([
            veth_guest.udp_socket(at("203.0.113.12", port), echo.address(), DEADLINE)?,
            host.udp_socket(at("203.0.113.2", port), echo.address(), DEADLINE)?,
        ])
    };
    is_no_worse(|more| {
        let before = losses(4001 + more)?;
        let vnet = Vnet::start(host, &[LAN.to_owned()])?;
        bonded.reach(&echo, [&tap_guest, &veth_guest], ["203.0.113.11", "203.0.113.12"])?;
        let with = losses(4002 + more)?;
        vnet.stop()?;
        Ok(Lost { with, without: [before, losses(4003 + more)?] })
    })
}

/// Gives the bridge a MAC address that a bond sends by the same slaves as a guest's: `bond_eth_hash` in
/// `drivers/net/bonding/bond_main.c` looks at the last byte.
fn take_the_slaves_of(host: &Node, guest: &Node) -> Result<()> {
    let address = guest.enter(|| std::fs::read_to_string("/sys/class/net/eth0/address"))??;
    let last = address.trim().rsplit(':').next().context("no address")?;
    host.run(&["ip", "link", "set", "br0", "address", &format!("02:00:5e:00:53:{last}")])?;
    Ok(())
}

#[test]
fn guests_of_a_bridge_over_a_bond_of_mode_1_reach_outside() -> Result<()> {
    if require_bonding() { bridges("active-backup") } else { Ok(()) }
}

#[test]
fn guests_of_a_bridge_over_a_bond_of_mode_2_reach_outside() -> Result<()> {
    if require_bonding() { bridges("balance-xor") } else { Ok(()) }
}

#[test]
fn guests_of_a_bridge_over_a_bond_of_mode_4_reach_outside() -> Result<()> {
    if require_bonding() { bridges("802.3ad") } else { Ok(()) }
}
