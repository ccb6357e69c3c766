//! The way in which libvirt and vnet share a network: `open` for libvirt, NAT by vnet.

use anyhow::{Result, ensure};
use vnet_tests::lab::{Guest, require_libvirt, wait_until};

use crate::support::*;

#[test]
fn guests_of_a_network_that_libvirt_leaves_open_get_nat_by_the_metadata() -> Result<()> {
    if !require_libvirt() {
        return Ok(());
    }
    let scene = Scene::new(&network("open", "<vnet:masquerade/>"))?;
    let rules = scene.host.run(&["nft", "list", "ruleset"])?;
    ensure!(!rules.contains("masquerade"), "{rules}");
    let running = scene.run()?;
    let wire = scene.outside.capture("eth0", "icmp")?;
    for guest in [Guest::tap("guest1"), Guest::veth("guest2")] {
        let (guest, _) = scene.guest(&guest)?;
        assert_reaches(&guest, OUTSIDE)?;
    }
    let packets = wire.finish()?;
    let listing = vnet_tests::lab::listing(&packets);
    ensure!(packets.len() == 20 && !listing.contains("192.168.122."), "{listing}");
    ensure!(listing.contains(UPLINK), "{listing}");
    for check in ["masquerade", "subnet", "bridge", "dhcp"] {
        let said = scene.doctor(check)?;
        ensure!(said.starts_with("ok "), "{said}");
    }
    let log = stop(running)?;
    ensure!(!log.contains("what mends it"), "{log}");
    Ok(())
}

#[test]
fn net_destroy_and_net_start_are_followed() -> Result<()> {
    if !require_libvirt() {
        return Ok(());
    }
    let scene = Scene::new(&network("open", "<vnet:masquerade/>"))?;
    let running = scene.run()?;
    let (guest, address) = scene.guest(&Guest::tap("guest1"))?;
    assert_reaches(&guest, OUTSIDE)?;
    let index = || scene.host.run(&["cat", "/sys/class/net/virbr0/ifindex"]);
    for _ in 0..2 {
        let before = index()?;
        scene.libvirt.virsh(&["net-destroy", "default"])?;
        ensure!(index().is_err(), "libvirt deletes its bridge");
        running.wait_for_line("there is no bridge `virbr0` on this host", DEADLINE)?;
        scene.libvirt.virsh(&["net-start", "default"])?;
        ensure!(index()? != before, "libvirt makes another bridge");
        // What libvirt does when the guest starts again.
        let port = scene.host.port_of("guest1").unwrap_or_default();
        scene.host.run(&["ip", "link", "set", &port, "master", "virbr0"])?;
        wait_until_reached(&guest, OUTSIDE)?;
        assert_reaches(&guest, OUTSIDE)?;
        // dnsmasq is the new bridge's and knows the lease.
        guest.run(&["ip", "address", "flush", "dev", "eth0"])?;
        let lease = guest.dhcp("eth0", DEADLINE)?;
        ensure!(lease.address.to_string() == address, "{lease:?} is not {address}");
        guest.add_address("eth0", &format!("{address}/24"))?;
        guest.route("default", "192.168.122.1")?;
    }
    let log = stop(running)?;
    // It would have taken the ports that libvirt's needs.
    ensure!(!log.contains("dnsmasq of network `default` started"), "{log}");
    Ok(())
}

#[test]
fn bridge_of_libvirts_network_is_left_to_libvirts_dnsmasq_also_before_that_runs() -> Result<()> {
    if !require_libvirt() {
        return Ok(());
    }
    let scene = Scene::new(&network("open", "<vnet:masquerade/>"))?;
    scene.libvirt.virsh(&["net-destroy", "default"])?;
    // As between libvirt's making of the bridge and the start of its dnsmasq.
    scene.host.bridge("virbr0", &["192.168.122.1/24"])?;
    let running = scene.run()?;
    running.wait_for_line(
        "network `default`: `virbr0` is libvirt's (/etc/libvirt/qemu/networks/default.xml), which serves \
         it: no dnsmasq is started",
        DEADLINE,
    )?;
    let said = scene.doctor("dhcp")?;
    ensure!(said.starts_with("warn ") && said.contains("virsh net-start default"), "{said}");
    scene.host.run(&["ip", "link", "delete", "virbr0"])?;
    running.wait_for_line("there is no bridge `virbr0` on this host", DEADLINE)?;
    scene.libvirt.virsh(&["net-start", "default"])?;
    let (guest, _) = scene.guest(&Guest::veth("guest1"))?;
    wait_until_reached(&guest, OUTSIDE)?;
    let log = stop(running)?;
    ensure!(!log.contains("dnsmasq of network `default` started"), "{log}");
    Ok(())
}

#[test]
fn network_that_is_started_after_vnet_is_served_from_then_on() -> Result<()> {
    if !require_libvirt() {
        return Ok(());
    }
    let scene = Scene::new(&network("open", "<vnet:masquerade/>"))?;
    scene.libvirt.virsh(&["net-destroy", "default"])?;
    // As when the host boots.
    let mut running = scene.run()?;
    running.wait_for_line(
        "default.xml is ignored for now: network `default`: there is no bridge",
        DEADLINE,
    )?;
    scene.libvirt.virsh(&["net-start", "default"])?;
    wait_until("the new bridge has its programs", DEADLINE, || {
        let program = vnet_tests::lifecycle::program().map_err(|error| error.to_string())?;
        let status = scene.host.run(&[&program, "status", "--instance", scene.instance()]);
        match status {
            Ok(status) if status.contains("virbr0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let (guest, _) = scene.guest(&Guest::veth("guest1"))?;
    wait_until_reached(&guest, OUTSIDE)?;
    let log = running.terminate(DEADLINE)?.success()?.stderr;
    ensure!(!log.contains("dnsmasq of network `default` started"), "{log}");
    Ok(())
}
