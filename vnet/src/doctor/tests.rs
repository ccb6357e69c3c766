use ipnet::IpNet;

use super::*;
use crate::{
    definition::ForwardMode,
    host::{LinkKind, fake::Host, netfilter::Ruleset},
    services::Port,
};

/// Docker's and libvirt's rules, and one of an operator, as nft 1.0.6 lists them.
const RULES: &str = r#"{"nftables": [
  {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
  {"table": {"family": "ip", "name": "filter", "handle": 1}},
  {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter",
    "hook": "forward", "prio": 0, "policy": "drop"}},
  {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 2}},
  {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 3,
    "expr": [{"jump": {"target": "DOCKER-USER"}}]}},
  {"chain": {"family": "ip", "table": "libvirt_network", "name": "guest_nat", "handle": 1,
    "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}},
  {"rule": {"family": "ip", "table": "libvirt_network", "chain": "guest_nat", "handle": 2, "expr": [
    {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
    {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
      "right": {"prefix": {"addr": "192.168.122.0", "len": 24}}}},
    {"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "daddr"}},
      "right": {"prefix": {"addr": "192.168.122.0", "len": 24}}}},
    {"counter": {"packets": 0, "bytes": 0}},
    {"masquerade": {"port": {"range": [1024, 65535]}}}]}},
  {"rule": {"family": "ip6", "table": "mine", "chain": "out", "handle": 2, "expr": [
    {"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "saddr"}},
      "right": {"set": ["fd00::1", {"prefix": {"addr": "fd01::", "len": 16}}]}}},
    {"xt": {"type": "target", "name": "SNAT"}}]}}
]}"#;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn network(mode: ForwardMode) -> NetworkFacts {
    NetworkFacts {
        name: "default".to_owned(),
        mode,
        bridge: "virbr0".to_owned(),
        service: Some(Service::NoDnsmasq),
    }
}

fn advice(check: &'static str, is_fatal: bool) -> Advice {
    let (message, mend) = ("it is so".to_owned(), "mend it".to_owned());
    Advice { check, network: None, is_fatal, message, mend }
}

fn levels(findings: &[Finding], check: &str) -> Vec<Level> {
    findings.iter().filter(|finding| finding.check == check).map(|finding| finding.level).collect()
}

#[test]
fn rules_of_others_are_understood() {
    let ruleset = Ruleset::parse(RULES).unwrap();
    assert_eq!(ruleset.dropping.len(), 1);
    assert!(ruleset.has_docker_user("ip") && !ruleset.has_docker_user("ip6"));
    assert!(!ruleset.has_firewalld());
    let chain_for = |subnet: &str| {
        ruleset.translation_of(net(subnet)).map(|translation| translation.chain.name.clone())
    };
    assert_eq!(chain_for("192.168.122.0/25").as_deref(), Some("guest_nat"));
    assert_eq!(chain_for("192.168.0.0/16").as_deref(), Some("guest_nat"));
    assert_eq!(chain_for("192.168.123.0/24"), None);
    assert_eq!(chain_for("fd00::/64").as_deref(), Some("out"));
    assert_eq!(chain_for("fd01:2::/64").as_deref(), Some("out"));
    assert_eq!(chain_for("fd02::/64"), None);
    for broken in ["", "[]", "{\"nftables\": 1}"] {
        assert!(Ruleset::parse(broken).is_err(), "{broken}");
    }
}

#[test]
fn rule_without_a_source_is_about_every_subnet_of_its_family() {
    let rule = r#"{"nftables": [{"rule": {"family": "ip", "table": "nat", "chain": "POSTROUTING",
        "expr": [{"masquerade": null}]}}]}"#;
    let ruleset = Ruleset::parse(rule).unwrap();
    assert!(ruleset.translation_of(net("10.0.0.0/8")).is_some());
    assert!(ruleset.translation_of(net("fd00::/64")).is_none());
}

