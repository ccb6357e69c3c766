//! Rules between the networks of one run: they are to stand on one host beside each other.

use super::{
    diagnostic::{Diagnostic, Located},
    model::{Network, PortForward},
    render::visible,
};

pub(super) fn networks(networks: &[Network], diagnostics: &mut Vec<Diagnostic>) {
    for (index, later) in networks.iter().enumerate() {
        for earlier in &networks[..index] {
            pair(earlier, later, diagnostics);
        }
    }
}

fn pair(earlier: &Network, later: &Network, diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.extend(same(&earlier.name, &later.name, || {
        format!("network '{}' is defined twice", visible(&later.name.value))
    }));
    if let (Some(first), Some(second)) = (&earlier.uuid, &later.uuid) {
        diagnostics.extend(
            same(first, second, || {
                format!("another network has this UUID: '{}'", visible(&earlier.name.value))
            })
            .map(|diagnostic| {
                diagnostic.help("remove the `<uuid>` of the copy; libvirt then chooses one")
            }),
        );
    }
    let own = |network: &Network| network.forward.mode.value.has_own_bridge();
    // Two networks of mode bridge may share one: they differ in VLAN or port groups.
    if (own(earlier) || own(later))
        && let (Some(first), Some(second)) = (&earlier.bridge.name, &later.bridge.name)
    {
        diagnostics.extend(same(first, second, || {
            format!("network '{}' has this bridge already", visible(&earlier.name.value))
        }));
    }
    if own(earlier) && own(later) {
        overlap(earlier, later, diagnostics);
    }
    for forward in &later.options.forwards {
        let Some(other) = earlier.options.forwards.iter().find(|other| clash(other, forward))
        else {
            continue;
        };
        let message = format!(
            "network '{}' forwards {} already",
            visible(&earlier.name.value),
            what_clashes(other, forward)
        );
        diagnostics.push(
            Diagnostic::error(forward.span.clone(), message)
                .related("that forward is at", &other.span),
        );
    }
}

/// Whether a packet could be for either of two forwards.
pub(super) fn clash(one: &PortForward, other: &PortForward) -> bool {
    let (ports, others) = (one.ports.value, other.ports.value);
    let address = |forward: &PortForward| forward.address.as_ref().map(|address| address.value);
    one.protocol == other.protocol
        && one.to.value.is_ipv6() == other.to.value.is_ipv6()
        && address(one).zip(address(other)).is_none_or(|(one, other)| one == other)
        && ports.start <= others.end
        && others.start <= ports.end
}

/// The ports that two forwards share, in words.
pub(super) fn what_clashes(one: &PortForward, other: &PortForward) -> String {
    let (ports, others) = (one.ports.value, other.ports.value);
    let (start, end) = (ports.start.max(others.start), ports.end.min(others.end));
    let protocol = one.protocol.name();
    let ports = if start == end {
        format!("{protocol} port {start}")
    } else {
        format!("{protocol} ports {start}-{end}")
    };
    match one.address.as_ref().or(other.address.as_ref()) {
        Some(address) => format!("{ports} of {}", address.value),
        None => ports,
    }
}

fn overlap(earlier: &Network, later: &Network, diagnostics: &mut Vec<Diagnostic>) {
    for ip in &later.ips {
        let subnet = ip.subnet();
        let shares = |other: &ipnet::IpNet| other.contains(&subnet) || subnet.contains(other);
        let Some(other) = earlier.ips.iter().find(|other| shares(&other.subnet())) else {
            continue;
        };
        diagnostics.push(
            Diagnostic::error(
                ip.address.span.clone(),
                format!("this subnet overlaps one of network '{}'", visible(&earlier.name.value)),
            )
            .label(format!("{subnet} and {}", other.subnet()))
            .related("the other one is at", &other.address.span)
            .help("the networks of a host need subnets of their own"),
        );
    }
}

fn same<T: PartialEq>(
    first: &Located<T>,
    second: &Located<T>,
    message: impl FnOnce() -> String,
) -> Option<Diagnostic> {
    (first.value == second.value).then(|| {
        Diagnostic::error(second.span.clone(), message()).related("the first is at", &first.span)
    })
}
