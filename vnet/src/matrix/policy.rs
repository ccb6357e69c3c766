//! The places between which connections may be opened, and what the policy says of each pair.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_common::{
    address::Ipv4Be,
    family::Family,
    network::{NETWORK_ISOLATED_PORTS, Network},
    policy::{self, Connection, Mode, Modes, Verdict, verdict},
};

use crate::{
    definition::AddressRange,
    host::Snapshot,
    instance::{
        Name,
        state::{NetworkState, UplinkState},
    },
    plan::{ABSENT_INTERFACE, Plan, PlannedNetwork, PlannedUplink},
    report::{self, ReportError, pinned::PinnedMaps},
};

/// Both families, in the order in which they are shown.
pub const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Every place, and so the whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Networks by their slots, then outside by the uplinks' indices, then the host.
    pub places: Vec<Place>,
}

/// Where connections come from or go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The network's name, `outside`, `outside:INTERFACE` if there are several uplinks, or `host`.
    pub name: String,
    /// As the policy sees it.
    pub policy: policy::Place,
    /// What is known of it besides.
    pub details: Details,
}

/// What is known of a place besides its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Details {
    /// A network of guests.
    Network {
        /// The uplink that it is bound to.
        device: Option<String>,
        /// The subnets of its guests.
        subnets: Vec<IpNet>,
        /// The host's addresses there, where guests connect to it.
        gateways: Vec<IpAddr>,
        /// The addresses that NAT guests get when they reach its guests.
        masquerade: Vec<IpAddr>,
        /// The addresses that its own guests get instead of an uplink's.
        pool: Option<AddressRange>,
    },
    /// Beyond an uplink.
    Outside {
        /// The host's addresses there, which masqueraded guests get.
        addresses: Vec<IpAddr>,
    },
    /// The host.
    Host,
}

impl Matrix {
    /// The matrix of a plan.
    #[must_use]
    pub fn of_plan(plan: &Plan, host: &Snapshot) -> Self {
        let link = |index: u32| host.link(index).map(|link| link.name.clone());
        let networks = plan.networks.iter().map(|network| planned_network(network, &link));
        let uplinks = plan.uplinks.iter().map(planned_uplink);
        Self::new(networks.collect(), uplinks.collect())
    }

    /// The matrix of a running instance, from its state and the table that its programs read.
    pub fn of_instance(name: &Name) -> Result<Self, ReportError> {
        let state = report::state(name)?;
        let maps = PinnedMaps::of(&state);
        let table = maps.networks()?;
        let mut networks = Vec::new();
        for network in &state.networks {
            let entry = table.at(network.slot)?;
            networks.push(running_network(network, &entry, &state.uplinks));
        }
        let uplinks = state.uplinks.iter().map(running_uplink);
        Ok(Self::new(networks, uplinks.collect()))
    }

    fn new(networks: Vec<Place>, mut outside: Vec<(String, Place)>) -> Self {
        if outside.is_empty() {
            // The policy knows outside without any uplink.
            outside.push((String::new(), outside_place(ABSENT_INTERFACE, Vec::new())));
        }
        let several = outside.len() > 1;
        let outside = outside.into_iter().map(|(interface, place)| {
            let name = if several { format!("outside:{interface}") } else { place.name };
            Place { name, ..place }
        });
        let host =
            Place { name: "host".to_owned(), policy: policy::Place::Host, details: Details::Host };
        Self { places: networks.into_iter().chain(outside).chain([host]).collect() }
    }

    /// The networks.
    pub fn networks(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| matches!(place.details, Details::Network { .. }))
    }

    /// Outside, by uplinks.
    pub fn outside(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| matches!(place.details, Details::Outside { .. }))
    }

    /// The places that a family has and whose packets are judged.
    pub fn judged(&self, family: Family) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |place| place.has(family) && !place.is_bridged())
    }
}

