//! The elements and attributes that libvirt knows (`network.rng`, `networkcommon.rng`).
//!
//! libvirt ignores what it does not know, and of an element that may stand once it reads the
//! first. Both are warned of here, because a misspelt element changes what a network does.

use roxmltree::{Document, Node};

use super::{
    diagnostic::{Diagnostic, Span},
    render::visible,
    source::SourceId,
    xml,
};

/// The namespace of dnsmasq's own options in a definition.
pub(super) const DNSMASQ: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// An element: its name, its attributes, what it holds.
struct Shape {
    name: &'static str,
    attributes: &'static [&'static str],
    holds: Holds,
    /// Whether it may stand several times in its parent.
    repeats: bool,
}

enum Holds {
    Elements(&'static [Shape]),
    Text,
    Anything,
}

const fn empty(name: &'static str, attributes: &'static [&'static str]) -> Shape {
    parent(name, attributes, &[])
}

const fn parent(
    name: &'static str,
    attributes: &'static [&'static str],
    children: &'static [Shape],
) -> Shape {
    Shape { name, attributes, holds: Holds::Elements(children), repeats: false }
}

const fn text(name: &'static str) -> Shape {
    Shape { name, attributes: &[], holds: Holds::Text, repeats: false }
}

const fn many(shape: Shape) -> Shape {
    Shape { repeats: true, ..shape }
}

const LEASE: Shape = empty("lease", &["expiry", "unit"]);
const RATE: &[&str] = &["average", "peak", "burst", "floor"];
const BANDWIDTH: Shape =
    parent("bandwidth", &["classID"], &[empty("inbound", RATE), empty("outbound", RATE)]);
const VLAN: Shape = parent("vlan", &["trunk"], &[many(empty("tag", &["id", "nativeMode"]))]);
const VIRTUAL_PORT: Shape = parent(
    "virtualport",
    &["type"],
    &[empty(
        "parameters",
        &["managerid", "typeid", "typeidversion", "instanceid", "profileid", "interfaceid"],
    )],
);

const FORWARD: Shape = parent(
    "forward",
    &["mode", "dev", "managed"],
    &[
        parent(
            "nat",
            &["ipv6"],
            // A second one of these is an error in libvirt, and so reported elsewhere.
            &[many(empty("address", &["start", "end"])), many(empty("port", &["start", "end"]))],
        ),
        many(empty("interface", &["dev", "connections"])),
        many(empty(
            "address",
            &["type", "domain", "bus", "slot", "function", "multifunction", "connections"],
        )),
        many(empty("pf", &["dev"])),
        empty("driver", &["name", "model"]),
    ],
);

const DNS: Shape = parent(
    "dns",
    &["enable", "forwardPlainNames"],
    &[
        many(empty("forwarder", &["addr", "domain"])),
        many(empty("txt", &["name", "value"])),
        many(empty(
            "srv",
            &["service", "protocol", "domain", "target", "port", "priority", "weight"],
        )),
        many(parent("host", &["ip"], &[many(text("hostname"))])),
    ],
);

const IP: Shape = parent(
    "ip",
    &["address", "netmask", "prefix", "family", "localPtr"],
    &[
        empty("tftp", &["root"]),
        parent(
            "dhcp",
            &[],
            &[
                many(parent("range", &["start", "end"], &[LEASE])),
                many(parent("host", &["mac", "id", "name", "ip"], &[LEASE])),
                empty("bootp", &["file", "server"]),
            ],
        ),
    ],
);

static NETWORK: Shape = parent(
    "network",
    &["connections", "ipv6", "trustGuestRxFilters"],
    &[
        text("name"),
        text("uuid"),
        text("title"),
        text("description"),
        Shape { holds: Holds::Anything, ..empty("metadata", &[]) },
        FORWARD,
        empty("bridge", &["name", "zone", "stp", "delay", "macTableManager"]),
        empty("mtu", &["size"]),
        empty("mac", &["address"]),
        VIRTUAL_PORT,
        many(parent(
            "portgroup",
            &["name", "default", "trustGuestRxFilters"],
            &[VIRTUAL_PORT, BANDWIDTH, VLAN],
        )),
        empty("domain", &["name", "localOnly"]),
        DNS,
        BANDWIDTH,
        VLAN,
        empty("port", &["isolated"]),
        many(IP),
        many(empty("route", &["family", "address", "netmask", "prefix", "gateway", "metric"])),
    ],
);

static DNSMASQ_OPTIONS: Shape = parent("options", &[], &[many(empty("option", &["value"]))]);

/// Warns of everything in `document` that libvirt would ignore.
pub(super) fn check(source: SourceId, document: &Document, diagnostics: &mut Vec<Diagnostic>) {
    Checker { source, diagnostics }.element(document.root_element(), &NETWORK, None);
}

struct Checker<'a> {
    source: SourceId,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Checker<'_> {
    /// `namespace` is the one that children have to be in.
    fn element(&mut self, node: Node, shape: &'static Shape, namespace: Option<&str>) {
        if matches!(shape.holds, Holds::Anything) {
            return;
        }
        self.attributes(node, shape);
        let children = match shape.holds {
            Holds::Elements(children) => children,
            Holds::Text | Holds::Anything => &[],
        };
        let mut first: Vec<(&str, Node)> = Vec::new();
        for child in node.children() {
            if child.is_text() && matches!(shape.holds, Holds::Elements(_)) {
                self.stray_text(child, shape);
            }
            if !child.is_element() {
                continue;
            }
            let name = child.tag_name().name();
            if child.tag_name().namespace() == Some(DNSMASQ) && namespace.is_none() {
                if name == "options" && shape.name == NETWORK.name {
                    self.element(child, &DNSMASQ_OPTIONS, Some(DNSMASQ));
                } else {
                    self.unknown_element(child, shape, &[]);
                }
                continue;
            }
            let known = children.iter().find(|known| known.name == name);
            let Some(known) = known.filter(|_| child.tag_name().namespace() == namespace) else {
                self.unknown_element(child, shape, children);
                continue;
            };
            match first.iter().find(|(seen, _)| *seen == name) {
                Some((_, first)) if !known.repeats => self.ignored_repetition(child, *first),
                Some(_) => self.element(child, known, namespace),
                None => {
                    first.push((known.name, child));
                    self.element(child, known, namespace);
                }
            }
        }
    }

