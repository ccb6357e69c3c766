//! What this version leaves alone of what a definition says.
//!
//! All such limits are here and nowhere else: a limit that falls is removed from this file.
//! A warning means that the network does not do what its definition says. A note names a setting
//! of the bridge that vnet gives to bridges which it makes, and to no others.

use super::{
    diagnostic::{Diagnostic, Located, Span},
    model::{Bandwidth, ForwardMode, Network, VirtualPort},
};

pub(super) fn network(network: &Network, diagnostics: &mut Vec<Diagnostic>) {
    let mut limits = Limits { diagnostics };
    if let Some((span, reason)) = beyond(network) {
        limits.diagnostics.push(
            Diagnostic::warning(span, format!("not served by vnet: {reason}"))
                .help("vnet leaves this network as it is"),
        );
        if let Some(options) = &network.options.span {
            limits.warn(options, "vnet's own options have no effect on this network", "");
        }
        // The rest is moot.
        return;
    }
    if let Some(domain) = network.domain.as_ref().filter(|domain| domain.register) {
        limits.warn(
            &domain.name.span,
            "the domain is not registered with systemd-resolved by this version",
            "the host itself does not know the guests' names",
        );
    }
    limits.ports(network);
    limits.bridge(network);
    limits.options(network);
}

/// Why vnet has no part in a network's traffic, and where that is said.
fn beyond(network: &Network) -> Option<(Span, String)> {
    let mode = &network.forward.mode;
    let reason = match mode.value {
        ForwardMode::Isolated | ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open => {
            return None;
        }
        ForwardMode::Bridge if network.bridge.name.is_none() => {
            "mode 'bridge' without `<bridge>` is macvtap, which bypasses the host".to_owned()
        }
        ForwardMode::Bridge => {
            let port = network.virtual_port.as_ref()?;
            let kind = port.kind.as_ref().map_or("802.1Qbg", |kind| kind.value.as_str());
            let reason = format!("a virtual port of type '{kind}' is on no Linux bridge");
            return Some((port.span.clone(), reason));
        }
        ForwardMode::Private | ForwardMode::Vepa | ForwardMode::Passthrough => {
            format!("mode '{}' is macvtap, which bypasses the host", mode.value.name())
        }
        ForwardMode::Hostdev => "mode 'hostdev' hands the device to the guest".to_owned(),
    };
    Some((mode.span.clone(), reason))
}

/// Whether guests of any family are masqueraded.
fn is_masqueraded(network: &Network) -> bool {
    let Some(nat) = &network.forward.nat else { return false };
    let nat66 = nat.ipv6.as_ref().is_some_and(|ipv6| ipv6.value);
    let only_ipv6 =
        !network.ips.is_empty() && network.ips.iter().all(|ip| ip.address.value.is_ipv6());
    nat66 || !only_ipv6
}

