//! Definitions on trial.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, PipeWriter, Write as _},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    lab::{Running, require_root, wait_until},
    lifecycle::{DEADLINE, Scene, program},
};

use crate::support::*;

const ON_TRIAL: &str = "on trial for";

fn isolated(scene: &Scene) -> Result<String> {
    scene.write("isolated.xml", &network("", ""))
}

/// `vnet try` with an input that nobody types into, for as long as the second value lives.
fn attempt(scene: &Scene, file: &str, timeout: &str) -> Result<(Running, PipeWriter)> {
    let (running, typist) = begin(scene, file, timeout)?;
    running.wait_for_line(ON_TRIAL, DEADLINE)?;
    Ok((running, typist))
}

fn begin(scene: &Scene, file: &str, timeout: &str) -> Result<(Running, PipeWriter)> {
    let (input, typist) = io::pipe()?;
    let mut command = scene.lab.host.command(program()?);
    command.args(["try", "--instance", &scene.instance, "--timeout", timeout, file]).stdin(input);
    Ok((Running::start(&scene.lab.host, command)?, typist))
}

fn is_open(scene: &Scene) -> Result<bool> {
    Ok(scene.lab.tap_guest.ping(OUTSIDE, 1)?.received == 1)
}

fn wait_until_back(scene: &Scene) -> Result<()> {
    wait_until("what ran before is back", DEADLINE, || match is_open(scene) {
        Ok(true) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

#[test]
fn what_nobody_confirms_is_taken_back_with_a_daemon_and_without() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let isolated = isolated(&scene)?;
    let mut daemon = scene.ready(&["--keep"])?;
    for with_daemon in [true, false] {
        if !with_daemon {
            daemon.signal_and_wait(Signal::SIGTERM, DEADLINE)?;
        }
        // The time is over.
        let (mut trial, _typist) = attempt(&scene, &isolated, "1")?;
        let output = trial.wait(DEADLINE)?;
        ensure!(
            output.stdout.starts_with("~ default\n    forward.mode: nat -> isolated\n"),
            "{output:?}"
        );
        ensure!(
            output.stderr.contains("error: not confirmed: what ran before is back"),
            "{output:?}"
        );
        wait_until_back(&scene)?;
        // The process is killed.
        let (mut trial, _typist) = attempt(&scene, &isolated, "1000")?;
        ensure!(!is_open(&scene)?);
        trial.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
        wait_until_back(&scene)?;
        wait_until("the trial is over", DEADLINE, || {
            if scene.runtime_directory().join("trial").exists() {
                Err("a socket".to_owned())
            } else {
                Ok(())
            }
        })?;
    }
    scene.detach()?;
    scene.assert_clean("after detach")
}

#[test]
fn programs_are_told_each_step_of_a_trial() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let isolated = isolated(&scene)?;
    let _daemon = scene.ready(&[])?;
    let attempt = |file: &str, timeout: &str| {
        let instance = &scene.instance;
        scene.vnet(&["try", "-o", "json", "--instance", instance, "--timeout", timeout, file])
    };
    let output = attempt(&isolated, "1")?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let steps: Result<Vec<serde_json::Value>, _> =
        output.stdout.lines().map(serde_json::from_str).collect();
    let steps = steps.with_context(|| output.stdout.clone())?;
    ensure!(steps.len() == 2, "{steps:?}");
    ensure!(steps[0]["trial"] == "begun" && steps[0]["timeout_seconds"] == 1, "{steps:?}");
    ensure!(steps[0]["changes"][0]["name"] == "default", "{steps:?}");
    ensure!(steps[1] == serde_json::json!({"trial": "gone-back"}), "{steps:?}");
    let output = attempt(&scene.definition(), "1")?;
    ensure!(output.stdout == "{\"trial\":\"kept\"}\n", "{output:?}");
    Ok(())
}

#[test]
fn what_is_confirmed_stays() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let isolated = isolated(&scene)?;
    let daemon = scene.ready(&[])?;
    let confirm = ["confirm", "--instance", &scene.instance];
    let output = scene.vnet(&confirm)?;
    let nothing = format!("error: nothing is on trial in instance `{}`\n", scene.instance);
    ensure!((output.status.code(), output.stderr.as_str()) == (Some(2), &*nothing), "{output:?}");

    let (mut trial, _typist) = attempt(&scene, &isolated, "1000")?;
    // One at a time.
    let output = scene.vnet(&["try", "--instance", &scene.instance, &scene.definition()])?;
    ensure!(
        output.status.code() == Some(2) && output.stderr.contains("are on trial"),
        "{output:?}"
    );
    let output = scene.vnet(&confirm)?;
    ensure!(output.status.code() == Some(0), "{output:?}");
    let output = trial.wait(DEADLINE)?;
    ensure!(output.stdout.ends_with("kept\n"), "{output:?}");
    ensure!(!is_open(&scene)?);

    // By Enter, at a terminal.
    let line = format!("{} try --instance {} {}", program()?, scene.instance, scene.definition());
    let mut child = scene
        .lab
        .host
        .command("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut typist = child.stdin.take().context("no input")?;
    let mut screen = BufReader::new(child.stdout.take().context("no output")?).lines();
    let question = screen.find(|line| line.as_ref().is_ok_and(|line| line.contains(ON_TRIAL)));
    ensure!(question.is_some(), "no question");
    typist.write_all(b"\n")?;
    let rest: Vec<String> = screen.collect::<Result<_, _>>()?;
    ensure!(child.wait()?.success() && rest.iter().any(|line| line.trim() == "kept"), "{rest:?}");
    ensure!(is_open(&scene)?);
    scene.stop(daemon, Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn trial_of_the_first_definitions_leaves_nothing() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let (mut trial, _typist) = attempt(&scene, &scene.definition(), "1000")?;
    scene.assert_guests_get_out()?;
    trial.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    scene.assert_clean("after the trial")
}

#[test]
fn daemon_that_takes_the_first_definitions_over_during_their_trial_stays() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let (mut trial, _typist) = attempt(&scene, &scene.definition(), "1000")?;
    let daemon = scene.ready(&[])?;
    trial.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    wait_until("the guardian ends", DEADLINE, || match guardian(&scene) {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    scene.assert_guests_get_out()?;
    scene.stop(daemon, Signal::SIGTERM)?;
    scene.assert_clean("after the daemon")
}

/// The process that waits for the scene's trial to be confirmed.
fn guardian(scene: &Scene) -> Result<Option<String>> {
    for entry in fs::read_dir("/proc")? {
        // Not every entry is a process, and some end meanwhile.
        let Ok(line) = fs::read_to_string(entry?.path().join("cmdline")) else { continue };
        let mut words = line.split('\0');
        if words.any(|word| word == "guardian") && words.any(|word| word == scene.instance) {
            return Ok(Some(line.replace('\0', " ")));
        }
    }
    Ok(None)
}

#[test]
fn of_two_trials_at_the_same_moment_one_is_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let files = [isolated(&scene)?, scene.definition()];
    let daemon = scene.ready(&[])?;
    for round in 0..10 {
        let file = &files[round % 2];
        let (mut one, _typist) = begin(&scene, file, "60")?;
        let (mut other, _typist) = begin(&scene, file, "60")?;
        let mut first_has_ended = false;
        wait_until("one of the two has ended", DEADLINE, || {
            first_has_ended = !one.is_running();
            if first_has_ended || !other.is_running() { Ok(()) } else { Err(one.stdout()) }
        })?;
        let (mut refused, mut kept) = if first_has_ended { (one, other) } else { (other, one) };
        let output = refused.wait(DEADLINE)?;
        ensure!(output.status.code() == Some(2), "{output:?}");
        ensure!(output.stderr.contains("are on trial: `vnet confirm` keeps them"), "{output:?}");
        kept.wait_for_line(ON_TRIAL, DEADLINE)?;
        let confirmed = scene.vnet(&["confirm", "--instance", &scene.instance])?;
        ensure!(confirmed.status.success(), "{confirmed:?}");
        let output = kept.wait(DEADLINE)?;
        ensure!(output.status.success() && output.stdout.ends_with("kept\n"), "{output:?}");
    }
    scene.stop(daemon, Signal::SIGTERM)?;
    Ok(())
}
