use std::net::IpAddr;

use vnet::host::{
    GatewayRoute, Hop, Ipv6Settings, LinkKind, LinkLayer, Port, Route, Snapshot,
    address::AddressScope,
    route::{RouteProtocol, RouteScope, RouteType, TABLE_LOCAL, TABLE_MAIN},
    snapshot, sysctl,
};

use crate::namespace::{in_namespace, ip};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn index(snapshot: &Snapshot, name: &str) -> u32 {
    snapshot.link_named(name).unwrap().index
}

fn route(snapshot: &Snapshot, destination: &str, table: u32) -> Route {
    let destination = destination.parse().unwrap();
    let mut found = snapshot
        .routes
        .iter()
        .filter(|route| route.destination == destination && route.table == table);
    let route = found.next().unwrap().clone();
    assert_eq!(found.next(), None);
    route
}

#[test]
fn links_carry_kind_layer_master_and_flags() {
    in_namespace(|| async {
        ip("link add v0 address 02:00:00:00:00:01 mtu 1400 type veth peer name v1");
        ip("link add br0 type bridge");
        ip("link add br1 type bridge");
        ip("link set v1 master br0");
        ip("link set v1 type bridge_slave isolated on");
        ip("link set v0 up");
        ip("link set v1 up");
        ip("tuntap add name tap0 mode tap");
        ip("tuntap add name tun0 mode tun");
        ip("link set tap0 master br1");

        let snapshot = snapshot().await.unwrap();
        assert!(!snapshot.interrupted);
        let link = |name: &str| snapshot.link_named(name).unwrap();

        let loopback = link("lo");
        assert_eq!((loopback.index, &loopback.kind), (1, &LinkKind::Loopback));
        assert_eq!(snapshot.link(1), Some(loopback));

        let veth = link("v0");
        assert_eq!((&veth.kind, veth.layer), (&LinkKind::Veth, LinkLayer::Ethernet));
        assert_eq!((veth.mtu, veth.mac), (1400, Some([2, 0, 0, 0, 0, 1])));
        assert_eq!((veth.master, &veth.port), (None, &None));
        assert_eq!((veth.parent, veth.parent_is_foreign), (Some(link("v1").index), false));
        assert!(veth.is_up() && veth.is_lower_up());

        let port = link("v1");
        assert_eq!(port.master, Some(link("br0").index));
        assert_eq!(port.port, Some(Port::Bridge { isolated: true }));
        assert_eq!(link("tap0").port, Some(Port::Bridge { isolated: false }));
        let ports: Vec<&str> =
            snapshot.ports_of(link("br0").index).map(|port| port.name.as_str()).collect();
        assert_eq!(ports, ["v1"]);

        let bridge = link("br0");
        assert_eq!((&bridge.kind, bridge.vlan_filtering), (&LinkKind::Bridge, Some(false)));
        assert!(!bridge.is_up());
        assert_eq!(veth.vlan_filtering, None);

        let tap = link("tap0");
        assert_eq!((&tap.kind, tap.layer), (&LinkKind::Tap, LinkLayer::Ethernet));
        let tun = link("tun0");
        assert_eq!((&tun.kind, tun.layer, tun.mac), (&LinkKind::Tun, LinkLayer::RawIp, None));
    });
}

#[test]
fn ipv6_parameters_of_a_link_are_those_of_sysctl() {
    in_namespace(|| async {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 name v.0");
        for (parameter, value) in [("forwarding", "1"), ("accept_ra", "2"), ("disable_ipv6", "1")] {
            sysctl::write(&format!("net/ipv6/conf/v.0/{parameter}"), value).unwrap();
        }
        sysctl::write("net/ipv6/conf/v1/accept_ra", "0").unwrap();
        let snapshot = snapshot().await.unwrap();
        let settings = |name: &str| snapshot.link_named(name).unwrap().ipv6.unwrap();
        let (forwarding, accept_ra) = (1, 2);
        assert_eq!(settings("v.0"), Ipv6Settings { forwarding, accept_ra, disabled: true });
        assert_eq!(settings("v1"), Ipv6Settings::default());
    });
}

