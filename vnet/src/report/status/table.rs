//! The status for people.

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use super::{
    GuestLimit, HookState, NetworkState, NetworkStatus, Outcome, Outcomes, ShortcutState, Status,
    UplinkState,
};
use crate::instance::state::XdpState;
use crate::plan::LongWay;
use crate::report::text::{Column, count, duration, numbers, table, words};
use crate::services::{ServedBy, ServiceState};

const WIDTH: u16 = 100;

pub fn render(status: &Status) -> String {
    let mut text = header(status);
    section(&mut text, "Hooks", &hooks(&status.hooks));
    section(&mut text, "Networks", &networks(&status.networks));
    if status.networks.iter().any(|network| network.limits.is_some()) {
        let title = "Limits of masqueraded networks, and what the guest with most uses";
        section(&mut text, title, &limits(&status.networks));
    }
    section(&mut text, "DHCP and DNS", &services(&status.services));
    section(&mut text, "Uplinks", &uplinks(&status.uplinks));
    if status.shortcut.on {
        let title = format!("XDP (--xdp {})", status.shortcut.setting.name());
        section(&mut text, &title, &xdp(&status.shortcut));
    } else {
        text.push_str("\nShort ways are off (`vnet apply --short-ways on`)\n");
    }
    if !status.shortcut.long_ways.is_empty() {
        let title = "Packets that take the long way through their bridge";
        section(&mut text, title, &long_ways(&status.shortcut));
    }
    let bridges = masquerading_bridges(&status.networks);
    if !bridges.is_empty() {
        let title = "Bridges where guests of NAT networks take the bridge's address";
        section(&mut text, title, &interfaces(bridges));
    }
    section(&mut text, "Drops", &outcomes(status, |outcomes| &outcomes.drops));
    let handovers = outcomes(status, |outcomes| &outcomes.handovers);
    section(&mut text, "Left to the host's own stack (normal)", &handovers);
    text
}

fn header(status: &Status) -> String {
    let Status { instance, version, pid, flows, .. } = status;
    let daemon = if status.daemon_running {
        format!("process {pid}")
    } else {
        format!("daemon gone (was process {pid}), datapath still in place")
    };
    let expired = match flows.expired {
        0 => String::new(),
        expired => format!(", {expired} expired"),
    };
    let uptime = duration(Duration::from_secs(status.uptime_seconds));
    format!(
        "Instance  {instance}, vnet {version}\nDaemon    {daemon}\nUptime    {uptime}\nFlows     \
         {live} of {limit}{expired}\n",
        live = flows.live,
        limit = flows.limit
    )
}

fn section(text: &mut String, title: &str, body: &str) {
    let _ = write!(text, "\n{title}\n{body}");
}

fn rows_or_none(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() { "none\n".to_owned() } else { table(columns, Some(WIDTH), rows) }
}

fn hooks(hooks: &[HookState]) -> String {
    let columns =
        [words("INTERFACE"), words("HOOK"), words("BY"), words("PROGRAM"), numbers("PROGRAM ID")];
    let row = |hook: &HookState| {
        vec![
            hook.interface.clone(),
            hook.direction.clone(),
            hook.mechanism.clone(),
            hook.program.clone(),
            hook.program_id.to_string(),
        ]
    };
    rows_or_none(&columns, hooks.iter().map(row).collect())
}

fn networks(networks: &[NetworkStatus]) -> String {
    let columns = [
        words("NETWORK"),
        words("MODE"),
        words("BRIDGE"),
        words("SUBNETS"),
        numbers("FLOWS"),
        numbers("PACKETS\nOUT"),
        numbers("BYTES\nOUT"),
        numbers("PACKETS\nIN"),
        numbers("BYTES\nIN"),
        numbers("DROPS"),
    ];
    let row = |status: &NetworkStatus| {
        let network = &status.network;
        let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
        vec![
            network.name.clone(),
            mode(network),
            network.bridge.clone(),
            subnets.join("\n"),
            count(status.flows),
            count(status.outbound.packets),
            count(status.outbound.bytes),
            count(status.inbound.packets),
            count(status.inbound.bytes),
            count(status.outcomes.drops.iter().map(|drop| drop.packets).sum()),
        ]
    };
    rows_or_none(&columns, networks.iter().map(row).collect())
}

