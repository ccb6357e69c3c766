//! Rules between the networks of one run: they are to stand on one host beside each other.

use super::{
    diagnostic::{Diagnostic, Located},
    model::Network,
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
