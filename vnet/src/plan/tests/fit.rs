//! Forwarding, routes, and where a host differs from the definitions.

use super::*;
use crate::host::{
    GatewayRoute, Hop, Ipv6Settings, Route,
    link::LinkFlags,
    route::{RouteProtocol, RouteScope, RouteType, TABLE_MAIN},
};

#[test]
fn families_with_an_address_in_a_network_that_is_forwarded_are_forwarded() {
    let both = format!("{IPV4}{IPV6}");
    let cases = [
        ("<forward/>", IPV4, true, false),
        ("<forward/>", IPV6, false, true),
        ("<forward mode='route'/>", &both, true, true),
        ("<forward mode='open'/>", &both, true, true),
        ("", &both, false, false),
        ("<forward mode='bridge'/>", "", false, false),
    ];
    for (forward, ips, ipv4, ipv6) in cases {
        let (network, _) = fits(&host(), &network(forward, ips));
        let found = (network.forwards(Family::Ipv4), network.forwards(Family::Ipv6));
        assert_eq!(found, (ipv4, ipv6), "{forward} {ips}");
    }
}

fn default_route_of(interface: u32, protocol: RouteProtocol) -> Route {
    Route {
        destination: "::/0".parse().unwrap(),
        table: TABLE_MAIN,
        kind: RouteType::Unicast,
        hops: vec![Hop { interface: Some(interface), gateway: "fe80::1".parse().ok() }],
        next_hop_object: None,
        preferred_source: None,
        priority: 1024,
        scope: RouteScope::Universe,
        protocol,
    }
}

#[test]
fn forwarding_that_would_drop_advertised_routes_is_a_problem() {
    let settings = |accept_ra, forwarding| Ipv6Settings { forwarding, accept_ra, disabled: false };
    let mut host = Host::with_loopback()
        .link(2, "eth0.7", LinkKind::Vlan)
        .change(|link| link.ipv6 = Some(settings(1, 0)))
        .link(3, "virbr0", LinkKind::Bridge);
    host.0.routes.push(default_route_of(2, RouteProtocol::Ra));
    let text = network("<forward/>", IPV6);
    let lost =
        |host: &Host, text: &str| routes_lost_by_forwarding(&planned(host, &[text]).plan, &host.0);
    let problems = lost(&host, &text);
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "interface `eth0.7` has IPv6 routes from router advertisements, which the kernel drops \
         when the host forwards IPv6, as network `n` needs: have it accept them all the same with \
         `sysctl -w net.ipv6.conf.eth0/7.accept_ra=2`"
    );
    assert_eq!(lost(&host, &network("", IPV6)), []);
    assert_eq!(lost(&host, &network("<forward/>", IPV4)), []);
    // Kept all the same, kept by a program, lost already.
    for (accept_ra, forwarding) in [(2, 0), (0, 0), (1, 1)] {
        host.0.links[1].ipv6 = Some(settings(accept_ra, forwarding));
        assert_eq!(lost(&host, &text), []);
    }
    host.0.links[1].ipv6 = Some(settings(1, 0));
    host.0.routes.last_mut().unwrap().protocol = RouteProtocol::Static;
    assert_eq!(lost(&host, &text), []);
}

