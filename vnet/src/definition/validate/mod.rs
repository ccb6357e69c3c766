//! Rules between the elements of one network.

mod options;
mod vlan;

use std::{collections::HashMap, net::IpAddr};

use super::{
    diagnostic::{Diagnostic, Located, Severity},
    model::{Dhcp, DhcpRange, Ip, Network, PortGroup, Route},
    render::visible,
};

/// How many bits at the end of its addresses a DHCP range may differ in (`virSocketAddrGetRange`).
const RANGE_BITS: u32 = 16;

pub(super) fn network(network: &Network, diagnostics: &mut Vec<Diagnostic>) {
    for ip in &network.ips {
        gateway(ip, diagnostics);
        if let Some(dhcp) = &ip.dhcp {
            for range in &dhcp.ranges {
                diagnostics.extend(dhcp_range(range, ip));
            }
            dhcp_hosts(dhcp, ip, diagnostics);
        }
    }
    one_dhcp_per_family(network, diagnostics);
    for route in &network.routes {
        diagnostics.extend(route_gateway(route, network));
    }
    port_groups(&network.port_groups, diagnostics);
    vlan::network(network, diagnostics);
    options::network(network, diagnostics);
}

/// The gateway has to be an address that a host can have.
fn gateway(ip: &Ip, diagnostics: &mut Vec<Diagnostic>) {
    let span = || ip.address.span.clone();
    let address = ip.address.value;
    if let Some(what) = no_station(address) {
        diagnostics.push(
            Diagnostic::error(span(), format!("{address} cannot be the guests' gateway"))
                .label(format!("is {what}")),
        );
        return;
    }
    let subnet = ip.subnet();
    // RFC 3021: /31 and /32 have neither a network nor a broadcast address.
    if !address.is_ipv4() || ip.prefix >= 31 {
        return;
    }
    let what = if address == subnet.network() {
        "network"
    } else if address == subnet.broadcast() {
        "broadcast"
    } else {
        return;
    };
    let example = subnet.hosts().next().map(|first| format!("write address='{first}'"));
    let diagnostic =
        Diagnostic::warning(span(), format!("{address} is the {what} address of {subnet}"))
            .label("many guests will not use it as their gateway");
    diagnostics.push(match example {
        Some(example) => diagnostic.help(example),
        None => diagnostic,
    });
}

/// What an address is that no host can have; none if one can.
fn no_station(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        _ if address.is_loopback() => Some("a loopback address"),
        IpAddr::V4(ipv4) if ipv4.is_broadcast() => Some("the broadcast address"),
        _ => None,
    }
}

/// The rules of `virSocketAddrGetRange` (`src/util/virsocketaddr.c`).
fn dhcp_range(range: &DhcpRange, ip: &Ip) -> Option<Diagnostic> {
    let (start, end) = (range.start.value, range.end.value);
    let subnet = ip.subnet();
    let outside = [&range.start, &range.end].into_iter().find(|end| !subnet.contains(&end.value));
    if let Some(address) = outside {
        return Some(not_in_subnet("this DHCP range leaves its subnet", address, ip));
    }
    let at_start = |message: &str| Diagnostic::error(range.start.span.clone(), message);
    let at_end = |message: &str| Diagnostic::error(range.end.span.clone(), message);
    if start > end {
        return Some(
            at_start("`start` of this DHCP range is above `end`")
                .label(format!("{start} is above {end}"))
                .help(format!("write the lower address first: start='{end}' end='{start}'")),
        );
    }
    if number(start) >> RANGE_BITS != number(end) >> RANGE_BITS {
        let prefix = if start.is_ipv4() { 32 - RANGE_BITS } else { 128 - RANGE_BITS };
        return Some(
            at_end("this DHCP range is too large")
                .label(format!("not in the same /{prefix} as {start}"))
                .help("write several ranges"),
        );
    }
    if start.is_ipv4() {
        if start == subnet.network() {
            return Some(
                at_start("this DHCP range begins with the network address")
                    .label(format!("is {subnet} itself")),
            );
        }
        if end == subnet.broadcast() {
            return Some(
                at_end("this DHCP range ends with the broadcast address")
                    .label(format!("is the broadcast address of {subnet}")),
            );
        }
    }
    None
}

/// libvirt accepts these, and dnsmasq passes over the first kind and does not start with the second.
fn dhcp_hosts(dhcp: &Dhcp, ip: &Ip, diagnostics: &mut Vec<Diagnostic>) {
    let mut addresses = HashMap::new();
    for host in &dhcp.hosts {
        if !ip.subnet().contains(&host.ip.value) {
            let message = "this guest's address is outside of its subnet and is never handed out";
            let mut diagnostic = not_in_subnet(message, &host.ip, ip);
            diagnostic.severity = Severity::Warning;
            diagnostics.push(diagnostic);
        }
        if let Some(first) = addresses.insert(host.ip.value, &host.ip.span) {
            diagnostics.push(
                Diagnostic::warning(
                    host.ip.span.clone(),
                    format!("{} is given to two guests", host.ip.value),
                )
                .related("the first is at", first),
            );
        }
    }
}

fn not_in_subnet(message: &str, address: &Located<IpAddr>, ip: &Ip) -> Diagnostic {
    Diagnostic::error(address.span.clone(), message)
        .label(format!("{} is not in {}", address.value, ip.subnet()))
        .related("the subnet is that of the `<ip>` at", &ip.span)
}

/// An `<ip>` with an empty `<dhcp>` counts for nothing, as in `networkValidate`.
fn one_dhcp_per_family(network: &Network, diagnostics: &mut Vec<Diagnostic>) {
    for (is_ipv6, family) in [(false, "IPv4"), (true, "IPv6")] {
        let mut served = network
            .ips
            .iter()
            .filter(|ip| ip.address.value.is_ipv6() == is_ipv6)
            .filter_map(|ip| ip.dhcp.as_ref())
            .filter(|dhcp| !dhcp.ranges.is_empty() || !dhcp.hosts.is_empty());
        let Some(first) = served.next() else { continue };
        for other in served {
            diagnostics.push(
                Diagnostic::error(
                    other.span.clone(),
                    format!("a network has one {family} `<dhcp>`"),
                )
                .related("the first is at", &first.span)
                .help("guests get addresses from one subnet only: keep one of the two"),
            );
        }
    }
}

fn route_gateway(route: &Route, network: &Network) -> Option<Diagnostic> {
    let gateway = route.gateway.value;
    if network.subnets().any(|subnet| subnet.contains(&gateway)) {
        return None;
    }
    let subnets: Vec<String> = network.subnets().map(|subnet| subnet.to_string()).collect();
    let label = if subnets.is_empty() {
        format!("no `<ip>` has {gateway} in its subnet")
    } else {
        format!("{gateway} is not in {}", subnets.join(" or "))
    };
    let span = route.gateway.span.clone();
    Some(Diagnostic::error(span, "this route's gateway cannot be reached").label(label))
}

fn port_groups(groups: &[PortGroup], diagnostics: &mut Vec<Diagnostic>) {
    let mut names = HashMap::new();
    for group in groups {
        if let Some(first) = names.insert(&group.name.value, &group.name.span) {
            let message = format!("port group '{}' is defined twice", visible(&group.name.value));
            diagnostics.push(
                Diagnostic::error(group.name.span.clone(), message)
                    .related("the first is at", first),
            );
        }
    }
    let mut defaults = groups.iter().filter(|group| group.default);
    let Some(first) = defaults.next() else { return };
    for other in defaults {
        diagnostics.push(
            Diagnostic::error(other.span.clone(), "a network has one default port group")
                .related("the first is at", &first.span),
        );
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}
