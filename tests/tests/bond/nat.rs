//! A bond as the uplink of a NAT network.

use anyhow::Result;
use vnet_tests::{
    lab::{Guest, require_bonding},
    vnet::{Vnet, nat_network},
};

use crate::support::*;

/// Guests reach outside, and lose no more when slaves fail than the host does, or the bond without vnet.
fn masquerades(mode: &'static str) -> Result<()> {
    let bonded = Bonded::new(mode)?;
    let host = &bonded.host;
    host.add_address("bond0", "203.0.113.2/24")?;
    host.run(&["ip", "route", "add", "default", "via", STATION])?;
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    let plug = |guest: Guest, address| {
        let guest = guest.address(address).gateway("192.168.122.1");
        bonded.lab.guest(host, "virbr0", &guest)
    };
    let tap_guest = plug(Guest::tap("guest1"), "192.168.122.11/24")?;
    let veth_guest = plug(Guest::veth("guest2"), "192.168.122.12/24")?;
    let echo = bonded.echo()?;
    let own = |port| host.udp_socket(at("203.0.113.2", port), echo.address(), DEADLINE);
    is_no_worse(|more| {
        let before = bonded.losses([own(501 + more)?, own(502 + more)?])?;
        let network = nat_network("default", "virbr0", &["192.168.122.1/24"]);
        let vnet = Vnet::start(host, &[network])?;
        bonded.reach(&echo, [&tap_guest, &veth_guest], ["203.0.113.2", "203.0.113.2"])?;
        let guest = at("192.168.122.12", 4000 + more);
        let guest = veth_guest.udp_socket(guest, echo.address(), DEADLINE)?;
        let with = bonded.losses([guest, own(503 + more)?])?;
        vnet.stop()?;
        let after = bonded.losses([own(504 + more)?, own(505 + more)?])?;
        Ok(Lost { with, without: [before, after] })
    })
}

#[test]
fn guests_are_masqueraded_by_a_bond_of_mode_1() -> Result<()> {
    if require_bonding() { masquerades("active-backup") } else { Ok(()) }
}

#[test]
fn guests_are_masqueraded_by_a_bond_of_mode_2() -> Result<()> {
    if require_bonding() { masquerades("balance-xor") } else { Ok(()) }
}

#[test]
fn guests_are_masqueraded_by_a_bond_of_mode_4() -> Result<()> {
    if require_bonding() { masquerades("802.3ad") } else { Ok(()) }
}
