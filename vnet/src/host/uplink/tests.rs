use super::{
    super::{address::AddressFlags, fake::Host, route::TABLE_MAIN},
    *,
};

impl Host {
    fn uplinks(&self, bridges: &[u32]) -> Vec<UplinkCandidate> {
        uplinks(&self.0, bridges)
    }

    fn names(&self, bridges: &[u32]) -> Vec<String> {
        self.uplinks(bridges).into_iter().map(|uplink| uplink.name).collect()
    }
}

fn loopback() -> Host {
    Host::with_loopback()
}

fn v4(address: &str) -> Ipv4Addr {
    address.parse().unwrap()
}

fn chosen(uplink: &UplinkCandidate, next_hop: &str) -> Option<String> {
    uplink.masquerade_address(v4(next_hop)).map(|address| address.to_string())
}

#[test]
fn both_of_two_uplinks_are_found_with_their_reach() {
    let host = loopback()
        .link(2, "eth0", LinkKind::Physical)
        .address("192.0.2.10/24")
        .route("192.0.2.0/24")
        .route("0.0.0.0/0")
        .link(3, "eth1", LinkKind::Physical)
        .address("198.51.100.10/24")
        .route("198.51.100.0/24")
        .route_of("0.0.0.0/0", 100, RouteType::Unicast, &[3])
        .route("2001:db8::/64")
        .link(4, "virbr0", LinkKind::Bridge)
        .address("192.168.122.1/24")
        .route("192.168.122.0/24");
    let found = host.uplinks(&[4]);
    let reach: Vec<_> =
        found.iter().map(|uplink| (uplink.name.as_str(), uplink.ipv4, uplink.ipv6)).collect();
    assert_eq!(
        reach,
        [("eth0", Reach::Default, Reach::Nothing), ("eth1", Reach::Default, Reach::Partial)]
    );
    assert_eq!(
        found[0].masquerade,
        [MasqueradeAddress {
            address: v4("192.0.2.10"),
            subnet: "192.0.2.0/24".parse().unwrap(),
            interface: 2
        }]
    );
}

#[test]
fn bridge_of_a_definition_is_no_uplink_and_dockers_is() {
    let host = loopback()
        .link(2, "virbr0", LinkKind::Bridge)
        .address("192.168.122.1/24")
        .route("192.168.122.0/24")
        .link(3, "docker0", LinkKind::Bridge)
        .address("172.17.0.1/16")
        .route("172.17.0.0/16");
    assert_eq!(host.names(&[2]), ["docker0"]);
}

#[test]
fn bridge_with_the_hosts_address_is_the_uplink_instead_of_its_nic() {
    let host = loopback()
        .link(2, "eth0", LinkKind::Physical)
        .port(3, Some(Port::Bridge { isolated: false }))
        // Left behind by an operator; the kernel sends nothing through a port by itself.
        .route("203.0.113.0/24")
        .link(3, "br0", LinkKind::Bridge)
        .address("192.0.2.10/24")
        .route("0.0.0.0/0");
    assert_eq!(host.names(&[]), ["br0"]);
}

#[test]
fn bond_is_the_uplink_instead_of_its_slaves() {
    let host = loopback()
        .link(2, "eth0", LinkKind::Physical)
        .port(4, Some(Port::Bond))
        .route("192.0.2.0/24")
        .link(3, "eth1", LinkKind::Physical)
        .port(4, None)
        .route("192.0.2.0/24")
        .link(4, "bond0", LinkKind::Bond)
        .address("192.0.2.10/24")
        .route("0.0.0.0/0")
        .link(5, "bond0.100", LinkKind::Vlan)
        .address("198.51.100.10/24")
        .route("198.51.100.0/24");
    assert_eq!(host.names(&[]), ["bond0", "bond0.100"]);
}

#[test]
fn vpn_tunnel_is_an_uplink_without_link_layer_header() {
    let host = loopback()
        .link(2, "tun0", LinkKind::Tun)
        .address("10.8.0.6/24")
        .route("10.8.0.0/24")
        .link(3, "wg0", LinkKind::Wireguard)
        .address("10.9.0.2/32")
        .route_of("0.0.0.0/0", 51820, RouteType::Unicast, &[3]);
    let found = host.uplinks(&[]);
    assert_eq!(
        found.iter().map(|uplink| (uplink.name.as_str(), uplink.layer)).collect::<Vec<_>>(),
        [("tun0", LinkLayer::RawIp), ("wg0", LinkLayer::RawIp)]
    );
    assert_eq!(chosen(&found[1], "8.8.8.8").as_deref(), Some("10.9.0.2"));
}

#[test]
fn every_hop_of_a_multipath_route_is_an_uplink() {
    let host = loopback()
        .link(2, "eth0", LinkKind::Physical)
        .link(3, "eth1", LinkKind::Physical)
        .route_of("0.0.0.0/0", TABLE_MAIN, RouteType::Unicast, &[2, 3]);
    assert_eq!(host.names(&[]), ["eth0", "eth1"]);
}

