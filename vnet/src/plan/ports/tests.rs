use std::path::Path;

use super::*;
use crate::{
    definition,
    host::{Port, fake::Host, sysctl::HostPorts},
    plan,
};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const TAP: [u8; 6] = [0xfe, 0x54, 0, 0, 0, 1];
const OTHER_TAP: [u8; 6] = [0xfe, 0x54, 0, 0, 0, 2];
const BRIDGE_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xfe];
const STATIC: &str = "<host mac='52:54:00:00:00:01' ip='192.168.122.10'/>";

/// A bridge with two taps, a NIC, a bond, a VLAN and an overlay; the second tap's guest is not known.
fn host() -> Host {
    let port = || Some(Port::Bridge { isolated: false });
    Host::with_loopback()
        .link(2, "virbr0", LinkKind::Bridge)
        .change(|link| link.mac = Some(BRIDGE_MAC))
        .address("192.168.122.1/24")
        .link(3, "vnet0", LinkKind::Tap)
        .change(|link| link.mac = Some(TAP))
        .port(2, port())
        .link(4, "vnet1", LinkKind::Tap)
        .change(|link| link.mac = Some(OTHER_TAP))
        .port(2, port())
        .link(5, "eth0", LinkKind::Physical)
        .port(2, port())
        .link(6, "bond0", LinkKind::Bond)
        .port(2, port())
        .link(7, "eth1.5", LinkKind::Vlan)
        .port(2, port())
        .link(8, "vxlan0", LinkKind::Other("vxlan".to_owned()))
        .port(2, port())
        .link(9, "veth0", LinkKind::Veth)
        .change(|link| link.parent_is_foreign = true)
        .port(2, port())
        .link(10, "patch0", LinkKind::Veth)
        .port(2, port())
}

fn planned(host: &Host, options: &str, rest: &str, dhcp: &str, seen: &Seen) -> Plan {
    let text = format!(
        "<network><name>n</name><metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>{options}\
         </vnet:options></metadata><forward mode='nat'/><bridge name='virbr0'/>{rest}\
         <ip address='192.168.122.1' prefix='24'><dhcp>{dhcp}</dhcp></ip></network>"
    );
    plan_of(host, &text, seen)
}

fn plan_of(host: &Host, text: &str, seen: &Seen) -> Plan {
    plan_all(host, &[text], seen)
}

fn plan_all(host: &Host, texts: &[&str], seen: &Seen) -> Plan {
    let mut networks = Vec::new();
    for text in texts {
        let loaded = definition::load_text(Path::new("network.xml"), text);
        let report = loaded.report.render(definition::Severity::Error);
        assert!(!loaded.report.has_errors(), "{report}");
        networks.extend(loaded.networks);
    }
    let options = plan::Options::default();
    let host_ports = HostPorts { ephemeral: 32768..=60999, reserved: Vec::new() };
    let mut plan = plan::plan(&networks, &host.0, host_ports, &options).plan;
    plan.add_ports(&networks, &host.0, seen);
    plan
}

/// The guarded ports with their flags.
fn guarded(plan: &Plan) -> Vec<(&str, u16)> {
    plan.ports
        .iter()
        .filter_map(|port| Some((port.name.as_str(), port.guard.as_ref()?.flags)))
        .collect()
}

fn holder(plan: &Plan, address: &str) -> Option<[u8; 6]> {
    let address = Address::from_addr(address.parse().unwrap());
    let holder = plan.guard.addresses.get(&AddressKey { bridge: 2, address })?;
    Some(holder.mac.to_bytes())
}

const ALL: u16 = flags::MAC | flags::ADDRESSES | flags::SERVERS | flags::TAGS | flags::PROBES;

#[test]
fn ports_of_guests_are_guarded_and_wires_are_not() {
    let plan = planned(&host(), "", "", STATIC, &Seen::default());
    assert_eq!((guarded(&plan), &plan.guard), (vec![], &GuardTables::default()));
}

#[test]
fn switches_of_the_guard_are_its_flags() {
    for (attribute, off) in [
        ("mac='no'", flags::MAC),
        ("addresses='no'", flags::ADDRESSES),
        ("servers='no'", flags::SERVERS),
        ("tags='no'", flags::TAGS),
    ] {
        let options = format!("<vnet:guard {attribute}/>");
        let plan = planned(&host(), &options, "", STATIC, &Seen::default());
        assert_eq!(guarded(&plan)[0].1, ALL & !off, "{attribute}");
    }
    let plan = planned(&host(), "<vnet:guard from='learn'/>", "", STATIC, &Seen::default());
    let port = plan.ports[1].guard.unwrap();
    assert_eq!(port.flags, ALL & !flags::PROBES);
    assert_eq!((port.learn_ipv4, port.learn_ipv6), (1, 8));
}

