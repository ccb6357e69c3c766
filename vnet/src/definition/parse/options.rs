//! `<vnet:options>` in `<metadata>`. What is unknown in it has been reported by `schema`.

use roxmltree::Node;

use super::{
    super::{
        diagnostic::{Diagnostic, Located},
        model::{
            AddressSources, Filtering, Forward, ForwardMode, ForwardProtocol, Guard, Guest, Limits,
            Masquerade, Nat, Options, PortForward, PortRange, Timeouts,
        },
        schema,
        values::{self, Fault},
    },
    Reader, child,
};

impl Reader<'_> {
    pub(super) fn options(&mut self, root: Node) -> Options {
        let metadata = child(root, "metadata");
        let Some(node) = metadata.and_then(|metadata| ours(metadata, "options").next()) else {
            return Options::default();
        };
        let forwards = ours(node, "forward").filter_map(|forward| self.port_forward(forward));
        let forwards = forwards.collect();
        Options {
            span: Some(self.tag(node)),
            uplinks: self.uplinks(node),
            masquerade: ours(node, "masquerade").next().map(|masquerade| Located {
                value: Masquerade { ipv6: self.flag(masquerade, "ipv6", false) },
                span: self.tag(masquerade),
            }),
            filtering: ours(node, "filtering")
                .next()
                .and_then(|filtering| self.required(filtering, "mode", filtering_mode)),
            limits: ours(node, "limits").next().map(|node| self.limits(node)).unwrap_or_default(),
            timeouts: ours(node, "timeouts")
                .next()
                .map(|node| self.timeouts(node))
                .unwrap_or_default(),
            guard: ours(node, "guard")
                .next()
                .map(|guard| Located { value: self.guard(guard), span: self.tag(guard) }),
            guests: self.guests(node),
            forwards,
        }
    }

    /// What vnet does with a network that libvirt leaves open, if `<vnet:masquerade>` says so.
    pub(super) fn masqueraded(&mut self, forward: Forward, options: &Options) -> Forward {
        let Some(masquerade) = &options.masquerade else { return forward };
        let mode = &forward.mode;
        if mode.value != ForwardMode::Open {
            let message = format!(
                "`<vnet:masquerade>` is for networks of mode 'open', not for mode '{}'",
                mode.value.name()
            );
            self.report(
                Diagnostic::error(masquerade.span.clone(), message)
                    .related("the mode is set at", &mode.span)
                    .help("remove it, or write mode='open', with which libvirt makes no rules"),
            );
            return forward;
        }
        let ipv6 = Located { value: masquerade.value.ipv6, span: masquerade.span.clone() };
        Forward {
            mode: Located { value: ForwardMode::Nat, span: mode.span.clone() },
            nat: Some(Nat {
                ipv6: Some(ipv6),
                addresses: None,
                ports: PortRange::default(),
                ports_span: None,
            }),
            ..forward
        }
    }

    fn uplinks(&mut self, node: Node) -> Vec<Located<String>> {
        let mut uplinks: Vec<Located<String>> = Vec::new();
        for uplink in ours(node, "uplink") {
            let Some(dev) = self.required(uplink, "dev", values::interface) else { continue };
            match uplinks.iter().find(|other| other.value == dev.value) {
                Some(first) => self.report(
                    Diagnostic::error(dev.span, format!("uplink '{}' is listed twice", dev.value))
                        .related("the first is at", &first.span),
                ),
                None => uplinks.push(dev),
            }
        }
        uplinks
    }

    fn limits(&mut self, node: Node) -> Limits {
        Limits {
            flows: self.positive(node, "flows"),
            ports: self.value(node, "ports", values::port_count),
            new_flows: self.positive(node, "new-flows"),
            network_flows: self.positive(node, "network-flows"),
        }
    }

    fn timeouts(&mut self, node: Node) -> Timeouts {
        let hold_down =
            self.value(node, "port-hold-down", values::number::<0, { u32::MAX as u64 }>);
        Timeouts {
            tcp: self.positive(node, "tcp"),
            tcp_transitory: self.positive(node, "tcp-transitory"),
            udp: self.positive(node, "udp"),
            icmp: self.positive(node, "icmp"),
            other: self.positive(node, "other"),
            port_hold_down: hold_down.map(|seconds| seconds.map(|seconds| seconds as u32)),
        }
    }

    fn positive(&mut self, node: Node, name: &str) -> Option<Located<u32>> {
        let number = self.value(node, name, values::number::<1, { u32::MAX as u64 }>);
        number.map(|number| number.map(|number| number as u32))
    }

    fn guard(&mut self, node: Node) -> Guard {
        Guard {
            mac: self.flag(node, "mac", true),
            addresses: self.flag(node, "addresses", true),
            servers: self.flag(node, "servers", true),
            tags: self.flag(node, "tags", true),
            from: self
                .value(node, "from", address_sources)
                .map_or_else(AddressSources::default, |from| from.value),
        }
    }

    fn guests(&mut self, node: Node) -> Vec<Guest> {
        let mut guests: Vec<Guest> = Vec::new();
        for element in ours(node, "guest") {
            let mac = self.required(element, "mac", values::mac);
            let guard = self.value(element, "guard", values::yes_no);
            let addresses = ours(element, "address")
                .filter_map(|address| self.required(address, "ip", values::address))
                .collect();
            let Some(mac) = mac else { continue };
            match guests.iter().find(|other| other.mac.value == mac.value) {
                Some(first) => self.report(
                    Diagnostic::error(mac.span, format!("guest {} is listed twice", mac.value))
                        .related("the first is at", &first.mac.span)
                        .help("put all that is said of one guest into one `<vnet:guest>`"),
                ),
                None => guests.push(Guest { span: self.tag(element), mac, guard, addresses }),
            }
        }
        guests
    }

    fn port_forward(&mut self, node: Node) -> Option<PortForward> {
        let protocol = self.required(node, "protocol", protocol);
        let address = self.optional(node, "address", values::address);
        let port = self.required(node, "port", values::port);
        let last_port = self.optional(node, "last-port", values::port);
        let to = self.required(node, "to", values::address);
        let to_port = self.optional(node, "to-port", values::port);
        let (protocol, port, to) = (protocol?, port?, to?);
        let (address, last_port, to_port) = (address.ok()?, last_port.ok()?, to_port.ok()?);
        let start = port.value;
        let end = last_port.as_ref().map_or(start, |last| last.value);
        if let Some(last) = last_port.filter(|_| end < start) {
            self.report(
                Diagnostic::error(last.span, "`last-port` is below `port`")
                    .label(format!("{end} is below {start}"))
                    .help(format!("write the lower port first: port='{end}' last-port='{start}'")),
            );
            return None;
        }
        let first_target = to_port.as_ref().map_or(start, |to_port| to_port.value);
        if let Some(to_port) = to_port.filter(|_| first_target.checked_add(end - start).is_none()) {
            let room = u16::MAX - (end - start);
            self.report(
                Diagnostic::error(to_port.span, "the guest's ports end above 65535")
                    .label(format!("{} ports from {first_target} up", end - start + 1))
                    .help(format!("with that many ports `to-port` is at most {room}")),
            );
            return None;
        }
        Some(PortForward {
            span: self.tag(node),
            protocol: protocol.value,
            address,
            ports: Located { value: PortRange { start, end }, span: port.span },
            to,
            to_port: first_target,
        })
    }
}

