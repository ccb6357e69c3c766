//! What it takes to run many networks, and to change one among them.

use std::{
    fs,
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::report::{Figure, Unit, median};
use crate::lab::{Crowd, Lab, Node, Running};

/// The first is the baseline.
const NETWORKS: [u16; 3] = [10, 100, 1000];
const PORTS: usize = 10;
/// Changes of one network in a round.
const CHANGES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(600);

/// What is timed, and whether it is compared by network.
const STEPS: [(&str, bool); 4] = [
    ("start", true),
    ("apply without a change", false),
    ("change of one network", false),
    ("take down", true),
];

/// Seconds of each step.
type Times = [Vec<f64>; STEPS.len()];

pub(super) fn measure(vnet: &str, rounds: usize) -> Result<Vec<Figure>> {
    let mut times: [Times; NETWORKS.len()] = Default::default();
    for _ in 0..rounds {
        for (networks, times) in NETWORKS.into_iter().zip(&mut times) {
            Round::begin(vnet, networks.into(), times)?.finish(times)?;
        }
    }
    let mut figures = Vec::new();
    for (step, (name, is_by_network)) in STEPS.into_iter().enumerate() {
        for (networks, of_all) in NETWORKS.into_iter().zip(&times) {
            let share = |count: u16| if is_by_network { f64::from(count) } else { 1.0 };
            let baseline = median(&times[0][step]) / share(NETWORKS[0]);
            figures.push(Figure {
                name: format!("{name}, {networks} networks"),
                unit: Unit::Seconds,
                values: of_all[step].clone(),
                baseline: format!(
                    "of {} networks{}",
                    NETWORKS[0],
                    if is_by_network { ", for each" } else { "" }
                ),
                ratio: median(&of_all[step]) / share(networks) / baseline,
            });
        }
    }
    Ok(figures)
}

/// A daemon that serves many networks.
struct Round<'v> {
    vnet: &'v str,
    host: Node,
    instance: String,
    directory: PathBuf,
    daemon: Running,
    _lab: Lab,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn definition(network: usize, last_port: u16) -> String {
    format!(
        "<network><name>n{network}</name><forward mode='nat'><nat><port start='1024' end='{last_port}'/>\
         </nat></forward><bridge name='{}'/><ip address='{}' prefix='24'/></network>\n",
        Crowd::bridge(network),
        Crowd::gateway(network)
    )
}

impl<'v> Round<'v> {
    fn begin(vnet: &'v str, networks: usize, times: &mut Times) -> Result<Self> {
        let instance = format!("bench-{}-{networks}", process::id());
        let directory = std::env::temp_dir().join(format!("vnet-{instance}"));
        fs::create_dir_all(&directory)?;
        for network in 0..networks {
            fs::write(directory.join(format!("n{network}.xml")), definition(network, 65535))?;
        }
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        Crowd { networks, ports: PORTS }.settle(&host)?;
        let files = directory.display().to_string();
        let start = Instant::now();
        let daemon = host.spawn(&[
            vnet,
            "run",
            &files,
            "--instance",
            &instance,
            "--no-services",
            "--no-watch",
        ])?;
        let round = Self { vnet, host, instance, directory, daemon, _lab: lab };
        round.daemon.wait_for_line("ready", DEADLINE)?;
        times[0].push(start.elapsed().as_secs_f64());
        for change in 0..CHANGES {
            times[1].push(round.apply("no changes\n")?);
            let changed = definition(7, 60000 + change as u16);
            fs::write(round.directory.join("n7.xml"), changed)?;
            times[2].push(round.apply("~ n7\n")?);
        }
        Ok(round)
    }

    /// Seconds of an apply that says this first.
    fn apply(&self, wanted: &str) -> Result<f64> {
        let files = self.directory.display().to_string();
        let start = Instant::now();
        let command = [self.vnet, "apply", "--instance", &self.instance, &files];
        let output = self.host.try_run(&command)?;
        let elapsed = start.elapsed();
        ensure!(output.stdout.starts_with(wanted), "{output:?}");
        Ok(elapsed.as_secs_f64())
    }

    fn finish(mut self, times: &mut Times) -> Result<()> {
        let start = Instant::now();
        let output = self.daemon.signal_and_wait(Signal::SIGTERM, DEADLINE)?;
        times[3].push(start.elapsed().as_secs_f64());
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }
}