struct Limits<'a> {
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Limits<'_> {
    fn ports(&mut self, network: &Network) {
        if let Some(vlan) = network.guest_vlan()
            && vlan.tags.iter().any(|tag| !(1..=4094).contains(&tag.id))
        {
            self.warn(&vlan.span, "a Linux bridge has VLANs 1 to 4094", "the others are left out");
        }
        self.bandwidth(network.bandwidth.as_ref());
        self.virtual_port(network.virtual_port.as_ref());
        for group in &network.port_groups {
            if !group.default {
                self.note(
                    &group.span,
                    "this port group is for guests whose own definition names it",
                    "libvirt sets it on their ports",
                );
            }
            self.bandwidth(group.bandwidth.as_ref());
            self.virtual_port(group.virtual_port.as_ref());
            if let Some(trust) = &group.trust_guest_rx_filters {
                self.trust(&trust.span);
            }
        }
    }

    fn bandwidth(&mut self, bandwidth: Option<&Bandwidth>) {
        if let Some(bandwidth) = bandwidth {
            self.warn(
                &bandwidth.span,
                "bandwidth is not limited by this version",
                "guests may use all there is",
            );
        }
    }

    fn virtual_port(&mut self, port: Option<&VirtualPort>) {
        if let Some(port) = port {
            self.warn(
                &port.span,
                "virtual ports are not used by vnet",
                "the bridge is a Linux bridge",
            );
        }
    }

    fn bridge(&mut self, network: &Network) {
        const ANYWAY: &str = "vnet leaves it as it is on every bridge";
        let bridge = &network.bridge;
        self.setting(bridge.stp.as_ref(), "`stp`");
        self.setting(bridge.delay.as_ref(), "`delay`");
        self.setting(network.mac.as_ref(), "the MAC address");
        self.setting(network.mtu.as_ref(), "the MTU");
        if let Some(zone) = &bridge.zone {
            self.note(&zone.span, "the firewalld zone is not changed by vnet", ANYWAY);
        }
        if let Some(manager) = &bridge.mac_table_manager {
            self.note(&manager.span, "the forwarding table is not managed by vnet", ANYWAY);
        }
        if let Some(ipv6) = &network.ipv6 {
            self.note(&ipv6.span, "IPv6 among guests is not switched by vnet", ANYWAY);
        }
        if let Some(trust) = &network.trust_guest_rx_filters {
            self.trust(&trust.span);
        }
    }

    fn trust(&mut self, span: &Span) {
        self.note(span, "`trustGuestRxFilters` is for macvtap", "it has no effect here");
    }

    /// What a bridge has that `--create-bridges` makes.
    fn setting<T>(&mut self, setting: Option<&Located<T>>, name: &str) {
        if let Some(setting) = setting {
            let message = format!("{name} is for a bridge that vnet makes (`--create-bridges`)");
            self.note(&setting.span, &message, "a bridge that is there already keeps its own");
        }
    }

    fn options(&mut self, network: &Network) {
        const BRIDGED: &str = "packets of this network are the bridge's business alone";
        const ROUTED: &str = "guests of this network keep their own addresses";
        const UNCOUNTED: &str = "only masqueraded flows are counted";
        let options = &network.options;
        let bridged = network.forward.mode.value == ForwardMode::Bridge;
        let masqueraded = is_masqueraded(network);
        if let Some(filtering) = options.filtering.as_ref().filter(|_| !masqueraded) {
            self.warn(&filtering.span, "`<vnet:filtering>` has no effect here", ROUTED);
        }
        if !masqueraded {
            let reason = if bridged { BRIDGED } else { UNCOUNTED };
            let limits = &options.limits;
            self.no_effect(limits.flows.as_ref(), "flows", reason);
            self.no_effect(limits.ports.as_ref(), "ports", ROUTED);
            self.no_effect(limits.new_flows.as_ref(), "new-flows", reason);
            self.no_effect(limits.network_flows.as_ref(), "network-flows", reason);
            let timeouts = &options.timeouts;
            self.no_effect(timeouts.tcp.as_ref(), "tcp", reason);
            self.no_effect(timeouts.tcp_transitory.as_ref(), "tcp-transitory", reason);
            self.no_effect(timeouts.udp.as_ref(), "udp", reason);
            self.no_effect(timeouts.icmp.as_ref(), "icmp", reason);
            self.no_effect(timeouts.other.as_ref(), "other", reason);
            self.no_effect(timeouts.port_hold_down.as_ref(), "port-hold-down", ROUTED);
        }
    }

    fn no_effect<T>(&mut self, option: Option<&Located<T>>, name: &str, reason: &str) {
        if let Some(option) = option {
            self.warn(&option.span, &format!("`{name}` has no effect here"), reason);
        }
    }

    fn warn(&mut self, span: &Span, message: &str, meaning: &str) {
        self.diagnostics.push(Diagnostic::warning(span.clone(), message).label(meaning));
    }

    fn note(&mut self, span: &Span, message: &str, meaning: &str) {
        self.diagnostics.push(Diagnostic::note(span.clone(), message).label(meaning));
    }
}
