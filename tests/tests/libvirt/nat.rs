//! libvirt in mode `nat`, with its own rules, and vnet on the same network.

use anyhow::{Result, ensure};
use vnet_tests::lab::{Guest, require_libvirt};

use crate::support::*;

/// How many packets libvirt's own masquerading has translated.
fn translated_by_libvirt(scene: &Scene) -> Result<u64> {
    let rules = scene.host.run(&["iptables", "-t", "nat", "-S", "LIBVIRT_PRT", "-v"])?;
    let counts = rules.lines().filter(|line| line.contains("-j MASQUERADE")).map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "-c").skip(1);
        words.next().and_then(|count| count.parse::<u64>().ok())
    });
    counts.sum::<Option<u64>>().ok_or_else(|| anyhow::anyhow!("no counters: {rules}"))
}

#[test]
fn vnet_translates_before_libvirts_own_rules_and_says_that_they_are_there() -> Result<()> {
    if !require_libvirt() {
        return Ok(());
    }
    let scene = Scene::new(&network("nat", ""))?;
    let (guest, _) = scene.guest(&Guest::tap("guest1"))?;
    assert_reaches(&guest, OUTSIDE)?;
    let before = translated_by_libvirt(&scene)?;
    ensure!(before > 0, "libvirt's rules translate as long as they are alone");

    let running = scene.run()?;
    let warning = "libvirt's chain LIBVIRT_PRT of table ip nat masquerades its guests, too";
    running.wait_for_line(warning, DEADLINE)?;
    let wire = scene.outside.capture("eth0", "icmp")?;
    assert_reaches(&guest, OUTSIDE)?;
    let listing = vnet_tests::lab::listing(&wire.finish()?);
    ensure!(listing.contains(UPLINK) && !listing.contains("192.168.122."), "{listing}");
    ensure!(translated_by_libvirt(&scene)? == before, "vnet does not come first");

    let said = scene.doctor("masquerade")?;
    ensure!(said.starts_with("warn ") && said.contains(warning), "{said}");
    ensure!(said.contains("virsh net-edit default"), "{said}");
    // With IP options, which vnet leaves to the stack: what libvirt's rules translate there is the host's
    // own traffic to vnet, and so are the replies.
    let options = guest.ping_with(OUTSIDE, 3, &["-T", "tsonly"])?;
    ensure!((options.sent, options.received) == (3, 0), "the advice is wrong: {options:?}");
    stop(running)?;
    // They are as they were.
    assert_reaches(&guest, OUTSIDE)?;
    ensure!(translated_by_libvirt(&scene)? > before);
    Ok(())
}

#[test]
fn what_doctor_advises_leaves_the_network_to_vnet() -> Result<()> {
    if !require_libvirt() {
        return Ok(());
    }
    let scene = Scene::new(&network("nat", ""))?;
    let said = scene.doctor("masquerade")?;
    ensure!(said.contains("<forward mode='open'/> and <vnet:masquerade/>"), "{said}");
    // What net-edit does.
    scene.libvirt.virsh(&["net-destroy", "default"])?;
    scene.libvirt.virsh(&["net-undefine", "default"])?;
    scene.libvirt.run_network("default", &network("open", "<vnet:masquerade/>"))?;
    let said = scene.doctor("masquerade")?;
    ensure!(said.starts_with("ok "), "{said}");
    let running = scene.run()?;
    let (guest, _) = scene.guest(&Guest::veth("guest1"))?;
    assert_reaches(&guest, OUTSIDE)?;
    // With IP options, which vnet leaves to the stack.
    let options = guest.ping_with(OUTSIDE, 3, &["-T", "tsonly"])?;
    ensure!((options.sent, options.received) == (3, 3), "{options:?}");
    stop(running)?;
    Ok(())
}
