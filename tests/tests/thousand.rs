//! What a change costs on a host with ten networks, and on one with a thousand: counted in system calls by
//! strace, which knows nothing of vnet. By itself, because the kernel lets nobody change interfaces for a
//! long time while it makes and removes ten thousand.

use std::{
    env, fs,
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use vnet_tests::{
    lab::{Calls, Crowd, Lab, Node, Output, Running, SystemCalls, require_root, wait_until},
    lifecycle::program,
};

const NAT: &str = "<forward mode='nat'/>";
const PORTS: usize = 10;
/// A start waits for the kernel's grace periods, twice for each network.
const START: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(60);
/// The daemon looks at its hooks every 5 s.
const ROUND: Duration = Duration::from_secs(11);
/// The network whose ports are guarded.
const GUARDED: usize = 3;
/// What a network has in the tables: itself, its bridge, its subnet, the two addresses of that which are no
/// station's, and the host's own.
const ENTRIES: usize = 6;
/// The epoch, which shows packets a change.
const EPOCH: usize = 1;

/// A daemon that serves many networks, watched by strace.
struct Rig {
    host: Node,
    instance: String,
    directory: PathBuf,
    calls: SystemCalls,
    daemon: Running,
    networks: usize,
    _lab: Lab,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(PathBuf::from("/run/vnet").join(&self.instance));
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn definition(network: usize, forward: &str) -> String {
    let guard = if network == GUARDED { "<vnet:guard/>" } else { "" };
    format!(
        "<network><name>n{network}</name>{forward}<bridge name='{}'/>\
         <ip address='{}' prefix='24'/><metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{guard}\
         </vnet:options></metadata></network>\n",
        Crowd::bridge(network),
        Crowd::gateway(network)
    )
}

impl Rig {
    /// Starts it; the time that it took.
    fn start(networks: usize) -> Result<(Self, Duration)> {
        let instance = format!("crowd-{}-{networks}", process::id());
        let directory = env::temp_dir().join(format!("vnet-{instance}"));
        let definitions = directory.join("networks");
        fs::create_dir_all(&definitions)?;
        for network in 0..networks {
            fs::write(definitions.join(format!("n{network}.xml")), definition(network, NAT))?;
        }
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        // One more bridge than networks.
        Crowd { networks: networks + 1, ports: PORTS }.settle(&host)?;
        let trace = directory.join("calls");
        let mut command = SystemCalls::command(&trace);
        let (program, path) = (program()?, definitions.display().to_string());
        command
            .extend([program.as_str(), "run", &path, "--instance", &instance].map(str::to_owned));
        // With short ways it looks every few seconds at what others have at interfaces.
        let alone = ["--no-services", "--no-watch", "--short-ways", "off"];
        command.extend(alone.map(str::to_owned));
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let start = Instant::now();
        let daemon = host.spawn(&words)?;
        let calls = SystemCalls::of(trace);
        let rig = Self { host, instance, directory, calls, daemon, networks, _lab: lab };
        rig.daemon.wait_for_line("ready", START)?;
        Ok((rig, start.elapsed()))
    }

    /// `vnet` with the instance's name; what the daemon has called for it, and how long it took.
    fn vnet(&mut self, arguments: &[&str]) -> Result<(Output, Calls, Duration)> {
        self.rest()?;
        let program = program()?;
        let mut command = vec![program.as_str()];
        command.extend(arguments);
        command.extend(["--instance", &self.instance]);
        let start = Instant::now();
        let output = self.host.try_run(&command)?;
        let elapsed = start.elapsed();
        ensure!(output.status.success(), "{output:?}");
        Ok((output, self.rest()?, elapsed))
    }

    fn apply(&mut self) -> Result<(Output, Calls, Duration)> {
        let path = self.directory.join("networks").display().to_string();
        self.vnet(&["apply", &path])
    }

    fn write(&self, network: usize, forward: &str) -> Result<()> {
        let path = self.directory.join("networks").join(format!("n{network}.xml"));
        Ok(fs::write(path, definition(network, forward))?)
    }

    /// What was called until it has nothing left to do.
    fn rest(&mut self) -> Result<Calls> {
        let mut calls = Calls::default();
        let mut quiet_since = Instant::now();
        wait_until("the daemon rests", SOON, || {
            let more = self.calls.since().map_err(|error| error.to_string())?;
            // It looks at its hooks now and then.
            if more.all.keys().any(|what| what != "BPF_PROG_QUERY") {
                quiet_since = Instant::now();
            }
            calls.extend(more);
            let is_quiet = quiet_since.elapsed() > Duration::from_millis(700);
            if is_quiet { Ok(()) } else { Err(calls.to_string()) }
        })?;
        Ok(calls)
    }

    fn guests(&self) -> Result<usize> {
        let path = PathBuf::from("/run/vnet").join(&self.instance).join("state.json");
        let state: Value = serde_json::from_slice(&fs::read(path)?)?;
        Ok(state["guests"].as_array().map_or(0, Vec::len))
    }

    /// Ends the daemon, and with it what it has put in place.
    fn stop(mut self) -> Result<Duration> {
        let path = PathBuf::from("/run/vnet").join(&self.instance).join("state.json");
        let state: Value = serde_json::from_slice(&fs::read(path)?)?;
        let process = state["pid"].as_i64().context("no process")?;
        let start = Instant::now();
        kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGTERM)?;
        let output = self.daemon.wait(START)?;
        ensure!(output.status.success() && !output.stderr.contains("ERROR"), "{output:?}");
        Ok(start.elapsed())
    }
}

/// What was counted, to be compared.
#[derive(Debug, PartialEq, Eq)]
struct Costs {
    changed: (usize, usize, usize),
    isolated: (usize, usize, usize),
    added: (usize, usize, usize),
    removed: (usize, usize, usize),
    plugged: (usize, usize),
    unplugged: (usize, usize),
}

fn counted(calls: &Calls) -> (usize, usize, usize) {
    (calls.map_writes, calls.attachments, calls.changes)
}

fn measure(networks: usize) -> Result<(Costs, Calls)> {
    let (mut rig, start) = Rig::start(networks)?;
    let at_start = rig.rest()?;
    println!("{networks} networks: started in {start:?}: {at_start}");
    ensure!(rig.guests()? == PORTS * networks, "{} guests", rig.guests()?);

    let (output, calls, elapsed) = rig.apply()?;
    println!("{networks} networks: applied again in {elapsed:?}: {calls}");
    ensure!(output.stdout == "no changes\n", "{output:?}");
    ensure!(counted(&calls) == (0, 0, 0) && calls.readings == 0, "{calls}");

    let ports = "<forward mode='nat'><nat><port start='2000' end='3000'/></nat></forward>";
    let change = |rig: &mut Rig, network: usize, forward: Option<&str>, words: &str| {
        match forward {
            Some(forward) => rig.write(network, forward)?,
            None => {
                fs::remove_file(rig.directory.join("networks").join(format!("n{network}.xml")))?;
            }
        }
        let (output, calls, elapsed) = rig.apply()?;
        println!("{networks} networks: {words} in {elapsed:?}: {calls}");
        ensure!(output.stdout.starts_with(words), "{output:?}");
        Ok(calls)
    };
    let changed = change(&mut rig, 7, Some(ports), "~ n7\n")?;
    let isolated = change(&mut rig, 8, Some(""), "~ n8\n")?;
    let added = change(&mut rig, networks, Some(NAT), &format!("+ n{networks} "))?;
    let removed = change(&mut rig, networks, None, &format!("- n{networks}\n"))?;

    let guests = rig.guests()?;
    let until = |rig: &mut Rig, count: usize| {
        let start = Instant::now();
        wait_until("the guest's port is noticed", SOON, || match rig.guests() {
            Ok(seen) if seen == count => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        let elapsed = start.elapsed();
        let calls = rig.rest()?;
        println!("{networks} networks: a port of one in {elapsed:?}: {calls}");
        Ok::<_, anyhow::Error>(calls)
    };
    Crowd::plug(&rig.host, GUARDED, "one-more")?;
    let plugged = until(&mut rig, guests + 1)?;
    rig.host.run(&["ip", "link", "delete", "one-more"])?;
    let unplugged = until(&mut rig, guests)?;

    // Nothing happens, and nothing is done but to look whether hooks are where they were.
    rig.rest()?;
    let start = Instant::now();
    let mut idle = Calls::default();
    wait_until("two rounds have passed", SOON, || {
        idle.extend(rig.calls.since().map_err(|error| error.to_string())?);
        if start.elapsed() > ROUND { Ok(()) } else { Err(String::new()) }
    })?;
    println!("{networks} networks: nothing for {ROUND:?}: {idle}");
    ensure!(counted(&idle) == (0, 0, 0) && idle.readings == 0, "{idle}");

    let costs = Costs {
        changed: counted(&changed),
        isolated: counted(&isolated),
        added: counted(&added),
        removed: counted(&removed),
        plugged: (plugged.attachments, plugged.changes),
        unplugged: (unplugged.attachments, unplugged.changes),
    };
    ensure!(rig.networks == networks);
    println!("{networks} networks: taken down in {:?}", rig.stop()?);
    Ok((costs, at_start))
}

#[test]
fn change_costs_what_its_network_costs_among_ten_and_among_a_thousand() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (few, start_of_few) = measure(10)?;
    // The network in both generations of the tables, and the epoch that shows it.
    ensure!(few.changed == (2 + EPOCH, 0, 0), "{few:?}");
    let (many, start_of_many) = measure(1000)?;
    ensure!(many == few, "{many:?}\n{few:?}");
    // Each network costs its entries in both generations and its two hooks.
    let writes = start_of_many.map_writes - start_of_few.map_writes;
    // A start may be followed by an epoch or two, as interfaces come up.
    let epochs = writes.abs_diff(2 * ENTRIES * 990);
    ensure!(epochs <= 3, "{writes} more entries were written");
    let attachments = start_of_many.attachments - start_of_few.attachments;
    ensure!(attachments == 2 * 990, "{attachments} more programs were attached");
    ensure!(start_of_many.changes == start_of_few.changes, "{start_of_many}");
    // All tables of the host are read once or twice, however many entries they have.
    ensure!(start_of_many.readings < 60, "{start_of_many}");
    Ok(())
}
