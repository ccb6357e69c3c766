//! dnsmasq's process: started, told of changes, and ended.
//!
//! It is nobody's child, so that it outlives the daemon as the datapath does, and the next start finds
//! it by its pid file.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::unistd::User;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use super::{
    config::{self, ConfigError, Files},
    hosts,
};
use crate::definition::Network;

const PROGRAM: &str = "dnsmasq";
/// Whom it runs as, the first that there is.
const USERS: [&str; 3] = ["dnsmasq", "libvirt-dnsmasq", "nobody"];
/// How long it may take to end.
const END: Duration = Duration::from_secs(5);

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
    /// There is no dnsmasq on this host, for example.
    #[error(
        "cannot start dnsmasq for network `{network}`: {source} (is the package `dnsmasq-base` there?)"
    )]
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
    #[error("cannot signal dnsmasq of network `{network}`: {source}")]
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

#[derive(Debug)]
struct Paths {
    config: PathBuf,
    pid: PathBuf,
    leases: PathBuf,
    reserved: PathBuf,
    records: PathBuf,
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
        let files = Files {
            pid: &paths.pid,
            leases: &paths.leases,
            reserved: &paths.reserved,
            records: &paths.records,
        };
        let config = config::text(network, bridge, files, user())?;
        let running = match running {
            Some(running) => Some(running),
            None => Self::find(name, directories)?,
        };
        make_directory(&directories.runtime)?;
        make_directory(&directories.leases)?;
        let mut reload = write_if_changed(&paths.reserved, &hosts::reserved(network))?;
        reload |= write_if_changed(&paths.records, &hosts::records(network))?;
        let restart = write_if_changed(&paths.config, &config)?;
        if let Some(running) = running.filter(Self::is_alive) {
            if !restart {
                if !reload {
                    return Ok((running, Change::None));
                }
                running.signal(Signal::HUP)?;
                return Ok((running, Change::Reloaded));
            }
            running.end().await?;
        }
        let started = start(name, &paths, directories)?;
        Ok((started, Change::Started))
    }

    /// The process that an earlier daemon has left to serve a network.
    pub fn find(network: &str, directories: &Directories) -> Result<Option<Self>, DnsmasqError> {
        let paths = Paths::of(network, directories);
        let Some(pid) = read_pid(&paths.pid) else { return Ok(None) };
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

    /// Ends it and removes its files but for the leases.
    pub async fn stop(self) -> Result<(), DnsmasqError> {
        let paths =
            [&self.paths.config, &self.paths.pid, &self.paths.reserved, &self.paths.records]
                .map(Clone::clone);
        self.end().await?;
        for path in paths {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(DnsmasqError::File { path, source });
                }
                _ => {}
            }
        }
        Ok(())
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

    fn is_alive(&self) -> bool {
        // A zombie of another parent still has its number, but no command line.
        is_of(self.pid, &self.paths.config)
    }
}

impl Paths {
    fn of(network: &str, directories: &Directories) -> Self {
        let file = |ending: &str| directories.runtime.join(format!("{network}.{ending}"));
        Self {
            config: file("conf"),
            pid: file("pid"),
            reserved: file("hosts"),
            records: file("names"),
            leases: directories.leases.join(format!("{network}.leases")),
        }
    }
}

/// Starts it; returns when it listens.
fn start(network: &str, paths: &Paths, directories: &Directories) -> Result<Service, DnsmasqError> {
    let failed = |source| DnsmasqError::Start { network: network.to_owned(), source };
    let refused = |reason: String| DnsmasqError::Refused { network: network.to_owned(), reason };
    // In the background it tells by its exit code whether it could begin.
    let output = Command::new(PROGRAM)
        .arg(config_argument(&paths.config))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(failed)?;
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

fn make_directory(path: &Path) -> Result<(), DnsmasqError> {
    fs::create_dir_all(path).map_err(|source| DnsmasqError::File { path: path.to_owned(), source })
}

/// Whether the file says something else now. It is replaced as a whole.
fn write_if_changed(path: &Path, text: &str) -> Result<bool, DnsmasqError> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| DnsmasqError::File { path: path.to_owned(), source })?;
    Ok(true)
}