    fn attributes(&mut self, node: Node, shape: &Shape) {
        for attribute in node.attributes() {
            if attribute.namespace().is_none() && shape.attributes.contains(&attribute.name()) {
                continue;
            }
            let mut diagnostic = Diagnostic::warning(
                Span::new(self.source, attribute.range()),
                format!(
                    "unknown attribute `{}` of `<{}>` is ignored",
                    visible(attribute.name()),
                    shape.name
                ),
            );
            diagnostic = match nearest(attribute.name(), shape.attributes.iter().copied()) {
                Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
                None if shape.attributes.is_empty() => {
                    diagnostic.help(format!("`<{}>` has no attributes", shape.name))
                }
                None => diagnostic.help(format!(
                    "the attributes of `<{}>` are: {}",
                    shape.name,
                    shape.attributes.join(", ")
                )),
            };
            self.diagnostics.push(diagnostic);
        }
    }

    fn unknown_element(&mut self, node: Node, parent: &Shape, siblings: &[Shape]) {
        let name = node.tag_name().name();
        let diagnostic = Diagnostic::warning(
            xml::start_tag(self.source, node),
            format!("unknown element `<{}>` in `<{}>` is ignored", visible(name), parent.name),
        );
        self.diagnostics.push(if let Some(namespace) = node.tag_name().namespace() {
            diagnostic
                .label(format!("of the namespace {}", visible(namespace)))
                .help("data of other programs belongs into `<metadata>`")
        } else if let Some(near) = nearest(name, siblings.iter().map(|shape| shape.name)) {
            diagnostic.label(format!("did you mean `<{near}>`?"))
        } else if let Some(homes) = homes_of(name) {
            diagnostic.label(format!("`<{name}>` belongs into {homes}"))
        } else if siblings.is_empty() {
            diagnostic.help(format!("`<{}>` has no elements in it", parent.name))
        } else {
            let names: Vec<_> = siblings.iter().map(|shape| shape.name).collect();
            diagnostic.help(format!(
                "the elements of `<{}>` are: {}",
                parent.name,
                names.join(", ")
            ))
        });
    }

    fn ignored_repetition(&mut self, node: Node, first: Node) {
        self.diagnostics.push(
            Diagnostic::warning(
                xml::start_tag(self.source, node),
                format!("second `<{}>` is ignored", node.tag_name().name()),
            )
            .related("the first is at", &xml::start_tag(self.source, first)),
        );
    }

    fn stray_text(&mut self, node: Node, parent: &Shape) {
        let text = node.text().unwrap_or_default();
        if text.trim().is_empty() {
            return;
        }
        let range = node.range();
        let lead = text.len() - text.trim_start().len();
        let start = range.start + lead.min(range.len());
        let first_line = text.trim().lines().next().unwrap_or_default().len();
        self.diagnostics.push(Diagnostic::warning(
            Span::new(self.source, start..(start + first_line).min(range.end)),
            format!("text in `<{}>` is ignored", parent.name),
        ));
    }
}

/// The name that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .filter(|known| name.len().abs_diff(known.len()) <= known.len() / 3)
        .map(|known| (strsim::osa_distance(&name, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The elements that an element of this name may stand in, as a phrase; none if there are none.
fn homes_of(name: &str) -> Option<String> {
    fn collect(shape: &Shape, name: &str, homes: &mut Vec<&str>) {
        let Holds::Elements(children) = shape.holds else { return };
        for child in children {
            if child.name == name && !homes.contains(&shape.name) {
                homes.push(shape.name);
            }
            collect(child, name, homes);
        }
    }
    let mut homes = Vec::new();
    collect(&NETWORK, name, &mut homes);
    let homes: Vec<String> = homes.into_iter().map(|home| format!("`<{home}>`")).collect();
    (!homes.is_empty()).then(|| homes.join(" or "))
}
