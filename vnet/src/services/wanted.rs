//! Which networks want a service.

use std::net::IpAddr;

use super::dnsmasq;
use crate::definition::Network;

/// A network that wants addresses, names or router advertisements for its guests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted<'a> {
    /// The network.
    pub network: &'a Network,
    /// The bridge to serve.
    pub bridge: &'a str,
}

/// The services that definitions ask for. A network whose bridge has no name yet is left out.
#[must_use]
pub fn plan(definitions: &[Network]) -> Vec<Wanted<'_>> {
    let wanted = |network| {
        let bridge = network_bridge(network)?;
        dnsmasq::is_wanted(network).then_some(Wanted { network, bridge })
    };
    definitions.iter().filter_map(wanted).collect()
}

fn network_bridge(network: &Network) -> Option<&str> {
    network.bridge.name.as_ref().map(|name| name.value.as_str())
}

/// The host's addresses at which the network's DNS service listens; none if it has none.
pub(super) fn dns_addresses(network: &Network) -> Vec<IpAddr> {
    if network.dns.as_ref().is_some_and(|dns| !dns.enable) {
        return Vec::new();
    }
    network.ips.iter().map(|ip| ip.address.value).collect()
}