fn limits(networks: &[NetworkStatus]) -> String {
    let columns = [
        words("NETWORK"),
        numbers("FLOWS"),
        numbers("FLOWS OF\nONE GUEST"),
        numbers("PORTS OF\nONE GUEST"),
        numbers("NEW FLOWS OF\nONE A SECOND"),
    ];
    let row = |status: &NetworkStatus| {
        let limits = status.limits.as_ref()?;
        let of_guest = |limit: GuestLimit| format!("{} of {}", limit.used, limit.limit);
        let new_flows = limits.guest_new_flows_per_second;
        Some(vec![
            status.network.name.clone(),
            format!("{} of {}", limits.flows.used, limits.flows.limit),
            of_guest(limits.guest_flows),
            of_guest(limits.guest_ports),
            new_flows.map_or_else(|| "any".to_owned(), |limit| limit.to_string()),
        ])
    };
    rows_or_none(&columns, networks.iter().filter_map(row).collect())
}

/// One word if both families are connected alike, or if there is only IPv4.
fn mode(network: &NetworkState) -> String {
    let NetworkState { mode, mode_ipv6, subnets, .. } = network;
    if mode == mode_ipv6 || !subnets.iter().any(|subnet| subnet.addr().is_ipv6()) {
        return mode.clone();
    }
    match mode_ipv6.as_str() {
        "route" => format!("{mode}, IPv6 routed"),
        other => format!("{mode}, IPv6 {other}"),
    }
}

fn services(services: &[ServiceState]) -> String {
    let columns =
        [words("NETWORK"), words("BRIDGE"), words("SERVED BY"), words("WHAT, OR WHY NOT")];
    let row = |service: &ServiceState| {
        let by = match (service.state, service.process) {
            (ServedBy::Vnet, Some(process)) => format!("dnsmasq, process {process}"),
            (ServedBy::Vnet, None) | (ServedBy::Nobody, _) => "nobody".to_owned(),
            (ServedBy::Libvirt, _) => "libvirt".to_owned(),
            (ServedBy::Other, _) => "somebody else".to_owned(),
        };
        let offers: Vec<&str> = service.serves.iter().map(|offer| offer.name()).collect();
        let what = service.reason.clone().unwrap_or_else(|| offers.join(", "));
        vec![service.network.clone(), service.bridge.clone(), by, what]
    };
    rows_or_none(&columns, services.iter().map(row).collect())
}

fn uplinks(uplinks: &[UplinkState]) -> String {
    let rows = uplinks.iter().map(|uplink| (uplink.interface.as_str(), &*uplink.addresses));
    interfaces(rows.collect())
}

fn xdp(shortcut: &ShortcutState) -> String {
    let columns = [words("INTERFACE"), words("PACKETS GO BY"), words("WHY NOT BY XDP")];
    let row = |device: &XdpState| {
        let by = if device.program_id.is_some() { "native XDP and TC" } else { "TC alone" };
        vec![
            device.interface.clone(),
            by.to_owned(),
            device.reason.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    rows_or_none(&columns, shortcut.xdp.iter().map(row).collect())
}

fn long_ways(shortcut: &ShortcutState) -> String {
    let columns = [words("BRIDGE"), words("PORTS"), words("WHY")];
    let row = |way: &LongWay| {
        let ports = way.port.clone().unwrap_or_else(|| "all".to_owned());
        vec![way.bridge.clone(), ports, way.reason.clone()]
    };
    rows_or_none(&columns, shortcut.long_ways.iter().map(row).collect())
}

fn masquerading_bridges(networks: &[NetworkStatus]) -> Vec<(&str, &[IpAddr])> {
    let networks = networks.iter().map(|status| &status.network);
    networks
        .filter(|network| !network.masquerade.is_empty())
        .map(|network| (network.bridge.as_str(), &*network.masquerade))
        .collect()
}

fn interfaces(rows: Vec<(&str, &[IpAddr])>) -> String {
    let row = |(interface, addresses): (&str, &[IpAddr])| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        vec![interface.to_owned(), addresses.join(", ")]
    };
    let columns = [words("INTERFACE"), words("ADDRESSES")];
    rows_or_none(&columns, rows.into_iter().map(row).collect())
}

fn outcomes(status: &Status, kind: fn(&Outcomes) -> &[Outcome]) -> String {
    let of_networks =
        status.networks.iter().map(|network| (network.network.name.as_str(), &network.outcomes));
    let rows = of_networks.chain([("(none)", &status.no_network)]).flat_map(|(network, all)| {
        kind(all).iter().map(move |outcome| {
            vec![
                count(outcome.packets),
                network.to_owned(),
                outcome.reason.to_owned(),
                outcome.description.to_owned(),
            ]
        })
    });
    let columns = [numbers("PACKETS"), words("NETWORK"), words("REASON"), words("MEANING")];
    rows_or_none(&columns, rows.collect())
}
