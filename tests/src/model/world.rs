//! The host that the model runs on: what userspace has told the programs, and what the kernel routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vnet_common::{
    network::{Config, Network, Subnet, Uplink},
    reason::Handover,
};

use super::stranger::Forward;
use crate::programs::Rig;

/// A prefix of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

/// A socket of the host that takes what comes to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// IP protocol.
    pub protocol: u8,
    /// The address that it is bound to; the unspecified one for all of its family.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// A route of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub ifindex: u32,
    /// The next router; `None` for the destination itself.
    pub gateway: Option<IpAddr>,
    /// The host's address for what it sends that way, if the route has one.
    pub source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Forward(Route),
    /// The host's own, on this interface.
    Local(u32),
    /// Blackhole and the like.
    Refused,
}

/// The host.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) config: Config,
    pub(super) networks: BTreeMap<u16, Network>,
    pub(super) bridges: BTreeMap<u32, u16>,
    pub(super) subnets: Vec<(Prefix, Subnet)>,
    pub(super) uplinks: BTreeMap<u32, Uplink>,
    routes: Vec<(Prefix, u32, Kind)>,
    addresses: Vec<(u32, IpAddr)>,
    /// Sockets of the host.
    pub sockets: Vec<Socket>,
    /// Port forwards.
    pub forwards: Vec<Forward>,
}

impl World {
    /// Reads it from a rig, in whose namespace this runs.
    pub fn read(rig: &Rig) -> Result<Self> {
        let routes = [routes(rig, "-4")?, routes(rig, "-6")?].concat();
        let mut world = Self {
            config: rig.config()?,
            networks: BTreeMap::new(),
            bridges: BTreeMap::new(),
            subnets: Vec::new(),
            uplinks: BTreeMap::new(),
            routes,
            addresses: addresses(rig)?,
            sockets: Vec::new(),
            forwards: Vec::new(),
        };
        world.refresh(rig)?;
        Ok(world)
    }

    /// Reads again what userspace tells the programs.
    pub fn refresh(&mut self, rig: &Rig) -> Result<()> {
        self.config = rig.config()?;
        self.networks = rig.networks()?;
        self.bridges = rig.bridges()?;
        self.uplinks = rig.uplinks()?;
        let prefixes = rig.subnets_of_all()?.into_iter();
        let prefix = |(address, length, subnet)| (Prefix { address, length }, subnet);
        self.subnets = prefixes.map(prefix).collect();
        Ok(())
    }

    /// The way of a packet. The kernel forwards no IPv6 from or to groups, link-local addresses, loopback.
    pub(super) fn route(&self, source: IpAddr, destination: IpAddr) -> Result<Route, Handover> {
        // `rt6_need_strict` in the kernel's `include/net/ip6_route.h`.
        let stays = |address: IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => {
                address.is_multicast() || address.is_unicast_link_local() || address.is_loopback()
            }
        };
        if stays(destination) || stays(source) {
            return Err(Handover::ToHost);
        }
        let holding = self.routes.iter().filter(|(prefix, ..)| prefix.contains(destination));
        // Of equal prefixes the one with the lowest metric.
        let best = holding.max_by_key(|(prefix, metric, _)| (prefix.length, u32::MAX - metric));
        match best {
            Some((_, _, Kind::Forward(route))) => Ok(*route),
            Some((_, _, Kind::Local(_))) | None => Err(Handover::ToHost),
            Some((_, _, Kind::Refused)) => Err(Handover::NoRoute),
        }
    }

    /// The way to a destination by one interface. The kernel looks for an IPv4 route by that interface; in
    /// IPv6 the best one has to lead there.
    fn route_by(&self, destination: IpAddr, ifindex: u32) -> Option<Route> {
        let leads_there = |kind: &Kind| match kind {
            Kind::Forward(route) => route.ifindex == ifindex,
            Kind::Local(own) => *own == ifindex,
            Kind::Refused => false,
        };
        let holding = self.routes.iter().filter(|(prefix, ..)| prefix.contains(destination));
        let of_interest = holding.filter(|(_, _, kind)| destination.is_ipv6() || leads_there(kind));
        let best = of_interest.max_by_key(|(prefix, metric, _)| (prefix.length, u32::MAX - metric));
        match best {
            Some((_, _, Kind::Forward(route))) if route.ifindex == ifindex => Some(*route),
            _ => None,
        }
    }

    /// The host's own address for what it sends to a destination by an interface; `None` if it cannot.
    pub(super) fn source_towards(&self, destination: IpAddr, ifindex: u32) -> Option<IpAddr> {
        let route = self.route_by(destination, ifindex)?;
        if route.source.is_some() {
            return route.source;
        }
        let own = self.addresses.iter().filter(|(index, address)| {
            *index == ifindex && address.is_ipv4() == destination.is_ipv4()
        });
        let mut own = own.map(|(_, address)| *address);
        match destination {
            IpAddr::V4(_) => own.next(),
            // The longest matching prefix (RFC 6724, section 5, rule 8).
            IpAddr::V6(to) => own.max_by_key(|address| match address {
                IpAddr::V6(address) => (u128::from(*address) ^ u128::from(to)).leading_zeros(),
                IpAddr::V4(_) => 0,
            }),
        }
    }

    /// Whether a socket of the host would take what is sent there.
    pub(super) fn has_socket(&self, protocol: u8, address: IpAddr, port: u16) -> bool {
        self.sockets.iter().any(|socket| {
            socket.protocol == protocol
                && socket.port == port
                && socket.address.is_ipv4() == address.is_ipv4()
                && (socket.address.is_unspecified() || socket.address == address)
        })
    }
}

