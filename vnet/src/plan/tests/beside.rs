//! What of the host is in a network's way.

use super::*;
use crate::{
    host::{
        BondMode, Hop, Link, Port, Route,
        address::{AddressFlags, AddressScope},
        listening::Listening,
        netfilter::Ruleset,
        route::{RouteProtocol, RouteType, TABLE_LOCAL, TABLE_MAIN},
    },
    instance::{self, state::NetworkState},
    plan::beside::{Advice, Surroundings, advice, bonds},
};
use vnet_common::flow::protocol;

const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

fn advice_of(host: &Host, text: &str, around: &Surroundings) -> Vec<Advice> {
    let definitions = definitions(&[text]);
    let planned = plan(&definitions, &host.0, HOST_PORTS, &Options::default());
    assert_eq!(planned.problems, []);
    advice(&definitions, &planned.plan, &host.0, around)
}

fn around() -> Surroundings {
    Surroundings { ephemeral: Some(EPHEMERAL), ..Surroundings::default() }
}

/// What is found of the default network: whether it is fatal, what, and what mends it.
fn found(host: &Host, around: &Surroundings) -> Vec<(bool, String, String)> {
    let advice = advice_of(host, &network("<forward mode='nat'/>", IPV4), around);
    advice.into_iter().map(|one| (one.is_fatal, one.message, one.mend)).collect()
}

fn with_options(options: &str) -> String {
    let metadata = format!(
        "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{options}</vnet:options></metadata>"
    );
    network("<forward mode='nat'/>", &(metadata + IPV4))
}

#[test]
fn bridges_own_routes_and_wider_ones_are_no_collision() {
    let host = host()
        .address("192.168.122.1/24")
        .route("192.168.122.0/24")
        .link(4, "vpn", LinkKind::Tun)
        .route("192.168.0.0/16")
        .route_of("192.168.122.0/24", 100, RouteType::Unicast, &[4])
        .route_of("192.168.122.1/32", TABLE_LOCAL, RouteType::Local, &[4])
        .route_of("192.168.122.0/24", TABLE_MAIN, RouteType::Unreachable, &[]);
    assert_eq!(found(&host, &around()), []);
}

#[test]
fn another_route_to_the_subnet_is_fatal_and_one_to_a_part_of_it_is_not() {
    let host = host().link(4, "vpn", LinkKind::Tun).route("192.168.122.0/24");
    let exact = found(&host, &around());
    assert_eq!(
        exact,
        [(
            true,
            "network `n`: the host has a route to its subnet 192.168.122.0/24 by `vpn` already, so that \
             packets to guests would go there"
                .to_owned(),
            "give the network another subnet in its <ip>, or, if that route is not needed, ip route delete \
             192.168.122.0/24 dev vpn"
                .to_owned()
        )]
    );
    let host = self::host().link(4, "vpn", LinkKind::Tun).route("192.168.122.8/32");
    let part = found(&host, &around());
    assert_eq!(
        part,
        [(
            false,
            "network `n`: the host has a route to 192.168.122.8/32, a part of its subnet \
             192.168.122.0/24, by `vpn`: what is for guests with these addresses goes there"
                .to_owned(),
            "ip route delete 192.168.122.8/32 dev vpn".to_owned()
        )]
    );
    let ipv6 = self::host().link(4, "vpn", LinkKind::Tun).route("fd00:122::/64");
    let advice = advice_of(&ipv6, &network("<forward mode='route'/>", IPV6), &around());
    assert_eq!(advice.iter().map(|one| one.is_fatal).collect::<Vec<_>>(), [true]);
}

