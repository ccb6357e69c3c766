mod beside;
mod fit;
mod forwards;
mod networks;
mod shortcut;
mod uplinks;

use std::path::Path;

use super::*;
use crate::host::{LinkKind, fake::Host};

/// Linux's default.
const HOST_PORTS: HostPorts = HostPorts { ephemeral: 32768..=60999, reserved: Vec::new() };

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
