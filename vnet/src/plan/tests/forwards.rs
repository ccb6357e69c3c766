//! Where port forwards are, and where they lead.

use std::{fmt::Write as _, net::IpAddr};

use super::*;

/// A NAT network with forwards, bound to a device if one is given.
fn with_forwards(device: &str, forwards: &str) -> String {
    let options = format!(
        "<metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{forwards}</vnet:options></metadata>"
    );
    let device = if device.is_empty() { String::new() } else { format!(" dev='{device}'") };
    let forward = format!("{options}<forward mode='nat'{device}><nat ipv6='yes'/></forward>");
    network(&forward, &format!("{IPV4}{IPV6}"))
}

/// Two uplinks, the second one with two addresses.
fn two_uplinks() -> Host {
    host()
        .link(4, "eth1", LinkKind::Physical)
        .address("198.51.100.2/24")
        .address("198.51.100.3/24")
        .route("198.18.0.0/15")
}

/// External address, uplink.
fn places(host: &Host, text: &str) -> (Vec<(String, u32)>, Vec<Warning>) {
    let planned = planned(host, &[text]);
    let places = planned.plan.forwards.iter();
    (
        places.map(|forward| (forward.external.to_string(), forward.uplink)).collect(),
        planned.warnings.into_iter().filter(is_of_forwards).collect(),
    )
}

fn is_of_forwards(warning: &Warning) -> bool {
    matches!(warning, Warning::ForwardWithoutUplink { .. })
}

#[test]
fn forward_is_on_all_addresses_of_its_family_that_its_network_may_use() {
    let ipv4 = "<vnet:forward protocol='tcp' port='80' to='192.168.122.10'/>";
    let ipv6 = "<vnet:forward protocol='tcp' port='80' to='fd00:122::10'/>";
    let eth0 = ("203.0.113.2".to_owned(), 2);
    let eth1 = [("198.51.100.2".to_owned(), 4), ("198.51.100.3".to_owned(), 4)];
    let all = [std::slice::from_ref(&eth0), &eth1[..]].concat();
    let host = two_uplinks();
    assert_eq!(places(&host, &with_forwards("", ipv4)), (all, vec![]));
    assert_eq!(places(&host, &with_forwards("eth0", ipv4)).0, [eth0]);
    assert_eq!(places(&host, &with_forwards("eth1", ipv4)).0, eth1);
    assert_eq!(places(&host, &with_forwards("", ipv6)).0, [("2001:db8:f::2".to_owned(), 2)]);
    let (places, warnings) = places(&host, &with_forwards("eth1", ipv6));
    assert_eq!((places.len(), warnings.len()), (0, 1));
    let message = warnings[0].to_string();
    assert!(message.contains("network `n`: no uplink that it may use has an address"), "{message}");
}

#[test]
fn address_of_a_forward_is_its_uplinks_or_is_routed_to_the_host() {
    let at = |address: &str| {
        format!("<vnet:forward protocol='udp' address='{address}' port='53' to='192.168.122.10'/>")
    };
    let host = two_uplinks();
    let place = |device: &str, address: &str| {
        places(&host, &with_forwards(device, &at(address))).0.first().map(|place| place.1)
    };
    assert_eq!(place("", "198.51.100.3"), Some(4));
    assert_eq!(place("eth1", "198.51.100.3"), Some(4));
    assert_eq!(place("eth0", "198.51.100.3"), None);
    // No interface's.
    assert_eq!(place("", "192.0.2.77"), Some(2));
    assert_eq!(place("eth1", "192.0.2.77"), Some(4));
}

#[test]
fn forwards_become_prefixes_of_ports() {
    let forwards = "<vnet:forward protocol='tcp' port='8080' last-port='8089' to='192.168.122.10' \
                    to-port='80'/>";
    let plan = planned(&host(), &[&with_forwards("", forwards)]).plan;
    let tables = Tables::of(&plan);
    let found: Vec<_> = tables
        .forwards
        .iter()
        .map(|((length, key), forward)| {
            let key: vnet_common::forward::ForwardKey = bytemuck::pod_read_unaligned(key);
            let ends = (key.external.to_addr(), forward.inside.to_addr());
            let (port, to) = (key.port.to_host(), forward.inside_port(key.port).to_host());
            (*length, ends, key.protocol, port, to, forward.uplink_ifindex, forward.network)
        })
        .collect();
    let ends: (IpAddr, IpAddr) =
        ("203.0.113.2".parse().unwrap(), "192.168.122.10".parse().unwrap());
    assert_eq!(found, [(157, ends, 6, 8080, 80, 2, 1), (159, ends, 6, 8088, 88, 2, 1)]);
    // An uplink without hooks lets nothing in.
    let mut without = plan;
    without.uplinks.clear();
    assert!(Tables::of(&without).forwards.is_empty());
}

#[test]
fn more_forwards_than_there_is_room_for_are_a_problem() {
    let mut forwards = String::new();
    for protocol in ["tcp", "udp"] {
        for address in 0..1200 {
            let address = Ipv4Addr::from(0xc612_0000 + address);
            let ports = "port='1' last-port='65534' to='192.168.122.10'";
            writeln!(forwards, "<vnet:forward protocol='{protocol}' address='{address}' {ports}/>")
                .unwrap();
        }
    }
    let planned = planned(&host(), &[&with_forwards("", &forwards)]);
    let (what, limit) = ("prefixes of forwarded ports", limits::FORWARDS as usize);
    assert_eq!(planned.problems, [Problem::TooMany { what, count: 2400 * 30, limit }]);
    assert!(Tables::of(&planned.plan).forwards.len() <= limit);
}
