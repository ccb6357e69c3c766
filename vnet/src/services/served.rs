//! One network's dnsmasq under supervision.

use std::{future::pending, io};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    Port,
    dnsmasq::{self, Directories, DnsmasqError, Service},
    others::taken_port,
    wanted,
};
use crate::definition::Network;

/// A dnsmasq that serves a network.
#[derive(Debug)]
pub(super) struct Served {
    pub service: Service,
    pub since: Instant,
    watch: JoinHandle<()>,
}

impl Served {
    /// Has the end of the process reported.
    pub(super) fn new(
        network: &str,
        service: Service,
        since: Instant,
        report: &mpsc::UnboundedSender<Ended>,
    ) -> Self {
        let watch = watch(network, &service, report);
        Self { service, since, watch }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// The end of a process.
#[derive(Debug)]
pub(super) struct Ended {
    pub network: String,
    pub process: u32,
}

/// How a try to serve a network has ended well.
pub(super) enum Tried {
    Served(Service, dnsmasq::Change),
    Taken(Port),
}

/// Makes a network's process what its definition says, unless somebody else serves the bridge.
pub(super) async fn serve_unless_taken(
    network: &Network,
    bridge: &str,
    directories: &Directories,
) -> Result<Tried, DnsmasqError> {
    let name = &network.name.value;
    let running = Service::find(name, directories)?;
    if running.is_none() {
        let addresses = wanted::dns_addresses(network);
        let taken = taken_port(bridge, &addresses).map_err(|source| DnsmasqError::Probe {
            network: name.clone(),
            bridge: bridge.to_owned(),
            source,
        })?;
        if let Some(port) = taken {
            return Ok(Tried::Taken(port));
        }
    }
    let (service, change) = Service::serve(network, bridge, directories, running).await?;
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
