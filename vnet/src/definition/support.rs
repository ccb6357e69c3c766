//! What this version leaves alone of what a definition says.
//!
//! All such limits are here and nowhere else: a limit that falls is removed from this file.
//! A warning means that the network does not do what its definition says. A note names a setting
//! of the bridge: vnet attaches to bridges that exist, and whoever made the bridge has set it.

use super::{
    diagnostic::{Diagnostic, Located, Span},
    model::{ForwardMode, Ip, Network},
};

pub(super) fn network(network: &Network, diagnostics: &mut Vec<Diagnostic>) {
    if let Some(diagnostic) = mode(network) {
        // The rest is moot when nothing of the network is forwarded.
        diagnostics.push(diagnostic);
        return;
    }
    let mut limits = Limits { diagnostics };
    limits.addresses(network);
    limits.services(network);
    limits.ports(network);
    limits.bridge(network);
}

/// Networks whose traffic this version does not touch.
fn mode(network: &Network) -> Option<Diagnostic> {
    let mode = &network.forward.mode;
    let reason = match mode.value {
        ForwardMode::Nat => return None,
        ForwardMode::Isolated => "this is an isolated network, without `<forward>`".to_owned(),
        ForwardMode::Bridge if network.bridge.name.is_none() => {
            "mode 'bridge' without `<bridge>` is macvtap, which bypasses the host".to_owned()
        }
        ForwardMode::Route | ForwardMode::Open | ForwardMode::Bridge => {
            format!("mode '{}'", mode.value.name())
        }
        ForwardMode::Private | ForwardMode::Vepa | ForwardMode::Passthrough => {
            format!("mode '{}' is macvtap, which bypasses the host", mode.value.name())
        }
        ForwardMode::Hostdev => "mode 'hostdev' hands the device to the guest".to_owned(),
    };
    Some(
        Diagnostic::warning(mode.span.clone(), format!("not forwarded by this version: {reason}"))
            .help("vnet leaves this network as it is"),
    )
}

struct Limits<'a> {
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Limits<'_> {
    fn addresses(&mut self, network: &Network) {
        if let Some(nat) = &network.forward.nat {
            if let Some(addresses) = &nat.addresses {
                self.warn(
                    &addresses.span,
                    "the address range of `<nat>` is not used by this version",
                    "guests leave with the uplink's own address",
                );
            }
            if let Some(ipv6) = nat.ipv6.as_ref().filter(|ipv6| ipv6.value) {
                self.warn(
                    &ipv6.span,
                    "IPv6 is not masqueraded by this version",
                    "it is left to the host's own stack",
                );
            }
        }
        for ip in &network.ips {
            if ip.address.value.is_ipv6() {
                self.warn(
                    &ip.span,
                    "IPv6 is not forwarded by this version",
                    "it is left to the host's own stack",
                );
            }
        }
        for route in &network.routes {
            self.note(
                &route.span,
                "`<route>` is not set by vnet",
                "the host's routes are followed",
            );
        }
    }

    fn services(&mut self, network: &Network) {
        const DNS: &str = "guests need a DNS server from elsewhere, as libvirt's dnsmasq";
        for ip in &network.ips {
            self.ip_services(ip);
        }
        if let Some(dns) = network.dns.as_ref().filter(|dns| dns.enable) {
            self.warn(&dns.span, "DNS is not served by this version", DNS);
        }
        if let Some(domain) = &network.domain {
            self.warn(&domain.name.span, "the DNS domain is not served by this version", DNS);
        }
        if let Some(option) = network.dnsmasq_options.first() {
            self.warn(
                &option.span,
                "dnsmasq is not run by this version",
                "its options have no effect",
            );
        }
    }

    fn ip_services(&mut self, ip: &Ip) {
        if let Some(dhcp) = &ip.dhcp {
            self.warn(
                &dhcp.span,
                "DHCP is not served by this version",
                "guests need a DHCP server from elsewhere, as libvirt's dnsmasq",
            );
        }
        if let Some(root) = &ip.tftp_root {
            self.warn(
                &root.span,
                "TFTP is not served by this version",
                "guests cannot boot from it",
            );
        }
        if let Some(local_ptr) = ip.local_ptr.as_ref().filter(|local_ptr| local_ptr.value) {
            self.note(&local_ptr.span, "`localPtr` is for the DNS server", "vnet runs none");
        }
    }

    fn ports(&mut self, network: &Network) {
        if let Some(bandwidth) = &network.bandwidth {
            self.warn(
                &bandwidth.span,
                "bandwidth is not limited by this version",
                "guests may use all there is",
            );
        }
        if let Some(vlan) = &network.vlan {
            self.warn(
                &vlan.span,
                "VLAN tags are not set by this version",
                "guests are on the bridge without a tag",
            );
        }
        if let Some(isolated) = network.port_isolated.as_ref().filter(|isolated| isolated.value) {
            self.warn(
                &isolated.span,
                "ports are not isolated by this version",
                "guests of this network can reach each other, unless libvirt set it on their ports",
            );
        }
        if let Some(port) = &network.virtual_port {
            self.warn(
                &port.span,
                "virtual ports are not used by this version",
                "the bridge has to be a Linux bridge",
            );
        }
        for group in &network.port_groups {
            self.warn(
                &group.span,
                "port groups are not applied by this version",
                "their VLANs and limits have no effect",
            );
        }
    }

    fn bridge(&mut self, network: &Network) {
        const MADE: &str = "set by whoever made the bridge";
        let bridge = &network.bridge;
        self.setting(bridge.stp.as_ref(), "`stp` of the bridge is not changed by vnet");
        self.setting(bridge.delay.as_ref(), "`delay` of the bridge is not changed by vnet");
        self.setting(bridge.zone.as_ref(), "the firewalld zone is not changed by vnet");
        self.setting(
            bridge.mac_table_manager.as_ref(),
            "the bridge's forwarding table is not managed by vnet",
        );
        self.setting(network.mac.as_ref(), "the bridge's MAC address is not changed by vnet");
        self.setting(network.mtu.as_ref(), "the bridge's MTU is not changed by vnet");
        if let Some(ipv6) = &network.ipv6 {
            self.note(&ipv6.span, "IPv6 among guests is not switched by vnet", MADE);
        }
        if let Some(trust) = &network.trust_guest_rx_filters {
            self.note(&trust.span, "`trustGuestRxFilters` is for macvtap", "it has no effect here");
        }
    }

    fn setting<T>(&mut self, setting: Option<&Located<T>>, message: &str) {
        if let Some(setting) = setting {
            self.note(&setting.span, message, "set by whoever made the bridge");
        }
    }

    fn warn(&mut self, span: &Span, message: &str, meaning: &str) {
        self.diagnostics.push(Diagnostic::warning(span.clone(), message).label(meaning));
    }

    fn note(&mut self, span: &Span, message: &str, meaning: &str) {
        self.diagnostics.push(Diagnostic::note(span.clone(), message).label(meaning));
    }
}
