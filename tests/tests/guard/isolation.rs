//! `<port isolated='yes'/>`.

use vnet_tests::lab::services::UdpEcho;
use vnet_tests::lab::{Guest, Node, PortKind, require_root, wait_until};

use crate::support::*;

const GATEWAY: &str = "192.168.122.1";

fn isolated(kind: PortKind) -> anyhow::Result<Guarded> {
    let settings = Settings { rest: "<port isolated='yes'/>", ..Settings::default() };
    let guest = |name: &str, address: &str| {
        Guest::new(name, kind).address(&format!("{address}/24")).gateway(GATEWAY)
    };
    Guarded::new(&settings, &[guest("one", "192.168.122.11"), guest("two", "192.168.122.12")])
}

/// Whether the kernel isolates a port.
fn is_isolated(host: &Node, port: &str) -> anyhow::Result<bool> {
    let path = format!("/sys/class/net/{port}/brport/isolated");
    Ok(host.enter(|| std::fs::read_to_string(path))??.trim_end() == "1")
}

fn wait_for_isolation(host: &Node, port: &str) -> anyhow::Result<()> {
    wait_until(&format!("{port} is isolated"), DEADLINE, || match is_isolated(host, port) {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

#[test]
fn isolated_guests_do_not_reach_each_other_and_both_reach_the_gateway() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in [PortKind::Tap, PortKind::Veth] {
        let lab = isolated(kind)?;
        let [one, two] = [&lab.guests[0], &lab.guests[1]];
        let _echo = UdpEcho::start(two, "0.0.0.0:7".parse()?)?;
        let at_two = two.capture("eth0", "ether src 52:54:00:00:00:01")?;
        for guest in [one, two] {
            assert_eq!(guest.ping(GATEWAY, 1)?.received, 1);
            assert_eq!(guest.ping("203.0.113.1", 1)?.received, 1);
        }
        let ping = one.ping_with("192.168.122.12", 2, &["-i", "0.1", "-W", "0.3"])?;
        assert_eq!(ping.received, 0);
        // Nor with the neighbour's address at hand: not even a frame arrives.
        one.run(&[
            "ip",
            "neighbour",
            "replace",
            "192.168.122.12",
            "lladdr",
            "52:54:00:00:00:02",
            "dev",
            "eth0",
        ])?;
        let ping = one.ping_with("192.168.122.12", 2, &["-i", "0.1", "-W", "0.3"])?;
        assert_eq!(ping.received, 0);
        assert_eq!(at_two.finish()?.len(), 0);
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn new_ports_are_isolated_and_the_end_leaves_them_as_they_were() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = isolated(PortKind::Veth)?;
    let third = lab.lab.guest(&lab.host, "virbr0", &Guest::veth("three"))?;
    let host = lab.host.clone();
    host.ip_batch(
        &[
            "link add nic0 type vxlan id 7 dstport 4789",
            "link set nic0 master virbr0",
            "link add patch0 type veth peer name patch1",
            "link set patch0 master virbr0",
        ]
        .map(str::to_owned),
    )?;
    // The last to appear, so that the others have been seen.
    let fourth = lab.lab.guest(&lab.host, "virbr0", &Guest::tap("four"))?;
    let guests = [&lab.guests[0], &lab.guests[1], &third, &fourth];
    let ports = guests.map(|guest| lab.port(guest));
    for port in &ports {
        wait_for_isolation(&host, port)?;
    }
    for wire in ["nic0", "patch0"] {
        assert!(!is_isolated(&host, wire)?, "{wire}");
    }
    let Guarded { vnet, stage } = lab;
    vnet.stop()?;
    for port in &ports {
        assert!(!is_isolated(&stage.host, port)?, "{port}");
    }
    Ok(())
}

#[test]
fn port_that_somebody_has_isolated_stays_so() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stage = Stage::new(&[Guest::veth("isolated"), Guest::veth("other")])?;
    let [foreign, other] = [stage.port(&stage.guests[0]), stage.port(&stage.guests[1])];
    stage.host.run(&["ip", "link", "set", &foreign, "type", "bridge_slave", "isolated", "on"])?;
    let settings = Settings { rest: "<port isolated='yes'/>", ..Settings::default() };
    let Guarded { vnet, stage } = stage.start(&settings, &[])?;
    wait_for_isolation(&stage.host, &other)?;
    vnet.stop()?;
    let isolated = [&foreign, &other].map(|port| is_isolated(&stage.host, port));
    assert!(matches!(isolated, [Ok(true), Ok(false)]), "{isolated:?}");
    Ok(())
}