#[test]
fn networks_of_other_instances_keep_their_bridges_and_subnets() {
    let neighbour = |bridge: u32, mode: &str, subnet: &str| Surroundings {
        neighbours: vec![instance::State {
            layout: 1,
            version: String::new(),
            instance: "rack".to_owned(),
            pid: 1,
            started: 1,
            pins: "/".into(),
            flow_limit: 1,
            networks: vec![NetworkState {
                slot: 1,
                name: "m".to_owned(),
                mode: mode.to_owned(),
                mode_ipv6: mode.to_owned(),
                bridge: "virbr9".to_owned(),
                bridge_ifindex: bridge,
                subnets: vec![subnet.parse().unwrap()],
                masquerade: Vec::new(),
            }],
            uplinks: Vec::new(),
            hooks: Vec::new(),
            guests: Vec::new(),
            services: Vec::new(),
            shortcut: instance::state::ShortcutState::default(),
        }],
        ..around()
    };
    let mend =
        "vnet detach --instance rack, or take one of the two networks out of its definitions";
    for (bridge, subnet, expected) in [
        (9, "192.168.123.0/24", None),
        (
            9,
            "192.168.122.128/25",
            Some(
                "network `n`: its subnet 192.168.122.0/24 overlaps 192.168.122.128/25 of network `m` of \
                 instance `rack`",
            ),
        ),
        (
            3,
            "192.168.123.0/24",
            Some(
                "network `n`: its bridge `virbr0` is that of network `m` of instance `rack`: two \
                 datapaths would translate the same packets",
            ),
        ),
    ] {
        let found = found(&host(), &neighbour(bridge, "nat", subnet));
        let expected = expected.map(|text| (true, text.to_owned(), mend.to_owned()));
        assert_eq!(found, Vec::from_iter(expected), "{bridge} {subnet}");
    }
    let bridged = network("<forward mode='bridge'/>", "");
    let shared = neighbour(3, "bridge", "192.168.123.0/24");
    assert_eq!(advice_of(&host(), &bridged, &shared), []);
}

/// A bond, with a slave, that is a port of `virbr0` or an uplink itself.
fn bond(is_port: bool, change: impl FnOnce(&mut Link)) -> Host {
    let host = host().link(4, "bond0", LinkKind::Bond).change(change);
    let host = if is_port {
        host.port(3, Some(Port::Bridge { isolated: false }))
    } else {
        host.route("198.51.100.0/24")
    };
    host.link(5, "eth1", LinkKind::Physical).port(4, Some(Port::Bond))
}

#[test]
fn bonds_have_modes_that_keep_order_and_addresses() {
    let verdict = |is_port, mode| {
        let host = bond(is_port, |link| link.bond.as_mut().unwrap().mode = mode);
        let found = found(&host, &around());
        let by_host: Vec<_> = bonds(&host.0).iter().map(|one| one.is_fatal).collect();
        assert_eq!(by_host, vec![is_port; found.len()]);
        found.first().map(|(is_fatal, message, _)| (*is_fatal, message[..26].to_owned()))
    };
    let number =
        |is_fatal, number: u8| Some((is_fatal, format!("bond `bond0` has mode {number} (b")));
    for (mode, below_bridge, uplink) in [
        (BondMode::BalanceRr, number(true, 0), number(true, 0)),
        (BondMode::ActiveBackup, None, None),
        (BondMode::BalanceXor, None, None),
        (BondMode::Broadcast, number(true, 3), number(true, 3)),
        (BondMode::Ieee8023Ad, None, None),
        (BondMode::BalanceTlb, number(true, 5), number(true, 5)),
        (BondMode::BalanceAlb, number(true, 6), number(true, 6)),
    ] {
        assert_eq!(verdict(true, mode), below_bridge, "{mode:?}");
        assert_eq!(verdict(false, mode), uplink, "{mode:?}");
    }
    let host = bond(true, |link| link.bond.as_mut().unwrap().mode = BondMode::BalanceAlb);
    assert_eq!(
        found(&host, &around()),
        [(
            true,
            "bond `bond0` has mode 6 (balance-alb), which puts its slaves' MAC addresses in the place of \
             the guests', in their ARP answers as well, so that answers are lost; modes 1, 2 and 4 do not"
                .to_owned(),
            "ip link set bond0 down && ip link set eth1 nomaster && ip link set bond0 type bond mode \
             active-backup miimon 100 && ip link set eth1 down && ip link set eth1 master bond0 && \
             ip link set bond0 up"
                .to_owned()
        )]
    );
}