#[test]
fn each_obstacle_has_a_command_that_mends_it() {
    let facts = Facts {
        rules: Some(Ok(Ruleset::parse(RULES).unwrap())),
        bridge_netfilter: vec!["net.bridge.bridge-nf-call-iptables".to_owned()],
        jit: Some("0".to_owned()),
        networks: vec![network(ForwardMode::Nat)],
        advice: vec![advice("masquerade", false), advice("subnet", true)],
        strict_uplinks: vec!["wan.7".to_owned()],
        ..Facts::default()
    };
    let findings = examine(&facts);
    let mend = |check: &str| {
        let found =
            findings.iter().find(|finding| finding.check == check && finding.mend.is_some());
        found.and_then(|finding| finding.mend.clone()).unwrap_or_default()
    };
    assert_eq!(mend("br_netfilter"), "sysctl -w net.bridge.bridge-nf-call-iptables=0");
    assert_eq!(mend("jit"), "sysctl -w net.core.bpf_jit_enable=1");
    assert_eq!(
        mend("forward"),
        "nft insert rule ip filter DOCKER-USER iifname '{ virbr0 }' accept && \
         nft insert rule ip filter DOCKER-USER oifname '{ virbr0 }' accept"
    );
    assert_eq!(mend("masquerade"), "mend it");
    assert_eq!(levels(&findings, "subnet"), [Level::Fail]);
    assert_eq!(levels(&findings, "ports"), [Level::Ok]);
    assert_eq!(mend("rp_filter"), "sysctl -w net.ipv4.conf.wan/7.rp_filter=2");
    assert_eq!(mend("bridge"), "virsh net-start default, or vnet makes it with --create-bridges");
    assert_eq!(levels(&findings, "bridge"), [Level::Fail]);
    assert_eq!(levels(&findings, "dhcp"), [Level::Warn]);
}

#[test]
fn host_without_obstacles_is_ok() {
    let mut served = network(ForwardMode::Open);
    served.service = Some(Service::Other(Port::Dhcp));
    let facts = Facts {
        has_tcx: true,
        has_bpffs: true,
        rules: Some(Ok(Ruleset::parse(RULES.replace("drop", "accept").as_str()).unwrap())),
        networks: vec![served],
        ..Facts::default()
    };
    let findings = examine(&facts);
    // There is no bridge here; libvirt's rules do not matter to an open network.
    assert_eq!(levels(&findings, "masquerade"), [Level::Ok]);
    let others = findings.iter().filter(|finding| finding.check != "bridge");
    assert!(others.clone().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    assert!(
        text(&findings).starts_with("ok    privileges    programs can be loaded and attached\n")
    );
}

#[test]
fn who_serves_guests_is_said_and_what_keeps_anybody_from_it() {
    let said = |service: Service, has_bridge: bool| {
        let mut network = network(ForwardMode::Nat);
        network.service = Some(service);
        let host = Host::with_loopback().link(5, "virbr0", LinkKind::Bridge);
        let links = host.0.links.iter().cloned();
        let facts = Facts {
            networks: vec![network],
            links: links.filter(|link| has_bridge || link.name != "virbr0").collect(),
            ..Facts::default()
        };
        let finding = examine(&facts).into_iter().find(|finding| finding.check == "dhcp").unwrap();
        (finding.level, finding.message)
    };
    let file = || Service::Libvirt("/etc/libvirt/qemu/networks/default.xml".into());
    for (service, has_bridge, level, message) in [
        (Service::Vnet(7), true, Level::Ok, "dnsmasq of vnet's serves it (process 7)"),
        (Service::VnetLater, true, Level::Ok, "nobody serves it: vnet starts a dnsmasq for it"),
        (file(), false, Level::Ok, "libvirt serves it as soon as it starts it"),
        (
            file(),
            true,
            Level::Warn,
            "`virbr0` is libvirt's (/etc/libvirt/qemu/networks/default.xml), which does not serve it now",
        ),
        (
            Service::NoDnsmasq,
            true,
            Level::Warn,
            "nobody serves it, and there is no dnsmasq that vnet could start",
        ),
    ] {
        assert_eq!(said(service, has_bridge), (level, format!("network `default`: {message}")));
    }
}
