//! What it takes to run many networks, and to change one among them.

use std::{
    fs,
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{
    progress,
    report::{Figure, Unit, median},
    site::Forwarding,
};
use crate::lab::{Crowd, Lab, Node, Running};

const NETWORKS: [u16; 4] = [1, 10, 100, 1000];
const PORTS: usize = 10;
/// Changes of one network in a round.
const CHANGES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(600);

/// What is timed, and whether it is compared by network.
const STEPS: [(&str, bool); 6] = [
    ("start: attach and first apply", true),
    ("apply without a change", false),
    ("change of one network", false),
    ("one more network", false),
    ("one network less", false),
    ("take down: detach", true),
];

/// Seconds of each step.
type Times = [Vec<f64>; STEPS.len()];

pub(super) fn measure(vnet: &str, rounds: usize, most: usize) -> Result<Vec<Figure>> {
    let networks = NETWORKS.into_iter().filter(|networks| usize::from(*networks) <= most);
    let networks: Vec<u16> = networks.collect();
    let mut times: Vec<Times> = networks.iter().map(|_| Times::default()).collect();
    for round in 0..rounds {
        for (networks, times) in networks.iter().zip(&mut times) {
            progress(&format!("control, {networks} networks: round {}", round + 1));
            Round::begin(vnet, usize::from(*networks), times)?.finish(times)?;
        }
    }
    let mut figures = Vec::new();
    for (step, (name, is_by_network)) in STEPS.into_iter().enumerate() {
        let first = times.first().map_or(0.0, |times| median(&times[step]));
        for (networks, of_all) in networks.iter().zip(&times) {
            let count = f64::from(*networks);
            let reference = if is_by_network { first * count } else { first };
            let baseline = if is_by_network { "of 1 network, for each" } else { "of 1 network" };
            let values = of_all[step].clone();
            let figure = Figure::new((name, "vnet"), Unit::Seconds, values, (reference, baseline));
            figures.push(figure.at(count, "networks"));
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
        // One more, for the network that comes later.
        Crowd { networks: networks + 1, ports: PORTS }.settle(&host)?;
        let files = directory.display().to_string();
        let start = Instant::now();
        let run = [vnet, "run", &files, "--instance", &instance, "--no-services", "--no-watch"];
        let daemon = host.spawn(&[&run[..], Forwarding::DEFAULT].concat())?;
        let round = Self { vnet, host, instance, directory, daemon, _lab: lab };
        round.daemon.wait_for_line("ready", DEADLINE)?;
        times[0].push(start.elapsed().as_secs_f64());
        for change in 0..CHANGES {
            times[1].push(round.apply("no changes\n")?);
            let one = networks / 2;
            let file = |network: usize| round.directory.join(format!("n{network}.xml"));
            fs::write(file(one), definition(one, 60000 + change as u16))?;
            times[2].push(round.apply(&format!("~ n{one}\n"))?);
            fs::write(file(networks), definition(networks, 65535))?;
            times[3].push(round.apply(&format!("+ n{networks}"))?);
            fs::remove_file(file(networks))?;
            times[4].push(round.apply(&format!("- n{networks}"))?);
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
        times[5].push(start.elapsed().as_secs_f64());
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }
}