#[test]
fn other_mode_of_an_uplink_gives_back_what_it_loses_when_it_is_down() {
    let hop = |interface, gateway: Option<&str>| Hop {
        interface: Some(interface),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
    };
    let host = bond(false, |link| link.bond.as_mut().unwrap().mode = BondMode::BalanceRr);
    let mut host = host
        .address_of("fe80::5/64", AddressScope::Link, AddressFlags::Permanent)
        .link(6, "bond0.7", LinkKind::Vlan)
        .change(|link| link.parent = Some(4))
        .address("192.0.2.9/24")
        .address("2001:db8:7::9/64")
        .address_of("2001:db8:8::9/64", AddressScope::Universe, AddressFlags::empty())
        .address_of("fe80::9/64", AddressScope::Link, AddressFlags::Permanent)
        .route("192.0.2.0/24")
        .change_route(|route| route.protocol = RouteProtocol::Kernel)
        .route("0.0.0.0/0")
        .change_route(|route| {
            route.protocol = RouteProtocol::Dhcp;
            route.preferred_source = Some("192.0.2.9".parse().unwrap());
            route.hops = vec![hop(6, Some("192.0.2.1"))];
        })
        .route("192.0.2.128/25")
        .route("10.0.0.0/8")
        .change_route(|route| {
            (route.table, route.protocol) = (7, RouteProtocol::Boot);
            route.hops = vec![hop(4, Some("203.0.113.77")), hop(6, Some("192.0.2.2"))];
        })
        .route("fe80::/64")
        .change_route(|route| route.protocol = RouteProtocol::Kernel)
        .route("::/0")
        .change_route(|route| {
            (route.priority, route.protocol) = (1024, RouteProtocol::Boot);
            route.hops = vec![hop(6, Some("fe80::1"))];
        })
        .route("172.16.0.0/12")
        .change_route(|route| {
            route.priority = 5;
            route.hops = vec![hop(6, Some("fe80::1"))];
        });
    // These stay, or come back by themselves.
    for (destination, protocol, interface) in
        [("10.9.0.0/16", RouteProtocol::Bird, 6), ("10.8.0.0/16", RouteProtocol::Static, 2)]
    {
        let route = |route: &mut Route| {
            (route.protocol, route.hops) = (protocol, vec![hop(4, None), hop(interface, None)]);
        };
        host = host.route(destination).change_route(route);
    }
    let (_, _, mend) = found(&host, &around()).remove(0);
    let (_, given_back) = mend.split_once(" && ip link set bond0 up && ").unwrap();
    assert_eq!(
        given_back.split(" && ").collect::<Vec<_>>(),
        [
            "ip address replace 2001:db8:7::9/64 dev bond0.7 nodad",
            "ip -4 route replace 198.51.100.0/24 proto static dev bond0",
            "ip -4 route replace 192.0.2.128/25 proto static dev bond0.7",
            "ip -4 route replace default proto dhcp src 192.0.2.9 via 192.0.2.1 dev bond0.7",
            "ip -4 route replace 10.0.0.0/8 table 7 nexthop via 203.0.113.77 dev bond0 onlink nexthop via \
             192.0.2.2 dev bond0.7",
            "ip -6 route replace default via fe80::1 dev bond0.7",
            "ip -4 route replace 172.16.0.0/12 proto static metric 5 via inet6 fe80::1 dev bond0.7",
        ]
    );
}

