//! dnsmasq's process: started, told of changes, and ended.
//!
//! It is nobody's child, so that it outlives the daemon as the datapath does, and the next start finds
//! it by its pid file.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::unistd::User;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{io::unix::AsyncFd, process::Command};

use super::{
    config::{self, ConfigError},
    files::{Paths, make_directory, networks_in, says, write_if_changed},
    hosts,
};
use crate::definition::Network;

const PROGRAM: &str = "dnsmasq";
/// Whom it runs as, the first that there is.
const USERS: [&str; 3] = ["dnsmasq", "libvirt-dnsmasq", "nobody"];
/// How long it may take to end.
const END: Duration = Duration::from_secs(5);
/// How long it may take to listen.
const START: Duration = Duration::from_secs(30);

/// Where an instance's services keep their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Configurations and pid files, gone with the instance.
    pub runtime: PathBuf,
    /// Leases, which outlive it.
    pub leases: PathBuf,
}

/// Why a network's service cannot be as it is wanted.
#[derive(Debug, thiserror::Error)]
pub enum DnsmasqError {
    /// The definition has what cannot be written to a configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or directory of the service.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whether somebody else serves the bridge is not known.
    #[error(
        "cannot ask who serves bridge `{bridge}` of network `{network}`: {source}{}",
        port_hint(source)
    )]
    Probe {
        /// The network.
        network: String,
        /// The bridge.
        bridge: String,
        /// Why.
        source: io::Error,
    },
    /// There is no dnsmasq on this host, for example.
    #[error("cannot start dnsmasq for network `{network}`: {source}{}", start_hint(source))]
    Start {
        /// The network.
        network: String,
        /// Why.
        source: io::Error,
    },
    /// It ended at once.
    #[error("dnsmasq does not serve network `{network}`: {reason}")]
    Refused {
        /// The network.
        network: String,
        /// What it said.
        reason: String,
    },
    /// A process cannot be told or ended.
    #[error("cannot signal dnsmasq of network `{network}`: {source}{}", signal_hint(source))]
    Signal {
        /// The network.
        network: String,
        /// Why.
        source: io::Error,
    },
    /// It goes on although it was told to end.
    #[error("dnsmasq of network `{network}` does not end")]
    Endless {
        /// The network.
        network: String,
    },
}

fn start_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; install the package `dnsmasq-base` (`dnsmasq` on Fedora)",
        _ => "",
    }
}

fn port_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; ports 53 and 67 need CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

fn signal_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; it runs as another user, which needs CAP_KILL",
        _ => "",
    }
}

/// What [`Service::serve`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It served the network as it is.
    None,
    /// It read reservations and records again; leases and open requests go on.
    Reloaded,
    /// It was started; its leases are those that it had.
    Started,
}

/// A network's dnsmasq.
#[derive(Debug)]
pub struct Service {
    network: String,
    paths: Paths,
    process: AsyncFd<OwnedFd>,
    pid: Pid,
}

impl Service {
    /// Makes a network's dnsmasq what its definition says: starts it, has it read its files again, or
    /// leaves it alone. `running` is what an earlier call has returned, if it was this process's.
    pub async fn serve(
        network: &Network,
        bridge: &str,
        directories: &Directories,
        running: Option<Self>,
    ) -> Result<(Self, Change), DnsmasqError> {
        let name = &network.name.value;
        let paths = Paths::of(name, directories);
        let mut config = config::text(network, bridge, paths.files(), user())?;
        if let Ok(index) = nix::net::if_::if_nametoindex(bridge) {
            // A bridge that was made anew needs a new process: the old one is bound to the old one.
            let index = format!("# interface index {index}\n");
            config.push_str(&index);
        }
        let is_found = running.is_none();
        let mut running = match running {
            Some(running) => Some(running),
            None => Self::find(name, directories)?,
        }
        .filter(Self::is_alive);
        make_directory(&directories.runtime)?;
        make_directory(&directories.leases)?;
        let goes_on = |it: &Self| says(&paths.config, &config) && it.is_in_this_namespace();
        if let Some(outdated) = running.take_if(|it| !goes_on(it)) {
            // Before the file says what it does not know: whoever finds it would take it for current.
            outdated.end().await?;
        }
        let mut is_new = write_if_changed(&paths.reserved, &hosts::reserved(network))?;
        is_new |= write_if_changed(&paths.records, &hosts::records(network))?;
        write_if_changed(&paths.config, &config)?;
        if let Some(running) = running {
            if is_new || is_found {
                // Who was killed may have written the files and told it nothing.
                running.signal(Signal::HUP)?;
            }
            let change = if is_new { Change::Reloaded } else { Change::None };
            return Ok((running, change));
        }
        let started = start(name, &paths, directories).await?;
        Ok((started, Change::Started))
    }

    /// The process that an earlier daemon has left to serve a network. `None` also if the number in
    /// its pid file is another process's by now.
    pub fn find(network: &str, directories: &Directories) -> Result<Option<Self>, DnsmasqError> {
        let paths = Paths::of(network, directories);
        let pid = read_pid(&paths.pid).filter(|pid| is_of(*pid, &paths.config));
        // Looking at every process is for those only that may have lost their pid file.
        let search = || paths.config.exists().then(|| process_of(&paths.config)).flatten();
        let Some(pid) = pid.or_else(search) else { return Ok(None) };
        Self::open(network, paths, pid)
    }

