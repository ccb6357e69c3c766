//! What packets are masqueraded to.

use super::*;
use crate::host::address::{AddressFlags, AddressScope};

#[test]
fn bridges_that_nat_guests_may_reach_masquerade_to_their_own_addresses() {
    let host = host().address("192.168.122.1/24").address("fd00:122::1/64");
    let cases = [
        ("<forward mode='route'/>", 1, 1),
        ("<forward mode='open'/>", 1, 1),
        // IPv6 is routed there.
        ("<forward mode='nat'/>", 0, 1),
        ("<forward mode='nat'><nat ipv6='yes'/></forward>", 0, 0),
        ("<forward mode='route' dev='eth0'/>", 0, 0),
        ("", 0, 0),
    ];
    for (forward, ipv4, ipv6) in cases {
        let (network, tables) = fits(&host, &network(forward, &format!("{IPV4}{IPV6}")));
        let found = (network.masquerade.ipv4.len(), network.masquerade.ipv6.len());
        assert_eq!(found, (ipv4, ipv6), "{forward}");
        let counts = tables
            .uplinks
            .get(&3)
            .map(|uplink| (uplink.address_count as usize, uplink.address_count_ipv6 as usize));
        assert_eq!(counts, (ipv4 + ipv6 > 0).then_some((ipv4, ipv6)), "{forward}");
    }
    let plan = planned(&host, &[&network("<forward mode='open'/>", IPV4)]).plan;
    assert_eq!(plan.uplinks.iter().map(|uplink| &*uplink.name).collect::<Vec<_>>(), ["eth0"]);
    let bridge = Tables::of(&plan).uplinks[&3];
    assert_eq!(bridge.addresses[0].address.to_addr(), Ipv4Addr::new(192, 168, 122, 1));
    assert_eq!(bridge.addresses_ipv6[0].address.to_addr().to_string(), "fd00:122::1");
    assert_eq!(bridge.addresses_ipv6[0].prefix_length, 64);
}

#[test]
fn ipv6_addresses_of_an_uplink_are_global_and_stable_ones_come_first() {
    let (global, flags) = (AddressScope::Universe, AddressFlags::empty());
    let mut host = Host::with_loopback()
        .link(2, "eth0", LinkKind::Physical)
        .address_of("fe80::2/64", AddressScope::Link, flags)
        .address_of("2001:db8::d/64", global, AddressFlags::Deprecated)
        .address_of("2001:db8::e/64", global, AddressFlags::Secondary)
        .address_of("2001:db8::a/64", global, AddressFlags::Tentative)
        .address_of("2001:db8::b/64", global, flags)
        .address_of("fd00::c/48", global, flags)
        .route("::/0")
        .link(3, "virbr0", LinkKind::Bridge);
    let addresses = |host: &Host| {
        let plan = planned(host, &[&network("<forward/>", IPV6)]).plan;
        (plan.uplinks[0].addresses.clone(), Tables::of(&plan).uplinks[&2])
    };
    let (found, entry) = addresses(&host);
    let texts: Vec<_> = found.iter().map(|address| address.to_string()).collect();
    assert_eq!(texts, ["2001:db8::b", "fd00::c", "2001:db8::e", "2001:db8::d"]);
    assert_eq!((entry.address_count, entry.address_count_ipv6), (0, 4));
    assert_eq!(entry.addresses_ipv6[1].address.to_addr().to_string(), "fd00::c");
    assert_eq!(entry.addresses_ipv6[1].prefix_length, 48);

    for number in 1..=9 {
        let mut another = host.0.addresses.last().unwrap().clone();
        another.interface = 2;
        another.address = format!("2001:db8:1::{number}").parse().unwrap();
        host.0.addresses.push(another);
    }
    assert_eq!(addresses(&host).1.address_count_ipv6, 8);
}

#[test]
fn bridge_with_an_ipv6_default_route_is_an_uplink_without_any_wire() {
    let host = Host::with_loopback()
        .link(2, "br0", LinkKind::Bridge)
        .address("2001:db8::2/64")
        .route("::/0")
        .link(4, "docker0", LinkKind::Bridge)
        .route("fd00:d::/64")
        .link(3, "virbr0", LinkKind::Bridge);
    let plan = planned(&host, &[&network("", IPV4)]).plan;
    assert_eq!(plan.uplinks.iter().map(|uplink| &*uplink.name).collect::<Vec<_>>(), ["br0"]);
}
