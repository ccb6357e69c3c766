use std::path::Path;

use super::*;
use crate::{
    definition::{self, Network},
    host::{LinkKind, SpanningTree, bridge::Settings, fake::Host, link::LinkFlags},
};

fn owner() -> Owner {
    Owner { instance: "default".to_owned(), machine: "m".to_owned() }
}

fn network(xml: &str) -> Network {
    let mut loaded = definition::load_text(Path::new("test.xml"), xml);
    assert!(!loaded.report.has_errors(), "{}", loaded.report.render(definition::Severity::Warning));
    loaded.networks.remove(0)
}

fn nat(name: &str, bridge: &str, more: &str) -> Network {
    network(&format!("<network><name>{name}</name><forward mode='nat'/>{bridge}{more}</network>"))
}

const ADDRESS: &str = "<ip address='192.168.122.1' prefix='24'/>";

fn said(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn missing_bridge_is_made_as_libvirt_makes_it() {
    let default = nat("default", "<bridge name='virbr0'/>", ADDRESS);
    let steps = plan(&[default], &Host::with_loopback().0, &owner());
    let [Step::Make(bridge)] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(bridge.name, "virbr0");
    assert_eq!(bridge.mac[..3], [0x52, 0x54, 0]);
    assert_eq!(bridge.mac, owner().mac("default"));
    assert_ne!(bridge.mac, owner().mac("other"));
    let other_host = Owner { machine: "n".to_owned(), ..owner() };
    assert_ne!(bridge.mac, other_host.mac("default"));
    assert_eq!(bridge.mtu, None);
    // STP is on, and its shortest delay 2 s.
    assert_eq!(bridge.spanning_tree, SpanningTree { on: true, forward_delay: 200 });
    assert!(!bridge.vlan_filtering);
    assert_eq!(bridge.addresses, ["192.168.122.1/24".parse().unwrap()]);
    assert_eq!(bridge.alias, "vnet default: network default");
    assert_eq!(said(&steps), ["make bridge `virbr0` with 192.168.122.1/24"]);
}

#[test]
fn definition_says_what_it_wants_of_its_bridge() {
    let network = nat(
        "n",
        "<bridge name='br7' stp='off' delay='4'/><mac address='52:54:00:ab:cd:ef'/><mtu size='9000'/>",
        "<ip address='10.0.0.1' prefix='8'/><ip family='ipv6' address='fd00::1' prefix='64'/>",
    );
    let steps = plan(&[network], &Host::with_loopback().0, &owner());
    let [Step::Make(bridge)] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(bridge.mac, [0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
    assert_eq!(bridge.mtu, Some(9000));
    assert_eq!(bridge.spanning_tree, SpanningTree { on: false, forward_delay: 400 });
    assert_eq!(said(&steps), ["make bridge `br7` with 10.0.0.1/8, fd00::1/64"]);
}

#[test]
fn bridges_of_the_host_and_of_others_are_left_as_they_are() {
    let bridged =
        network("<network><name>b</name><forward mode='bridge'/><bridge name='br0'/></network>");
    let default = nat("default", "<bridge name='virbr0'/>", ADDRESS);
    let host = Host::with_loopback()
        .link(2, "virbr0", LinkKind::Bridge)
        .change(|link| link.alias = Some("vnet other: network default".to_owned()));
    assert_eq!(plan(&[bridged, default], &host.0, &owner()), []);
    assert_eq!(plan_removal(&[], &host.0, &owner()), Removal::default());
}

#[test]
fn our_own_bridge_follows_its_definition() {
    let definition = nat(
        "n",
        "<bridge name='virbr0' stp='off'/><mtu size='9000'/>",
        "<ip address='192.168.122.1' prefix='24'/><ip address='10.0.0.1' prefix='8'/>",
    );
    let host = Host::with_loopback()
        .link(5, "virbr0", LinkKind::Bridge)
        .change(|link| {
            link.alias = Some(owner().alias("n"));
            link.mac = Some(owner().mac("n"));
            link.spanning_tree = Some(SpanningTree { on: true, forward_delay: 200 });
            link.flags = LinkFlags::empty();
        })
        .address("192.168.122.1/24")
        .address("192.168.9.1/24")
        .address("fe80::1/64");
    let steps = plan(std::slice::from_ref(&definition), &host.0, &owner());
    assert_eq!(
        said(&steps),
        [
            "set the MTU 9000, STP off with a delay of 0 s of bridge `virbr0`",
            "add 10.0.0.1/8 to bridge `virbr0`",
            "take 192.168.9.1/24 off bridge `virbr0`",
            "bring bridge `virbr0` up"
        ]
    );
    let Step::Configure { from, .. } = &steps[0] else { panic!("{steps:?}") };
    let former = Some(SpanningTree { on: true, forward_delay: 200 });
    let expected = Settings { mtu: Some(1500), spanning_tree: former, ..Settings::default() };
    assert_eq!(*from, expected);
}

#[test]
fn outlook_has_nothing_left_to_do() {
    let made = nat("made", "<bridge name='virbr1'/>", "<ip address='10.0.0.1' prefix='8'/>");
    let ours = nat(
        "ours",
        "<bridge name='virbr0'/><mtu size='9000'/>",
        "<ip family='ipv6' address='fd00::1' prefix='64'/>",
    );
    let host = Host::with_loopback()
        .link(5, "virbr0", LinkKind::Bridge)
        .change(|link| {
            link.alias = Some(owner().alias("ours"));
            link.flags = LinkFlags::empty();
        })
        .address("192.168.9.1/24");
    let definitions = [made, ours];
    let steps = plan(&definitions, &host.0, &owner());
    assert_eq!(steps.len(), 5, "{steps:?}");
    let later = outlook(&steps, &host.0);
    assert_eq!(plan(&definitions, &later, &owner()), []);
    assert_eq!(later.link_named("virbr1").unwrap().index, 6);
    let removal = plan_removal(&definitions[..1], &later, &owner());
    let later = outlook(&removal.steps, &later);
    assert!(later.link_named("virbr0").is_none());
    assert_eq!(later.addresses_of(5).count(), 0);
}

#[test]
fn bridge_of_a_network_that_has_gone_is_removed_unless_somebody_is_on_it() {
    let ours = |host: Host, index, name: &str, network: &str| {
        host.link(index, name, LinkKind::Bridge)
            .change(|link| link.alias = Some(owner().alias(network)))
    };
    let host = ours(Host::with_loopback(), 2, "virbr0", "kept");
    let host = ours(host, 3, "virbr1", "gone");
    let host = ours(host, 4, "virbr2", "busy");
    let host = host.link(5, "vnet3", LinkKind::Tap).port(4, None);
    let definitions = [nat("kept", "<bridge name='virbr0'/>", ADDRESS)];
    let removal = plan_removal(&definitions, &host.0, &owner());
    assert_eq!(said(&removal.steps), ["delete bridge `virbr1`"]);
    assert_eq!(
        removal.kept[0].to_string(),
        "bridge `virbr2` stays, because there is somebody on it (vnet3): `ip link delete virbr2` \
         once that has gone"
    );
    // The network has another bridge now.
    let moved = [nat("kept", "<bridge name='virbr9'/>", ADDRESS)];
    let removal = plan_removal(&moved, &host.0, &owner());
    assert_eq!(said(&removal.steps), ["delete bridge `virbr0`", "delete bridge `virbr1`"]);
}
