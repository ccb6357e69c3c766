//! Networks and their entries in the tables.

use vnet_common::{
    address::{Address, Ipv4Be},
    network::{NETWORK_ISOLATED_PORTS, Network, SUBNET_IS_HOST, SUBNET_NO_STATION},
    policy::Mode,
    timeout::Timeouts,
};

use super::*;
use crate::host::Port;

/// The subnets, without the host's own addresses.
fn prefixes(tables: &Tables) -> Vec<String> {
    let text = |length: u32, address: IpAddr| {
        let offset = if address.is_ipv4() { Address::IPV4_PREFIX_BITS } else { 0 };
        format!("{address}/{}", length - offset)
    };
    let mut prefixes: Vec<_> = (tables.subnets.iter())
        .filter(|(_, subnet)| subnet.flags & (SUBNET_IS_HOST | SUBNET_NO_STATION) == 0)
        .map(|((length, prefix), _)| text(*length, address(prefix)))
        .collect();
    prefixes.sort();
    prefixes
}

/// The host's own addresses with the networks that they are on.
fn own(tables: &Tables) -> Vec<(u16, String)> {
    let mut own: Vec<_> = (tables.subnets.iter())
        .filter(|(_, subnet)| subnet.flags == SUBNET_IS_HOST)
        .map(|((length, prefix), subnet)| {
            assert_eq!(*length, 128);
            (subnet.network, address(prefix).to_string())
        })
        .collect();
    own.sort();
    own
}

fn address(prefix: &[u8; 16]) -> IpAddr {
    Address::from_wire(bytemuck::cast(*prefix)).to_addr()
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
    assert!(tables.bridges.is_empty() && prefixes(&tables).is_empty());
    assert_eq!(tables.uplinks.keys().collect::<Vec<_>>(), [&3]);
}

#[test]
fn macvtap_and_other_switches_are_not_served() {
    let none = "<network><name>n</name><forward mode='bridge'><interface dev='eth0'/></forward>\
                </network>";
    let vepa = none.replace("'bridge'", "'vepa'").replace(">n<", ">m<");
    let switch = network("<forward mode='bridge'/>", "<virtualport type='openvswitch'/>");
    let planned = planned(&host(), &[none, &vepa, &switch.replace(">n<", ">o<")]);
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
    let own_expected = [
        (0, "2001:db8:f::2"),
        (0, "203.0.113.2"),
        (1, "10.1.0.1"),
        (1, "192.168.122.1"),
        (1, "2001:db8:1::1"),
        (1, "fd00:122::1"),
    ];
    assert_eq!(own(&tables), own_expected.map(|(network, own)| (network, own.to_owned())));
    let of_prefixes = tables.subnets.values().filter(|subnet| subnet.flags & SUBNET_IS_HOST == 0);
    assert!(of_prefixes.into_iter().all(|subnet| subnet.network == 1));
    let entry = entry(&tables);
    assert_eq!(entry.gateway.to_addr(), Ipv4Addr::new(192, 168, 122, 1));
    assert_eq!(entry.gateway_ipv6.to_addr().to_string(), "fd00:122::1");
    let metrics: Vec<_> = network.routes.iter().map(|route| route.metric).collect();
    assert_eq!(metrics, [1, 7, 1]);
}

