//! What a definition becomes in the model.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use support::corpus;
use vnet::definition::{
    self, AddressRange, AddressSources, Filtering, ForwardMode, ForwardProtocol, Guard, Lease,
    MacAddress, NativeMode, Network, PortRange, Severity,
};

fn load(name: &str) -> Network {
    let loaded = definition::load(&[corpus().join("valid").join(name)]);
    assert!(!loaded.report.has_errors(), "{}", loaded.report.render(Severity::Error));
    let [network] = <[Network; 1]>::try_from(loaded.networks).unwrap();
    network
}

#[test]
fn default_network_of_libvirt_is_read_whole() {
    let network = load("default.xml");
    assert_eq!(network.name.value, "default");
    let uuid = network.uuid.as_ref().unwrap();
    assert_eq!(uuid.value.to_string(), "6b0a4b0e-6f0f-4b43-8d2e-1d6a6c8b7a55");
    assert_eq!(network.forward.mode.value, ForwardMode::Nat);
    assert_eq!(network.forward_device(), None);
    let nat = network.forward.nat.as_ref().unwrap();
    assert_eq!(nat.ports, PortRange { start: 1024, end: 65535 });
    assert!(nat.ports_span.is_some());
    assert_eq!(nat.addresses, None);
    assert_eq!(network.bridge.name.as_ref().unwrap().value, "virbr0");
    assert!(network.bridge.stp.as_ref().unwrap().value);
    assert_eq!(network.bridge.delay.as_ref().unwrap().value, 0);
    assert_eq!(network.mac.as_ref().unwrap().value, MacAddress([0x52, 0x54, 0, 0xa1, 0xb2, 0xc3]));
    assert_eq!(network.ips.len(), 1);
    assert_eq!(network.ips[0].address.value, IpAddr::from([192, 168, 122, 1]));
    assert_eq!(network.ips[0].subnet().to_string(), "192.168.122.0/24");
    let dhcp = network.ips[0].dhcp.as_ref().unwrap();
    assert_eq!(dhcp.ranges[0].start.value, IpAddr::from([192, 168, 122, 2]));
    assert_eq!(dhcp.ranges[0].end.value, IpAddr::from([192, 168, 122, 254]));
    assert!(dhcp.hosts.is_empty());
}

#[test]
fn forward_without_mode_is_nat_and_ip_without_mask_is_classful() {
    let network = load("nat-minimal.xml");
    assert_eq!(network.forward.mode.value, ForwardMode::Nat);
    assert_eq!(network.forward.nat.unwrap().ports, PortRange::default());
    assert_eq!(network.ips[0].prefix, 24);
    for (address, prefix) in [("10.0.0.1", 8), ("172.16.0.1", 16), ("192.168.0.1", 24)] {
        let text =
            format!("<network><name>n</name><bridge name='b'/><ip address='{address}'/></network>");
        let loaded = definition::load_text("n.xml".as_ref(), &text);
        assert_eq!(loaded.networks[0].ips[0].prefix, prefix, "{address}");
        assert_eq!(loaded.networks[0].forward.mode.value, ForwardMode::Isolated);
        assert_eq!(loaded.networks[0].forward.nat, None);
    }
    assert_eq!(load("route.xml").ips[1].prefix, 64);
}

#[test]
fn every_element_of_a_nat_network_is_in_the_model() {
    let network = load("nat-everything.xml");
    assert_eq!(network.forward_device(), Some("eth0"));
    assert_eq!(network.forward.devices.len(), 1);
    let nat = network.forward.nat.as_ref().unwrap();
    let range =
        AddressRange { start: Ipv4Addr::new(203, 0, 113, 8), end: Ipv4Addr::new(203, 0, 113, 15) };
    assert_eq!(nat.addresses.as_ref().unwrap().value, range);
    assert_eq!(nat.ports, PortRange { start: 20000, end: 29999 });
    assert!(nat.ipv6.as_ref().unwrap().value);
    assert_eq!(network.mtu.as_ref().unwrap().value, 9000);
    assert_eq!(network.title.as_deref(), Some("One of each"));
    assert!(network.metadata.as_ref().unwrap().value.contains("lab &amp; more"));
    assert!(network.port_isolated.as_ref().unwrap().value);
    assert!(network.domain.as_ref().unwrap().local_only);

    let dns = network.dns.as_ref().unwrap();
    assert!(dns.enable && !dns.forward_plain_names);
    assert_eq!((dns.forwarders.len(), dns.texts.len()), (3, 1));
    assert_eq!(dns.services[0].port.as_ref().unwrap().value, 389);
    let names: Vec<&str> = dns.hosts[0].names.iter().map(|name| name.value.as_str()).collect();
    assert_eq!(names, ["registry", "mirror"]);

    let bandwidth = network.bandwidth.as_ref().unwrap();
    assert_eq!(bandwidth.inbound.unwrap().burst, Some(5120));
    assert_eq!(bandwidth.outbound.unwrap().average, Some(128));

    assert_eq!(network.ips.len(), 3);
    let dhcp = network.ips[0].dhcp.as_ref().unwrap();
    assert_eq!(dhcp.ranges[0].lease, Some(Lease::Seconds(3600)));
    assert_eq!(dhcp.hosts[0].lease, Some(Lease::Infinite));
    assert_eq!(dhcp.bootp.as_ref().unwrap().file.value, "pxelinux.0");
    let guest = &network.ips[2].dhcp.as_ref().unwrap().hosts[0];
    assert_eq!(guest.id.as_ref().unwrap().value, "0:3:0:1:52:54:0:0:0:12");

    assert_eq!(network.routes[0].destination.to_string(), "172.16.0.0/12");
    assert_eq!(network.routes[1].destination.to_string(), "2001:db8:ff::/48");
    assert!(network.port_groups[0].default && !network.port_groups[1].default);
    assert_eq!(network.dnsmasq_options.len(), 2);
}

