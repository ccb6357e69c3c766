use std::path::Path;

use vnet_common::{
    address::{Address, Ipv4Be},
    network::{NETWORK_ISOLATED_PORTS, Network},
    policy::Mode,
};

use super::*;
use crate::host::{
    Hop, Ipv6Settings, LinkKind, Port, Route,
    address::{AddressFlags, AddressScope},
    fake::Host,
    route::{RouteProtocol, RouteScope, RouteType, TABLE_MAIN},
};

const HOST_PORTS: RangeInclusive<u16> = 32768..=60999;

/// An uplink of both families, and an empty bridge.
fn host() -> Host {
    Host::with_loopback()
        .link(2, "eth0", LinkKind::Physical)
        .address("203.0.113.2/24")
        .address("2001:db8:f::2/64")
        .route("0.0.0.0/0")
        .route("::/0")
        .link(3, "virbr0", LinkKind::Bridge)
}

fn definitions(texts: &[&str]) -> Vec<definition::Network> {
    let load = |text: &&str| {
        let loaded = definition::load_text(Path::new("network.xml"), text);
        let report = loaded.report.render(definition::Severity::Error);
        assert!(!loaded.report.has_errors(), "{report}");
        loaded.networks
    };
    texts.iter().flat_map(load).collect()
}

/// A network on `virbr0` with a `<forward>` and what else is given.
fn network(forward: &str, rest: &str) -> String {
    format!("<network><name>n</name>{forward}<bridge name='virbr0'/>{rest}</network>")
}

const IPV4: &str = "<ip address='192.168.122.1' prefix='24'/>";
const IPV6: &str = "<ip family='ipv6' address='fd00:122::1' prefix='64'/>";

fn planned(host: &Host, texts: &[&str]) -> Planned {
    plan(&definitions(texts), &host.0, HOST_PORTS, &Options::default())
}

/// The plan of one network that fits its host.
fn fits(host: &Host, text: &str) -> (PlannedNetwork, Tables) {
    let planned = planned(host, &[text]);
    assert_eq!(planned.problems, []);
    (planned.plan.networks[0].clone(), Tables::of(&planned.plan))
}

fn prefixes(tables: &Tables) -> Vec<String> {
    let text = |(length, address): &SubnetKey| {
        let address = Address::from_wire(bytemuck::cast(*address)).to_addr();
        let offset = if address.is_ipv4() { Address::IPV4_PREFIX_BITS } else { 0 };
        format!("{address}/{}", length - offset)
    };
    let mut prefixes: Vec<_> = tables.subnets.keys().map(text).collect();
    prefixes.sort();
    prefixes
}

fn entry(tables: &Tables) -> Network {
    tables.networks[&1]
}

#[test]
fn every_mode_of_forward_is_a_mode_of_both_families() {
    let host = host();
    let cases = [
        ("", Mode::Isolated, Mode::Isolated),
        ("<forward/>", Mode::Nat, Mode::Route),
        ("<forward mode='nat'><nat ipv6='no'/></forward>", Mode::Nat, Mode::Route),
        ("<forward mode='nat'><nat ipv6='yes'/></forward>", Mode::Nat, Mode::Nat),
        ("<forward mode='route'/>", Mode::Route, Mode::Route),
        ("<forward mode='open'/>", Mode::Open, Mode::Open),
    ];
    for (forward, ipv4, ipv6) in cases {
        let (network, tables) = fits(&host, &network(forward, IPV4));
        assert_eq!(network.modes, Modes { ipv4, ipv6 }, "{forward}");
        let entry = entry(&tables);
        assert_eq!((entry.mode, entry.mode_ipv6), (ipv4 as u8, ipv6 as u8), "{forward}");
        assert_eq!(tables.bridges[&3], 1);
    }
}

#[test]
fn bridged_network_has_a_slot_and_no_hook_and_its_bridge_may_be_the_uplink() {
    let host = Host::with_loopback()
        .link(2, "eth0", LinkKind::Physical)
        .port(3, Some(Port::Bridge { isolated: false }))
        .link(3, "virbr0", LinkKind::Bridge)
        .address("203.0.113.2/24")
        .route("0.0.0.0/0");
    let planned = planned(&host, &[&network("<forward mode='bridge'/>", "")]);
    assert_eq!(planned.problems, []);
    let network = &planned.plan.networks[0];
    assert!(network.is_bridged());
    assert_eq!((network.slot, network.bridge_ifindex), (1, Some(3)));
    let uplinks: Vec<_> = planned.plan.uplinks.iter().map(|uplink| &*uplink.name).collect();
    assert_eq!(uplinks, ["virbr0"]);
    let tables = Tables::of(&planned.plan);
    assert_eq!(entry(&tables).mode, Mode::Bridged as u8);
    assert!(tables.bridges.is_empty() && tables.subnets.is_empty());
    assert_eq!(tables.uplinks.keys().collect::<Vec<_>>(), [&3]);
}

