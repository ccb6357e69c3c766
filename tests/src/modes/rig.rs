//! The lab of the modes: networks with guests, two uplinks with hosts outside.

use std::net::IpAddr;

use vnet::matrix::probe::Namespace;

use super::{Forward, Net, frame};
use crate::lab::{Capture, End, Error, Guest, Lab, Node, PortKind, Result};

/// An uplink of the host and the outside host at its other end.
#[derive(Debug, Clone, Copy)]
pub struct Uplink {
    /// The interface of the host.
    pub interface: &'static str,
    /// The outside host's name.
    pub name: &'static str,
    /// The host's addresses with their prefix lengths, IPv4 first.
    pub host: [&'static str; 2],
    /// The outside host's.
    pub outside: [&'static str; 2],
}

impl Uplink {
    /// The first uplink.
    pub const X: Self = Self {
        interface: "upx",
        name: "X",
        host: ["198.51.100.2/24", "2001:db8:a::2/64"],
        outside: ["198.51.100.1/24", "2001:db8:a::1/64"],
    };
    /// The second one.
    pub const Y: Self = Self {
        interface: "upy",
        name: "Y",
        host: ["203.0.113.2/24", "2001:db8:b::2/64"],
        outside: ["203.0.113.1/24", "2001:db8:b::1/64"],
    };
}

/// A machine that probes go from and to.
#[derive(Debug)]
pub struct Place {
    /// Its name in tables: the network's with a number, the outside host's, or `host`.
    pub name: String,
    /// The network it is a guest of.
    pub network: Option<&'static str>,
    /// The machine.
    pub node: Node,
    /// Its own addresses, without prefix lengths; of the host those of its bridges and uplinks.
    pub addresses: Vec<IpAddr>,
    /// The addresses by which the host is known there, which its masquerade uses towards there.
    pub host_side: Vec<IpAddr>,
    /// The same machine for probes.
    pub probe: Namespace,
}

impl Place {
    /// Its first address of the family of `like`.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        first_like(&self.addresses, like).unwrap_or_else(|| panic!("{} like {like}", self.name))
    }

    /// The address that it uses towards `destination`: of the host, that beside it.
    ///
    /// # Panics
    /// If it has none of that family.
    #[must_use]
    pub fn address_towards(&self, destination: IpAddr) -> IpAddr {
        beside(&self.addresses, destination).unwrap_or_else(|| self.address_like(destination))
    }

    /// The host's address beside this place: in its subnet of that family.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn host_like(&self, like: IpAddr) -> IpAddr {
        beside(&self.host_side, self.address_like(like))
            .unwrap_or_else(|| panic!("host of {} like {like}", self.name))
    }

    /// Captures what its only interface sees.
    pub fn capture(&self, filter: &str) -> Result<Capture> {
        self.node.capture("eth0", filter)
    }
}

/// A host with networks, their guests, and two outside hosts that have routes to all of them.
#[derive(Debug)]
pub struct Rig {
    /// Guests in the order of their networks, then the outside hosts, then the host.
    pub places: Vec<Place>,
    /// The networks.
    pub nets: Vec<Net>,
    /// The host.
    pub host: Node,
    /// The lab, for whatever else a test needs.
    pub lab: Lab,
}

impl Rig {
    /// Builds it: two guests for each network, one on a tap and one on a veth pair, and a third one
    /// for each further subnet of a network.
    pub fn new(nets: Vec<Net>) -> Result<Self> {
        Self::with_uplinks(nets, &[Uplink::X, Uplink::Y])
    }

