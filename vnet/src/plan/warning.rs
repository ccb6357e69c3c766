//! Where a bridge differs from its network's definition.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_common::family::Family;

use super::{PlannedNetwork, RouteState, beside::Advice};
use crate::{
    definition,
    host::{Snapshot, sysctl},
};

/// What the host has otherwise than a definition says, and the command that mends it. The network is
/// served all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The bridge's MTU counts.
    #[error(
        "network `{network}`: bridge `{bridge}` has an MTU of {actual} bytes, which counts, and \
         not the {defined} of <mtu size='{defined}'/>: `ip link set {bridge} mtu {defined}`"
    )]
    Mtu {
        /// The network.
        network: String,
        /// The bridge.
        bridge: String,
        /// What the bridge has.
        actual: u32,
        /// What the definition says.
        defined: u32,
    },
    /// `disable_ipv6` is set on the bridge of a network with an IPv6 `<ip>`.
    #[error(
        "network `{network}`: IPv6 is off on bridge `{bridge}`, so that guests have no IPv6: \
         `sysctl -w {parameter}=0`, then give it the addresses of its <ip>s"
    )]
    Ipv6IsOff {
        /// The network.
        network: String,
        /// The bridge.
        bridge: String,
        /// The parameter that turns it off.
        parameter: String,
    },
    /// The bridge lacks the address of an `<ip>`.
    #[error(
        "network `{network}`: bridge `{bridge}` does not have the address of <ip \
         address='{address}'>, which is the guests' gateway: `ip address add {address}/{prefix} \
         dev {bridge}`"
    )]
    NoAddress {
        /// The network.
        network: String,
        /// The bridge.
        bridge: String,
        /// The address.
        address: IpAddr,
        /// The length of its subnet's prefix in bits.
        prefix: u8,
    },
    /// No uplink that the network may use has an address for a `<vnet:forward>`.
    #[error(
        "network `{network}`: no uplink that it may use has an address for {what}, which leads \
         nowhere until one has"
    )]
    ForwardWithoutUplink {
        /// The network.
        network: String,
        /// The element.
        what: String,
    },
    /// Something else of the host is in the way of some packets.
    #[error("{0}")]
    Beside(Advice),
    /// Another route is in the place of a `<route>`.
    #[error(
        "network `{network}`: the host has another route to {destination} with metric {metric} \
         than <route gateway='{gateway}'> says, which counts: `ip route delete {destination} \
         metric {metric}` makes room"
    )]
    OtherRoute {
        /// The network.
        network: String,
        /// The subnet behind a guest.
        destination: IpNet,
        /// The guest.
        gateway: IpAddr,
        /// The metric of both.
        metric: u32,
    },
}

/// Compares a network's bridge, if it is there, with its definition.
pub(super) fn of(
    definition: &definition::Network,
    planned: &PlannedNetwork,
    host: &Snapshot,
) -> Vec<Warning> {
    let Some(bridge) = planned.bridge_ifindex else { return Vec::new() };
    let mut warnings = Vec::new();
    let names = || (planned.name.clone(), planned.bridge.clone());
    if let Some(defined) = definition.mtu.as_ref().map(|mtu| mtu.value)
        && defined != planned.mtu
    {
        let (network, bridge) = names();
        warnings.push(Warning::Mtu { network, bridge, actual: planned.mtu, defined });
    }
    // Without IPv6 in the kernel there is nothing to turn on.
    let settings = host.link(bridge).and_then(|link| link.ipv6);
    let ipv6_is_off = settings.is_some_and(|settings| settings.disabled);
    if ipv6_is_off && definition.ips.iter().any(|ip| ip.address.value.is_ipv6()) {
        let parameter = sysctl::of_interface(Family::Ipv6, &planned.bridge, "disable_ipv6");
        let (network, bridge) = names();
        warnings.push(Warning::Ipv6IsOff { network, bridge, parameter });
    }
    for ip in &definition.ips {
        let address = ip.address.value;
        // Said already.
        if address.is_ipv6() && ipv6_is_off {
            continue;
        }
        if !host.addresses_of(bridge).any(|own| own.address == address) {
            let (network, bridge) = names();
            warnings.push(Warning::NoAddress { network, bridge, address, prefix: ip.prefix });
        }
    }
    let taken =
        planned.routes.iter().filter(|route| route.state(bridge, host) == RouteState::Taken);
    warnings.extend(taken.map(|route| Warning::OtherRoute {
        network: planned.name.clone(),
        destination: route.destination,
        gateway: route.gateway,
        metric: route.metric,
    }));
    warnings
}