#[test]
fn macvtap_and_hostdev_are_not_served() {
    let none = "<network><name>n</name><forward mode='bridge'><interface dev='eth0'/></forward>\
                </network>";
    let vepa = none.replace("'bridge'", "'vepa'").replace(">n<", ">m<");
    let planned = planned(&host(), &[none, &vepa]);
    assert_eq!(planned.plan.networks, []);
    assert_eq!(planned.problems, [Problem::NothingToServe]);
    assert_eq!(
        planned.problems[0].to_string(),
        "none of the definitions is of a kind that vnet serves: mode 'nat', 'route', 'open', or \
         'bridge' with a <bridge>, or no <forward>"
    );
}

#[test]
fn missing_bridge_of_the_host_is_not_libvirts_to_make() {
    let text = network("<forward mode='bridge'/>", "").replace("virbr0", "br7");
    let planned = planned(&host(), &[&text]);
    assert_eq!(
        planned.problems[0].to_string(),
        "network `n`: there is no bridge `br7` on this host; make it or correct <bridge \
         name='br7'/>"
    );
    assert_eq!(planned.plan.networks[0].bridge_ifindex, None);
}

#[test]
fn addresses_and_routes_of_both_families_are_in_the_tables() {
    let rest = format!(
        "{IPV4}<ip address='10.1.0.1' prefix='16'/>{IPV6}\
         <ip family='ipv6' address='2001:db8:1::1' prefix='80'/>\
         <route address='10.9.0.0' prefix='16' gateway='192.168.122.9'/>\
         <route address='0.0.0.0' prefix='0' gateway='192.168.122.9' metric='7'/>\
         <route family='ipv6' address='2001:db8:9::' prefix='48' gateway='fd00:122::9'/>"
    );
    let (network, tables) = fits(&host(), &network("<forward mode='route'/>", &rest));
    assert_eq!(
        prefixes(&tables),
        [
            "10.1.0.0/16",
            "10.9.0.0/16",
            "192.168.122.0/24",
            "2001:db8:1::/80",
            "2001:db8:9::/48",
            "fd00:122::/64",
        ]
    );
    assert!(tables.subnets.values().all(|subnet| subnet.network == 1));
    let entry = entry(&tables);
    assert_eq!(entry.gateway.to_addr(), Ipv4Addr::new(192, 168, 122, 1));
    assert_eq!(entry.gateway_ipv6.to_addr().to_string(), "fd00:122::1");
    let metrics: Vec<_> = network.routes.iter().map(|route| route.metric).collect();
    assert_eq!(metrics, [1, 7, 1]);
}

#[test]
fn subnet_of_a_network_wins_over_a_route_of_another_that_equals_it() {
    let route = "<route address='10.1.0.0' prefix='16' gateway='192.168.122.9'/>";
    let first = network("<forward mode='route'/>", &format!("{IPV4}{route}"));
    let second = "<network><name>m</name><bridge name='virbr1'/>\
                  <ip address='10.1.0.1' prefix='16'/></network>";
    for texts in [[&*first, second], [second, &*first]] {
        let host = host().link(4, "virbr1", LinkKind::Bridge);
        let plan = planned(&host, &texts).plan;
        let owner = plan.networks.iter().find(|network| network.name == "m").unwrap().slot;
        let tables = Tables::of(&plan);
        let of_owner: Vec<_> =
            tables.subnets.iter().filter(|(_, subnet)| subnet.network == owner).collect();
        assert_eq!(of_owner.len(), 1, "{tables:?}");
    }
}

#[test]
fn options_of_nat_and_port_are_in_the_entry() {
    let forward = "<forward dev='eth0' mode='nat'><nat>\
                   <address start='203.0.113.16' end='203.0.113.23'/>\
                   <port start='5000' end='5999'/></nat></forward>";
    let rest = format!("{IPV4}<port isolated='yes'/>");
    let (_, tables) = fits(&host(), &network(forward, &rest));
    let entry = entry(&tables);
    assert_eq!(entry.forward_ifindex, 2);
    assert_eq!((entry.ports.first, entry.ports.last), (5000, 5999));
    assert_eq!(entry.pool_first.to_addr(), Ipv4Addr::new(203, 0, 113, 16));
    assert_eq!(entry.pool_last.to_addr(), Ipv4Addr::new(203, 0, 113, 23));
    assert_eq!(entry.flags, NETWORK_ISOLATED_PORTS);
    let (_, tables) = fits(&host(), &network("<forward mode='nat'/>", IPV4));
    assert_eq!(self::entry(&tables).pool_first, Ipv4Be::UNSPECIFIED);
    assert_eq!(self::entry(&tables).flags, 0);
}

#[test]
fn first_interface_of_forward_is_its_device() {
    let forward = "<forward mode='route'><interface dev='eth0'/></forward>";
    let (network, _) = fits(&host(), &network(forward, IPV4));
    assert_eq!(network.forward_ifindex, Some(2));
}

#[test]
fn absent_device_is_a_problem_and_leaves_no_way_out() {
    let planned = planned(&host(), &[&network("<forward mode='route' dev='wan7'/>", IPV4)]);
    assert_eq!(
        planned.problems[0].to_string(),
        "network `n`: there is no interface `wan7` to forward to on this host"
    );
    assert_eq!(planned.plan.networks[0].forward_ifindex, Some(ABSENT_INTERFACE));
}

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
        let text = |route: crate::host::GatewayRoute| {
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
    let down = ready.change(|link| link.flags = crate::host::link::LinkFlags::empty());
    assert_eq!(missing(&down), [""; 0]);
}
