//! What the supervisor has done, in words.

use std::{fmt, path::PathBuf, time::Duration};

use super::{Port, dnsmasq::DnsmasqError};

/// Something that has become of a network's service.
#[derive(Debug)]
pub struct Change {
    /// The network.
    pub network: String,
    /// What it was.
    pub what: What,
}

/// What has become of a service.
#[derive(Debug)]
pub enum What {
    /// There is a new process; leases are those that there were.
    Started {
        /// The process.
        process: u32,
    },
    /// The definition asks for another configuration, so there is another process.
    Restarted {
        /// The process.
        process: u32,
    },
    /// The process has read reservations and records again.
    Reloaded {
        /// The process.
        process: u32,
    },
    /// An earlier daemon had left the process, which goes on.
    TakenOver {
        /// The process.
        process: u32,
    },
    /// It was ended.
    Stopped,
    /// Somebody else serves the bridge.
    LeftAlone {
        /// The bridge.
        bridge: String,
        /// Where somebody else listens.
        port: Port,
    },
    /// libvirt has the bridge and serves it when it starts the network.
    LeftToLibvirt {
        /// The bridge.
        bridge: String,
        /// libvirt's definition.
        definition: PathBuf,
    },
    /// There is no bridge to serve for now.
    NoBridge {
        /// The bridge.
        bridge: String,
    },
    /// The process has ended by itself, or somebody has ended it.
    Ended {
        /// The process.
        process: u32,
        /// When the next one starts.
        next: Duration,
    },
    /// It cannot be had.
    Failed {
        /// Why.
        error: DnsmasqError,
        /// When it is tried again.
        next: Duration,
    },
    /// It cannot be ended.
    NotStopped {
        /// Why.
        error: DnsmasqError,
    },
}

impl What {
    /// Whether guests may lack something by it.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Failed { .. } | Self::NotStopped { .. })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.network;
        let process = match &self.what {
            What::Started { process } => ("started", process),
            What::Restarted { process } => ("restarted with another configuration", process),
            What::Reloaded { process } => ("reloaded", process),
            What::TakenOver { process } => ("found running", process),
            What::Stopped => return write!(formatter, "dnsmasq of network `{network}` stopped"),
            What::LeftAlone { bridge, port } => {
                return write!(
                    formatter,
                    "network `{network}`: somebody else serves {port} on `{bridge}` already, which \
                     is left alone: no dnsmasq is started"
                );
            }
            What::LeftToLibvirt { bridge, definition } => {
                return write!(
                    formatter,
                    "network `{network}`: `{bridge}` is libvirt's ({}), which serves it: no dnsmasq is \
                     started",
                    definition.display()
                );
            }
            What::NoBridge { bridge } => {
                return write!(
                    formatter,
                    "network `{network}`: no dnsmasq, because there is no bridge `{bridge}`"
                );
            }
            What::Ended { process, next } => {
                return write!(
                    formatter,
                    "dnsmasq of network `{network}` has ended (it was process {process}): {}",
                    Again(*next)
                );
            }
            What::Failed { error, next } => return write!(formatter, "{error}: {}", Again(*next)),
            What::NotStopped { error } => return write!(formatter, "{error}"),
        };
        let (done, process) = process;
        write!(formatter, "dnsmasq of network `{network}` {done} (process {process})")
    }
}

struct Again(Duration);

impl fmt::Display for Again {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => formatter.write_str("starting it again"),
            seconds => write!(formatter, "next try in {seconds} s"),
        }
    }
}
