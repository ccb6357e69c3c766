//! Bulk transfers by iperf3.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::lab::error::{Error, Result};
use crate::lab::namespace::Namespace;
use crate::lab::process::Running;

/// A running `iperf3 -s`.
#[derive(Debug)]
pub struct IperfServer {
    address: SocketAddr,
    _running: Running,
}

/// What a client reports of a transfer.
#[derive(Debug, Clone)]
pub struct IperfReport {
    /// Bytes sent, from the sender's point of view.
    pub sent: u64,
    /// Bytes received, from the receiver's point of view.
    pub received: u64,
    /// TCP segments sent again; 0 for UDP.
    pub retransmits: u64,
    /// Bits per second at the receiver.
    pub bits_per_second: f64,
    /// All that iperf3 printed.
    pub json: Value,
}

impl IperfServer {
    /// Starts a server for one client at a time. It listens when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let running = namespace.spawn(&["iperf3", "-s", "--forceflush", "-B", &ip, "-p", &port])?;
        running.wait_for_line("Server listening", Duration::from_secs(10))?;
        Ok(Self { address, _running: running })
    }

    /// Runs a client in `namespace` with further arguments, as `-R`, `-u`, `-t 5` or `-n 10M`.
    pub fn measure(&self, namespace: &Namespace, arguments: &[&str]) -> Result<IperfReport> {
        let (ip, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut command = vec!["iperf3", "-J", "-c", &ip, "-p", &port];
        command.extend(arguments);
        let output = namespace.try_run(&command)?;
        IperfReport::parse(&output.stdout)
            // With -J the reason of a failure is in the JSON.
            .ok_or_else(|| Error::unexpected(output.command, output.stdout + &output.stderr))
    }
}

impl IperfReport {
    fn parse(text: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(text).ok()?;
        let (end, error) = (&json["end"], &json["error"]);
        if !error.is_null() {
            return None;
        }
        // A UDP client's sum is the receiver's; it has no sums for each direction.
        let sent = if end["sum_sent"].is_null() { &end["sum"] } else { &end["sum_sent"] };
        let received = if end["sum_received"].is_null() { sent } else { &end["sum_received"] };
        Some(Self {
            sent: sent["bytes"].as_u64()?,
            received: received["bytes"].as_u64()?,
            retransmits: sent["retransmits"].as_u64().unwrap_or(0),
            bits_per_second: received["bits_per_second"].as_f64()?,
            json,
        })
    }
}