    /// The networks that an earlier daemon has left files of, and perhaps processes.
    pub fn left_behind(directories: &Directories) -> Result<Vec<String>, DnsmasqError> {
        let path = &directories.runtime;
        networks_in(path).map_err(|source| DnsmasqError::File { path: path.clone(), source })
    }

    /// Ends what an earlier daemon has left to serve a network, and removes its files but for the
    /// leases. Returns whether there was a process.
    pub async fn stop_left_behind(
        network: &str,
        directories: &Directories,
    ) -> Result<bool, DnsmasqError> {
        if let Some(service) = Self::find(network, directories)? {
            service.stop().await?;
            return Ok(true);
        }
        Paths::of(network, directories).remove()?;
        Ok(false)
    }

    fn open(network: &str, paths: Paths, pid: Pid) -> Result<Option<Self>, DnsmasqError> {
        let failed = |source| DnsmasqError::Signal { network: network.to_owned(), source };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        // With the descriptor in hand: the number may be another process's by now.
        if !is_of(pid, &paths.config) {
            return Ok(None);
        }
        // SAFETY: the registration owns the descriptor and is the only one that ever closes it.
        let process = unsafe { AsyncFd::register(process) };
        let process = process.map_err(|error| failed(error.into()))?;
        Ok(Some(Self { network: network.to_owned(), paths, process, pid }))
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns once the process has ended, by itself or by others. May be cancelled.
    pub async fn ended(&self) -> io::Result<()> {
        self.process.readable().await.map(drop)
    }

    /// What waits for the process's end without borrowing this.
    pub fn end_of_process(&self) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let process = self.process.get_ref().try_clone()?;
        // SAFETY: the registration owns the descriptor and is the only one that ever closes it.
        let process = unsafe { AsyncFd::register(process) }?;
        Ok(async move {
            // An error means the end, too: whoever asks looks at the process again.
            let _ = process.readable().await;
        })
    }

    /// Ends it and removes its files but for the leases.
    pub async fn stop(self) -> Result<(), DnsmasqError> {
        self.end().await?;
        self.paths.remove()
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // A zombie of another parent still has its number, but no command line.
        is_of(self.pid, &self.paths.config)
    }

    async fn end(&self) -> Result<(), DnsmasqError> {
        self.signal(Signal::TERM)?;
        let endless = || DnsmasqError::Endless { network: self.network.clone() };
        let ended = tokio::time::timeout(END, self.ended()).await.map_err(|_| endless())?;
        ended.map_err(|source| DnsmasqError::Signal { network: self.network.clone(), source })
    }

    fn signal(&self, signal: Signal) -> Result<(), DnsmasqError> {
        match pidfd_send_signal(self.process.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(DnsmasqError::Signal { network: self.network.clone(), source: error.into() })
            }
        }
    }

    /// One of another network namespace serves a bridge of the same name there.
    fn is_in_this_namespace(&self) -> bool {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        match (of(&self.pid().to_string()), of("thread-self")) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            // Those of another user are shown with CAP_SYS_PTRACE only; it most likely is.
            _ => true,
        }
    }
}

/// Whether the process is the dnsmasq of a network.
#[must_use]
pub fn is_running(process: u32, network: &str, directories: &Directories) -> bool {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| is_of(pid, &Paths::of(network, directories).config))
}

/// Whether there is such a program.
#[must_use]
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(PROGRAM).is_file())
}

/// Starts it; returns when it listens.
async fn start(
    network: &str,
    paths: &Paths,
    directories: &Directories,
) -> Result<Service, DnsmasqError> {
    let failed = |source| DnsmasqError::Start { network: network.to_owned(), source };
    let refused = |reason: String| DnsmasqError::Refused { network: network.to_owned(), reason };
    // In the background it tells by its exit code whether it could begin.
    let output = Command::new(PROGRAM)
        .arg(config_argument(&paths.config))
        .current_dir("/")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .output();
    let endless = |_| failed(io::ErrorKind::TimedOut.into());
    let output = tokio::time::timeout(START, output).await.map_err(endless)?.map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("dnsmasq: ").to_owned();
        return Err(refused(if said.is_empty() { output.status.to_string() } else { said }));
    }
    Service::find(network, directories)?
        .ok_or_else(|| refused(format!("it left no number in {}", paths.pid.display())))
}

fn config_argument(config: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("--conf-file=");
    argument.push(config);
    argument
}

fn user() -> &'static str {
    let exists = |name: &&str| matches!(User::from_name(name), Ok(Some(_)));
    USERS.into_iter().find(exists).unwrap_or("nobody")
}

fn read_pid(path: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(path).ok()?.trim().parse().ok()?)
}

/// Whether the process is a dnsmasq with this configuration.
fn is_of(pid: Pid, config: &Path) -> bool {
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let wanted = config_argument(config);
    command.split(|byte| *byte == 0).any(|word| word == wanted.as_encoded_bytes())
}

/// The process with this configuration, if it has lost its pid file.
fn process_of(config: &Path) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?;
    let mut pids = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    // It forks for each connection by TCP.
    let is_child = |pid| parent_of(pid).is_some_and(|parent| is_of(parent, config));
    pids.find(|pid| is_of(*pid, config) && !is_child(*pid))
}

/// See `proc_pid_stat(5)`: the fields that follow the program's name begin with state and parent.
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Pid::from_raw(fields.split_whitespace().nth(1)?.parse().ok()?)
}
