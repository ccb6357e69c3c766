//! A host with many networks and many guests' ports, which nobody is behind.

use super::error::Result;
use super::node::Node;
use super::tap;

/// Bridges of a host, each with taps.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// How many bridges.
    pub networks: usize,
    /// How many taps at each.
    pub ports: usize,
}

impl Crowd {
    /// Makes them on a host.
    pub fn settle(self, host: &Node) -> Result<()> {
        let mut lines = Vec::new();
        let mut taps = Vec::new();
        for network in 0..self.networks {
            let bridge = Self::bridge(network);
            lines.push(format!("link add {bridge} type bridge"));
            lines.push(format!("address add {}/24 dev {bridge}", Self::gateway(network)));
            lines.push(format!("link set {bridge} up"));
            taps.extend((0..self.ports).map(|port| Self::port(network, port)));
        }
        tap::make_idle(host, &taps)?;
        for (number, tap) in taps.iter().enumerate() {
            lines.push(format!("link set {tap} master {} up", Self::bridge(number / self.ports)));
        }
        host.ip_batch(&lines)
    }

    /// Plugs one more tap into a bridge.
    pub fn plug(host: &Node, network: usize, tap: &str) -> Result<()> {
        tap::make_idle(host, &[tap.to_owned()])?;
        host.ip_batch(&[format!("link set {tap} master {} up", Self::bridge(network))])
    }

    /// The name of a bridge.
    #[must_use]
    pub fn bridge(network: usize) -> String {
        format!("br{network}")
    }

    /// The name of a tap.
    #[must_use]
    pub fn port(network: usize, port: usize) -> String {
        format!("t{network}-{port}")
    }

    /// The host's address at a bridge, in a subnet of 24 bits.
    #[must_use]
    pub fn gateway(network: usize) -> String {
        format!("10.{}.{}.1", network / 256, network % 256)
    }
}
