//! The running product: `vnet run` on a host of the lab.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use vnet_common::{
    flow::Traffic,
    reason::{DropReason, Handover},
};

use crate::lab::{Error, Node, Output, Result, Running, wait_until};
use crate::xdp::{self, Switching};

/// How long a start or an end may take, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a start of a thousand networks may take.
const LONG_DEADLINE: Duration = Duration::from_secs(300);
/// Names the program to test, if it is not the one that was built with the tests.
const PROGRAM_VARIABLE: &str = "VNET_BIN";

/// A libvirt definition of a NAT network on an existing bridge; addresses with prefix length.
#[must_use]
pub fn nat_network(name: &str, bridge: &str, addresses: &[&str]) -> String {
    let mut ips = String::new();
    for address in addresses {
        let (address, prefix) = address.split_once('/').unwrap_or((address, "32"));
        ips = format!("{ips}  <ip address='{address}' prefix='{prefix}'/>\n");
    }
    format!(
        "<network>\n  <name>{name}</name>\n  <forward mode='nat'/>\n  \
         <bridge name='{bridge}' stp='on' delay='0'/>\n{ips}</network>\n"
    )
}

/// `vnet run` in a host's namespace, with an instance of its own.
///
/// A test that succeeds calls [`Vnet::stop`]. One that is dropped without it belongs to a test that
/// has failed: it prints its tables and its log.
#[derive(Debug)]
pub struct Vnet {
    host: Node,
    running: Running,
    program: String,
    instance: String,
    definitions: PathBuf,
    stopped: bool,
    switching: Option<Switching>,
}

impl Vnet {
    /// Serves the definitions on every uplink that the host's routes use, without dnsmasq. It is ready
    /// when this returns.
    pub fn start(host: &Node, definitions: &[String]) -> Result<Self> {
        Self::start_with(host, definitions, &[])
    }

    /// As [`Vnet::start`], with further arguments of `vnet run`.
    pub fn start_with(host: &Node, definitions: &[String], arguments: &[&str]) -> Result<Self> {
        Self::launch(host, definitions, &[&["--no-services"], arguments].concat(), DEADLINE)
    }

    /// As [`Vnet::start_with`], of definitions so many that it takes long.
    pub fn start_patiently(
        host: &Node,
        definitions: &[String],
        arguments: &[&str],
    ) -> Result<Self> {
        let arguments = [&["--no-services"], arguments].concat();
        Self::launch(host, definitions, &arguments, LONG_DEADLINE)
    }

    /// As [`Vnet::start`], with dnsmasq and with the bridges, which need not be there.
    pub fn start_with_services(host: &Node, definitions: &[String]) -> Result<Self> {
        Self::launch(host, definitions, &["--create-bridges"], DEADLINE)
    }

    fn launch(
        host: &Node,
        definitions: &[String],
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let instance = format!("test-{}-{serial}", process::id());
        let directory = env::temp_dir().join(format!("vnet-{instance}"));
        write_definitions(&directory, definitions)
            .map_err(|error| Error::unexpected(directory.display().to_string(), error))?;

        let program = program()?;
        let (program, path) = (program.display().to_string(), directory.display().to_string());
        let mut command = vec![program.as_str(), "run", &path, "--instance", &instance];
        command.extend(xdp::arguments(arguments));
        command.extend(arguments);
        let running = host.spawn(&command)?;
        let mut vnet = Self {
            host: host.clone(),
            running,
            program,
            instance,
            definitions: directory,
            stopped: false,
            switching: None,
        };
        let ended = wait_until("vnet prints the line `ready`", deadline, || {
            if vnet.running.stdout().lines().any(|line| line == "ready") {
                return Ok(false);
            }
            // There is nothing to wait for any more.
            if vnet.running.is_running() { Err(vnet.log()) } else { Ok(true) }
        })?;
        if ended {
            let output = vnet.running.wait(DEADLINE)?;
            let seen = format!("{}\n{}{}", output.status, output.stdout, output.stderr);
            return Err(Error::unexpected(output.command, seen));
        }
        vnet.switching = Switching::begin(host, &vnet.program, &vnet.instance);
        Ok(vnet)
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.stderr()
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// If it was to be switched at random and never was, does not end in time with status 0, printed anything but `ready` to its standard
    /// output, or logged an error.
    pub fn stop(mut self) -> Result<()> {
        if let Some(switching) = self.switching.take() {
            let what = || format!("XDP of {} switched at random", self.instance);
            switching.finish().map_err(|seen| Error::unexpected(what(), seen))?;
        }
        let output = self.running.terminate(DEADLINE)?.success()?;
        let failed = output.stderr.lines().any(|line| line.contains("ERROR"));
        if output.stdout != "ready\n" || failed {
            let seen = format!("{}{}", output.stdout, output.stderr);
            return Err(Error::unexpected("output of vnet run", seen));
        }
        self.stopped = true;
        Ok(())
    }

    /// Kills it with SIGKILL and waits for its death.
    pub fn kill(&mut self) -> Result<()> {
        drop(self.switching.take());
        self.running.signal_and_wait(Signal::SIGKILL, DEADLINE).map(drop)
    }

    /// Kills it and leaves its datapath to the kernel, which ends it with the host's namespaces.
    pub fn discard(mut self) -> Result<()> {
        self.kill()?;
        self.stopped = true;
        let _ = fs::remove_dir_all(Path::new("/run/vnet").join(&self.instance));
        Ok(())
    }

    /// Number of its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.running.id()
    }

    /// Takes down with `vnet detach` what a killed one has left.
    pub fn detach(mut self) -> Result<()> {
        self.host.run(&[&self.program, "detach", "--instance", &self.instance])?;
        self.stopped = true;
        Ok(())
    }

