//! Ports come and go, and so does the daemon.

use vnet_common::reason::DropReason;
use vnet_tests::lab::{Guest, HostState, PortKind, require_root, wait_until};
use vnet_tests::programs::guard::Arp;

use crate::support::*;

const GATEWAY: &str = "192.168.122.1";

#[test]
fn port_that_appears_is_guarded_and_one_that_goes_is_forgotten() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in [PortKind::Tap, PortKind::Veth] {
        let settings = Settings { options: "<vnet:guard from='learn'/>", ..Settings::default() };
        let lab = Guarded::new(&settings, &[])?;
        let guest = Guest::new("first", kind).address("192.168.122.50/24").gateway(GATEWAY);
        let first = lab.lab.guest(&lab.host, "virbr0", &guest)?;
        let port = lab.port(&first);
        lab.wait_for_guard(&port)?;
        assert_eq!(first.ping(GATEWAY, 1)?.received, 1);
        let before = lab.vnet.drops(DropReason::SpoofedNeighbour)?;
        let spoof = Arp { sender_mac: mac(3), ..Arp::new(2, GATEWAY, "192.168.122.51") };
        send_frame(&first, "eth0", &broadcast(mac(3), 0x0806, &spoof.message()))?;
        lab.wait_for_drops(DropReason::SpoofedNeighbour, before + 1)?;

        // The next guest may have its address.
        lab.lab.unplug(&lab.host, &first)?;
        wait_until("the hook is gone", DEADLINE, || match lab.programs_at(&port) {
            Ok(programs) if programs.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        let guest = Guest::new("second", kind).address("192.168.122.50/24").gateway(GATEWAY);
        let second = lab.lab.guest(&lab.host, "virbr0", &guest)?;
        lab.wait_for_guard(&lab.port(&second))?;
        assert_eq!(second.ping(GATEWAY, 1)?.received, 1);
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn wires_of_a_bridge_are_not_guarded() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let options = "<vnet:guard/>";
    let lab = Guarded::new(&Settings { options, ..Settings::default() }, &[Guest::veth("guest")])?;
    for line in [
        "link add wire0 type veth peer name wire1",
        "link add nic0 type vxlan id 7 dstport 4789",
        "link set wire0 master virbr0",
        "link set nic0 master virbr0",
    ] {
        lab.host.ip_batch(&[line.to_owned()])?;
    }
    let later = lab.lab.guest(&lab.host, "virbr0", &Guest::veth("later"))?;
    lab.wait_for_guard(&lab.port(&later))?;
    for wire in ["wire0", "nic0"] {
        assert_eq!(lab.programs_at(wire)?, [""; 0], "{wire}");
    }
    lab.finish()
}

#[test]
fn end_leaves_nothing_at_the_ports() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for attach in ["tcx", "clsact"] {
        let settings = Settings { options: "<vnet:guard/>", ..Settings::default() };
        let lab = Stage::new(&[Guest::veth("guest")])?;
        let before = HostState::read(&lab.host)?;
        let lab = lab.start(&settings, &["--attach", attach])?;
        lab.wait_for_guard(&lab.port(&lab.guests[0]))?;
        let Guarded { vnet, stage } = lab;
        vnet.stop()?;
        assert_eq!(before.difference(&HostState::read(&stage.host)?), "");
    }
    Ok(())
}

#[test]
fn guard_outlives_a_killed_daemon_until_detach() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let dhcp = hosts();
    let settings = Settings {
        options: "<vnet:guard/>",
        dhcp: &dhcp,
        rest: "<port isolated='yes'/>",
        ..Settings::default()
    };
    let guest = Guest::veth("guest").address("192.168.122.11/24").gateway(GATEWAY);
    let lab = Stage::new(&[guest])?;
    let before = HostState::read(&lab.host)?;
    let Guarded { mut vnet, stage: lab } = lab.start(&settings, &[])?;
    vnet.kill()?;
    let guest = &lab.guests[0];
    assert_eq!(guest.ping(GATEWAY, 1)?.received, 1);
    guest.add_address("eth0", "192.168.122.77/24")?;
    let ping = guest.ping_with(GATEWAY, 1, &["-I", "192.168.122.77", "-W", "0.3"])?;
    assert_eq!(ping.received, 0);
    vnet.detach()?;
    // The kernel lets go of a link a moment after its pin is removed (`bpf_link_put`).
    wait_until("the guest is free", DEADLINE, || {
        match guest.ping_with(GATEWAY, 1, &["-I", "192.168.122.77", "-W", "1"]) {
            Ok(ping) if ping.received == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    assert_eq!(before.difference(&HostState::read(&lab.host)?), "");
    Ok(())
}
