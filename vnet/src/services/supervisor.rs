//! Keeps a dnsmasq at each bridge that wants one.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    path::{Path, PathBuf},
};

use futures::future::join_all;
use nix::net::if_::if_nametoindex;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Port,
    backoff::Backoff,
    change::{Change, What},
    dnsmasq::{self, Directories, DnsmasqError, Service},
    served::{Ended, Served, Tried, serve_unless_taken},
    state::{Offer, ServedBy, ServiceState},
    wanted::Wanted,
};
use crate::definition::Network;

/// The directory of an instance's dnsmasq files in its runtime directory.
const RUNTIME: &str = "dnsmasq";
/// Where leases outlive the instances; each has a directory of its own.
const STATE_ROOT: &str = "/var/lib/vnet";

/// How many processes are started at the same time.
const AT_A_TIME: usize = 8;

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
    /// The definition by which libvirt serves the bridge.
    by_libvirt: Option<PathBuf>,
    status: Status,
    backoff: Backoff,
}

#[derive(Debug)]
enum Status {
    Serving(Served),
    LeftAlone(Port),
    LeftToLibvirt,
    NoBridge,
    /// Why the last try failed, or that it has ended.
    Down(String),
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

    /// Those of the instance whose services have their files in this directory.
    #[must_use]
    pub fn of_runtime(services: &Path) -> Self {
        let instance = services.parent().unwrap_or(services);
        let name = instance.file_name().unwrap_or_default();
        let leases = Path::new(STATE_ROOT).join(name).join(RUNTIME);
        Self { runtime: services.to_owned(), leases }
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
        let mut to_serve = Vec::new();
        for wanted in wanted {
            to_serve.extend(self.update(*wanted, &mut changes).await);
        }
        self.serve(&to_serve, &mut changes).await;
        changes
    }

    /// Ends every service, also of an earlier daemon, and removes all files but leases.
    pub async fn stop(&mut self) -> Vec<Change> {
        self.is_swept = false;
        let changes = self.apply(&[]).await;
        // Not while something is left in them.
        let _ = std::fs::remove_dir(&self.directories.runtime);
        let _ = std::fs::remove_dir(&self.directories.leases);
        let above = self.directories.leases.ancestors().skip(1);
        for directory in above.take_while(|directory| directory.starts_with(STATE_ROOT)) {
            let _ = std::fs::remove_dir(directory);
        }
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
            self.serve(&[(name, None)], &mut changes).await;
        }
        changes
    }

    /// How each network is served, by name.
    #[must_use]
    pub fn states(&self) -> Vec<ServiceState> {
        let state = |(name, entry): (&String, &Entry)| {
            let (state, reason) = match &entry.status {
                Status::Serving(_) => (ServedBy::Vnet, None),
                Status::LeftAlone(port) => {
                    (ServedBy::Other, Some(format!("somebody else serves {port}")))
                }
                Status::LeftToLibvirt => (ServedBy::Libvirt, Some("it is libvirt's".to_owned())),
                Status::NoBridge => {
                    (ServedBy::Nobody, Some(format!("there is no bridge `{}`", entry.bridge)))
                }
                Status::Down(reason) => (ServedBy::Nobody, Some(reason.clone())),
            };
            let process = entry.process();
            let serves = process.map_or_else(Vec::new, |_| Offer::of(&entry.network));
            let (network, bridge) = (name.clone(), entry.bridge.clone());
            ServiceState { network, bridge, state, process, serves, reason }
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

    /// Makes the entry what is wanted. Returns its name and what the operator knows of it if there is
    /// something to be done about its process.
    async fn update(
        &mut self,
        wanted: Wanted<'_>,
        changes: &mut Vec<Change>,
    ) -> Option<(String, Option<Said>)> {
        let name = &wanted.network.name.value;
        let index = if_nametoindex(wanted.bridge).ok();
        let former = self.entries.get(name);
        let was = former.map(|entry| Said::of(&entry.status));
        // Whoever else served it may have gone, and nobody tells.
        if let Some(entry) = former
            && !matches!(entry.status, Status::LeftAlone(_))
            && entry.network == *wanted.network
            && entry.bridge == wanted.bridge
            && entry.index == index
            && entry.by_libvirt.as_deref() == wanted.by_libvirt
        {
            return None;
        }
        let entry = self.entries.entry(name.clone()).or_insert_with(|| Entry {
            network: wanted.network.clone(),
            bridge: String::new(),
            index: None,
            by_libvirt: None,
            status: Status::NoBridge,
            backoff: Backoff::default(),
        });
        if entry.network != *wanted.network {
            entry.backoff = Backoff::default();
            entry.network.clone_from(wanted.network);
        }
        wanted.bridge.clone_into(&mut entry.bridge);
        entry.index = index;
        entry.by_libvirt = wanted.by_libvirt.map(Path::to_owned);
        let bridge = wanted.bridge.to_owned();
        let (status, said, what) = match (index, wanted.by_libvirt) {
            (None, _) => (Status::NoBridge, Said::NoBridge, What::NoBridge { bridge }),
            (Some(_), Some(definition)) => {
                let definition = definition.to_owned();
                let what = What::LeftToLibvirt { bridge, definition };
                (Status::LeftToLibvirt, Said::LeftToLibvirt, what)
            }
            (Some(_), None) => return Some((name.clone(), was)),
        };
        entry.status = status;
        entry.backoff.settle();
        self.end(name, changes).await;
        if was != Some(said) {
            changes.push(Change { network: name.clone(), what });
        }
        None
    }

    /// Makes the processes what the entries of these names say, several at a time.
    async fn serve(&mut self, names: &[(String, Option<Said>)], changes: &mut Vec<Change>) {
        for names in names.chunks(AT_A_TIME) {
            let mut tries = Vec::new();
            for (name, was) in names {
                if let Some(entry) = self.entries.get(name) {
                    tries.push(try_to_serve(name, *was, entry, &self.directories));
                }
            }
            for (name, was, tried) in join_all(tries).await {
                let what = self.note(name, was, tried);
                changes.extend(what.map(|what| Change { network: name.to_owned(), what }));
            }
        }
    }

    /// Notes how a try has ended. Returns what is to be said of it that has not been said before.
    fn note(
        &mut self,
        name: &str,
        was: Option<Said>,
        tried: Result<Tried, DnsmasqError>,
    ) -> Option<What> {
        let entry = self.entries.get_mut(name)?;
        let began = match &entry.status {
            Status::Serving(served) => Some((served.service.pid(), served.since)),
            _ => None,
        };
        match tried {
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
                let served = Served::new(name, service, since, &self.report_end);
                entry.status = Status::Serving(served);
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
        }
    }
}

impl Entry {
    fn process(&self) -> Option<u32> {
        match &self.status {
            Status::Serving(served) => Some(served.service.pid()),
            _ => None,
        }
    }
}

/// What the operator has been told of a network that has no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    LeftAlone(Port),
    LeftToLibvirt,
    NoBridge,
    Other,
}

impl Said {
    fn of(status: &Status) -> Self {
        match status {
            Status::LeftAlone(port) => Self::LeftAlone(*port),
            Status::LeftToLibvirt => Self::LeftToLibvirt,
            Status::NoBridge => Self::NoBridge,
            Status::Serving(_) | Status::Down(_) => Self::Other,
        }
    }
}

async fn try_to_serve<'a>(
    name: &'a str,
    was: Option<Said>,
    entry: &Entry,
    directories: &Directories,
) -> (&'a str, Option<Said>, Result<Tried, DnsmasqError>) {
    let tried = serve_unless_taken(&entry.network, &entry.bridge, directories).await;
    (name, was, tried)
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
