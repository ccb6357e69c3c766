//! A start that ends before it is ready leaves the host as it was, whenever and however it ends.

use std::{
    hash::{BuildHasher as _, RandomState},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{Running, killed_by, require_root},
    lifecycle::{DEADLINE, DEFAULT_NETWORK, HOOK_STEPS, Scene},
};

const STEPS_BEFORE_HOOKS: [&str; 5] = ["prepared", "loaded", "mounted", "pinned", "forwarding"];

fn steps() -> impl Iterator<Item = &'static str> {
    STEPS_BEFORE_HOOKS.into_iter().chain(HOOK_STEPS).chain(["attached"])
}

fn end(scene: &Scene, mut running: Running, signal: Signal, step: &str) -> Result<()> {
    let output = running.signal_and_wait(signal, DEADLINE)?;
    let when = format!("{signal} at {step}");
    if signal == Signal::SIGKILL {
        ensure!(killed_by(output.status, signal), "{when}: {:?}", output.status);
    } else {
        ensure!(output.status.code() == Some(0), "{when}: {:?}\n{}", output.status, output.stderr);
    }
    ensure!(!output.stderr.contains("panicked"), "{when}: {}", output.stderr);
    ensure!(!output.stdout.contains("ready"), "{when}: {}", output.stdout);
    scene.assert_clean(&when)
}

fn every_step(signal: Signal, arguments: &[&str]) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    for step in steps() {
        end(&scene, scene.paused_at(step, arguments)?, signal, step)?;
    }
    Ok(())
}

#[test]
fn sigterm_at_any_step_leaves_the_host_as_it_was() -> Result<()> {
    every_step(Signal::SIGTERM, &["--attach", "tcx"])
}

#[test]
fn sigint_at_any_step_leaves_the_host_as_it_was() -> Result<()> {
    every_step(Signal::SIGINT, &["--attach", "tcx"])
}

#[test]
fn sigkill_at_any_step_leaves_the_host_as_it_was() -> Result<()> {
    every_step(Signal::SIGKILL, &["--attach", "tcx"])
}

#[test]
fn with_clsact_any_signal_leaves_the_host_as_it_was() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        for step in HOOK_STEPS.into_iter().chain(["attached"]) {
            end(&scene, scene.paused_at(step, &["--attach", "clsact"])?, signal, step)?;
        }
    }
    Ok(())
}

#[test]
fn hang_up_does_not_end_a_start() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.paused_at("pinned", &[])?;
    running.signal(Signal::SIGHUP)?;
    running.wait_for_line("SIGHUP ignored", DEADLINE)?;
    end(&scene, running, Signal::SIGTERM, "pinned")
}

#[test]
fn sigkill_at_a_random_moment_leaves_the_host_as_it_was_or_the_whole_datapath() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let random = RandomState::new();
    for round in 0..30 {
        let moment = Duration::from_micros(random.hash_one(round) % 300_000);
        let mut running = scene.start(&[])?;
        // Not to wait for anything: the moment of the death is what is tested.
        thread::sleep(moment);
        let output = running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
        let when = format!("SIGKILL after {moment:?}");
        ensure!(!output.stderr.contains("panicked"), "{when}: {}", output.stderr);
        scene.wait_for_end()?;
        let complete = scene.runtime_directory().join("journal").exists();
        ensure!(
            complete || !output.stdout.contains("ready"),
            "{when}: ready, but nothing is there"
        );
        if complete {
            // Dismissing the janitor is the last thing before `ready`.
            ensure!(scene.hooks()?.len() == HOOK_STEPS.len(), "{when}: {:?}", scene.hooks()?);
            scene.detach()?;
        }
        scene.assert_clean(&when)?;
    }
    Ok(())
}

#[test]
fn all_hooks_attach_or_none_does_when_an_interface_goes() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in ["tcx", "clsact"] {
        let scene = Scene::with(|lab| {
            lab.host.run(&["ip", "link", "add", "br9", "type", "bridge"])?;
            Ok(())
        })?;
        let text = DEFAULT_NETWORK.replace("default", "nine").replace("virbr0", "br9");
        let nine = scene.write("nine.xml", &text.replace(".122.", ".9."))?;
        let running = scene.paused_at(HOOK_STEPS[3], &[&nine, "--attach", mode])?;
        scene.lab.host.run(&["ip", "link", "delete", "br9"])?;
        running.signal(Signal::SIGUSR1)?;
        let output = { running }.wait(DEADLINE)?;
        ensure!(output.status.code() == Some(1), "{mode}: {output:?}");
        let wanted =
            "error: cannot attach `bridge_ingress` to ingress of `br9`: the interface is gone\n";
        ensure!(output.stderr.ends_with(wanted), "{mode}: {}", output.stderr);
        scene.assert_clean_but_for(&["br9"], mode)?;
    }
    Ok(())
}

#[test]
fn ingress_qdisc_in_the_way_of_clsact_takes_every_hook_off_again() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::with(|lab| {
        // The bridge's hooks come last.
        lab.host.run(&["tc", "qdisc", "add", "dev", "virbr0", "ingress"])?;
        Ok(())
    })?;
    let output = scene.start(&["--attach", "clsact"])?.wait(DEADLINE)?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let wanted = "error: cannot attach `bridge_egress` to egress of `virbr0`: an ingress qdisc is \
                  in the place of clsact: remove it with `tc qdisc del dev virbr0 ingress` if \
                  nothing needs it\n";
    ensure!(output.stderr.ends_with(wanted), "{}", output.stderr);
    ensure!(output.stdout.is_empty(), "{}", output.stdout);
    scene.assert_clean("after the refusal")
}