impl Place {
    /// What the policy says of a new connection from here.
    #[must_use]
    pub fn verdict_to(&self, destination: &Self, family: Family) -> Verdict {
        verdict(self.policy, destination.policy, family, Connection::New)
    }

    /// Whether it has a family: a network only if it has a subnet of it.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        match &self.details {
            Details::Network { subnets, .. } => {
                subnets.iter().any(|subnet| is_of(subnet.addr(), family))
            }
            Details::Outside { .. } | Details::Host => true,
        }
    }

    /// Whether its frames are a bridge's business alone.
    #[must_use]
    pub fn is_bridged(&self) -> bool {
        self.modes().is_some_and(|modes| modes.ipv4 == Mode::Bridged)
    }

    /// How a network is connected.
    #[must_use]
    pub fn modes(&self) -> Option<Modes> {
        match self.policy {
            policy::Place::Network { modes, .. } => Some(modes),
            _ => None,
        }
    }
}

/// Whether an address is of a family.
#[must_use]
pub fn is_of(address: IpAddr, family: Family) -> bool {
    address.is_ipv4() == (family == Family::Ipv4)
}

fn planned_network(network: &PlannedNetwork, link: &dyn Fn(u32) -> Option<String>) -> Place {
    let gateways = network.gateway.map(IpAddr::from).into_iter();
    Place {
        name: network.name.clone(),
        policy: policy::Place::Network {
            slot: network.slot,
            modes: network.modes,
            forward_ifindex: network.forward_ifindex.unwrap_or(0),
            isolated_ports: network.isolated_ports,
        },
        details: Details::Network {
            device: network.forward_ifindex.map(|index| link(index).unwrap_or_else(missing)),
            subnets: network.subnets.clone(),
            gateways: gateways.chain(network.gateway_ipv6.map(IpAddr::from)).collect(),
            masquerade: network.masquerade.iter().collect(),
            pool: network.pool,
        },
    }
}

fn planned_uplink(uplink: &PlannedUplink) -> (String, Place) {
    let addresses = uplink.addresses.iter().collect();
    (uplink.name.clone(), outside_place(uplink.ifindex, addresses))
}

fn running_network(state: &NetworkState, entry: &Network, uplinks: &[UplinkState]) -> Place {
    let device = (entry.forward_ifindex != 0).then(|| {
        let uplink = uplinks.iter().find(|uplink| uplink.ifindex == entry.forward_ifindex);
        uplink.map_or_else(missing, |uplink| uplink.interface.clone())
    });
    let v4 = (entry.gateway != Ipv4Be::UNSPECIFIED).then(|| entry.gateway.to_addr().into());
    let v6 = (!entry.gateway_ipv6.is_unspecified()).then(|| entry.gateway_ipv6.to_addr());
    let pool = (entry.pool_first != Ipv4Be::UNSPECIFIED).then(|| AddressRange {
        start: entry.pool_first.to_addr(),
        end: entry.pool_last.to_addr(),
    });
    Place {
        name: state.name.clone(),
        policy: policy::Place::Network {
            slot: state.slot,
            modes: Modes {
                ipv4: Mode::from_byte(entry.mode),
                ipv6: Mode::from_byte(entry.mode_ipv6),
            },
            forward_ifindex: entry.forward_ifindex,
            isolated_ports: entry.flags & NETWORK_ISOLATED_PORTS != 0,
        },
        details: Details::Network {
            device,
            subnets: state.subnets.clone(),
            gateways: v4.into_iter().chain(v6).collect(),
            masquerade: state.masquerade.clone(),
            pool,
        },
    }
}

fn running_uplink(uplink: &UplinkState) -> (String, Place) {
    (uplink.interface.clone(), outside_place(uplink.ifindex, uplink.addresses.clone()))
}

fn outside_place(ifindex: u32, addresses: Vec<IpAddr>) -> Place {
    Place {
        name: "outside".to_owned(),
        policy: policy::Place::Outside { ifindex },
        details: Details::Outside { addresses },
    }
}

fn missing() -> String {
    "(missing)".to_owned()
}
