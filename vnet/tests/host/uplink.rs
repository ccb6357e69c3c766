use std::net::Ipv4Addr;

use vnet::host::{Reach, snapshot, uplinks};

use crate::namespace::{in_namespace, ip};

/// The source address that the kernel picks for a destination.
fn kernel_source(destination: &str) -> String {
    let answer = ip(&format!("-o route get {destination}"));
    let mut words = answer.split_ascii_whitespace().skip_while(|word| *word != "src");
    words.nth(1).unwrap().to_owned()
}

// The source of a route through a gateway is chosen as masquerading chooses it:
// fib_info_update_nhc_saddr in net/ipv4/fib_semantics.c.
#[test]
fn masquerade_address_is_the_one_that_the_kernel_selects() {
    in_namespace(|| async {
        ip("link add eth0 type veth peer name peer0");
        ip("link add eth1 type veth peer name peer1");
        for name in ["eth0", "peer0", "eth1", "peer1"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 169.254.7.7/16 scope link dev eth0");
        ip("address add 192.0.2.10/24 dev eth0");
        ip("address add 192.0.2.11/24 dev eth0");
        ip("address add 198.51.100.10/24 dev eth0");
        ip("address add 10.200.0.1 peer 10.200.0.2/32 dev eth0");
        ip("address add 10.100.0.1/32 scope link dev eth1");
        let gateways = [
            ("10.1.0.1", "192.0.2.1", "eth0"),
            ("10.2.0.1", "198.51.100.1", "eth0"),
            ("10.3.0.1", "203.0.113.1", "eth0"),
            ("10.4.0.1", "10.200.0.2", "eth0"),
            ("10.5.0.1", "169.254.1.1", "eth0"),
            ("10.6.0.1", "203.0.113.1", "eth1"),
            ("10.7.0.1", "198.51.100.1", "eth1"),
        ];
        for (destination, gateway, interface) in gateways {
            ip(&format!("route add {destination}/32 via {gateway} dev {interface} onlink"));
        }

        let found = uplinks(&snapshot().await.unwrap(), &[]);
        let mut sources = Vec::new();
        for (destination, gateway, interface) in gateways {
            let uplink = found.iter().find(|uplink| uplink.name == interface).unwrap();
            let gateway: Ipv4Addr = gateway.parse().unwrap();
            let chosen = uplink.masquerade_address(gateway).unwrap().to_string();
            assert_eq!(chosen, kernel_source(destination), "via {gateway} dev {interface}");
            sources.push(chosen);
        }
        assert_eq!(
            sources,
            [
                "192.0.2.10",
                "198.51.100.10",
                "192.0.2.10",
                "10.200.0.1",
                "192.0.2.10",
                "192.0.2.10",
                "192.0.2.10",
            ]
        );
    });
}

// nf_nat_masquerade_ipv6 asks ipv6_dev_get_saddr, as a route look-up does.
#[test]
fn first_ipv6_address_is_the_one_that_the_kernel_selects() {
    in_namespace(|| async {
        ip("link add eth0 type veth peer name peer0");
        for name in ["eth0", "peer0"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 2001:db8:f::1/64 dev eth0 nodad");
        ip("route add default via 2001:db8:f::ff dev eth0");
        for (address, kernels) in [
            ("2001:db8:f::2/64 dev eth0 nodad", "2001:db8:f::2"),
            ("2001:db8:f::3/64 dev eth0 nodad preferred_lft 0", "2001:db8:f::2"),
            ("2001:db8:f::4/64 dev eth0 nodad", "2001:db8:f::4"),
        ] {
            ip(&format!("address add {address}"));
            let found = uplinks(&snapshot().await.unwrap(), &[]);
            let first = found[0].masquerade_ipv6[0];
            assert_eq!(first.addr().to_string(), kernel_source("2001:db8:1::1"));
            assert_eq!((first.addr().to_string().as_str(), first.prefix_len()), (kernels, 64));
        }
    });
}

#[test]
fn bridge_with_an_address_is_found_and_definitions_bridges_are_not() {
    in_namespace(|| async {
        ip("link add br0 type bridge");
        ip("link add virbr0 type bridge");
        ip("link add nic type veth peer name wire");
        ip("link set nic master br0");
        ip("tuntap add name tap0 mode tap");
        ip("link set tap0 master virbr0");
        for name in ["br0", "virbr0", "nic", "wire", "tap0"] {
            ip(&format!("link set {name} up"));
        }
        ip("address add 192.0.2.10/24 dev br0");
        ip("address add 192.168.122.1/24 dev virbr0");
        ip("route add default via 192.0.2.1");

        let snapshot = snapshot().await.unwrap();
        let virbr0 = snapshot.link_named("virbr0").unwrap().index;
        let found = uplinks(&snapshot, &[virbr0]);
        let names: Vec<_> =
            found.iter().map(|uplink| (uplink.name.as_str(), uplink.ipv4, uplink.ipv6)).collect();
        assert_eq!(names, [("br0", Reach::Default, Reach::Nothing)]);
    });
}