    /// What `vnet status -o json` says.
    pub fn status(&self) -> Result<Value> {
        self.ask("status")
    }

    /// What `vnet flows -o json` says.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        let json = self.ask("flows")?;
        let flows = json.as_array().and_then(|flows| flows.iter().map(Flow::parse).collect());
        flows.ok_or_else(|| Error::unexpected("vnet flows", json.to_string()))
    }

    /// Where a map of its datapath is pinned, in the host's mount namespace.
    #[must_use]
    pub fn pinned(&self, map: &str) -> PathBuf {
        Path::new("/sys/fs/bpf/vnet").join(&self.instance).join("maps").join(map)
    }

    /// Packets dropped for a reason, of all networks and of none.
    pub fn drops(&self, reason: DropReason) -> Result<u64> {
        Ok(outcomes(&self.status()?, "drops", reason.id()))
    }

    /// Packets left to the host's stack for a reason, of all networks and of none.
    pub fn handovers(&self, handover: Handover) -> Result<u64> {
        Ok(outcomes(&self.status()?, "handovers", handover.id()))
    }

    /// Runs another command of `vnet` on this instance to its end.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = vec![self.program.as_str()];
        command.extend(arguments);
        command.extend(["--instance", &self.instance]);
        self.host.try_run(&command)
    }

    fn ask(&self, what: &str) -> Result<Value> {
        let command = [&self.program, what, "--instance", &self.instance, "-o", "json"];
        let text = self.host.run(&command)?;
        serde_json::from_str(&text).map_err(|error| Error::unexpected(error.to_string(), text))
    }

    /// What one wants to see of a failed test.
    fn describe(&self) -> String {
        let mut text = format!("--- vnet run --instance {}\n{}", self.instance, self.log());
        for arguments in [&["status"][..], &["flows", "--limit", "20"]] {
            let shown = self.command(arguments);
            let shown = shown.map_or_else(|error| error.to_string(), |o| o.stdout + &o.stderr);
            text = format!("{text}--- vnet {}\n{shown}", arguments.join(" "));
        }
        text
    }
}

/// The sum of the counters of one reason.
fn outcomes(status: &Value, kind: &str, reason: &str) -> u64 {
    let networks = status["networks"].as_array().into_iter().flatten();
    let lists = networks.chain([&status["no_network"]]).filter_map(|of| of[kind].as_array());
    let outcomes = lists.flatten().filter(|outcome| outcome["reason"] == reason);
    outcomes.filter_map(|outcome| outcome["packets"].as_u64()).sum()
}

impl Drop for Vnet {
    fn drop(&mut self) {
        drop(self.switching.take());
        if !self.stopped {
            eprintln!("{}", self.describe());
            let _ = self.running.terminate(DEADLINE);
            // Left behind by one that was killed; all else goes with the namespace.
            let _ = fs::remove_dir_all(Path::new("/run/vnet").join(&self.instance));
        }
        let _ = fs::remove_dir_all(&self.definitions);
        // Leases are kept for the next start, which does not come.
        let _ = fs::remove_dir_all(Path::new("/var/lib/vnet").join(&self.instance));
    }
}

/// A flow in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// `tcp`, `udp`, `icmp`.
    pub protocol: String,
    /// The guest's endpoint; the port is an ICMP query's identifier.
    pub inside: SocketAddr,
    /// What the outside sees of it.
    pub outside: SocketAddr,
    /// Whom the guest talks to; port 0 for ICMP.
    pub remote: SocketAddr,
    /// What was seen of it.
    pub state: String,
    /// The uplink's name.
    pub uplink: String,
    /// From the guest.
    pub outbound: Traffic,
    /// To the guest.
    pub inbound: Traffic,
}

impl Flow {
    fn parse(json: &Value) -> Option<Self> {
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        let endpoint = |name: &str| {
            let json = &json[name];
            let port = json["port"].as_u64().or(json["identifier"].as_u64()).unwrap_or(0);
            Some(SocketAddr::new(json["address"].as_str()?.parse().ok()?, port.try_into().ok()?))
        };
        let traffic = |name: &str| {
            let json = &json[name];
            Some(Traffic { packets: json["packets"].as_u64()?, bytes: json["bytes"].as_u64()? })
        };
        Some(Self {
            protocol: text("protocol")?,
            inside: endpoint("inside")?,
            outside: endpoint("outside")?,
            remote: endpoint("remote")?,
            state: text("state")?,
            uplink: text("uplink")?,
            outbound: traffic("outbound")?,
            inbound: traffic("inbound")?,
        })
    }
}

/// The built `vnet`: the one of `VNET_BIN`, or the one beside the directory of the test program,
/// which `cargo test` builds for the whole workspace but not for this package alone.
fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os(PROGRAM_VARIABLE) {
        return Ok(path.into());
    }
    let test = env::current_exe()
        .map_err(|error| Error::unexpected("path of the test program", error.to_string()))?;
    // Tests are one directory further down than programs.
    let mut places = test.ancestors().skip(1).take(2).map(|directory| directory.join("vnet"));
    places.find(|path| path.is_file()).ok_or_else(|| {
        let what = format!("no program `vnet` beside {}", test.display());
        Error::unexpected(what, format!("run `cargo xtask test`, or set {PROGRAM_VARIABLE}"))
    })
}

fn write_definitions(directory: &Path, definitions: &[String]) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| error.to_string())?;
    for (number, definition) in definitions.iter().enumerate() {
        let path = directory.join(format!("{number}.xml"));
        fs::write(path, definition).map_err(|error| error.to_string())?;
    }
    Ok(())
}
