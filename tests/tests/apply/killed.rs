//! SIGKILL at any moment.

use std::{
    env, process, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use vnet_tests::{
    fuzz::Rng,
    lab::{Output, Running, killed_by, require_root, wait_until},
    lifecycle::{DEADLINE, Scene, program},
};

use crate::support::*;

const KILLS: u64 = 100;
/// Between two datagrams, so that the machine is not busy with them alone.
const PAUSE: Duration = Duration::from_micros(500);
/// Repeats a run: the moments are the same as far as the machine allows.
const SEED_VARIABLE: &str = "VNET_TEST_SEED";

/// Steps of a start that takes over.
const START_STEPS: [&str; 15] = [
    "prepared",
    "loaded",
    "taken-over",
    "bridges",
    "guarded",
    "attached-uplink_egress-eth0",
    "named",
    "attached-bridge_egress-virbr1",
    "attached-bridge_ingress-virbr1",
    "attached",
    "staged",
    "shown",
    "detached",
    "forwarding",
    "served",
];
/// Steps of any change.
const CHANGE_STEPS: [&str; 5] = ["guarded", "attached", "staged", "shown", "detached"];

/// Who is killed, and when.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// A daemon, so long after its start.
    Starting(Duration),
    /// A daemon, so long after it was told to change something.
    Changing(Duration),
    /// `vnet apply` without a daemon, so long after its start.
    Applying(Duration),
    /// A daemon at a step of its start.
    StartingAt(&'static str),
    /// A daemon at a step of a change.
    ChangingAt(&'static str),
}

/// How long things take here.
struct Pace {
    start: Duration,
    change: Duration,
}

impl Kill {
    fn choose(random: &mut Rng, pace: &Pace) -> Self {
        let mut moment = |longest: Duration| {
            Duration::from_micros(random.below(longest.as_micros() as usize + 1) as u64)
        };
        let (start, change) = (moment(pace.start), moment(pace.change));
        match random.below(10) {
            0..=3 => Self::Starting(start),
            4..=5 => Self::Changing(change),
            6..=7 => Self::Applying(start),
            8 => Self::StartingAt(random.of(&START_STEPS)),
            _ => Self::ChangingAt(random.of(&CHANGE_STEPS)),
        }
    }
}

/// Definitions that all let the guests of `default` out.
struct Definitions {
    one: [String; 2],
    two: [String; 2],
}

impl Definitions {
    fn write(scene: &Scene) -> Result<Self> {
        let second = |forward| {
            named("second", forward, "virbr1", "<ip address='192.168.123.1' prefix='24'/>")
        };
        let limits = "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>\
                      <vnet:limits flows='100'/></vnet:options></metadata>";
        Ok(Self {
            one: [scene.definition(), scene.write("second.xml", &second(NAT))?],
            two: [
                scene.write("limited.xml", &network(NAT, limits))?,
                scene.write("isolated.xml", &second(""))?,
            ],
        })
    }

    fn of(&self, random: &mut Rng) -> Vec<&str> {
        let [default, second] = if random.once_in(2) { &self.one } else { &self.two };
        // With a network whose bridge gets and loses its hooks.
        if random.once_in(2) { vec![default, second] } else { vec![default] }
    }
}

fn vnet_at(scene: &Scene, step: &str, command: &str, files: &[&str]) -> Result<Running> {
    let (program, pause) = (program()?, format!("VNET_PAUSE_AT={step}"));
    let mut line = vec!["env", &pause, &program, command, "--instance", &scene.instance];
    line.extend(files);
    Ok(scene.lab.host.spawn(&line)?)
}

fn ready(scene: &Scene, files: &[&str]) -> Result<Running> {
    let daemon = vnet_at(scene, "none", "run", files)?;
    daemon.wait_for_line("ready", DEADLINE)?;
    let words =
        format!("going on with what an earlier run of instance `{}` has left", scene.instance);
    daemon.wait_for_line(&words, DEADLINE)?;
    Ok(daemon)
}

/// Not to wait for anything: the moment is what is tested.
fn let_pass(moment: Duration) {
    thread::sleep(moment);
}

fn end(mut running: Running) -> Result<Output> {
    let output = running.signal_and_wait(Signal::SIGKILL, DEADLINE)?;
    let has_ended = output.status.success() || killed_by(output.status, Signal::SIGKILL);
    ensure!(has_ended, "{output:?}");
    Ok(output)
}

impl Kill {
    fn run(self, scene: &Scene, files: &[&str], other: &[&str]) -> Result<()> {
        match self {
            Self::Starting(moment) => {
                let daemon = vnet_at(scene, "none", "run", files)?;
                let_pass(moment);
                end(daemon)?;
            }
            Self::Applying(moment) => {
                let command = vnet_at(scene, "none", "apply", files)?;
                let_pass(moment);
                end(command)?;
            }
            Self::StartingAt(step) => {
                let daemon = vnet_at(scene, step, "run", files)?;
                // Not every start comes by every step.
                wait_until("the start pauses or ends", DEADLINE, || {
                    let (paused, ready) = (pauses(&daemon), daemon.stdout().contains("ready"));
                    if paused > 0 || ready { Ok(()) } else { Err(daemon.stderr()) }
                })?;
                end(daemon)?;
            }
            Self::Changing(moment) => {
                let daemon = ready(scene, files)?;
                let mut order = vnet_at(scene, "none", "apply", other)?;
                let_pass(moment);
                end(daemon)?;
                // Without its daemon it does the work itself or fails.
                order.wait(DEADLINE)?;
            }
            Self::ChangingAt(step) => {
                let daemon = vnet_at(scene, step, "run", files)?;
                daemon.wait_for_line("paused at", DEADLINE)?;
                daemon.signal(Signal::SIGUSR1)?;
                daemon.wait_for_line("ready", DEADLINE)?;
                let mut order = vnet_at(scene, "none", "apply", other)?;
                let mut has_ended = false;
                wait_until("the change pauses or ends", DEADLINE, || {
                    has_ended = !order.is_running();
                    if pauses(&daemon) > 1 || has_ended { Ok(()) } else { Err(daemon.stderr()) }
                })?;
                end(daemon)?;
                order.wait(DEADLINE)?;
            }
        }
        scene.wait_for_end()
    }
}

fn pauses(daemon: &Running) -> usize {
    daemon.stderr().matches("paused at").count()
}

#[test]
fn a_hundred_kills_at_random_moments_lose_no_packet_and_leave_nothing_behind() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let seed = match env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse()?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64,
    };
    println!("{SEED_VARIABLE}={seed}, process {}", process::id());
    let mut random = Rng::new(seed);
    let scene = Scene::with(|lab| Ok(lab.host.bridge("virbr1", &["192.168.123.1/24"])?))?;
    let definitions = Definitions::write(&scene)?;
    kill(scene.ready(&[])?)?;
    let traffic = Traffic::start_paced(&scene, PAUSE)?;

    let start = Instant::now();
    let daemon = ready(&scene, &definitions.of(&mut Rng::new(0)))?;
    let until_started = start.elapsed();
    let start = Instant::now();
    ensure!(apply(&scene, &[&definitions.two[0]])?.status.success());
    let pace = Pace { start: until_started.mul_f64(1.2), change: start.elapsed().mul_f64(1.2) };
    kill(daemon)?;

    let start = Instant::now();
    for number in 0..KILLS {
        let kill = Kill::choose(&mut random, &pace);
        let (files, other) = (definitions.of(&mut random), definitions.of(&mut random));
        let what = || format!("kill {number} of seed {seed}: {kill:?}, {files:?}, {other:?}");
        kill.run(&scene, &files, &other).with_context(what)?;
        traffic.ensure_unbroken().with_context(what)?;
    }
    println!("{KILLS} kills in {:?}", start.elapsed());

    end(ready(&scene, &[&definitions.one[0]])?)?;
    scene.wait_for_hooks(&HOOKS)?;
    traffic.finish()?;
    scene.detach()?;
    scene.assert_clean("after a hundred kills")
}