#[test]
fn routes_that_forward_nothing_make_no_uplink() {
    let host = loopback()
        .link(2, "eth0", LinkKind::Physical)
        .route("fe80::/64")
        .route("ff00::/8")
        .route("224.0.0.0/4")
        .route_of("192.0.2.10/32", TABLE_LOCAL, RouteType::Local, &[2])
        .route_of("192.0.2.255/32", TABLE_LOCAL, RouteType::Broadcast, &[2])
        .route_of("198.51.100.0/24", TABLE_MAIN, RouteType::BlackHole, &[2])
        // A default route covers link-local and multicast too, but not only those.
        .link(3, "eth1", LinkKind::Physical)
        .route("::/0");
    let found = host.uplinks(&[]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), found[0].ipv6), ("eth1", Reach::Default));
}

#[test]
fn next_hop_picks_among_primary_addresses() {
    let uplink = loopback()
        .link(2, "eth0", LinkKind::Physical)
        .address("192.0.2.10/24")
        .address("198.51.100.10/24")
        .address_of("198.51.100.11/24", AddressScope::Universe, AddressFlags::Secondary)
        .address_of("203.0.113.10/24", AddressScope::Link, AddressFlags::Permanent)
        .address("2001:db8::10/64")
        .route("0.0.0.0/0")
        .uplinks(&[])
        .remove(0);
    let addresses: Vec<String> =
        uplink.masquerade.iter().map(|entry| entry.address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.10", "198.51.100.10"]);
    assert_eq!(chosen(&uplink, "192.0.2.1").as_deref(), Some("192.0.2.10"));
    assert_eq!(chosen(&uplink, "198.51.100.1").as_deref(), Some("198.51.100.10"));
    assert_eq!(chosen(&uplink, "203.0.113.1").as_deref(), Some("192.0.2.10"));
}

#[test]
fn peer_subnet_decides_for_point_to_point() {
    let mut host = loopback()
        .link(2, "ppp0", LinkKind::Other("ppp".to_owned()))
        .address("192.0.2.10/32")
        .address("198.51.100.10/32")
        .route("0.0.0.0/0");
    host.0.addresses[2].peer = Some("203.0.113.1".parse().unwrap());
    let uplink = host.uplinks(&[]).remove(0);
    assert_eq!(chosen(&uplink, "203.0.113.1").as_deref(), Some("198.51.100.10"));
    assert_eq!(chosen(&uplink, "203.0.113.2").as_deref(), Some("192.0.2.10"));
}

#[test]
fn unnumbered_uplink_borrows_the_first_global_address() {
    let host = loopback()
        .link(2, "eth0", LinkKind::Physical)
        .address_of("169.254.1.1/16", AddressScope::Link, AddressFlags::Permanent)
        .route("0.0.0.0/0")
        .link(3, "eth1", LinkKind::Physical)
        .address("198.51.100.10/24");
    let uplink = host.uplinks(&[]).remove(0);
    assert_eq!(
        uplink.masquerade,
        [MasqueradeAddress {
            address: v4("198.51.100.10"),
            subnet: "198.51.100.0/24".parse().unwrap(),
            interface: 3
        }]
    );
}

#[test]
fn global_address_of_loopback_is_borrowed_first() {
    let mut host = loopback().address("192.0.2.99/32").link(2, "eth0", LinkKind::Physical);
    host = host.address("198.51.100.10/24").link(3, "tun0", LinkKind::Tun).route("0.0.0.0/0");
    let uplink = host.uplinks(&[]).remove(0);
    assert_eq!(uplink.masquerade[0].address, v4("192.0.2.99"));
}

#[test]
fn vrf_slave_borrows_within_its_vrf() {
    let host = loopback()
        .address("192.0.2.99/32")
        .link(2, "eth0", LinkKind::Physical)
        .port(9, Some(Port::Other("vrf".to_owned())))
        .route_of("0.0.0.0/0", 10, RouteType::Unicast, &[2])
        .link(3, "eth1", LinkKind::Physical)
        .port(9, Some(Port::Other("vrf".to_owned())))
        .address("198.51.100.10/24")
        .link(9, "red", LinkKind::Vrf);
    let uplink = host.uplinks(&[]).remove(0);
    assert_eq!(uplink.masquerade[0].address, v4("198.51.100.10"));
    let host = host.address("203.0.113.9/32");
    assert_eq!(host.uplinks(&[])[0].masquerade[0].address, v4("203.0.113.9"));
}

#[test]
fn host_without_addresses_masquerades_nothing() {
    let host = loopback().link(2, "eth0", LinkKind::Physical).route("0.0.0.0/0");
    let uplink = host.uplinks(&[]).remove(0);
    assert_eq!((uplink.masquerade.len(), chosen(&uplink, "192.0.2.1")), (0, None));
}