fn warnings(host: &Host, text: &str) -> Vec<String> {
    planned(host, &[text]).warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn bridge_that_is_as_defined_is_no_reason_to_warn() {
    let host = host().address("192.168.122.1/24").address("fd00:122::1/64");
    let rest = format!("<mtu size='1500'/>{IPV4}{IPV6}");
    assert_eq!(warnings(&host, &network("<forward/>", &rest)), [""; 0]);
}

#[test]
fn bridge_with_another_mtu_than_defined_is_named_with_the_command() {
    let host = host().address("192.168.122.1/24");
    let text = network("<forward/>", &format!("<mtu size='9000'/>{IPV4}"));
    assert_eq!(
        warnings(&host, &text),
        [
            "network `n`: bridge `virbr0` has an MTU of 1500 bytes, which counts, and not the 9000 of \
          <mtu size='9000'/>: `ip link set virbr0 mtu 9000`"
        ]
    );
    assert_eq!(planned(&host, &[&text]).plan.networks[0].mtu, 1500);
}

#[test]
fn bridge_without_the_addresses_of_its_network_is_named_with_the_commands() {
    let text = network("<forward/>", &format!("{IPV4}{IPV6}"));
    let no_ipv4 = "network `n`: bridge `virbr0` does not have the address of <ip \
                   address='192.168.122.1'>, which is the guests' gateway: `ip address add \
                   192.168.122.1/24 dev virbr0`";
    assert_eq!(
        warnings(&host(), &text),
        [
            no_ipv4,
            "network `n`: bridge `virbr0` does not have the address of <ip \
             address='fd00:122::1'>, which is the guests' gateway: `ip address add \
             fd00:122::1/64 dev virbr0`"
        ]
    );
    let off = host()
        .change(|link| link.ipv6 = Some(Ipv6Settings { disabled: true, ..link.ipv6.unwrap() }));
    assert_eq!(
        warnings(&off, &text),
        [
            "network `n`: IPv6 is off on bridge `virbr0`, so that guests have no IPv6: `sysctl -w \
             net.ipv6.conf.virbr0.disable_ipv6=0`, then give it the addresses of its <ip>s",
            no_ipv4,
        ]
    );
}

#[test]
fn route_is_present_missing_or_in_the_way() {
    let route = PlannedRoute {
        destination: "10.9.0.0/16".parse().unwrap(),
        gateway: "192.168.122.9".parse().unwrap(),
        metric: 1,
    };
    let mut host = host().address("192.168.122.1/24");
    assert_eq!(route.state(3, &host.0), RouteState::Missing);
    let there = Route {
        destination: route.destination,
        hops: vec![Hop { interface: Some(3), gateway: Some(route.gateway) }],
        priority: 1,
        ..default_route_of(3, RouteProtocol::Static)
    };
    host.0.routes.push(Route { priority: 2, ..there.clone() });
    host.0.routes.push(Route { table: 100, ..there.clone() });
    assert_eq!(route.state(3, &host.0), RouteState::Missing);
    host.0.routes.push(Route { kind: RouteType::BlackHole, hops: vec![], ..there.clone() });
    assert_eq!(route.state(3, &host.0), RouteState::Taken);
    let rest =
        format!("{IPV4}<route address='10.9.0.0' prefix='16' gateway='192.168.122.9' metric='1'/>");
    assert_eq!(
        warnings(&host, &network("<forward/>", &rest)),
        ["network `n`: the host has another route to 10.9.0.0/16 with metric 1 than <route \
          gateway='192.168.122.9'> says, which counts: `ip route delete 10.9.0.0/16 metric 1` makes \
          room"]
    );
    host.0.routes.push(there);
    assert_eq!(route.state(3, &host.0), RouteState::Present);
}

#[test]
fn routes_are_missing_only_where_the_bridge_can_take_them() {
    let rest = format!(
        "{IPV4}{IPV6}<route address='10.9.0.0' prefix='16' gateway='192.168.122.9'/>\
         <route family='ipv6' address='fd00:9::' prefix='48' gateway='fd00:122::9' metric='7'/>"
    );
    let missing = |host: &Host| {
        let (network, _) = fits(host, &network("<forward mode='route'/>", &rest));
        let text = |route: GatewayRoute| {
            format!(
                "{} via {} dev {} metric {}",
                route.destination, route.gateway, route.interface, route.metric
            )
        };
        network.missing_routes(&host.0).into_iter().map(text).collect::<Vec<_>>()
    };
    let ipv4 = "10.9.0.0/16 via 192.168.122.9 dev 3 metric 1";
    let ipv6 = "fd00:9::/48 via fd00:122::9 dev 3 metric 7";
    assert_eq!(missing(&host()), [""; 0]);
    assert_eq!(missing(&host().address("192.168.122.1/24")), [ipv4]);
    let ready = host().address("192.168.122.1/24").address("fd00:122::1/64");
    assert_eq!(missing(&ready), [ipv4, ipv6]);
    let down = ready.change(|link| link.flags = LinkFlags::empty());
    assert_eq!(missing(&down), [""; 0]);
}
