//! What is in the way of some packets is said, and what is said of them is so.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use vnet_tests::lab::{
    StandardLab, require_root,
    services::{TcpEcho, UdpEcho},
    wait_until,
};
use vnet_tests::vnet::Vnet;

use crate::support::*;

const UPLINK: &str = "203.0.113.2";

fn with_options(options: &str) -> String {
    let options = format!(
        "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{options}</vnet:options></metadata>"
    );
    DEFINITION.replacen("</name>", &format!("</name>{options}"), 1)
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn forward_of_a_port_at_which_the_host_waits_wins_and_is_warned_of() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let forward = |protocol, port| {
        format!("<vnet:forward protocol='{protocol}' port='{port}' to='192.168.122.11'/>")
    };
    let definition = with_options(&(forward("tcp", 2222) + &forward("udp", 5353)));
    ensure!(findings(&lab.host, &definition, "sockets") == ok());
    let own = TcpEcho::start(&lab.host, at("0.0.0.0", 2222))?;
    let own_udp = UdpEcho::start(&lab.host, at(UPLINK, 5353))?;
    let guests = TcpEcho::start(&lab.tap_guest, at("192.168.122.11", 2222))?;
    let guests_udp = UdpEcho::start(&lab.tap_guest, at("192.168.122.11", 5353))?;
    let found = findings(&lab.host, &definition, "sockets");
    let levels: Vec<_> = found.iter().map(|(level, _)| level.as_str()).collect();
    ensure!(levels == ["warn", "warn"], "{found:?}");
    let command = found[0].1.as_ref().and_then(|mend| mend.split_once("says ")).unwrap().1;
    ensure!(lab.host.run(&["sh", "-c", command])?.contains(":2222"), "{command}");

    let vnet = Vnet::start(&lab.host, &[definition])?;
    for line in ["TCP port 2222 of 203.0.113.2", "UDP port 5353 of 203.0.113.2"] {
        let line = format!("network `default`: {line} is forwarded to 192.168.122.11");
        ensure!(vnet.log().contains(&line), "{}", vnet.log());
    }
    drop(lab.outside.tcp_connect(at(UPLINK, 2222), DEADLINE)?);
    ensure!(lab.outside.udp_ask(at(UPLINK, 5353), b"whose?", DEADLINE)? == b"whose?");
    // Whoever has connected may not have been accepted yet.
    wait_until("the guest has both", DEADLINE, || {
        let seen = (guests.peers().len(), guests_udp.peers().len());
        if seen == (1, 1) { Ok(()) } else { Err(format!("{seen:?}")) }
    })?;
    ensure!((own.peers().len(), own_udp.peers().len()) == (0, 0));
    vnet.stop()?;
    Ok(())
}

#[test]
fn forward_in_the_ephemeral_range_is_warned_of_until_it_is_reserved() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    lab.host.sysctl("net.ipv4.ip_local_reserved_ports", "50000")?;
    let definition = with_options(
        "<vnet:forward protocol='udp' port='40000' last-port='40009' to='192.168.122.11'/>",
    );
    let command = mend("warn", &findings(&lab.host, &definition, "ports"));
    lab.host.run(&["sh", "-c", &command])?;
    let reserved = lab.host.sysctl_value("net.ipv4.ip_local_reserved_ports")?;
    ensure!(reserved == "40000-40009,50000", "{reserved}");
    ensure!(findings(&lab.host, &definition, "ports") == ok());
    Ok(())
}

#[test]
fn rules_that_masquerade_the_same_guests_are_warned_of_at_the_start() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    lab.host.nft_masquerade("virbr0", "192.168.122.0/24", Some("eth0"))?;
    let vnet = Vnet::start(&lab.host, &[DEFINITION.to_owned()])?;
    ensure!(vnet.log().contains("masquerades its guests, too"), "{}", vnet.log());
    ensure!(lab.tap_guest.ping("203.0.113.1", 3)?.received == 3);
    vnet.stop()?;
    Ok(())
}

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