impl Prefix {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(prefix), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.length);
                (u32::from(prefix) ^ u32::from(address)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(prefix), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.length);
                (u128::from(prefix) ^ u128::from(address)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

fn routes(rig: &Rig, family: &str) -> Result<Vec<(Prefix, u32, Kind)>> {
    let output = Command::new("ip")
        .args([family, "-j", "route", "show", "table", "all"])
        .output()
        .context("cannot run ip")?;
    ensure!(output.status.success(), "ip route failed");
    let all: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    all.iter().map(|route| read_route(rig, family, route)).collect()
}

fn addresses(rig: &Rig) -> Result<Vec<(u32, IpAddr)>> {
    let output = Command::new("ip").args(["-j", "address", "show"]).output();
    let links: Vec<Value> = serde_json::from_slice(&output.context("cannot run ip")?.stdout)?;
    let mut all = Vec::new();
    for link in &links {
        let name = link.get("ifname").and_then(Value::as_str).context("no name")?;
        for address in link.get("addr_info").and_then(Value::as_array).into_iter().flatten() {
            let text = address.get("local").and_then(Value::as_str).context("no address")?;
            all.push((rig.ifindex(name)?, text.parse()?));
        }
    }
    Ok(all)
}

fn read_route(rig: &Rig, family: &str, route: &Value) -> Result<(Prefix, u32, Kind)> {
    let text = |name: &str| route.get(name).and_then(Value::as_str);
    let prefix = match (text("dst").context("no destination")?, family) {
        ("default", "-4") => "0.0.0.0/0",
        ("default", _) => "::/0",
        (other, _) => other,
    };
    let (address, length) = match prefix.split_once('/') {
        Some((address, length)) => (address.parse::<IpAddr>()?, length.parse()?),
        None => (prefix.parse::<IpAddr>()?, if family == "-4" { 32 } else { 128 }),
    };
    let kind = match text("type").unwrap_or("unicast") {
        "unicast" => Kind::Forward(Route {
            ifindex: rig.ifindex(text("dev").context("no interface")?)?,
            gateway: text("gateway").map(str::parse).transpose()?,
            source: text("prefsrc").map(str::parse).transpose()?,
        }),
        "blackhole" | "unreachable" | "prohibit" => Kind::Refused,
        _ => Kind::Local(text("dev").map_or(Ok(0), |name| rig.ifindex(name))?),
    };
    let metric = route.get("metric").and_then(Value::as_u64).unwrap_or(0);
    Ok((Prefix { address, length }, metric as u32, kind))
}
