//! What cannot be applied changes nothing.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{lab::require_root, lifecycle::Scene};

use crate::support::*;

#[test]
fn definition_with_an_error_or_a_host_that_it_does_not_fit_changes_nothing() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    let (state, hooks) = (scene.state()?, scene.hooks()?);
    let wrong = scene.write("wrong.xml", &network("<forward mode='nut'/>", ""))?;
    let missing = named("missing", NAT, "virbr9", "<ip address='192.168.9.1' prefix='24'/>");
    let missing = scene.write("missing.xml", &missing)?;
    let definition = scene.definition();
    for (arguments, wanted) in [
        (vec![wrong.as_str()], "wrong.xml:1:"),
        (vec![definition.as_str(), &missing], "virbr9"),
        (vec!["--dry-run", &definition, &missing], "virbr9"),
    ] {
        let output = apply(&scene, &arguments)?;
        let seen = (output.status.code(), output.stdout.as_str());
        ensure!(seen == (Some(2), ""), "{arguments:?}: {output:?}");
        ensure!(output.stderr.starts_with("error: "), "{}", output.stderr);
        ensure!(output.stderr.contains(wanted), "{}", output.stderr);
        scene.assert_guests_get_out()?;
        ensure!(scene.state()? == state && scene.hooks()? == hooks);
    }
    applied(&scene, &[&definition], "no changes\n")?;
    scene.stop_but_for(&[], running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn change_that_fails_half_way_is_rolled_back() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| {
        lab.host.bridge("virbr1", &["192.168.123.1/24"])?;
        lab.host.bridge("virbr2", &["192.168.124.1/24"])?;
        // In the place of clsact, so that the last hook cannot be had.
        lab.host.run(&["tc", "qdisc", "add", "dev", "virbr2", "ingress"])?;
        Ok(())
    })?;
    let definition = scene.definition();
    let file = |name: &str, bridge: &str, third: u8| {
        let ip = format!("<ip address='192.168.{third}.1' prefix='24'/>");
        scene.write(&format!("{name}.xml"), &named(name, NAT, bridge, &ip))
    };
    let (second, third) = (file("second", "virbr1", 123)?, file("third", "virbr2", 124)?);
    // With a daemon, and without one on what it has left.
    let mut running = scene.ready(&["--attach", "clsact", "--keep"])?;
    let hooks = scene.hooks()?;
    let filters = || scene.lab.host.run(&["tc", "filter", "show", "dev", "virbr1", "ingress"]);
    for with_daemon in [true, false] {
        if !with_daemon {
            running.signal_and_wait(Signal::SIGTERM, vnet_tests::lifecycle::DEADLINE)?;
        }
        let output = apply(&scene, &[&definition, &second, &third])?;
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
        let words = "an ingress qdisc is in the place of clsact: remove it with `tc qdisc del dev \
                     virbr2 ingress`";
        ensure!(output.stderr.contains("error: cannot attach"), "{}", output.stderr);
        ensure!(output.stderr.contains(words), "{}", output.stderr);
        scene.assert_guests_get_out()?;
        ensure!(scene.hooks()? == hooks, "{:?}", scene.hooks()?);
        ensure!(filters()?.is_empty(), "{}", filters()?);
    }
    scene.detach()?;
    scene.assert_clean("after detach")
}
