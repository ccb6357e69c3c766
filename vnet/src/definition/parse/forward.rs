//! `<forward>` and what is in it.

use roxmltree::Node;

use super::{
    super::{
        diagnostic::{Diagnostic, Located},
        model::{AddressRange, Forward, ForwardMode, Nat, PciAddress, PortRange},
        values,
    },
    Reader, child, children,
};

impl Reader<'_> {
    /// None if the mode cannot be known, which makes all rules about it moot.
    pub(super) fn forward(&mut self, root: Node) -> Option<Forward> {
        let Some(node) = child(root, "forward") else {
            return Some(Forward {
                mode: Located { value: ForwardMode::Isolated, span: self.tag(root) },
                devices: Vec::new(),
                nat: None,
                pci_devices: Vec::new(),
                physical_function: None,
                driver: None,
                managed: false,
            });
        };
        let mode = if node.attribute("mode").is_some_and(|mode| !mode.is_empty()) {
            self.value(node, "mode", values::forward_mode)
        } else {
            Some(Located { value: ForwardMode::Nat, span: self.tag(node) })
        };
        self.at_most_one(node, "nat");
        let nat = child(node, "nat").map(|nat| (nat, self.nat(nat)));
        let forward = Forward {
            devices: self.devices(node),
            nat: None,
            pci_devices: self.pci_devices(node),
            physical_function: self.physical_function(node),
            driver: child(node, "driver")
                .and_then(|driver| self.value(driver, "name", driver_name)),
            managed: node.attribute("managed").is_some_and(|yes| yes.eq_ignore_ascii_case("yes")),
            mode: mode?,
        };
        let nat = match (forward.mode.value, nat) {
            (ForwardMode::Nat, None) => Some(Nat {
                ipv6: None,
                addresses: None,
                ports: PortRange::default(),
                ports_span: None,
            }),
            (ForwardMode::Nat, Some((_, nat))) => Some(nat),
            (mode, Some((nat, _))) => {
                self.report(
                    Diagnostic::error(
                        self.tag(nat),
                        format!("`<nat>` is for mode 'nat', not for mode '{}'", mode.name()),
                    )
                    .related("the mode is set at", &forward.mode.span)
                    .help("remove `<nat>`, or write mode='nat'"),
                );
                None
            }
            (_, None) => None,
        };
        Some(Forward { nat, ..forward })
    }

    fn nat(&mut self, node: Node) -> Nat {
        for name in ["address", "port"] {
            self.at_most_one(node, name);
        }
        let ports = child(node, "port").and_then(|port| self.port_range(port));
        Nat {
            ipv6: self.value(node, "ipv6", values::yes_no),
            addresses: child(node, "address").and_then(|range| self.address_range(range)),
            ports_span: ports.as_ref().map(|ports| ports.span.clone()),
            ports: ports.map(|ports| ports.value).unwrap_or_default(),
        }
    }

    fn port_range(&mut self, node: Node) -> Option<Located<PortRange>> {
        let start = self.required(node, "start", values::port);
        let end = self.required(node, "end", values::port);
        let (start, end) = start.zip(end)?;
        if start.value > end.value {
            self.report(
                Diagnostic::error(start.span, "`start` of this port range is above `end`")
                    .label(format!("{} is above {}", start.value, end.value))
                    .help(format!(
                        "write the lower port first: start='{}' end='{}'",
                        end.value, start.value
                    )),
            );
            return None;
        }
        let range = PortRange { start: start.value, end: end.value };
        Some(Located { value: range, span: self.tag(node) })
    }

    fn address_range(&mut self, node: Node) -> Option<Located<AddressRange>> {
        let start = self.required(node, "start", values::ipv4);
        let end = self.required(node, "end", values::ipv4);
        let (start, end) = start.zip(end)?;
        if start.value > end.value {
            self.report(
                Diagnostic::error(start.span, "`start` of this address range is above `end`")
                    .label(format!("{} is above {}", start.value, end.value))
                    .help(format!(
                        "write the lower address first: start='{}' end='{}'",
                        end.value, start.value
                    )),
            );
            return None;
        }
        let range = AddressRange { start: start.value, end: end.value };
        Some(Located { value: range, span: self.tag(node) })
    }

    /// `dev` and the first `<interface>` name the same device in what libvirt writes.
    fn devices(&mut self, node: Node) -> Vec<Located<String>> {
        let dev = self.value(node, "dev", values::interface);
        let mut devices: Vec<Located<String>> = dev.clone().into_iter().collect();
        let interfaces = self.each(node, "interface", |reader, interface| {
            reader.required(interface, "dev", values::interface)
        });
        for (index, interface) in interfaces.into_iter().enumerate() {
            match &dev {
                Some(dev) if index == 0 => {
                    if dev.value != interface.value {
                        self.report(
                            Diagnostic::error(
                                interface.span,
                                "the first `<interface>` is not the device that `<forward>` names",
                            )
                            .label(format!("'{}' is not '{}'", interface.value, dev.value))
                            .related("`<forward>` names it at", &dev.span)
                            .help("name the same device in both, or remove one of the two"),
                        );
                    }
                    continue;
                }
                _ => {}
            }
            if let Some(first) = devices.iter().find(|device| device.value == interface.value) {
                let message = format!("interface '{}' is listed twice", interface.value);
                self.report(
                    Diagnostic::error(interface.span, message)
                        .related("the first is at", &first.span),
                );
                continue;
            }
            devices.push(interface);
        }
        devices
    }

    fn pci_devices(&mut self, node: Node) -> Vec<Located<PciAddress>> {
        let mut devices: Vec<Located<PciAddress>> = Vec::new();
        for device in self.each(node, "address", Self::pci_device) {
            match devices.iter().find(|listed| listed.value == device.value) {
                Some(first) => self.report(
                    Diagnostic::error(
                        device.span,
                        format!("PCI device {} is listed twice", device.value),
                    )
                    .related("the first is at", &first.span),
                ),
                None => devices.push(device),
            }
        }
        devices
    }

    fn pci_device(&mut self, node: Node) -> Option<Located<PciAddress>> {
        self.required(node, "type", |text| values::choice(text, &[("pci", ())]))?;
        let mut part = |name, max| {
            let wrong = node.attribute(name).is_some_and(|text| !text.is_empty());
            let value = self.value(node, name, |text| values::based_number(text, max));
            value.map(|value| value.value).or((!wrong).then_some(0))
        };
        let (domain, bus) = (part("domain", u64::from(u32::MAX)), part("bus", 0xff));
        let (slot, function) = (part("slot", 0x1f), part("function", 7));
        let value = PciAddress {
            domain: domain? as u32,
            bus: bus? as u8,
            slot: slot? as u8,
            function: function? as u8,
        };
        Some(Located { value, span: self.tag(node) })
    }

    fn physical_function(&mut self, node: Node) -> Option<Located<String>> {
        let mut functions = children(node, "pf");
        let first = functions.next()?;
        if let Some(second) = functions.next() {
            self.report(
                Diagnostic::error(self.tag(second), "`<forward>` takes one `<pf>`")
                    .related("the first is at", &self.tag(first)),
            );
        }
        self.required(first, "dev", values::interface)
    }
}

/// `virNetworkForwardDriverName` (`src/conf/network_conf.c`).
fn driver_name(text: &str) -> Result<String, values::Fault> {
    values::choice(text, &["kvm", "vfio"].map(|name| (name, name))).map(str::to_owned)
}
