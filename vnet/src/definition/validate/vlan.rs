//! Which networks can have VLANs.
//!
//! The rules are those of `networkValidate` (`src/network/bridge_driver.c`). libvirt sets VLANs on
//! a Linux bridge since 11.0, and older versions refuse such a network.

use super::super::{
    diagnostic::{Diagnostic, Located},
    model::{ForwardMode, Network, VirtualPort, Vlan},
};

pub(super) fn network(network: &Network, diagnostics: &mut Vec<Diagnostic>) {
    let of_network = network.vlan.as_ref();
    if let Some(vlan) = of_network {
        // The default port group decides for guests that name none.
        let decided = network.port_groups.iter().any(|group| group.default);
        if !decided {
            diagnostics.extend(refused(network, network.virtual_port.as_ref(), vlan));
        }
    }
    for group in &network.port_groups {
        if let Some(vlan) = group.vlan.as_ref().or(of_network) {
            let port = group.virtual_port.as_ref().or(network.virtual_port.as_ref());
            let diagnostic = match (&group.virtual_port, network.forward.mode.value) {
                (Some(port), mode) if mode != ForwardMode::Bridge => Some(beside(port, vlan)),
                _ => refused(network, port, vlan),
            };
            // One network's VLAN is refused once, however many groups take it over.
            let known = |other: &Diagnostic| diagnostics.contains(other);
            diagnostics.extend(diagnostic.filter(|diagnostic| !known(diagnostic)));
        }
    }
}

fn refused(network: &Network, port: Option<&VirtualPort>, vlan: &Vlan) -> Option<Diagnostic> {
    const HELP: &str = "VLANs are for mode 'bridge' with a Linux bridge or Open vSwitch, and for modes 'passthrough' and 'hostdev'";
    let mode = &network.forward.mode;
    let error = |message: String| Diagnostic::error(vlan.span.clone(), message).help(HELP);
    match mode.value {
        ForwardMode::Hostdev | ForwardMode::Passthrough => None,
        ForwardMode::Bridge if network.bridge.name.is_none() => Some(
            error("mode 'bridge' without `<bridge>` cannot have VLANs".to_owned())
                .label("the guests are on macvtap"),
        ),
        ForwardMode::Bridge => {
            let kind = |port: &VirtualPort| port.kind.clone();
            let kind: Located<String> = port.and_then(kind)?;
            (kind.value != "openvswitch").then(|| beside_kind(vlan, &kind))
        }
        ForwardMode::Isolated => Some(error("an isolated network cannot have VLANs".to_owned())),
        other => Some(error(format!("mode '{}' cannot have VLANs", other.name()))),
    }
}

fn beside(port: &VirtualPort, vlan: &Vlan) -> Diagnostic {
    Diagnostic::error(vlan.span.clone(), "this VLAN cannot stand beside a virtual port")
        .related("the virtual port is at", &port.span)
        .help("only Open vSwitch ports of mode 'bridge' have VLANs")
}

fn beside_kind(vlan: &Vlan, kind: &Located<String>) -> Diagnostic {
    let message = format!("virtual ports of type '{}' cannot have VLANs", kind.value);
    Diagnostic::error(vlan.span.clone(), message)
        .related("the type is set at", &kind.span)
        .help("only those of type 'openvswitch' have VLANs; a Linux bridge needs no virtual port")
}