#[test]
fn default_port_group_decides_the_vlan_of_guests() {
    let network = load("bridge-vlan.xml");
    assert_eq!(network.vlan.as_ref().unwrap().tags[0].id, 10);
    let vlan = network.guest_vlan().unwrap();
    assert!(vlan.trunk);
    let tags: Vec<_> = vlan.tags.iter().map(|tag| (tag.id, tag.native)).collect();
    assert_eq!(tags, [(42, None), (47, Some(NativeMode::Untagged))]);
    assert_eq!(load("nat-everything.xml").guest_vlan(), None);
}

#[test]
fn every_mode_is_read() {
    let modes = [
        ("bridge.xml", ForwardMode::Bridge),
        ("hostdev.xml", ForwardMode::Hostdev),
        ("isolated.xml", ForwardMode::Isolated),
        ("macvtap-passthrough.xml", ForwardMode::Passthrough),
        ("macvtap-private.xml", ForwardMode::Private),
        ("macvtap-vepa.xml", ForwardMode::Vepa),
        ("nat-minimal.xml", ForwardMode::Nat),
        ("open.xml", ForwardMode::Open),
        ("route.xml", ForwardMode::Route),
    ];
    for (file, mode) in modes {
        assert_eq!(load(file).forward.mode.value, mode, "{file}");
    }
    let pci: Vec<String> =
        load("hostdev.xml").forward.pci_devices.iter().map(ToString::to_string).collect();
    assert_eq!(pci, ["0000:04:00.1", "0000:04:00.2"]);
}

#[test]
fn file_with_errors_gives_no_network_and_others_do() {
    let good = corpus().join("valid/default.xml");
    let bad = corpus().join("broken/name-with-slash.xml");
    let loaded = definition::load(&[bad, good]);
    assert!(loaded.report.has_errors());
    let names: Vec<&str> =
        loaded.networks.iter().map(|network| network.name.value.as_str()).collect();
    assert_eq!(names, ["default"]);
}

#[test]
fn options_of_vnet_are_in_the_model() {
    let options = load("options.xml").options;
    let uplinks: Vec<&str> = options.uplinks.iter().map(|dev| dev.value.as_str()).collect();
    assert_eq!(uplinks, ["eth1", "wg0"]);
    assert_eq!(options.filtering(), Filtering::EndpointIndependent);
    assert_eq!(options.limits.flows.as_ref().unwrap().value, 4096);
    assert_eq!(options.limits.ports.as_ref().unwrap().value, 1024);
    assert_eq!(options.limits.new_flows.as_ref().unwrap().value, 500);
    assert_eq!(options.limits.network_flows.as_ref().unwrap().value, 65536);
    assert_eq!(options.timeouts.udp.as_ref().unwrap().value, 90);
    assert_eq!(options.timeouts.port_hold_down.as_ref().unwrap().value, 0);
    assert_eq!(options.timeouts.tcp, None);
    let guard = Guard {
        tags: false,
        from: AddressSources { fixed: true, leases: false, learn: true },
        ..Guard::default()
    };
    assert_eq!(options.guard.as_ref().unwrap().value, guard);

    let (free, guest) =
        (MacAddress([0x52, 0x54, 0, 0, 0, 1]), MacAddress([0x52, 0x54, 0, 0, 0, 2]));
    assert_eq!(options.guard_of(free), None);
    assert_eq!(options.guard_of(guest), Some(guard));
    assert_eq!(options.guard_of(MacAddress([0x52, 0x54, 0, 0, 0, 3])), Some(guard));
    let addresses: Vec<String> =
        options.guest(guest).unwrap().addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.20.0.10", "2001:db8:20::10", "fe80::10"]);

    let [range, single, six] = &options.forwards[..] else { panic!("{:?}", options.forwards) };
    assert_eq!(range.protocol, ForwardProtocol::Tcp);
    assert_eq!(range.address.as_ref().unwrap().value, IpAddr::from([203, 0, 113, 5]));
    assert_eq!(range.ports.value, PortRange { start: 8080, end: 8089 });
    assert_eq!(range.to.value, IpAddr::from([10, 20, 0, 10]));
    assert_eq!(range.to_ports(), PortRange { start: 80, end: 89 });
    assert_eq!((single.protocol, &single.address), (ForwardProtocol::Udp, &None));
    assert_eq!(single.to_ports(), PortRange { start: 53, end: 53 });
    assert_eq!(six.protocol, ForwardProtocol::Sctp);
}

#[test]
fn network_without_options_has_the_defaults() {
    let options = load("default.xml").options;
    assert_eq!(options, definition::Options::default());
    assert_eq!(options.filtering(), Filtering::AddressAndPort);
    assert!(!options.has_guard());
    assert_eq!(options.guard_of(MacAddress([0x52, 0x54, 0, 0, 0, 1])), None);
}

#[test]
fn one_guest_can_be_guarded_alone() {
    let text = "<network><name>n</name><metadata><options xmlns='urn:vnet:options:1'>\
        <guest mac='52:54:00:00:00:01' guard='yes'/></options></metadata><bridge name='b'/></network>";
    let loaded = definition::load_text("n.xml".as_ref(), text);
    let options = &loaded.networks[0].options;
    assert!(options.has_guard());
    assert_eq!(options.guard_of(MacAddress([0x52, 0x54, 0, 0, 0, 1])), Some(Guard::default()));
    assert_eq!(options.guard_of(MacAddress([0x52, 0x54, 0, 0, 0, 2])), None);
    assert!(Guard::default().from.fixed && Guard::default().from.leases);
}