#[test]
fn bonds_watch_their_slaves_and_below_bridges_not_by_arp() {
    let verdict = |is_port, miimon, arp_interval| {
        let host = bond(is_port, |link| {
            let bond = link.bond.as_mut().unwrap();
            (bond.miimon, bond.arp_interval) = (miimon, arp_interval);
        });
        let found = found(&host, &around());
        found.first().map(|(is_fatal, _, mend)| (*is_fatal, mend.clone()))
    };
    let mend = |is_fatal, settings: &str| {
        Some((is_fatal, format!("ip link set bond0 type bond {settings}miimon 100")))
    };
    assert_eq!(verdict(true, 100, 0), None);
    assert_eq!(verdict(true, 0, 0), mend(true, ""));
    assert_eq!(verdict(false, 0, 0), mend(false, ""));
    assert_eq!(verdict(true, 0, 1000), mend(true, "arp_interval 0 "));
    assert_eq!(verdict(false, 0, 1000), None);
}

#[test]
fn bond_below_a_vlan_of_a_bridge_carries_guests_frames() {
    let host = host()
        .link(4, "bond0", LinkKind::Bond)
        .change(|link| link.bond.as_mut().unwrap().mode = BondMode::BalanceTlb)
        .link(5, "bond0.7", LinkKind::Vlan)
        .change(|link| link.parent = Some(4))
        .port(3, Some(Port::Bridge { isolated: false }));
    assert_eq!(found(&host, &around()).len(), 1);
    assert_eq!(bonds(&host.0).len(), 1);
    // One that no network uses is nobody's business but the doctor's.
    let other = self::host()
        .link(4, "bond0", LinkKind::Bond)
        .change(|link| link.bond.as_mut().unwrap().miimon = 0);
    assert_eq!(found(&other, &around()), []);
    assert_eq!(bonds(&other.0).len(), 1);
}

#[test]
fn ports_that_the_host_keeps_are_counted() {
    let verdict = |port: &str, ephemeral: RangeInclusive<u16>, reserved: &[RangeInclusive<u16>]| {
        let text = network(&format!("<forward mode='nat'><nat>{port}</nat></forward>"), IPV4);
        let around = Surroundings {
            ephemeral: Some(ephemeral),
            reserved: reserved.to_vec(),
            ..Surroundings::default()
        };
        let found = advice_of(&host(), &text, &around);
        found.first().map(|one| (one.is_fatal, one.message.clone(), one.mend.clone()))
    };
    assert_eq!(verdict("", EPHEMERAL, &[7000..=7010]), None);
    assert_eq!(verdict("<port start='2000' end='2999'/>", EPHEMERAL, &[]), None);
    let kept = "the host keeps every one of them for itself (net.ipv4.ip_local_port_range is";
    assert_eq!(
        verdict("", 1024..=65535, &[]),
        Some((
            true,
            format!(
                "network `n`: its guests are masqueraded to ports 1024-65535, and {kept} 1024-65535)"
            ),
            "sysctl -w net.ipv4.ip_local_port_range='32768 60999'".to_owned()
        ))
    );
    let (is_fatal, message, mend) =
        verdict("<port start='40000' end='40099'/>", EPHEMERAL, &[]).unwrap();
    assert!(is_fatal && message.contains("40000-40099, and the host keeps every one"), "{message}");
    assert!(mend.starts_with("write other ports into <port start='…' end='…'/>"), "{mend}");
    let (is_fatal, message, _) =
        verdict("<port start='32000' end='32999'/>", EPHEMERAL, &[32010..=32019]).unwrap();
    assert!(!is_fatal);
    assert_eq!(
        message,
        "network `n`: of the 1000 ports 32000-32999 of its <nat>, 758 are left for guests: the host keeps \
         the others for itself (net.ipv4.ip_local_port_range is 32768-60999, \
         net.ipv4.ip_local_reserved_ports is \"32010-32019\")"
    );
}

