//! Keeps a dnsmasq at each bridge that wants one.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    io,
    path::{Path, PathBuf},
};

use nix::net::if_::if_nametoindex;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    Port,
    backoff::Backoff,
    change::{Change, ServiceState, What},
    dnsmasq::{self, Directories, DnsmasqError, Service},
    others::taken_port,
    wanted::{self, Wanted},
};
use crate::definition::Network;

/// The directory of an instance's dnsmasq files in its runtime directory.
const RUNTIME: &str = "dnsmasq";
/// Where leases outlive the instances; each has a directory of its own.
const STATE_ROOT: &str = "/var/lib/vnet";

/// The services of an instance.
///
/// Belongs to one `current_thread` runtime, on a thread of the network namespace that it serves.
/// Dropping it leaves the processes running, for the next one to take over.
#[derive(Debug)]
pub struct Supervisor {
    directories: Directories,
    entries: BTreeMap<String, Entry>,
    /// Whether processes that an earlier daemon left to networks that have gone are ended.
    is_swept: bool,
    ended: mpsc::UnboundedReceiver<Ended>,
    report_end: mpsc::UnboundedSender<Ended>,
}

/// A network that wants a service.
#[derive(Debug)]
struct Entry {
    network: Network,
    bridge: String,
    /// Index of the bridge; none while there is no such bridge.
    index: Option<u32>,
    status: Status,
    backoff: Backoff,
}

#[derive(Debug)]
enum Status {
    Serving(Served),
    LeftAlone(Port),
    NoBridge,
    /// Why the last try failed, or that it has ended.
    Down(String),
}

#[derive(Debug)]
struct Served {
    service: Service,
    since: Instant,
    watch: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

#[derive(Debug)]
struct Ended {
    network: String,
    process: u32,
}

/// A network that needs to be looked after, from [`Supervisor::wait`].
#[derive(Debug)]
#[must_use = "Supervisor::tend does what is to be done"]
pub struct Due(String);

impl Directories {
    /// Those of an instance whose runtime directory this is.
    #[must_use]
    pub fn of_instance(runtime: &Path, instance: &str) -> Self {
        let leases = Path::new(STATE_ROOT).join(instance).join(RUNTIME);
        Self { runtime: runtime.join(RUNTIME), leases }
    }
}

impl Supervisor {
    /// Supervises nothing yet.
    #[must_use]
    pub fn new(directories: Directories) -> Self {
        let (report_end, ended) = mpsc::unbounded_channel();
        Self { directories, entries: BTreeMap::new(), is_swept: false, ended, report_end }
    }

    /// Where the leases are, which files are named by [`dnsmasq::file_stem`] and `.leases`.
    #[must_use]
    pub fn leases(&self) -> &PathBuf {
        &self.directories.leases
    }