#[test]
fn routes_through_gateways_are_added_and_deleted_once() {
    in_namespace(|| async {
        ip("link add v0 type veth peer name v1");
        for name in ["v0", "v1"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 192.0.2.10/24 dev v0");
        ip("address add fd00::10/64 dev v0 nodad");
        let interface = index(&snapshot().await.unwrap(), "v0");
        for (destination, gateway, metric) in
            [("10.9.0.0/16", "192.0.2.9", 1), ("fd00:9::/48", "fd00::9", 7)]
        {
            let destination = destination.parse().unwrap();
            let wanted = GatewayRoute { destination, gateway: address(gateway), interface, metric };
            assert!(wanted.add().await.unwrap());
            assert!(!wanted.add().await.unwrap());
            let found = route(&snapshot().await.unwrap(), &destination.to_string(), TABLE_MAIN);
            let hop = Hop { interface: Some(interface), gateway: Some(address(gateway)) };
            assert_eq!(found.hops, [hop]);
            assert_eq!((found.priority, found.protocol), (metric, RouteProtocol::Static));
            let other = GatewayRoute { metric: 100, ..wanted.clone() };
            assert!(!other.delete().await.unwrap());
            assert!(wanted.delete().await.unwrap());
            assert!(!wanted.delete().await.unwrap());

            let far = GatewayRoute { interface: 1 << 20, ..wanted };
            assert!(!far.delete().await.unwrap());
            assert!(far.add().await.is_err());
        }
    });
}

#[test]
fn peer_in_another_namespace_is_marked_foreign() {
    in_namespace(|| async {
        ip("link add v0 type veth peer name v1");
        let mut child = std::process::Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; read -r _"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        ip(&format!("link set v1 netns {}", child.id()));
        let snapshot = snapshot().await.unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(snapshot.link_named("v0").unwrap().parent_is_foreign);
        assert_eq!(snapshot.link_named("v1"), None);
    });
}

#[test]
fn addresses_come_in_the_kernels_order_with_their_flags() {
    in_namespace(|| async {
        ip("link add v0 type veth peer name v1");
        ip("address add 192.0.2.10/24 dev v0");
        ip("address add 192.0.2.11/24 dev v0");
        ip("address add 198.51.100.10/24 dev v0");
        ip("address add 169.254.9.9/16 scope link dev v0");
        ip("address add 203.0.113.1 peer 203.0.113.2/32 dev v0");
        ip("address add 2001:db8::1/64 dev v0 nodad preferred_lft 0");
        ip("link set v1 up");
        ip("link set v0 up");

        let snapshot = snapshot().await.unwrap();
        let v0 = index(&snapshot, "v0");
        let ipv4: Vec<_> =
            snapshot.addresses_of(v0).filter(|entry| entry.address.is_ipv4()).collect();
        let order: Vec<_> = ipv4
            .iter()
            .map(|entry| (entry.address.to_string(), entry.prefix_len, entry.is_secondary()))
            .collect();
        assert_eq!(
            order,
            [
                ("169.254.9.9".to_owned(), 16, false),
                ("192.0.2.10".to_owned(), 24, false),
                ("198.51.100.10".to_owned(), 24, false),
                ("203.0.113.1".to_owned(), 32, false),
                ("192.0.2.11".to_owned(), 24, true),
            ]
        );
        assert_eq!(ipv4[0].scope, AddressScope::Link);
        assert_eq!(ipv4[1].scope, AddressScope::Universe);
        assert_eq!(ipv4[1].peer, None);
        assert_eq!(ipv4[3].peer, Some(address("203.0.113.2")));
        assert_eq!(ipv4[3].subnet().to_string(), "203.0.113.2/32");

        let ipv6 = snapshot
            .addresses_of(v0)
            .find(|entry| entry.address == address("2001:db8::1"))
            .unwrap();
        assert!(ipv6.is_deprecated() && !ipv6.is_temporary() && !ipv6.is_tentative());
        let loopback = snapshot.addresses_of(1).next().unwrap();
        assert_eq!((loopback.address, loopback.scope), (address("127.0.0.1"), AddressScope::Host));
    });
}

#[test]
fn routes_of_all_tables_and_kinds_are_read() {
    in_namespace(|| async {
        ip("link add v0 type veth peer name v1");
        for name in ["v0", "v1"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 192.0.2.10/24 dev v0");
        ip("address add 198.51.100.10/24 dev v1");
        ip("route add default via 192.0.2.1 metric 100 proto dhcp src 192.0.2.10");
        ip("route add 10.1.0.0/16 via 198.51.100.1 table 1000");
        ip("route add blackhole 10.2.0.0/16");
        ip("route add 10.3.0.0/16 nexthop via 192.0.2.1 nexthop via 198.51.100.1 weight 2");
        ip("route add 10.4.0.0/16 via inet6 fe80::1 dev v0");
        ip("-6 route add 2001:db8:5::/48 nexthop via fe80::1 dev v0 nexthop via fe80::2 dev v1");

        let snapshot = snapshot().await.unwrap();
        let (v0, v1) = (index(&snapshot, "v0"), index(&snapshot, "v1"));
        let hop = |interface, gateway: &str| Hop {
            interface: Some(interface),
            gateway: Some(address(gateway)),
        };

        let default = route(&snapshot, "0.0.0.0/0", TABLE_MAIN);
        assert!(default.is_default());
        assert_eq!(default.hops, [hop(v0, "192.0.2.1")]);
        assert_eq!(default.preferred_source, Some(address("192.0.2.10")));
        assert_eq!((default.priority, default.protocol), (100, RouteProtocol::Dhcp));
        assert_eq!((default.kind, default.scope), (RouteType::Unicast, RouteScope::Universe));

        let connected = route(&snapshot, "192.0.2.0/24", TABLE_MAIN);
        assert_eq!(connected.hops, [Hop { interface: Some(v0), gateway: None }]);
        assert_eq!(
            (connected.scope, connected.protocol),
            (RouteScope::Link, RouteProtocol::Kernel)
        );
        let local = route(&snapshot, "192.0.2.10/32", TABLE_LOCAL);
        assert_eq!((local.kind, local.scope), (RouteType::Local, RouteScope::Host));

        assert_eq!(route(&snapshot, "10.1.0.0/16", 1000).hops, [hop(v1, "198.51.100.1")]);
        let blackhole = route(&snapshot, "10.2.0.0/16", TABLE_MAIN);
        assert_eq!((blackhole.kind, blackhole.hops), (RouteType::BlackHole, vec![]));
        assert_eq!(
            route(&snapshot, "10.3.0.0/16", TABLE_MAIN).hops,
            [hop(v0, "192.0.2.1"), hop(v1, "198.51.100.1")]
        );
        assert_eq!(route(&snapshot, "10.4.0.0/16", TABLE_MAIN).hops, [hop(v0, "fe80::1")]);
        assert_eq!(
            route(&snapshot, "2001:db8:5::/48", TABLE_MAIN).hops,
            [hop(v0, "fe80::1"), hop(v1, "fe80::2")]
        );
    });
}

#[test]
fn next_hop_objects_are_resolved() {
    in_namespace(|| async {
        ip("link add v0 type veth peer name v1");
        for name in ["v0", "v1"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 192.0.2.10/24 dev v0");
        ip("address add 198.51.100.10/24 dev v1");
        ip("nexthop add id 7 via 192.0.2.1 dev v0");
        ip("nexthop add id 8 via 198.51.100.1 dev v1");
        ip("nexthop add id 9 group 7/8");
        ip("route add 10.1.0.0/16 nhid 7");
        ip("route add 10.2.0.0/16 nhid 9");

        // With and without the kernel's own repetition of the object in the route.
        for compatible in ["1", "0"] {
            sysctl::write("net.ipv4.nexthop_compat_mode", compatible).unwrap();
            let snapshot = snapshot().await.unwrap();
            let hop = |name, gateway| Hop {
                interface: Some(index(&snapshot, name)),
                gateway: Some(address(gateway)),
            };
            let single = route(&snapshot, "10.1.0.0/16", TABLE_MAIN);
            assert_eq!(single.next_hop_object, Some(7));
            assert_eq!(single.hops, [hop("v0", "192.0.2.1")]);
            let group = route(&snapshot, "10.2.0.0/16", TABLE_MAIN);
            assert_eq!(group.next_hop_object, Some(9));
            assert_eq!(group.hops, [hop("v0", "192.0.2.1"), hop("v1", "198.51.100.1")]);
        }
    });
}

#[test]
fn table_larger_than_one_datagram_is_complete() {
    in_namespace(|| async {
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        let routes: Vec<String> = (0..2000)
            .map(|net| format!("route add 10.{}.{}.0/24 dev v0\n", net / 250, net % 250))
            .collect();
        let file = std::env::temp_dir().join(format!("vnet-routes-{}", std::process::id()));
        std::fs::write(&file, routes.concat()).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();

        let snapshot = snapshot().await.unwrap();
        let v0 = index(&snapshot, "v0");
        let through_v0 = |route: &&Route| {
            route.hops.iter().any(|hop| hop.interface == Some(v0))
                && route.destination.addr().is_ipv4()
        };
        assert_eq!(snapshot.routes.iter().filter(through_v0).count(), 2000);
    });
}
