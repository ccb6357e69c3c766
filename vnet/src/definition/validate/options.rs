//! Rules between vnet's own options and the rest of their network.

use std::{collections::HashMap, net::IpAddr};

use super::{
    super::{
        across::{clash, what_clashes},
        diagnostic::{Diagnostic, Located, Span},
        model::{ForwardMode, ForwardProtocol, Ip, Network, PortForward, Timeouts},
    },
    no_station,
};

pub(super) fn network(network: &Network, diagnostics: &mut Vec<Diagnostic>) {
    guests(network, diagnostics);
    diagnostics.extend(short_timeouts(&network.options.timeouts));
    diagnostics.extend(more_ports_than_there_are(network));
    diagnostics.extend(guard_without_addresses(network));
    for (index, forward) in network.options.forwards.iter().enumerate() {
        let earlier = &network.options.forwards[..index];
        if let Some(other) = earlier.iter().find(|other| clash(other, forward)) {
            let message = format!("{} is forwarded twice", what_clashes(other, forward));
            diagnostics.push(
                Diagnostic::error(forward.span.clone(), message)
                    .related("the first is at", &other.span),
            );
        }
        diagnostics.extend(port_forward(forward, network));
    }
}

/// Idle times below what the RFCs ask for: connections may break, but that is the operator's business.
fn short_timeouts(timeouts: &Timeouts) -> impl Iterator<Item = Diagnostic> {
    let least = [
        (&timeouts.tcp, "tcp", 7440, "RFC 5382, REQ-5"),
        (&timeouts.tcp_transitory, "tcp-transitory", 240, "RFC 5382, REQ-5"),
        (&timeouts.udp, "udp", 120, "RFC 4787, REQ-5"),
        (&timeouts.icmp, "icmp", 60, "RFC 5508, REQ-2"),
        (&timeouts.port_hold_down, "port-hold-down", 120, "RFC 6888, REQ-8"),
    ];
    least.into_iter().filter_map(|(timeout, name, least, source)| {
        let timeout = timeout.as_ref().filter(|timeout| timeout.value < least)?;
        let message = format!("`{name}` is shorter than the {least} s of {source}");
        Some(
            Diagnostic::warning(timeout.span.clone(), message)
                .label(format!("{} s", timeout.value)),
        )
    })
}

/// A guest has one address of a pool, so that its ports are all that it can have of one protocol.
fn more_ports_than_there_are(network: &Network) -> Option<Diagnostic> {
    let limit = network.options.limits.ports.as_ref()?;
    let nat = network.forward.nat.as_ref()?;
    let count = (nat.ports.start..=nat.ports.end).len();
    (usize::from(limit.value) > count).then(|| {
        let message = "one guest may hold every external port, so that none is left for others";
        Diagnostic::warning(limit.span.clone(), message)
            .label(format!("{} of {count} ports", limit.value))
            .help(format!("without `ports` it may hold half: at most {}", (count / 2).max(1)))
    })
}

fn guests(network: &Network, diagnostics: &mut Vec<Diagnostic>) {
    let mut owners: HashMap<IpAddr, &Span> = HashMap::new();
    let of_guests = network.options.guests.iter();
    let addresses = of_guests.flat_map(|guest| guest.addresses.iter().map(move |ip| (guest, ip)));
    for (guest, address) in addresses {
        let hosts = network.ips.iter().filter_map(|ip| ip.dhcp.as_ref());
        let other = hosts.flat_map(|dhcp| &dhcp.hosts).find(|host| {
            let mac = host.mac.as_ref().map(|mac| mac.value);
            host.ip.value == address.value && mac.is_some_and(|mac| mac != guest.mac.value)
        });
        if let Some(other) = other {
            let message = format!("{} is another guest's", address.value);
            diagnostics.push(
                Diagnostic::error(address.span.clone(), message)
                    .related("the network's DHCP service lends it by the `<host>` at", &other.span),
            );
        }
        if let Some(diagnostic) = guest_address(address, "a guest's address", network) {
            diagnostics.push(diagnostic);
        } else if let Some(first) = owners.insert(address.value, &address.span) {
            diagnostics.push(
                Diagnostic::error(
                    address.span.clone(),
                    format!("{} is listed twice", address.value),
                )
                .related("the first is at", first)
                .help("one address is one guest's"),
            );
        }
    }
}