#[test]
fn guest_is_known_by_its_tap_by_its_lease_or_by_what_it_sent() {
    let plan = planned(&host(), "<vnet:guard/>", "", STATIC, &Seen::default());
    let macs = |plan: &Plan| plan.ports.iter().map(|port| port.mac).collect::<Vec<_>>();
    assert_eq!(macs(&plan), [Some(MacAddress(GUEST)), None, None]);
    let other = MacAddress([0x52, 0x54, 0, 0, 0, 2]);
    let third = MacAddress([2, 0, 0, 0, 0, 3]);
    let lease = Lease { mac: other, address: "192.168.122.20".parse().unwrap() };
    let seen = Seen {
        leases: BTreeMap::from([("n".to_owned(), vec![lease])]),
        // What the definition says of the first wins.
        learned: BTreeMap::from([(3, third), (9, third)]),
    };
    let plan = planned(&host(), "<vnet:guard/>", "", STATIC, &seen);
    assert_eq!(macs(&plan), [Some(MacAddress(GUEST)), Some(other), Some(third)]);
    assert_eq!(plan.guard.macs[&MacKey::new(2, Mac::from_bytes(other.0))], 4);
    assert_eq!(holder(&plan, "192.168.122.20"), Some(other.0));
}

#[test]
fn addresses_of_the_host_and_of_nobody_are_held() {
    let plan = planned(&host(), "<vnet:guard/>", "", STATIC, &Seen::default());
    assert_eq!(holder(&plan, "192.168.122.1"), Some(BRIDGE_MAC));
    assert_eq!(holder(&plan, "192.168.122.0"), Some([0xff; 6]));
    assert_eq!(holder(&plan, "192.168.122.255"), Some([0xff; 6]));
    assert_eq!(holder(&plan, "192.168.122.10"), Some(GUEST));
    assert_eq!(holder(&plan, "fe80::5054:ff:fe00:1"), Some(GUEST));
    assert_eq!(holder(&plan, "192.168.122.11"), None);
    assert_eq!(plan.guard.macs[&MacKey::new(2, Mac::from_bytes(BRIDGE_MAC))], 2);
}

#[test]
fn one_guest_may_be_guarded_or_free_alone() {
    let free = "<vnet:guard/><vnet:guest mac='52:54:00:00:00:01' guard='no'/>";
    let plan = planned(&host(), free, "", STATIC, &Seen::default());
    assert_eq!(guarded(&plan), [("vnet1", ALL), ("veth0", ALL)]);
    // Who is not known yet is watched, and nothing else.
    let alone = "<vnet:guest mac='52:54:00:00:00:01' guard='yes'/>";
    let plan = planned(&host(), alone, "", STATIC, &Seen::default());
    assert_eq!(guarded(&plan), [("vnet0", ALL), ("vnet1", 0), ("veth0", 0)]);
    let seen =
        Seen { learned: BTreeMap::from([(9, MacAddress([2, 0, 0, 0, 0, 3]))]), ..Seen::default() };
    let plan = planned(&host(), alone, "", STATIC, &seen);
    assert_eq!(guarded(&plan), [("vnet0", ALL), ("vnet1", 0)]);
}

#[test]
fn ipv6_addresses_are_learned_where_guests_choose_them() {
    let limit = |ipv6: &str| {
        let plan = planned(&host(), "<vnet:guard/>", ipv6, STATIC, &Seen::default());
        plan.ports[0].guard.unwrap().learn_ipv6
    };
    assert_eq!(limit(""), 0);
    assert_eq!(limit("<ip family='ipv6' address='fd00::1' prefix='64'/>"), 8);
    let lent = "<ip family='ipv6' address='fd00::1' prefix='64'><dhcp>\
                <range start='fd00::100' end='fd00::1ff'/></dhcp></ip>";
    assert_eq!(limit(lent), 0);
}

#[test]
fn prefixes_behind_guests_are_theirs() {
    let route = "<route address='10.9.0.0' prefix='16' gateway='192.168.122.10'/>";
    let plan = planned(&host(), "<vnet:guard/>", route, STATIC, &Seen::default());
    let prefix = Address::from_addr("10.9.0.0".parse().unwrap());
    let key = (32 + 96 + 16, 2, bytemuck::cast(prefix.to_wire()));
    let gateway = Address::from_addr("192.168.122.10".parse().unwrap());
    assert_eq!(plan.guard.routes, BTreeMap::from([(key, gateway)]));
}

#[test]
fn isolation_is_of_every_guests_port() {
    let isolated = "<port isolated='yes'/>";
    let plan = planned(&host(), "", isolated, STATIC, &Seen::default());
    let ports: Vec<_> = plan.ports.iter().map(|port| (port.ifindex, port.isolated)).collect();
    assert_eq!(ports, [(3, true), (4, true), (9, true)]);
}

