//! The datapath outlives its daemon, and what it leaves is found and taken down.

use std::{fs, io::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{Running, killed_by, require_root, services::UdpEcho},
    lifecycle::{DEADLINE, HOOK_STEPS, Scene},
};

const MODES: [&str; 2] = ["tcx", "clsact"];

fn kill(scene: &Scene, mut running: Running) -> Result<()> {
    let output = running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    ensure!(killed_by(output.status, Signal::SIGKILL), "{:?}", output.status);
    scene.wait_for_end()
}

#[test]
fn killed_daemons_datapath_goes_on_until_it_is_detached() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in MODES {
        let scene = Scene::new()?;
        let echo = UdpEcho::start(&scene.lab.outside, "203.0.113.1:7".parse()?)?;
        let running = scene.ready(&["--attach", mode])?;
        let here = "192.168.122.11:4000".parse()?;
        let flow = scene.lab.tap_guest.udp_socket(here, echo.address(), Duration::from_secs(5))?;
        let ask = |question: &[u8]| -> Result<()> {
            let mut answer = [0; 16];
            flow.send(question)?;
            let length = flow.recv(&mut answer).context("the flow's answer")?;
            ensure!(&answer[..length] == question);
            Ok(())
        };
        ask(b"before")?;
        kill(&scene, running)?;
        ask(b"after")?;
        scene.assert_guests_get_out().context(mode)?;
        ensure!(echo.peers().iter().all(|peer| peer == &echo.peers()[0]), "{:?}", echo.peers());
        scene.detach()?;
        scene.assert_clean(mode)?;
        // Once more is nothing to complain about.
        scene.detach()?;
        scene.assert_clean(mode)?;
    }
    Ok(())
}

#[test]
fn stopped_daemons_datapath_goes_on() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let running = scene.ready(&[])?;
    running.signal(Signal::SIGSTOP)?;
    scene.assert_guests_get_out()?;
    running.signal(Signal::SIGCONT)?;
    scene.stop(running, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn new_run_takes_over_from_a_killed_one() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for (first, second) in [("tcx", "clsact"), ("clsact", "tcx")] {
        let scene = Scene::new()?;
        kill(&scene, scene.ready(&["--attach", first])?)?;
        let running = scene.ready(&["--attach", second])?;
        let instance = &scene.instance;
        running.wait_for_line(
            &format!("an earlier run of instance `{instance}` was killed: replacing it"),
            DEADLINE,
        )?;
        scene.assert_guests_get_out()?;
        ensure!(scene.state()?["pid"] == running.id(), "{}", scene.state()?);
        scene.stop(running, Signal::SIGTERM)?;
    }
    Ok(())
}

#[test]
fn refused_or_early_killed_run_leaves_a_killed_ones_datapath_at_work() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    kill(&scene, scene.ready(&[])?)?;
    let output = scene.start(&["--uplink", "nowhere0"])?.wait(DEADLINE)?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    scene.assert_guests_get_out().context("after a refused run")?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut running = scene.paused_at("loaded", &[])?;
        running.signal_and_wait(signal, DEADLINE)?;
        scene.wait_for_end()?;
        scene.assert_guests_get_out().context(signal)?;
    }
    ensure!(scene.hooks()?.len() == HOOK_STEPS.len(), "{:?}", scene.hooks()?);
    scene.detach()?;
    scene.assert_clean("after detach")
}

