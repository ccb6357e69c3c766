//! Which elements go with which forward mode.
//!
//! The rules are those of `virNetworkDefParseXML` (`src/conf/network_conf.c`) and `networkValidate`
//! (`src/network/bridge_driver.c`). They ask what is written, not what could be read of it, so that
//! one mistake is not reported twice.

use roxmltree::Node;

use super::{
    super::{diagnostic::Diagnostic, model::ForwardMode},
    Reader, child, children,
};

impl Reader<'_> {
    /// `mode` is none if it could not be read; then there is nothing to say.
    pub(super) fn mode_rules(&mut self, root: Node, mode: Option<ForwardMode>) {
        let Some(mode) = mode else { return };
        if mode.has_own_bridge() {
            self.own_bridge_rules(root, mode);
        } else {
            self.foreign_bridge_rules(root, mode);
        }
        self.device_rules(root, mode);
    }

    fn own_bridge_rules(&mut self, root: Node, mode: ForwardMode) {
        if mode != ForwardMode::Isolated && child(root, "ip").is_none() {
            self.report(
                Diagnostic::error(
                    self.forward_span(root),
                    format!("mode '{}' needs an `<ip>`", mode.name()),
                )
                .help("add the guests' gateway, for example <ip address='192.168.122.1' prefix='24'/>"),
            );
        }
        let bridge = child(root, "bridge");
        let name = bridge.and_then(|bridge| bridge.attribute("name")).unwrap_or_default();
        if name.is_empty() || name.contains("%d") {
            let span = match bridge {
                Some(bridge) => self.attribute_span(bridge, "name"),
                None => self.tag(root),
            };
            let message = if name.is_empty() {
                "the network's bridge has no name"
            } else {
                "the bridge's name is a template"
            };
            self.report(Diagnostic::error(span, message).help(
                "vnet attaches to a bridge that exists: add <bridge name='virbr0'/>; libvirt chooses a name when it defines a network, and `virsh net-dumpxml NAME` prints it",
            ));
        }
    }

    fn foreign_bridge_rules(&mut self, root: Node, mode: ForwardMode) {
        for name in ["mac", "ip", "dns", "domain", "mtu"] {
            let records =
                |dns| ["host", "srv", "txt"].iter().any(|name| child(dns, name).is_some());
            if let Some(element) = child(root, name).filter(|node| name != "dns" || records(*node))
            {
                self.not_in_mode(element, None, mode);
            }
        }
        let bridge = child(root, "bridge");
        let attributes: &[&str] = if mode == ForwardMode::Bridge {
            &["stp", "delay", "zone"]
        } else {
            &["name", "stp", "delay", "zone", "macTableManager"]
        };
        if let Some(bridge) = bridge {
            for name in attributes {
                // A delay of 0 is the absence of one.
                let empty = |value: &str| value.is_empty() || *name == "delay" && value == "0";
                if bridge.attribute(*name).is_some_and(|value| !empty(value)) {
                    self.not_in_mode(bridge, Some(name), mode);
                }
            }
        }
        let named =
            bridge.filter(|bridge| bridge.attribute("name").is_some_and(|name| !name.is_empty()));
        if named.is_none() || mode != ForwardMode::Bridge {
            if let Some(bandwidth) = child(root, "bandwidth") {
                self.not_in_mode(bandwidth, None, mode);
            }
            for group in children(root, "portgroup") {
                if let Some(bandwidth) = child(group, "bandwidth") {
                    self.not_in_mode(bandwidth, None, mode);
                }
            }
        }
        if mode != ForwardMode::Bridge {
            return;
        }
        let Some(forward) = child(root, "forward") else { return };
        let has_device = forward.has_attribute("dev")
            || child(forward, "interface").is_some()
            || child(forward, "pf").is_some();
        match (named, has_device) {
            (Some(bridge), true) => self.report(
                Diagnostic::error(
                    self.attribute_span(bridge, "name"),
                    "mode 'bridge' takes a bridge or a forward device, not both",
                )
                .related("the device is named at", &self.tag(forward))
                .help("keep <bridge name='...'/> for guests on a bridge of the host"),
            ),
            (None, false) => self.report(
                Diagnostic::error(self.forward_span(root), "mode 'bridge' names no bridge")
                    .help("add <bridge name='br0'/>, with a bridge of the host"),
            ),
            _ => {}
        }
    }

    fn device_rules(&mut self, root: Node, mode: ForwardMode) {
        let Some(forward) = child(root, "forward") else { return };
        let interface = child(forward, "interface");
        let pci = child(forward, "address");
        let function = child(forward, "pf");
        if forward.has_attribute("dev") && (pci.is_some() || function.is_some()) {
            self.report(Diagnostic::error(
                self.attribute_span(forward, "dev"),
                "`dev` cannot stand beside `<address>` or `<pf>`",
            ));
        }
        let pools: Vec<Node> = [interface, pci, function].into_iter().flatten().collect();
        if let [first, second, ..] = pools[..] {
            self.report(
                Diagnostic::error(
                    self.tag(second),
                    "`<address>`, `<interface>` and `<pf>` exclude each other",
                )
                .related("another one is at", &self.tag(first)),
            );
        }
        match mode {
            ForwardMode::Nat | ForwardMode::Route => {
                if let Some(second) = children(forward, "interface").nth(1) {
                    self.report(
                        Diagnostic::error(
                            self.tag(second),
                            format!("mode '{}' takes one forward device", mode.name()),
                        )
                        .help("without any, traffic may leave through every interface"),
                    );
                }
            }
            ForwardMode::Open => {
                let dev = forward.has_attribute("dev").then_some((forward, "dev"));
                if let Some((node, name)) = dev.or(interface.map(|node| (node, "dev"))) {
                    self.report(
                        Diagnostic::error(
                            self.attribute_span(node, name),
                            "mode 'open' takes no forward device",
                        )
                        .help("an open network has no rules of its own; use mode='route' to limit where traffic leaves"),
                    );
                }
            }
            ForwardMode::Hostdev => {
                let dev = forward.attribute("dev").is_some_and(|dev| !dev.is_empty());
                let span = if dev {
                    Some(self.attribute_span(forward, "dev"))
                } else {
                    interface.map(|interface| self.tag(interface))
                };
                if let Some(span) = span {
                    self.report(
                        Diagnostic::error(
                            span,
                            "mode 'hostdev' lists devices by PCI address",
                        )
                        .help(
                            "write <address type='pci' domain='0' bus='4' slot='0' function='1'/>",
                        ),
                    );
                }
            }
            _ => {}
        }
        if let Some(pci) = pci.filter(|_| mode != ForwardMode::Hostdev) {
            self.report(
                Diagnostic::error(
                    self.tag(pci),
                    format!("a PCI address is for mode 'hostdev', not for mode '{}'", mode.name()),
                )
                .help("name the device by its interface: <interface dev='eth0'/>"),
            );
        }
    }

    fn not_in_mode(&mut self, node: Node, attribute: Option<&str>, mode: ForwardMode) {
        let element = node.tag_name().name();
        let (span, what) = match attribute {
            Some(name) => (self.attribute_span(node, name), format!("`{name}` of `<{element}>`")),
            None => (self.tag(node), format!("`<{element}>`")),
        };
        self.report(
            Diagnostic::error(span, format!("{what} is not allowed in mode '{}'", mode.name()))
                .help("it is for networks with a bridge of their own: modes nat, route, open, or no `<forward>`"),
        );
    }

    fn forward_span(&self, root: Node) -> super::super::diagnostic::Span {
        match child(root, "forward") {
            Some(forward) if forward.has_attribute("mode") => self.attribute_span(forward, "mode"),
            Some(forward) => self.tag(forward),
            None => self.tag(root),
        }
    }
}
