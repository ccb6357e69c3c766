//! libvirt in mode `route`, whose rules let the network's own addresses pass.

use anyhow::{Result, ensure};
use vnet_tests::lab::{Guest, require_libvirt};

use crate::support::*;

#[test]
fn routed_network_of_libvirt_is_reached_from_outside_and_reaches_it() -> Result<()> {
    if !require_libvirt() {
        return Ok(());
    }
    let scene = Scene::new(&network("route", ""))?;
    scene.outside.route("192.168.122.0/24", UPLINK)?;
    let running = scene.run()?;
    let (guest, address) = scene.guest(&Guest::tap("guest1"))?;
    let wire = scene.outside.capture("eth0", "icmp")?;
    assert_reaches(&guest, OUTSIDE)?;
    assert_reaches(&scene.outside, &address)?;
    let listing = vnet_tests::lab::listing(&wire.finish()?);
    ensure!(listing.contains(&address) && !listing.contains(UPLINK), "{listing}");
    let said = scene.doctor("masquerade")?;
    ensure!(said.starts_with("ok "), "{said}");
    // With IP options, which vnet leaves to the stack, where libvirt's rules let them pass.
    let options = guest.ping_with(OUTSIDE, 3, &["-T", "tsonly"])?;
    ensure!((options.sent, options.received) == (3, 3), "{options:?}");
    let log = stop(running)?;
    ensure!(!log.contains("what mends it"), "{log}");
    Ok(())
}
