//! A host for tests, without a kernel.

use ipnet::IpNet;

use super::{
    Bond, Hop, InterfaceAddress, Ipv6Settings, Link, LinkKind, LinkLayer, Port, Route, Snapshot,
    address::{AddressFlags, AddressScope},
    bridge_rules::Calls,
    link::{BondMode, BridgePortSettings, LinkFlags, SpanningTree},
    route::{RouteProtocol, RouteScope, RouteType, TABLE_LOCAL, TABLE_MAIN},
};

/// A host that is put together link by link.
#[derive(Default)]
pub struct Host(pub Snapshot);

impl Host {
    /// A host with nothing but `lo`.
    pub fn with_loopback() -> Self {
        Self::default()
            .link(1, "lo", LinkKind::Loopback)
            .address_of("127.0.0.1/8", AddressScope::Host, AddressFlags::Permanent)
            .route_of("127.0.0.0/8", TABLE_LOCAL, RouteType::Local, &[1])
            .route_of("127.0.0.0/8", TABLE_MAIN, RouteType::Unicast, &[1])
    }

    /// Adds a link, which the following calls are about.
    pub fn link(mut self, index: u32, name: &str, kind: LinkKind) -> Self {
        let layer = match kind {
            LinkKind::Tun | LinkKind::Wireguard => LinkLayer::RawIp,
            _ => LinkLayer::Ethernet,
        };
        self.0.links.push(Link {
            index,
            name: name.to_owned(),
            bond: (kind == LinkKind::Bond).then_some(Bond {
                mode: BondMode::ActiveBackup,
                miimon: 100,
                arp_interval: 0,
                all_slaves_active: false,
            }),
            vlan_filtering: (kind == LinkKind::Bridge).then_some(false),
            default_vlan: (kind == LinkKind::Bridge).then_some(1),
            ageing_time: (kind == LinkKind::Bridge).then_some(30_000),
            netfilter_calls: Calls::default(),
            spanning_tree: (kind == LinkKind::Bridge)
                .then_some(SpanningTree { on: false, forward_delay: 0 }),
            alias: None,
            kind,
            layer,
            flags: LinkFlags::Up | LinkFlags::LowerUp,
            mtu: 1500,
            mac: None,
            master: None,
            port: None,
            active_slave: None,
            bridge_port: None,
            parent: None,
            parent_is_foreign: false,
            vlan_id: None,
            promiscuous: false,
            bus: None,
            ipv6: Some(Ipv6Settings { forwarding: 0, accept_ra: 1, disabled: false }),
        });
        self
    }

    /// Enslaves the link that was added last.
    pub fn port(mut self, master: u32, port: Option<Port>) -> Self {
        let link = self.0.links.last_mut().unwrap();
        link.bridge_port = match port {
            Some(Port::Bridge { isolated }) => Some(BridgePortSettings {
                forwarding: true,
                isolated,
                learning: true,
                locked: false,
            }),
            _ => None,
        };
        link.active_slave = (port == Some(Port::Bond)).then_some(true);
        (link.master, link.port) = (Some(master), port);
        self
    }

    /// Adds an address to the link that was added last, like "192.0.2.1/24".
    pub fn address(self, address: &str) -> Self {
        self.address_of(address, AddressScope::Universe, AddressFlags::Permanent)
    }

    pub fn address_of(mut self, address: &str, scope: AddressScope, flags: AddressFlags) -> Self {
        let net: IpNet = address.parse().unwrap();
        self.0.addresses.push(InterfaceAddress {
            interface: self.0.links.last().unwrap().index,
            address: net.addr(),
            peer: None,
            prefix_len: net.prefix_len(),
            scope,
            flags,
        });
        self
    }

    /// Adds a route through the link that was added last.
    pub fn route(self, destination: &str) -> Self {
        let interface = self.0.links.last().unwrap().index;
        self.route_of(destination, TABLE_MAIN, RouteType::Unicast, &[interface])
    }

    pub fn route_of(
        mut self,
        destination: &str,
        table: u32,
        kind: RouteType,
        interfaces: &[u32],
    ) -> Self {
        let hop = |interface: &u32| Hop { interface: Some(*interface), gateway: None };
        self.0.routes.push(Route {
            destination: destination.parse().unwrap(),
            table,
            kind,
            hops: interfaces.iter().map(hop).collect(),
            next_hop_object: None,
            preferred_source: None,
            priority: 0,
            scope: RouteScope::Universe,
            protocol: RouteProtocol::Static,
        });
        self
    }

    /// Changes the route that was added last.
    pub fn change_route(mut self, change: impl FnOnce(&mut Route)) -> Self {
        change(self.0.routes.last_mut().unwrap());
        self
    }

    /// Changes the link that was added last.
    pub fn change(mut self, change: impl FnOnce(&mut Link)) -> Self {
        change(self.0.links.last_mut().unwrap());
        self
    }
}
