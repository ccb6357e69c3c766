//! The running product: `vnet run` on a host of the lab.

use std::{
    env, fmt, fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use vnet_common::{
    flow::{FLAG_INSIDE_IS_HOST, Phase, Session, SessionCursor, Traffic},
    names,
    reason::{DropReason, Handover},
    tcp::State,
};

use crate::lab::{Error, Node, Result, Running, wait_until};

/// How long a start or an end may take, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// Names the program to test, if it is not the one that was built with the tests.
const PROGRAM_VARIABLE: &str = "VNET_BIN";

/// A libvirt definition of a NAT network on an existing bridge; addresses with prefix length.
#[must_use]
pub fn nat_network(name: &str, bridge: &str, addresses: &[&str]) -> String {
    let addresses: String = addresses
        .iter()
        .map(|address| {
            let (address, prefix) = address.split_once('/').unwrap_or((address, "32"));
            format!("  <ip address='{address}' prefix='{prefix}'/>\n")
        })
        .collect();
    format!(
        "<network>\n  <name>{name}</name>\n  <forward mode='nat'/>\n  \
         <bridge name='{bridge}' stp='on' delay='0'/>\n{addresses}</network>\n"
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
    instance: String,
    definitions: PathBuf,
    stopped: bool,
}

impl Vnet {
    /// Serves the definitions on every uplink that the host's routes use. It is ready when this
    /// returns.
    pub fn start(host: &Node, definitions: &[String]) -> Result<Self> {
        Self::start_with(host, definitions, &[])
    }

    /// As [`Vnet::start`], with further arguments of `vnet run`.
    pub fn start_with(host: &Node, definitions: &[String], arguments: &[&str]) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let instance = format!("test-{}-{serial}", process::id());
        let directory = env::temp_dir().join(format!("vnet-{instance}"));
        write_definitions(&directory, definitions)
            .map_err(|error| Error::unexpected(directory.display().to_string(), error))?;

        let program = program()?;
        let (program, path) = (program.display().to_string(), directory.display().to_string());
        let mut command = vec![program.as_str(), "run", &path, "--instance", &instance];
        command.extend(arguments);
        let running = host.spawn(&command)?;
        let mut vnet =
            Self { host: host.clone(), running, instance, definitions: directory, stopped: false };
        let ended = wait_until("vnet prints the line `ready`", DEADLINE, || {
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
    /// If it does not end in time with status 0, printed anything but `ready` to its standard
    /// output, or logged an error.
    pub fn stop(mut self) -> Result<()> {
        let output = self.running.terminate(DEADLINE)?.success()?;
        let failed = output.stderr.lines().any(|line| line.contains("ERROR"));
        if output.stdout != "ready\n" || failed {
            let seen = format!("{}{}", output.stdout, output.stderr);
            return Err(Error::unexpected("output of vnet run", seen));
        }
        self.stopped = true;
        Ok(())
    }

    /// Every live flow, by the inside's address and port.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        let path = |map| self.pin(map);
        let read = || -> Result<Vec<Flow>, aya::maps::MapError> {
            let map = |name| MapData::from_pin(path(name)).map(Map::Array);
            let cursor: Array<_, SessionCursor> = map(names::map::SESSION_CURSOR)?.try_into()?;
            let sessions: Array<_, Session> = map(names::map::SESSIONS)?.try_into()?;
            let used = cursor.get(&0, 0)?.fresh.min(u64::from(sessions.len())) as u32;
            let mut flows = Vec::new();
            for index in 0..used {
                let session = sessions.get(&index, 0)?;
                if session.phase == Phase::Live as u32 {
                    flows.push(Flow::of(&session));
                }
            }
            flows.sort_by_key(|flow| (flow.inside, flow.remote, flow.protocol));
            Ok(flows)
        };
        self.host.enter(read)?.map_err(|error| Error::unexpected("flows", error.to_string()))
    }

    /// Packets dropped for a reason, of all networks.
    pub fn drops(&self, reason: DropReason) -> Result<u64> {
        let each_network = (0..vnet_common::limits::NETWORKS as u16).map(|n| reason.counter(n));
        self.counters(names::map::DROPS, each_network)
    }

    /// Packets left to the host's stack for a reason, of all networks.
    pub fn handovers(&self, handover: Handover) -> Result<u64> {
        let each_network = (0..vnet_common::limits::NETWORKS as u16).map(|n| handover.counter(n));
        self.counters(names::map::HANDOVERS, each_network)
    }

    fn counters(&self, map: &str, indices: impl Iterator<Item = u32> + Send) -> Result<u64> {
        let path = self.pin(map);
        let read = || -> Result<u64, aya::maps::MapError> {
            let counters: PerCpuArray<_, u64> =
                Map::PerCpuArray(MapData::from_pin(path)?).try_into()?;
            let mut sum = 0;
            for index in indices.filter(|index| *index < counters.len()) {
                sum += counters.get(&index, 0)?.iter().sum::<u64>();
            }
            Ok(sum)
        };
        self.host.enter(read)?.map_err(|error| Error::unexpected(map, error.to_string()))
    }

    fn pin(&self, map: &str) -> PathBuf {
        Path::new("/sys/fs/bpf/vnet").join(&self.instance).join("maps").join(map)
    }

    /// What one wants to see of a failed test.
    fn describe(&self) -> String {
        let mut text = format!("--- vnet run --instance {}\n{}", self.instance, self.log());
        match self.flows() {
            Ok(flows) => flows.iter().for_each(|flow| text.push_str(&format!("{flow}\n"))),
            Err(error) => text.push_str(&format!("{error}\n")),
        }
        for &reason in DropReason::ALL {
            if let Ok(count @ 1..) = self.drops(reason) {
                text.push_str(&format!("dropped: {count} {}\n", reason.id()));
            }
        }
        for &handover in Handover::ALL {
            if let Ok(count @ 1..) = self.handovers(handover) {
                text.push_str(&format!("left to the host's stack: {count} {}\n", handover.id()));
            }
        }
        text
    }
}

impl Drop for Vnet {
    fn drop(&mut self) {
        if !self.stopped {
            eprintln!("{}", self.describe());
            let _ = self.running.terminate(DEADLINE);
            // Left behind by one that was killed; all else goes with the namespace.
            let _ = fs::remove_dir_all(Path::new("/run/vnet").join(&self.instance));
        }
        let _ = fs::remove_dir_all(&self.definitions);
    }
}

/// A flow in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// The guest's endpoint; the port is an ICMP query's identifier.
    pub inside: SocketAddr,
    /// What the outside sees of it.
    pub external: SocketAddr,
    /// Whom the guest talks to.
    pub remote: SocketAddr,
    /// What was seen of it.
    pub state: State,
    /// Whether the inside is the host itself.
    pub inside_is_host: bool,
    /// From the guest.
    pub outbound: Traffic,
    /// To the guest.
    pub inbound: Traffic,
}

impl Flow {
    fn of(session: &Session) -> Self {
        let at = |address: IpAddr, port: u16| SocketAddr::new(address, port);
        Self {
            protocol: session.protocol,
            inside: at(session.inside.to_addr(), session.inside_port.to_host()),
            external: at(session.external.to_addr(), session.external_port.to_host()),
            remote: at(session.remote.to_addr(), session.remote_port.to_host()),
            state: State::from_byte(session.state),
            inside_is_host: session.flags & FLAG_INSIDE_IS_HOST != 0,
            outbound: session.outbound,
            inbound: session.inbound,
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, inside, external, remote, state, outbound, inbound, .. } = self;
        write!(f, "protocol {protocol} {inside} as {external} to {remote} {}", state.name())?;
        for (way, traffic) in [("out", outbound), ("in", inbound)] {
            write!(f, ", {way} {} packets {} bytes", traffic.packets, traffic.bytes)?;
        }
        Ok(())
    }
}

/// The built `vnet`: the one of `VNET_BIN`, or the one beside the directory of the test program.
fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os(PROGRAM_VARIABLE) {
        return Ok(path.into());
    }
    let test = env::current_exe()
        .map_err(|error| Error::unexpected("path of the test program", error.to_string()))?;
    let built = test.parent().and_then(Path::parent).map(|profile| profile.join("vnet"));
    built.filter(|path| path.is_file()).ok_or_else(|| {
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