/// The child elements of this name in vnet's namespace.
fn ours<'a, 'd>(node: Node<'a, 'd>, name: &str) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children().filter(move |child| child.has_tag_name((schema::OPTIONS, name)))
}

fn filtering_mode(text: &str) -> Result<Filtering, Fault> {
    values::choice(
        text,
        &[
            ("address-and-port", Filtering::AddressAndPort),
            ("endpoint-independent", Filtering::EndpointIndependent),
        ],
    )
}

fn protocol(text: &str) -> Result<ForwardProtocol, Fault> {
    let protocols = [ForwardProtocol::Tcp, ForwardProtocol::Udp, ForwardProtocol::Sctp];
    values::choice(text, &protocols.map(|protocol| (protocol.name(), protocol)))
}

/// Words with white space between them.
fn address_sources(text: &str) -> Result<AddressSources, Fault> {
    let mut sources = AddressSources { fixed: false, leases: false, learn: false };
    let mut words = text.split_ascii_whitespace().peekable();
    if words.peek().is_none() {
        return Err(Fault::new("one or several of `static`, `leases` and `learn`", text));
    }
    for word in words {
        match values::choice(word, &[("static", 0), ("leases", 1), ("learn", 2)]) {
            Ok(0) => sources.fixed = true,
            Ok(1) => sources.leases = true,
            Ok(_) => sources.learn = true,
            Err(fault) => {
                return Err(Fault {
                    expected: "one or several of `static`, `leases` and `learn`".to_owned(),
                    ..fault
                });
            }
        }
    }
    Ok(sources)
}
