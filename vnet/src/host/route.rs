//! Routes as `RTM_NEWROUTE` describes them, and the next-hop objects they may refer to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
pub use netlink_packet_route::route::{RouteProtocol, RouteScope, RouteType};

use super::netlink::{AF_INET, AF_INET6, attributes, ip_address, u16_at, u32_at};

/// The routing table of the host's own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;
/// The routing table that is used when no rule says otherwise (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;

/// A route of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; its family is the route's family.
    pub destination: IpNet,
    /// Routing table.
    pub table: u32,
    /// Unicast, local, blackhole, …
    pub kind: RouteType,
    /// Where it leads: none for blackhole and the like, several for multipath. For a route through
    /// a next-hop object those of the object; none when the object is not known.
    pub hops: Vec<Hop>,
    /// Next-hop object (`RTA_NH_ID`).
    pub next_hop_object: Option<u32>,
    /// Source address that the host's own packets get (`RTA_PREFSRC`).
    pub preferred_source: Option<IpAddr>,
    /// Metric; the lower wins.
    pub priority: u32,
    /// How far away the destination is.
    pub scope: RouteScope,
    /// Who made it.
    pub protocol: RouteProtocol,
}

/// One way out of a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hop {
    /// Index of the interface.
    pub interface: Option<u32>,
    /// Gateway; may be an IPv6 address in an IPv4 route (`RTA_VIA`). None when the destination is
    /// on the link.
    pub gateway: Option<IpAddr>,
}

/// A next-hop object (`ip nexthop`), or a group of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NextHopObject {
    /// What `RTA_NH_ID` refers to.
    pub id: u32,
    /// Its own way out, unless it is a group or a blackhole.
    pub hop: Option<Hop>,
    /// Identifiers of the members of a group.
    pub members: Vec<u32>,
    /// Drops what is sent to it.
    pub blackhole: bool,
}

impl Route {
    /// Matches every destination of its family.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }

    /// Reads the body of an `RTM_NEWROUTE`: `struct rtmsg` and attributes. `None` for families
    /// other than IPv4 and IPv6.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        const RTA_DST: u16 = 1;
        const RTA_PRIORITY: u16 = 6;
        const RTA_PREFSRC: u16 = 7;
        const RTA_MULTIPATH: u16 = 9;
        const RTA_TABLE: u16 = 15;
        const RTA_NH_ID: u16 = 30;

        let [family, prefix_len, _, _, table, protocol, scope, kind] = *body.first_chunk()?;
        let mut destination = match family {
            AF_INET => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            AF_INET6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let attribute_bytes = body.get(12..)?;
        let mut route = Self {
            destination: IpNet::from(destination),
            table: u32::from(table),
            kind: RouteType::from(kind),
            hops: Vec::new(),
            next_hop_object: None,
            preferred_source: None,
            priority: 0,
            scope: RouteScope::from(scope),
            protocol: RouteProtocol::from(protocol),
        };
        for (kind, payload) in attributes(attribute_bytes) {
            match kind {
                RTA_DST => destination = ip_address(payload)?,
                RTA_PRIORITY => route.priority = u32_at(payload, 0).unwrap_or_default(),
                RTA_PREFSRC => route.preferred_source = ip_address(payload),
                RTA_MULTIPATH => route.hops = Hop::parse_multipath(payload),
                RTA_TABLE => route.table = u32_at(payload, 0).unwrap_or(route.table),
                RTA_NH_ID => route.next_hop_object = u32_at(payload, 0),
                _ => {}
            }
        }
        route.destination = IpNet::new(destination, prefix_len).ok()?;
        if route.hops.is_empty() {
            route.hops.extend(Hop::parse(attribute_bytes, None));
        }
        Some(route)
    }

    /// Fills in the hops of a route that only names its next-hop object, as routes do when
    /// `net.ipv4.nexthop_compat_mode` is 0.
    pub(super) fn resolve(&mut self, objects: &[NextHopObject]) {
        if !self.hops.is_empty() {
            return;
        }
        let find = |id: u32| objects.iter().find(|object| object.id == id);
        let Some(object) = self.next_hop_object.and_then(find) else { return };
        if object.blackhole {
            self.kind = RouteType::BlackHole;
        }
        let members = object.members.iter().filter_map(|id| find(*id));
        self.hops = std::iter::once(object)
            .chain(members)
            .filter_map(|object| object.hop.clone())
            .collect();
    }
}

impl Hop {
    /// Reads `RTA_OIF`, `RTA_GATEWAY` and `RTA_VIA`; `None` when there is neither an interface nor
    /// a gateway.
    fn parse(bytes: &[u8], interface: Option<u32>) -> Option<Self> {
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RTA_VIA: u16 = 18;

        let mut hop = Self { interface, gateway: None };
        for (kind, payload) in attributes(bytes) {
            match kind {
                RTA_OIF => hop.interface = u32_at(payload, 0),
                RTA_GATEWAY => hop.gateway = ip_address(payload),
                // A 16-bit address family comes first.
                RTA_VIA => hop.gateway = payload.get(2..).and_then(ip_address),
                _ => {}
            }
        }
        (hop != Self::default()).then_some(hop)
    }

    /// Reads the `struct rtnexthop`s of `RTA_MULTIPATH`.
    fn parse_multipath(mut bytes: &[u8]) -> Vec<Self> {
        let mut hops = Vec::new();
        while let (Some(length), Some(interface)) = (u16_at(bytes, 0), u32_at(bytes, 4)) {
            let length = usize::from(length);
            let Some(nested) = bytes.get(8..length) else { break };
            hops.extend(Self::parse(nested, Some(interface)));
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        hops
    }
}

impl NextHopObject {
    /// Reads the body of an `RTM_NEWNEXTHOP`: `struct nhmsg` and attributes.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        const NHA_ID: u16 = 1;
        const NHA_GROUP: u16 = 2;
        const NHA_BLACKHOLE: u16 = 4;
        const NHA_OIF: u16 = 5;
        const NHA_GATEWAY: u16 = 6;

        let mut object = Self::default();
        let mut hop = Hop::default();
        for (kind, payload) in attributes(body.get(8..)?) {
            match kind {
                NHA_ID => object.id = u32_at(payload, 0)?,
                // Eight bytes each: struct nexthop_grp.
                NHA_GROUP => {
                    object.members =
                        payload.chunks_exact(8).filter_map(|member| u32_at(member, 0)).collect();
                }
                NHA_BLACKHOLE => object.blackhole = true,
                NHA_OIF => hop.interface = u32_at(payload, 0),
                NHA_GATEWAY => hop.gateway = ip_address(payload),
                _ => {}
            }
        }
        // A blackhole object names the loopback device, which it never uses.
        object.hop = (hop != Hop::default() && !object.blackhole).then_some(hop);
        Some(object)
    }
}