/// On a host's own bridge the network's subnets are known, elsewhere they are not. A link-local
/// address needs no subnet.
fn guest_address(address: &Located<IpAddr>, what: &str, network: &Network) -> Option<Diagnostic> {
    let ip = address.value;
    let error = |message: String| Diagnostic::error(address.span.clone(), message);
    if let Some(kind) = no_station(ip) {
        return Some(error(format!("{ip} cannot be {what}")).label(format!("is {kind}")));
    }
    if let Some(gateway) = network.ips.iter().find(|own| own.address.value == ip) {
        return Some(
            error(format!("{ip} cannot be {what}"))
                .label("is the host's own")
                .related("the host has it by the `<ip>` at", &gateway.span),
        );
    }
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    if network.ips.is_empty() || link_local {
        return None;
    }
    let subnets: Vec<_> = network.subnets().collect();
    if subnets.iter().any(|subnet| subnet.contains(&ip)) {
        return None;
    }
    let names: Vec<String> = subnets.iter().map(ToString::to_string).collect();
    Some(
        error(format!("{ip} is in no subnet of this network"))
            .label(format!("not in {}", names.join(" or ")))
            .help("a guest's address is in the subnet of one of the network's `<ip>` elements"),
    )
}

/// The guard passes only addresses that it knows; if it can know none, guests are cut off.
fn guard_without_addresses(network: &Network) -> Option<Diagnostic> {
    let guard = network.options.guard.as_ref()?;
    let from = guard.value.from;
    if !guard.value.addresses || from.learn {
        return None;
    }
    let dhcp = || network.ips.iter().filter_map(|ip| ip.dhcp.as_ref());
    // Guests choose addresses themselves in an IPv6 subnet without DHCP (RFC 4862).
    let chosen = |ip: &Ip| ip.address.value.is_ipv6() && ip.dhcp.is_none();
    let leased = from.leases
        && (dhcp().any(|dhcp| !dhcp.ranges.is_empty()) || network.ips.iter().any(chosen));
    let fixed = from.fixed
        && (dhcp().any(|dhcp| !dhcp.hosts.is_empty())
            || network.options.guests.iter().any(|guest| !guest.addresses.is_empty()));
    (!leased && !fixed).then(|| {
        Diagnostic::warning(guard.span.clone(), "this guard can know no address of any guest")
            .label("guests cannot send IP packets")
            .help(
                "list addresses in `<vnet:guest>`, or write from='static learn', or addresses='no'",
            )
    })
}

fn port_forward(forward: &PortForward, network: &Network) -> Option<Diagnostic> {
    let to = &forward.to;
    let is_ipv6 = to.value.is_ipv6();
    if let Some(address) = &forward.address {
        if let Some(kind) = no_station(address.value) {
            let message = format!("{} cannot be an address of an uplink", address.value);
            return Some(
                Diagnostic::error(address.span.clone(), message).label(format!("is {kind}")),
            );
        }
        if address.value.is_ipv6() != is_ipv6 {
            return Some(
                Diagnostic::error(to.span.clone(), "`address` and `to` are of different families")
                    .label(format!("{} and {}", address.value, to.value))
                    .help("vnet does not translate between IPv4 and IPv6"),
            );
        }
    }
    let masqueraded = match &network.forward.nat {
        Some(nat) => !is_ipv6 || nat.ipv6.as_ref().is_some_and(|ipv6| ipv6.value),
        None => false,
    };
    if !masqueraded {
        let family = if is_ipv6 { "IPv6" } else { "IPv4" };
        let mode = &network.forward.mode;
        let diagnostic = Diagnostic::error(
            forward.span.clone(),
            format!("{family} of this network is not masqueraded, so no port can lead into it"),
        )
        .related("the mode is set at", &mode.span);
        return Some(match mode.value {
            ForwardMode::Nat => diagnostic
                .help("<nat ipv6='yes'/> masquerades IPv6; without it guests are reached at their own addresses"),
            ForwardMode::Isolated => diagnostic
                .help("an isolated network is reached by nobody; mode='nat' masquerades it"),
            _ => diagnostic.help("its guests are reached at their own addresses"),
        });
    }
    if forward.protocol == ForwardProtocol::Sctp && forward.to_port != forward.ports.value.start {
        return Some(
            Diagnostic::error(forward.span.clone(), "SCTP ports are not translated")
                .label(format!("port {} leads to {}", forward.ports.value.start, forward.to_port))
                .help("leave `to-port` out: the guest has to use the port that is forwarded"),
        );
    }
    guest_address(to, "the guest of a port forward", network)
}