#[test]
fn forward_wins_over_a_socket_of_the_host() {
    let text = with_options("<vnet:forward protocol='tcp' port='22' to='192.168.122.9'/>");
    let socket = |protocol, address: &str, port| Listening {
        protocol,
        address: address.parse().unwrap(),
        port,
    };
    let verdict = |sockets: Vec<Listening>| {
        let found = advice_of(&host(), &text, &Surroundings { sockets, ..around() });
        found.into_iter().map(|one| (one.is_fatal, one.message, one.mend)).collect::<Vec<_>>()
    };
    assert_eq!(
        verdict(vec![
            socket(protocol::UDP, "0.0.0.0", 22),
            socket(protocol::TCP, "127.0.0.1", 22),
            socket(protocol::TCP, "0.0.0.0", 23),
            socket(protocol::TCP, "203.0.113.3", 22),
        ]),
        []
    );
    let expected = [(
        false,
        "network `n`: TCP port 22 of 203.0.113.2 is forwarded to 192.168.122.9, and a socket of the host \
         waits there, too: the forward wins, so that nobody outside reaches that service"
            .to_owned(),
        "move one of the two to another port; whose it is, says ss -Hltnp 'sport = :22'".to_owned(),
    )];
    let both = vec![socket(protocol::TCP, "0.0.0.0", 22), socket(protocol::TCP, "::", 22)];
    assert_eq!(verdict(both), expected);
    assert_eq!(verdict(vec![socket(protocol::TCP, "203.0.113.2", 22)]), expected);
}

#[test]
fn forwarded_port_is_kept_from_the_hosts_own_sockets() {
    let text = with_options(
        "<vnet:forward protocol='udp' port='40000' last-port='40009' to='192.168.122.9'/>",
    );
    let verdict = |reserved: Vec<RangeInclusive<u16>>| {
        let found = advice_of(&host(), &text, &Surroundings { reserved, ..around() });
        found.into_iter().map(|one| (one.is_fatal, one.message, one.mend)).collect::<Vec<_>>()
    };
    let [(false, message, mend)] = &verdict(vec![50000..=50001])[..] else { panic!() };
    assert_eq!(
        message,
        "network `n`: its forward of UDP 40000-40009 is in the host's ephemeral ports (32768-60999): \
         answers to a socket of the host that gets port 40000 may go to the guest"
    );
    assert_eq!(mend, "sysctl -w net.ipv4.ip_local_reserved_ports=40000-40009,50000-50001");
    assert_eq!(verdict(vec![40000..=40009]), []);
}

#[test]
fn rules_that_translate_the_same_guests_are_told_with_whose_they_are() {
    let rules = |table: &str, chain: &str| {
        let text = format!(
            r#"{{"nftables": [{{"rule": {{"family": "ip", "table": "{table}", "chain": "{chain}",
            "expr": [{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip",
            "field": "saddr"}}}}, "right": {{"prefix": {{"addr": "192.168.122.0", "len": 24}}}}}}}},
            {{"masquerade": null}}]}}}}]}}"#
        );
        Surroundings { rules: Some(Ruleset::parse(&text).unwrap()), ..around() }
    };
    let libvirt = found(&host(), &rules("nat", "LIBVIRT_PRT"));
    assert_eq!(
        libvirt,
        [(
            false,
            "network `n`: libvirt's chain LIBVIRT_PRT of table ip nat masquerades its guests, too: packets \
             that vnet leaves to the host's stack get no replies"
                .to_owned(),
            "virsh net-edit n, write <forward mode='open'/> and <vnet:masquerade/> into its <metadata>, then \
             virsh net-destroy n and virsh net-start n"
                .to_owned()
        )]
    );
    let other = found(&host(), &rules("mine", "out"));
    assert_eq!(
        other[0].2,
        "nft -a list chain ip mine out, and delete the rule or except the subnet in it"
    );
    let open = network("<forward mode='open'/>", IPV4);
    assert_eq!(advice_of(&host(), &open, &rules("nat", "LIBVIRT_PRT")), []);
}