#[test]
fn vlans_are_for_bridges_that_filter() {
    let vlan = |id, pvid, untagged| PortVlan { id, pvid, untagged };
    let filtering = || {
        let mut host = host();
        host.0.links[1].vlan_filtering = Some(true);
        host
    };
    let of = |host: &Host, rest: &str| {
        let text = format!(
            "<network><name>n</name><forward mode='bridge'/><bridge name='virbr0'/>{rest}</network>"
        );
        plan_of(host, &text, &Seen::default()).ports[0].vlans.clone()
    };
    let one = "<vlan><tag id='42'/></vlan>";
    assert_eq!(of(&host(), one), []);
    assert_eq!(of(&filtering(), ""), []);
    assert_eq!(of(&filtering(), one), [vlan(42, true, true)]);
    let trunk = "<vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='47'/></vlan>";
    assert_eq!(of(&filtering(), trunk), [vlan(42, true, true), vlan(47, false, false)]);
    let tagged = "<vlan trunk='yes'><tag id='42' nativeMode='tagged'/><tag id='47'/></vlan>";
    assert_eq!(of(&filtering(), tagged), [vlan(42, true, false), vlan(47, false, false)]);
    let group = "<portgroup name='a' default='yes'><vlan><tag id='7'/></vlan></portgroup>";
    assert_eq!(of(&filtering(), group), [vlan(7, true, true)]);
}

#[test]
fn port_of_a_shared_bridge_is_of_the_network_that_knows_its_guest() {
    let mut host = host();
    host.0.links[1].vlan_filtering = Some(true);
    let network = |name: &str, guest: &str, vlan: u16| {
        format!(
            "<network><name>{name}</name><metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>\
             <vnet:guest mac='{guest}'/></vnet:options></metadata><forward mode='bridge'/>\
             <bridge name='virbr0'/><vlan><tag id='{vlan}'/></vlan></network>"
        )
    };
    let red = network("red", "52:54:00:00:00:01", 42);
    let blue = network("blue", "52:54:00:00:00:02", 47);
    let of = |texts: &[&str]| {
        let plan = plan_all(&host, texts, &Seen::default());
        let port = |port: &PlannedPort| (port.name.clone(), port.network, port.vlans.clone());
        plan.ports.iter().map(port).collect::<Vec<_>>()
    };
    let own = |id| vec![PortVlan { id, pvid: true, untagged: true }];
    // The veth's guest is nobody's, so that its port stays as it is.
    let expected = [("vnet0".to_owned(), 1, own(42)), ("vnet1".to_owned(), 2, own(47))];
    assert_eq!(of(&[&red, &blue]), expected);
    // Alone on its bridge, a network has every guest there.
    let everybody = ["vnet0", "vnet1", "veth0"].map(|name| (name.to_owned(), 1, own(42)));
    assert_eq!(of(&[&red]), everybody);
    // The first of two that know the same guest has its port, which never gets both VLANs.
    let twice = network("blue", "52:54:00:00:00:01", 47);
    assert_eq!(of(&[&red, &twice]), expected[..1]);
}

#[test]
fn addresses_of_guests_that_go_or_that_others_get_are_given_up() {
    let port = |ifindex: u32, mac: u8, addresses: &[&str]| PlannedPort {
        ifindex,
        name: format!("vnet{ifindex}"),
        network: 1,
        mac: Some(MacAddress([0x52, 0x54, 0, 0, 0, mac])),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        guard: None,
        isolated: false,
        vlans: Vec::new(),
    };
    let plan = |ports: &[PlannedPort]| {
        let mut plan = planned(&host(), "", "", "", &Seen::default());
        plan.ports = ports.to_vec();
        plan
    };
    let (one, two) = (port(5, 1, &["192.168.122.5", "fd00::5"]), port(6, 2, &["192.168.122.6"]));
    let before = [one.clone(), two.clone()];
    let departed = |ports: &[PlannedPort]| -> Vec<String> {
        plan(ports).departed(&before).iter().map(ToString::to_string).collect()
    };
    assert_eq!(departed(&[one.clone(), two.clone()]), [""; 0]);
    assert_eq!(departed(std::slice::from_ref(&two)), ["192.168.122.5", "fd00::5"]);
    // The same guest on another port.
    assert_eq!(departed(&[port(7, 1, &[]), two.clone()]), [""; 0]);
    // A lease that ran out, and one that another guest has now.
    assert_eq!(departed(&[port(5, 1, &["fd00::5"]), two]), [""; 0]);
    let taken = port(6, 2, &["192.168.122.6", "192.168.122.5"]);
    assert_eq!(departed(&[one, taken]), ["192.168.122.5"]);
}

#[test]
fn guests_that_are_not_known_are_not_taken_for_each_other() {
    let port = |ifindex: u32, addresses: &[&str]| PlannedPort {
        ifindex,
        name: format!("vnet{ifindex}"),
        network: 1,
        mac: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        guard: None,
        isolated: false,
        vlans: Vec::new(),
    };
    let mut plan = planned(&host(), "", "", "", &Seen::default());
    plan.ports = vec![port(6, &[])];
    let departed = plan.departed(&[port(5, &["192.168.122.5"])]);
    assert_eq!(departed.into_iter().collect::<Vec<_>>(), [IpAddr::from([192, 168, 122, 5])]);
}
