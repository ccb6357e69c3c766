//! `vnet doctor` beside other people's rules.

use vnet_tests::lab::{StandardLab, require_root};

use crate::support::*;

/// What Docker sets (`iptables -S` of a host with Docker 24), re-created with nft.
const DOCKER: &str = "add table ip filter
add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
add chain ip filter DOCKER-USER
add rule ip filter DOCKER-USER return
add rule ip filter FORWARD jump DOCKER-USER
add table ip nat
add chain ip nat POSTROUTING { type nat hook postrouting priority 100; policy accept; }
add rule ip nat POSTROUTING ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade";

#[test]
fn dockers_forward_drop_is_seen_and_mended_by_the_command_that_is_named() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let host = &lab.host;
    assert_eq!(findings(host, DEFINITION, "forward"), [("ok".to_owned(), None)]);
    host.nft(DOCKER)?;
    host.sysctl("net.ipv4.ip_forward", "1")?;
    // The stack alone: the host forwards, and Docker's rules are in the way.
    lab.outside.run(&["ip", "route", "add", "192.168.122.0/24", "via", "203.0.113.2"])?;
    assert!(
        lab.tap_guest.try_run(&["ping", "-c1", "-W1", "203.0.113.1"])?.status.code() == Some(1)
    );

    let found = findings(host, DEFINITION, "forward");
    let [(level, Some(mend))] = &found[..] else { panic!("{found:?}") };
    assert_eq!(level, "warn");
    host.run(&["sh", "-c", mend])?;
    assert_eq!(lab.tap_guest.ping("203.0.113.1", 1)?.received, 1);
    // Docker's own subnet is nobody's here.
    assert_eq!(findings(host, DEFINITION, "masquerade"), [("ok".to_owned(), None)]);
    Ok(())
}

#[test]
fn rules_that_masquerade_a_network_are_seen() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    lab.host.nft_masquerade("virbr0", "192.168.122.0/24", Some("eth0"))?;
    let found = findings(&lab.host, DEFINITION, "masquerade");
    let [(level, Some(mend))] = &found[..] else { panic!("{found:?}") };
    assert_eq!(level, "warn");
    assert!(mend.contains("virsh net-edit default"), "{mend}");
    let open = DEFINITION.replace("nat", "open");
    assert_eq!(findings(&lab.host, &open, "masquerade"), [("ok".to_owned(), None)]);
    Ok(())
}

#[test]
fn bridge_that_is_missing_fails() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let host = &lab.host;
    assert_eq!(findings(host, DEFINITION, "bridge"), [("ok".to_owned(), None)]);
    host.run(&["ip", "link", "set", "virbr0", "down"])?;
    let command = "ip link set virbr0 up";
    let expected = [("fail".to_owned(), Some(command.to_owned()))];
    assert_eq!(findings(host, DEFINITION, "bridge"), expected);
    host.run(&["sh", "-c", command])?;
    assert_eq!(findings(host, DEFINITION, "bridge"), [("ok".to_owned(), None)]);
    host.run(&["ip", "link", "delete", "virbr0"])?;
    let mend = Some("virsh net-start default, or vnet makes it with --create-bridges".to_owned());
    assert_eq!(findings(host, DEFINITION, "bridge"), [("fail".to_owned(), mend)]);
    Ok(())
}
