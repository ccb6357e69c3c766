//! Bandwidth, VLANs, virtual ports and port groups.

use roxmltree::Node;

use super::{
    super::{
        diagnostic::{Diagnostic, Located},
        model::{Bandwidth, PortGroup, Rate, VirtualPort, Vlan, VlanTag},
        values,
    },
    Reader, child, children,
};

/// The longest profile of a virtual port in bytes (`LIBVIRT_IFLA_VF_PORT_PROFILE_MAX` less its NUL).
const PROFILE_LIMIT: usize = 39;

impl Reader<'_> {
    /// The rules of `virNetDevBandwidthParse` (`src/conf/netdev_bandwidth_conf.c`).
    pub(super) fn bandwidth(&mut self, node: Node) -> Bandwidth {
        if node.has_attribute("classID") {
            self.report(
                Diagnostic::error(
                    self.attribute_span(node, "classID"),
                    "`classID` cannot stand in a definition",
                )
                .help("libvirt writes it into its own state only: remove it"),
            );
        }
        for name in ["inbound", "outbound"] {
            self.at_most_one(node, name);
        }
        Bandwidth {
            span: self.tag(node),
            inbound: child(node, "inbound").and_then(|rate| self.rate(rate)),
            outbound: child(node, "outbound").and_then(|rate| self.rate(rate)),
        }
    }

    fn rate(&mut self, node: Node) -> Option<Rate> {
        let average = self.value(node, "average", values::count);
        let rate = Rate {
            peak: self.value(node, "peak", values::count).map(|peak| peak.value),
            burst: self.value(node, "burst", values::count).map(|burst| burst.value),
            average: average.map(|average| average.value),
        };
        if node.has_attribute("floor") {
            self.report(
                Diagnostic::error(
                    self.attribute_span(node, "floor"),
                    "`floor` cannot stand in a network",
                )
                .label("a guaranteed rate is one guest's")
                .help("write it into `<bandwidth>` of the guest's own `<interface>`"),
            );
            return None;
        }
        if !node.has_attribute("average") {
            self.report(
                Diagnostic::error(
                    self.tag(node),
                    format!("`<{}>` needs `average`", node.tag_name().name()),
                )
                .help("the rate to shape to, in kilobytes per second: average='1000'"),
            );
            return None;
        }
        Some(rate)
    }

    /// The rules of `virNetDevVlanParse` (`src/conf/netdev_vlan_conf.c`).
    pub(super) fn vlan(&mut self, node: Node) -> Vlan {
        let tags: Vec<VlanTag> = self.each(node, "tag", |reader, tag| {
            let id = reader.required(tag, "id", values::number::<0, 4095>);
            let native = reader.value(tag, "nativeMode", values::native_mode);
            Some(VlanTag { id: id?.value as u16, native: native.map(|native| native.value) })
        });
        let written = children(node, "tag").count();
        let native: Vec<Node> =
            children(node, "tag").filter(|tag| tag.has_attribute("nativeMode")).collect();
        if written == 0 {
            self.report(
                Diagnostic::error(self.tag(node), "`<vlan>` needs a `<tag>`")
                    .help("write <tag id='42'/> inside it"),
            );
        }
        if let Some(second) = native.get(1).copied() {
            self.report(Diagnostic::error(
                self.attribute_span(second, "nativeMode"),
                "a trunk has one native VLAN",
            ));
        }
        let trunk = self.value(node, "trunk", values::yes_no).map(|trunk| trunk.value);
        let needs_trunk = written > 1 || !native.is_empty();
        if needs_trunk && trunk == Some(false) {
            self.report(
                Diagnostic::error(
                    self.attribute_span(node, "trunk"),
                    "several tags or a native VLAN need trunk='yes'",
                )
                .help("write trunk='yes', or leave it out"),
            );
        }
        Vlan { span: self.tag(node), trunk: trunk.unwrap_or(needs_trunk), tags }
    }

    /// `typed`: libvirt wants a type at the network, but not in its port groups.
    pub(super) fn virtual_port(&mut self, node: Node, typed: bool) -> VirtualPort {
        let kinds = [
            ("802.1Qbg", "802.1Qbg"),
            ("802.1Qbh", "802.1Qbh"),
            ("openvswitch", "openvswitch"),
            ("midonet", "midonet"),
        ];
        let read = |text: &str| values::choice(text, &kinds).map(str::to_owned);
        let kind =
            if typed { self.required(node, "type", read) } else { self.value(node, "type", read) };
        let parameters = child(node, "parameters");
        if let Some(parameters) = parameters {
            self.virtual_port_parameters(parameters, kind.as_ref());
        }
        let attributes = parameters.into_iter().flat_map(|parameters| parameters.attributes());
        VirtualPort {
            span: self.tag(node),
            kind,
            parameters: attributes
                .map(|attribute| (attribute.name().to_owned(), attribute.value().to_owned()))
                .collect(),
        }
    }

    /// Which parameters go with which type is in `virNetDevVPortProfileCheckNoExtras`
    /// (`src/conf/netdev_vport_profile_conf.c`).
    fn virtual_port_parameters(&mut self, node: Node, kind: Option<&Located<String>>) {
        for (name, max) in [("managerid", 0xff), ("typeid", 0xff_ffff), ("typeidversion", 0xff)] {
            let _ = self.value(node, name, |text| values::based_number(text, max));
        }
        for name in ["instanceid", "interfaceid"] {
            let _ = self.value(node, name, values::uuid);
        }
        if node.attribute("profileid").is_some_and(|text| text.len() > PROFILE_LIMIT) {
            let span = self.attribute_span(node, "profileid");
            let message = format!("`profileid` has more than {PROFILE_LIMIT} bytes");
            self.report(Diagnostic::error(span, message));
        }
        let Some(kind) = kind else { return };
        let allowed: &[&str] = match kind.value.as_str() {
            "802.1Qbg" => &["managerid", "typeid", "typeidversion", "instanceid"],
            "802.1Qbh" => &["profileid"],
            "openvswitch" => &["profileid", "interfaceid"],
            _ => return,
        };
        for attribute in node.attributes() {
            let name = attribute.name();
            let known = ["managerid", "typeid", "typeidversion", "instanceid", "profileid"];
            if allowed.contains(&name) || !(known.contains(&name) || name == "interfaceid") {
                continue;
            }
            if name == "profileid" && attribute.value().is_empty() {
                continue;
            }
            self.report(
                Diagnostic::error(
                    self.attribute_span(node, name),
                    format!("`{name}` is not for virtual ports of type '{}'", kind.value),
                )
                .related("the type is set at", &kind.span)
                .help(format!("that type has: {}", allowed.join(", "))),
            );
        }
    }

    pub(super) fn port_group(&mut self, node: Node) -> Option<PortGroup> {
        let name = self.required(node, "name", values::string);
        let group = PortGroup {
            span: self.tag(node),
            default: node.attribute("default").is_some_and(|yes| yes.eq_ignore_ascii_case("yes")),
            trust_guest_rx_filters: self.value(node, "trustGuestRxFilters", values::yes_no),
            bandwidth: child(node, "bandwidth").map(|bandwidth| self.bandwidth(bandwidth)),
            vlan: child(node, "vlan").map(|vlan| self.vlan(vlan)),
            virtual_port: child(node, "virtualport").map(|port| self.virtual_port(port, false)),
            name: name?,
        };
        Some(group)
    }
}