    /// Makes the services what is wanted, and returns what had to be done. What is as it should be
    /// costs a look at its bridge; what has failed is tried again only if something about it is
    /// another now, or by [`Supervisor::tend`].
    pub async fn apply(&mut self, wanted: &[Wanted<'_>]) -> Vec<Change> {
        let mut changes = Vec::new();
        self.stop_unwanted(wanted, &mut changes).await;
        for wanted in wanted {
            self.make_so(*wanted, &mut changes).await;
        }
        changes
    }

    /// Ends every service, also of an earlier daemon, and removes all files but the leases.
    pub async fn stop(&mut self) -> Vec<Change> {
        self.is_swept = false;
        let changes = self.apply(&[]).await;
        // Not while something is left in it.
        let _ = std::fs::remove_dir(&self.directories.runtime);
        changes
    }

    /// Waits until a service has ended or is to be tried again; for ever if there is none. May be
    /// cancelled.
    pub async fn wait(&mut self) -> Due {
        let next =
            self.entries.iter().filter_map(|(name, entry)| Some((entry.backoff.due()?, name)));
        let next = next.min();
        loop {
            tokio::select! {
                // The sender is held here, so that there always is one.
                Some(ended) = self.ended.recv() => {
                    let entry = self.entries.get(&ended.network);
                    // It may have been replaced, or ended by us, meanwhile.
                    if entry.is_some_and(|entry| entry.process() == Some(ended.process)) {
                        return Due(ended.network);
                    }
                }
                name = at(next) => return Due(name),
            }
        }
    }

    /// Does what [`Supervisor::wait`] has found to be due. Must not be cancelled.
    pub async fn tend(&mut self, due: Due) -> Vec<Change> {
        let Due(name) = due;
        let mut changes = Vec::new();
        let Some(entry) = self.entries.get_mut(&name) else { return changes };
        if let Status::Serving(served) = &entry.status {
            if served.service.is_alive() {
                return changes;
            }
            let process = served.service.pid();
            let next = entry.backoff.failed(Some(served.since), Instant::now());
            entry.status = Status::Down(format!("process {process} has ended"));
            changes.push(Change { network: name.clone(), what: What::Ended { process, next } });
        }
        if entry.backoff.due().is_some_and(|due| due <= Instant::now()) {
            self.bring_up(&name, None, &mut changes).await;
        }
        changes
    }

    /// How each network is served, by name.
    #[must_use]
    pub fn states(&self) -> Vec<ServiceState> {
        let state = |(name, entry): (&String, &Entry)| ServiceState {
            network: name.clone(),
            bridge: entry.bridge.clone(),
            process: entry.process(),
            reason: match &entry.status {
                Status::Serving(_) => None,
                Status::LeftAlone(port) => Some(format!("somebody else serves {port}")),
                Status::NoBridge => Some(format!("there is no bridge `{}`", entry.bridge)),
                Status::Down(reason) => Some(reason.clone()),
            },
        };
        self.entries.iter().map(state).collect()
    }

    async fn stop_unwanted(&mut self, wanted: &[Wanted<'_>], changes: &mut Vec<Change>) {
        let names: BTreeSet<&String> = wanted.iter().map(|it| &it.network.name.value).collect();
        let is_wanted = |name: &String| names.contains(name);
        let mut unwanted: Vec<String> =
            self.entries.keys().filter(|name| !is_wanted(name)).cloned().collect();
        if !self.is_swept {
            // What cannot be listed has nothing that could be ended.
            let left = Service::left_behind(&self.directories).unwrap_or_default();
            unwanted.extend(left.into_iter().filter(|name| !is_wanted(name)));
            unwanted.sort();
            unwanted.dedup();
            self.is_swept = true;
        }
        for network in unwanted {
            self.entries.remove(&network);
            self.end(&network, changes).await;
        }
    }

    async fn end(&self, network: &str, changes: &mut Vec<Change>) {
        let what = match Service::stop_left_behind(network, &self.directories).await {
            Ok(true) => What::Stopped,
            Ok(false) => return,
            Err(error) => What::NotStopped { error },
        };
        changes.push(Change { network: network.to_owned(), what });
    }

    async fn make_so(&mut self, wanted: Wanted<'_>, changes: &mut Vec<Change>) {
        let name = &wanted.network.name.value;
        let index = if_nametoindex(wanted.bridge).ok();
        let former = self.entries.get(name).map(|entry| &entry.status);
        let was = former.map(Said::of);
        let is_same = self.entries.get(name).is_some_and(|entry| {
            entry.network == *wanted.network
                && entry.bridge == wanted.bridge
                && entry.index == index
        });
        // Whoever else served it may have gone, and nobody tells.
        if is_same && !matches!(former, Some(Status::LeftAlone(_))) {
            return;
        }
        let entry = self.entries.entry(name.clone()).or_insert_with(|| Entry {
            network: wanted.network.clone(),
            bridge: String::new(),
            index: None,
            status: Status::NoBridge,
            backoff: Backoff::default(),
        });
        if entry.network != *wanted.network {
            entry.backoff = Backoff::default();
            entry.network.clone_from(wanted.network);
        }
        wanted.bridge.clone_into(&mut entry.bridge);
        entry.index = index;
        if index.is_none() {
            entry.status = Status::NoBridge;
            entry.backoff.settle();
            let bridge = wanted.bridge.to_owned();
            self.end(name, changes).await;
            if was != Some(Said::NoBridge) {
                changes.push(Change { network: name.clone(), what: What::NoBridge { bridge } });
            }
            return;
        }
        let name = name.clone();
        self.bring_up(&name, was, changes).await;
    }

    /// Makes the process what the entry says, unless somebody else is there. `was` is what has been
    /// said of it before, to say it once.
    async fn bring_up(&mut self, name: &str, was: Option<Said>, changes: &mut Vec<Change>) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let held = std::mem::replace(&mut entry.status, Status::NoBridge);
        let began = match &held {
            Status::Serving(served) => Some((served.service.pid(), served.since)),
            _ => None,
        };
        let tried = try_to_serve(entry, &self.directories).await;
        drop(held);
        let what = match tried {
            Ok(Tried::Taken(port)) => {
                entry.backoff.settle();
                entry.status = Status::LeftAlone(port);
                (was != Some(Said::LeftAlone(port)))
                    .then(|| What::LeftAlone { bridge: entry.bridge.clone(), port })
            }
            Ok(Tried::Served(service, change)) => {
                entry.backoff.settle();
                let process = service.pid();
                let before = began.filter(|(before, _)| *before == process);
                let since = before.map_or_else(Instant::now, |(_, since)| since);
                let watch = watch(name, &service, &self.report_end);
                entry.status = Status::Serving(Served { service, since, watch });
                match change {
                    dnsmasq::Change::None if before.is_some() => None,
                    dnsmasq::Change::None => Some(What::TakenOver { process }),
                    dnsmasq::Change::Reloaded => Some(What::Reloaded { process }),
                    dnsmasq::Change::Started if began.is_some() => {
                        Some(What::Restarted { process })
                    }
                    dnsmasq::Change::Started => Some(What::Started { process }),
                }
            }
            Err(error) => {
                entry.status = Status::Down(error.to_string());
                let next = entry.backoff.failed(None, Instant::now());
                Some(What::Failed { error, next })
            }
        };
        changes.extend(what.map(|what| Change { network: name.to_owned(), what }));
    }
}

impl Entry {
    fn process(&self) -> Option<u32> {
        match &self.status {
            Status::Serving(served) => Some(served.service.pid()),
            Status::LeftAlone(_) | Status::NoBridge | Status::Down(_) => None,
        }
    }
}

/// What the operator has been told of a network that has no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    LeftAlone(Port),
    NoBridge,
    Other,
}

impl Said {
    fn of(status: &Status) -> Self {
        match status {
            Status::LeftAlone(port) => Self::LeftAlone(*port),
            Status::NoBridge => Self::NoBridge,
            Status::Serving(_) | Status::Down(_) => Self::Other,
        }
    }
}

enum Tried {
    Served(Service, dnsmasq::Change),
    Taken(Port),
}

async fn try_to_serve(entry: &Entry, directories: &Directories) -> Result<Tried, DnsmasqError> {
    let network = &entry.network;
    let running = Service::find(&network.name.value, directories)?;
    if running.is_none() {
        let addresses = wanted::dns_addresses(network);
        let taken =
            taken_port(&entry.bridge, &addresses).map_err(|source| DnsmasqError::Probe {
                network: network.name.value.clone(),
                bridge: entry.bridge.clone(),
                source,
            })?;
        if let Some(port) = taken {
            return Ok(Tried::Taken(port));
        }
    }
    let (service, change) = Service::serve(network, &entry.bridge, directories, running).await?;
    Ok(Tried::Served(service, change))
}

/// Reports the end of a process.
fn watch(
    network: &str,
    service: &Service,
    report: &mpsc::UnboundedSender<Ended>,
) -> JoinHandle<()> {
    let ended = Ended { network: network.to_owned(), process: service.pid() };
    let report = report.clone();
    let end = service.end_of_process();
    tokio::spawn(async move {
        match end {
            Ok(end) => end.await,
            // No descriptor is left for it: nobody notices its end before the next change.
            Err(error) => {
                let network = &ended.network;
                log::warn!("cannot watch dnsmasq of network `{network}`: {error}");
                pending::<io::Result<()>>().await.ok();
            }
        }
        let _ = report.send(ended);
    })
}

async fn at(next: Option<(Instant, &String)>) -> String {
    match next {
        Some((due, name)) => {
            sleep_until(due).await;
            name.clone()
        }
        None => pending().await,
    }
}