#[test]
fn ends_of_ipv4_subnets_are_no_stations_but_in_open_networks() {
    let ends = |forward: &str, prefix: u8| {
        let rest = format!("<ip address='192.168.122.1' prefix='{prefix}'/>{IPV6}");
        let (_, tables) = fits(&host(), &network(forward, &rest));
        let ends = tables.subnets.iter().filter(|(_, subnet)| subnet.flags == SUBNET_NO_STATION);
        ends.map(|((length, prefix), subnet)| {
            assert_eq!((*length, subnet.network), (128, 1));
            address(prefix).to_string()
        })
        .collect::<Vec<_>>()
    };
    for forward in ["", "<forward mode='nat'/>", "<forward mode='route'/>"] {
        assert_eq!(ends(forward, 24), ["192.168.122.0", "192.168.122.255"]);
        assert_eq!(ends(forward, 31), [""; 0]);
    }
    assert_eq!(ends("<forward mode='open'/>", 24), [""; 0]);
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
            tables.subnets.values().filter(|subnet| subnet.network == owner).collect();
        assert_eq!(
            of_owner.len(),
            4,
            "its subnet, the ends of that, and the host's address: {tables:?}"
        );
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
fn limits_and_idle_times_are_in_the_entry() {
    let options = "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>\
                   <vnet:limits flows='10' ports='20' new-flows='30' network-flows='40'/>\
                   <vnet:timeouts tcp='7441' tcp-transitory='241' udp='121' icmp='61' other='5' \
                   port-hold-down='122'/></vnet:options></metadata>";
    let (_, tables) =
        fits(&host(), &network("<forward mode='nat'/>", &(options.to_owned() + IPV4)));
    let entry = entry(&tables);
    assert_eq!((entry.flows_per_guest, entry.ports_per_guest), (10, 20));
    assert_eq!((entry.new_flows_per_second, entry.flow_limit), (30, 40));
    let timeouts = Timeouts {
        tcp_established: 7441,
        tcp_transitory: 241,
        udp: 121,
        icmp_query: 61,
        other: 5,
        port_hold_down: 122,
    };
    assert_eq!(entry.timeouts, timeouts);
    let (_, tables) = fits(&host(), &network("<forward mode='nat'/>", IPV4));
    let entry = self::entry(&tables);
    assert_eq!((entry.flows_per_guest, entry.ports_per_guest), (1 << 14, 1 << 14));
    assert_eq!((entry.new_flows_per_second, entry.flow_limit), (0, 1 << 18));
    assert_eq!(entry.timeouts, Timeouts::default());
}

#[test]
fn one_guest_may_hold_half_of_the_ports_that_are_the_hosts_to_give_unless_it_is_set() {
    let limits = |first: u16, last: u16, reserved: &[RangeInclusive<u16>], options: &str| {
        let nat = format!(
            "<forward mode='nat'><nat><address start='203.0.113.16' end='203.0.113.19'/>\
             <port start='{first}' end='{last}'/></nat></forward>"
        );
        let options = format!(
            "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{options}</vnet:options></metadata>"
        );
        let host_ports = HostPorts { ephemeral: 32768..=60999, reserved: reserved.to_vec() };
        let definitions = definitions(&[&network(&nat, &(options + IPV4))]);
        let planned = plan(&definitions, &host().0, host_ports, &Options::default());
        let network = &planned.plan.networks[0];
        (network.flows_per_guest, network.ports_per_guest)
    };
    let default = 1 << 14;
    assert_eq!(limits(20000, 20999, &[], ""), (default, 500));
    assert_eq!(limits(20000, 20999, &[20000..=20009, 20500..=30000], ""), (default, 245));
    assert_eq!(limits(32000, 40000, &[], ""), (default, 384));
    assert_eq!(limits(20000, 20000, &[], ""), (default, 1));
    // There is none, and more than none would be no limit.
    assert_eq!(limits(40000, 40999, &[], ""), (default, 1));
    assert_eq!(limits(1024, 65535, &[], ""), (default, default));
    assert_eq!(limits(20000, 20999, &[], "<vnet:limits flows='100'/>"), (100, 100));
    assert_eq!(limits(20000, 20999, &[], "<vnet:limits ports='2000'/>"), (default, 2000));
    assert_eq!(limits(20000, 20999, &[], "<vnet:limits flows='9' ports='20'/>"), (9, 20));
}

#[test]
fn reserved_ports_are_in_the_tables() {
    let host_ports = HostPorts { ephemeral: 32768..=60999, reserved: vec![80..=81, 8080..=8080] };
    let definitions = definitions(&[&network("<forward mode='nat'/>", IPV4)]);
    let planned = plan(&definitions, &host().0, host_ports, &Options::default());
    assert_eq!(Tables::of(&planned.plan).reserved_ports, [80..=81, 8080..=8080]);
}

#[test]
fn none_of_several_masqueraded_networks_may_take_the_whole_table() {
    let second = "<network><name>m</name><forward mode='nat'/><bridge name='virbr1'/>\
                  <ip address='192.168.123.1' prefix='24'/></network>";
    let host = host().link(4, "virbr1", LinkKind::Bridge);
    let planned = planned(&host, &[&network("<forward mode='nat'/>", IPV4), second]);
    let limits: Vec<u32> = planned.plan.networks.iter().map(|network| network.flow_limit).collect();
    assert_eq!(limits, [3 << 16, 3 << 16]);
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