#[test]
fn killed_run_in_another_namespace_is_not_taken_for_ones_own() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    kill(&scene, scene.ready(&[])?)?;
    // Somebody is in the namespace, as on any host.
    let somebody = scene.lab.host.spawn(&["sleep", "1000"])?;
    let instance = &scene.instance;
    let output = scene.start_in(&scene.lab.outside, "none", &[])?.wait(DEADLINE)?;
    let (start, end) = (
        format!(
            "error: instance `{instance}` was started in another network namespace and left its \
             programs there: take them off with `nsenter --net=/proc/"
        ),
        format!(
            "/ns/net vnet detach --instance {instance}`, or start this one with `--instance \
             OTHER`\n"
        ),
    );
    let words = &output.stderr;
    ensure!(words.starts_with(&start) && words.ends_with(&end), "{words}");
    ensure!(output.status.code() == Some(2), "{output:?}");
    scene.assert_guests_get_out()?;
    drop(somebody);
    scene.detach()?;
    scene.assert_clean("after detach")
}

#[test]
fn two_instances_in_two_namespaces_do_not_touch_each_other() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (one, two) = (Scene::new()?, Scene::new()?);
    let (first, second) = (one.ready(&["--attach", "clsact"])?, two.ready(&[])?);
    one.assert_guests_get_out()?;
    two.assert_guests_get_out()?;
    one.stop(first, Signal::SIGTERM)?;
    two.assert_guests_get_out()?;
    two.stop(second, Signal::SIGINT)?;
    Ok(())
}

#[test]
fn damaged_journal_is_told_of_and_the_rest_is_taken_down() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in MODES {
        let scene = Scene::new()?;
        kill(&scene, scene.ready(&["--attach", mode])?)?;
        let journal = scene.runtime_directory().join("journal");
        let text = fs::read_to_string(&journal)?;
        let lines: Vec<&str> = text.lines().collect();
        let pins = lines.iter().position(|line| line.contains("pins")).context("no pins")?;
        let mut damaged: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        damaged[pins] = b"\xff\0 damaged";
        fs::write(&journal, damaged.join(&b'\n'))?;
        // Cut short in the middle of the last line.
        fs::OpenOptions::new().append(true).open(&journal)?.write_all(b"\n{\"undo\":\"cl")?;
        fs::write(scene.runtime_directory().join("state.json"), b"{\"half\":")?;

        let output = scene.vnet(&["detach", "--instance", &scene.instance])?;
        let wanted = format!(
            "error: {}: line {} is damaged: look for a change of vnet that is left, such as \
             net.ipv4.ip_forward or a clsact qdisc\n",
            journal.display(),
            pins + 1
        );
        let seen = (output.status.code(), output.stderr.as_str());
        ensure!(seen == (Some(1), &*wanted), "{mode}: {seen:?}\nis not {wanted}");
        scene.assert_clean(mode)?;
    }
    Ok(())
}

#[test]
fn full_file_system_of_run_files_is_named_and_the_host_left_as_it_was() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let host = &scene.lab.host;
    // In the host's own mount namespace.
    let mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "/run"];
    host.run(&mount)?;
    for pages in 0..4 {
        host.run(&["sh", "-c", "rm -rf /run/fill /run/vnet"])?;
        let fill = format!("head -c {} /dev/zero > /run/fill", pages * 4096);
        host.run(&["sh", "-c", &fill])?;
        let mut running = scene.start(&[])?;
        let started = running.wait_for_line("ready", DEADLINE).is_ok();
        let output = running.terminate(DEADLINE)?;
        ensure!(!output.stderr.contains("panicked"), "{}", output.stderr);
        if !started {
            let code = output.status.code();
            let named = output.stderr.contains("/run/vnet")
                && output.stderr.ends_with("No space left on device (os error 28)\n");
            ensure!(named && matches!(code, Some(1 | 2)), "{pages}: {code:?} {}", output.stderr);
        }
        ensure!(started == (pages == 0) || pages == 1, "{pages}: {}", output.stderr);
        let left = host.run(&["sh", "-c", "ls /run"])?;
        ensure!(left == "fill\n", "{pages} pages: {left}");
        host.run(&["rm", "/run/fill"])?;
        host.run(&["umount", "/run"])?;
        scene.assert_clean(&format!("with {pages} pages full"))?;
        host.run(&mount)?;
    }
    Ok(())
}
