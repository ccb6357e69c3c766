//! Which networks want a service.

use std::{net::IpAddr, path::Path};

use super::{LibvirtBridges, dnsmasq};
use crate::definition::Network;

/// A network that wants addresses, names or router advertisements for its guests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted<'a> {
    /// The network.
    pub network: &'a Network,
    /// The bridge to serve.
    pub bridge: &'a str,
    /// The definition by which libvirt serves the bridge, to which it is left then.
    pub by_libvirt: Option<&'a Path>,
}

impl<'a> Wanted<'a> {
    /// Leaves bridges to libvirt that it has, but for those that were made here.
    #[must_use]
    pub fn or_libvirt(
        self,
        libvirt: &'a LibvirtBridges,
        is_made_here: impl Fn(&str) -> bool,
    ) -> Self {
        let by_libvirt = libvirt.definition_of(self.bridge).filter(|_| !is_made_here(self.bridge));
        Self { by_libvirt, ..self }
    }
}

/// The services that definitions ask for. A network whose bridge has no name yet is left out.
#[must_use]
pub fn plan(definitions: &[Network]) -> Vec<Wanted<'_>> {
    let wanted = |network| {
        let bridge = network_bridge(network)?;
        dnsmasq::is_wanted(network).then_some(Wanted { network, bridge, by_libvirt: None })
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
