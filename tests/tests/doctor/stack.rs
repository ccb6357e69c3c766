//! Settings of the host's stack: what they do to guests, and what is said of them.

use anyhow::{Result, ensure};
use vnet_tests::lab::{StandardLab, require_root, wait_until};
use vnet_tests::vnet::Vnet;

use crate::support::*;

const OUTSIDE: &str = "203.0.113.1";

#[test]
fn strict_rp_filter_is_in_no_packets_way_with_one_uplink() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    lab.host.run(&["ip", "route", "add", "default", "via", OUTSIDE])?;
    for interface in ["all", "eth0", "virbr0"] {
        lab.host.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "1")?;
    }
    ensure!(findings(&lab.host, DEFINITION, "rp_filter") == ok());
    let vnet = Vnet::start(&lab.host, &[DEFINITION.to_owned()])?;
    for guest in [&lab.tap_guest, &lab.veth_guest] {
        ensure!(guest.ping(OUTSIDE, 3)?.received == 3);
        // By the stack, for their IP options.
        ensure!(guest.ping_with(OUTSIDE, 3, &["-T", "tsonly"])?.received == 3);
    }
    vnet.stop()?;
    Ok(())
}

#[test]
fn strict_rp_filter_drops_what_comes_in_by_another_uplink_than_it_left() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let (host, outside) = (&lab.host, &lab.outside);
    // The way there leads by eth0, the way back by eth1.
    let second = lab.lab.outside(host, "eth1", "second", "198.51.100.2/24", "198.51.100.1/24")?;
    host.run(&["ip", "route", "add", "default", "via", OUTSIDE])?;
    second.run(&["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])?;
    second.route("192.168.122.0/24", "198.51.100.2")?;
    drop(outside.run(&["ip", "route", "add", "192.168.122.0/24", "via", "203.0.113.2"])?);
    let open = DEFINITION.replace("'nat'", "'open'");
    let vnet = Vnet::start(host, std::slice::from_ref(&open))?;
    host.sysctl("net.ipv4.ip_forward", "1")?;
    let arrives = |wanted: bool| {
        // What the second one sends without having been asked.
        let count = || -> Result<u64> {
            let received = || anyhow::Ok(lab.tap_guest.counters()?["IcmpInEchos"]);
            let before = received()?;
            second.ping_with("192.168.122.11", 3, &["-I", "192.0.2.1"])?;
            Ok(received()? - before)
        };
        wait_until(&format!("pings arrive: {wanted}"), std::time::Duration::from_secs(20), || {
            match count() {
                Ok(count) if (count == 3) == wanted && (count == 0) != wanted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    arrives(true)?;
    ensure!(findings(host, &open, "rp_filter") == ok());
    for interface in ["all", "eth1"] {
        host.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "1")?;
    }
    arrives(false)?;
    let command = mend("warn", &findings(host, &open, "rp_filter"));
    ensure!(command == "sysctl -w net.ipv4.conf.eth1.rp_filter=2", "{command}");
    host.run(&["sh", "-c", &command])?;
    arrives(true)?;
    ensure!(findings(host, &open, "rp_filter") == ok());
    vnet.stop()?;
    Ok(())
}

#[test]
fn bridged_packets_meet_dockers_rules_where_br_netfilter_calls_iptables() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let host = &lab.host;
    let parameter = "net.bridge.bridge-nf-call-iptables";
    if host.sysctl_value(parameter).is_err() {
        eprintln!("skipped: no br_netfilter in this kernel");
        return Ok(());
    }
    host.nft(
        "add table ip filter
         add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
    )?;
    let vnet = Vnet::start(host, &[DEFINITION.to_owned()])?;
    let reaches = |to: &str| anyhow::Ok(lab.tap_guest.ping(to, 2)?.received);
    ensure!((reaches("192.168.122.12")?, reaches(OUTSIDE)?) == (2, 2));
    ensure!(findings(host, DEFINITION, "br_netfilter") == ok());
    host.sysctl(parameter, "1")?;
    // Guests of one bridge lose each other, and keep the outside, which vnet itself forwards to.
    ensure!((reaches("192.168.122.12")?, reaches(OUTSIDE)?) == (0, 2));
    let command = mend("warn", &findings(host, DEFINITION, "br_netfilter"));
    ensure!(command == format!("sysctl -w {parameter}=0"), "{command}");
    host.run(&["sh", "-c", &command])?;
    ensure!(reaches("192.168.122.12")? == 2);
    vnet.stop()?;
    Ok(())
}