    /// As [`Rig::new`] with other uplinks.
    pub fn with_uplinks(nets: Vec<Net>, uplinks: &[Uplink]) -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let mut rig = Self { places: Vec::new(), nets: Vec::new(), host, lab };
        let mut outside = Vec::new();
        for uplink in uplinks {
            outside.push(rig.outside(uplink)?);
        }
        for net in nets {
            rig.network(net)?;
        }
        rig.places.extend(outside);
        let addresses = rig.places.iter().flat_map(|place| place.host_side.clone()).collect();
        let host = place("host", None, rig.host.clone(), addresses, Vec::new())?;
        rig.places.push(host);
        Ok(rig)
    }

    /// The place of that name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn place(&self, name: &str) -> &Place {
        let found = self.places.iter().find(|place| place.name == name);
        found.unwrap_or_else(|| panic!("no place {name}"))
    }

    /// The network of that name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn net(&self, name: &str) -> &Net {
        let found = self.nets.iter().find(|net| net.name == name);
        found.unwrap_or_else(|| panic!("no network {name}"))
    }

    /// The Ethernet addresses for a frame of a guest or an outside host to the host.
    pub fn macs_to_host(&self, from: &Place) -> Result<([u8; 6], [u8; 6])> {
        let interface = match from.network {
            Some(network) => self.net(network).bridge,
            None => [Uplink::X, Uplink::Y]
                .iter()
                .find(|uplink| uplink.name == from.name)
                .map_or("", |uplink| uplink.interface),
        };
        Ok((frame::mac_of(&from.node, "eth0")?, frame::mac_of(&self.host, interface)?))
    }

    /// The definitions of the networks.
    #[must_use]
    pub fn definitions(&self) -> Vec<String> {
        self.nets.iter().map(Net::definition).collect()
    }

    fn outside(&self, uplink: &Uplink) -> Result<Place> {
        let node = self.lab.station(uplink.name)?;
        let end = |node, interface, addresses: [&str; 2]| {
            let [v4, v6] = addresses;
            End::new(node, interface).address(v4).address(v6)
        };
        self.lab.wire(
            &end(&self.host, uplink.interface, uplink.host),
            &end(&node, "eth0", uplink.outside),
        )?;
        let host_side = uplink.host.iter().map(|address| bare(address)).collect::<Vec<_>>();
        for address in &host_side {
            node.route("default", &address.to_string())?;
        }
        let addresses = uplink.outside.iter().map(|address| bare(address)).collect();
        place(uplink.name, None, node, addresses, host_side)
    }

    fn network(&mut self, net: Net) -> Result<()> {
        let addresses: Vec<&str> = net.addresses.iter().map(String::as_str).collect();
        self.host.bridge(net.bridge, &addresses)?;
        let mut subnets: Vec<Vec<&String>> = Vec::new();
        for address in &net.addresses {
            // One subnet of each family makes a guest's world.
            let is_v6 = address.contains(':');
            let world = subnets
                .iter_mut()
                .find(|world| world.iter().all(|known| known.contains(':') != is_v6));
            match world {
                Some(world) => world.push(address),
                None => subnets.push(vec![address]),
            }
        }
        let host_side: Vec<IpAddr> = net.addresses.iter().map(|address| bare(address)).collect();
        let kinds = [PortKind::Tap, PortKind::Veth];
        let worlds = subnets.first().into_iter().chain(subnets.iter());
        for (number, world) in (1..).zip(worlds) {
            let name = format!("{}.{number}", net.name);
            let mut guest = Guest::new(&name, kinds[number % 2]);
            let mut own = Vec::new();
            for gateway in world {
                let (address, prefix) = nth(gateway, number);
                guest = guest.address(&format!("{address}/{prefix}"));
                guest = guest.gateway(&bare(gateway).to_string());
                own.push(address);
            }
            let node = self.lab.guest(&self.host, net.bridge, &guest)?;
            self.places.push(place(&name, Some(net.name), node, own, host_side.clone())?);
        }
        self.nets.push(net);
        Ok(())
    }
}

fn place(
    name: &str,
    network: Option<&'static str>,
    node: Node,
    addresses: Vec<IpAddr>,
    host_side: Vec<IpAddr>,
) -> Result<Place> {
    let probe = Namespace::open(&node.path())
        .map_err(|error| Error::unexpected(name, error.to_string()))?;
    Ok(Place { name: name.to_owned(), network, node, addresses, host_side, probe })
}

fn first_like(addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
}

/// The first of the addresses that is in one subnet with `other`: a /24 or a /64.
fn beside(addresses: &[IpAddr], other: IpAddr) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| match (address, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one.octets()[..3] == other.octets()[..3],
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..4] == other.segments()[..4],
        _ => false,
    })
}

/// The address without its prefix length.
fn bare(address: &str) -> IpAddr {
    let (address, _) = address.split_once('/').unwrap_or((address, ""));
    address.parse().unwrap_or_else(|_| panic!("{address} is no address"))
}

/// The guest's address 10 + `number` beside a gateway `….1`, with the prefix length.
fn nth(gateway: &str, number: usize) -> (IpAddr, &str) {
    let (_, prefix) = gateway.split_once('/').unwrap_or((gateway, "32"));
    let address = match bare(gateway) {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + 9 + number as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + 0xf + number as u128).into()),
    };
    (address, prefix)
}

/// The nine networks of the table: two NAT, one of them with two subnets, NAT and routed bound to
/// uplink X, two routed, two isolated, one open.
#[must_use]
pub fn nine_networks() -> Vec<Net> {
    let net = |name, forward, bridge, number: u8| {
        let v4 = format!("10.10.{number}.1/24");
        let v6 = format!("2001:db8:10:{number}::1/64");
        Net::new(name, forward, bridge, &[&v4, &v6])
    };
    let mut nat_a = net("nat-a", Forward::Nat, "virbr1", 1);
    nat_a.addresses.extend(["10.20.1.1/24".to_owned(), "2001:db8:20:1::1/64".to_owned()]);
    vec![
        nat_a,
        net("nat-b", Forward::Nat, "virbr2", 2),
        net("nat-x", Forward::NatTo("upx"), "virbr3", 3),
        net("route-a", Forward::Route, "virbr4", 4),
        net("route-b", Forward::Route, "virbr5", 5),
        net("route-x", Forward::RouteTo("upx"), "virbr6", 6),
        net("isolated-a", Forward::Isolated, "virbr7", 7),
        net("isolated-b", Forward::Isolated, "virbr8", 8),
        net("open", Forward::Open, "virbr9", 9),
    ]
}
