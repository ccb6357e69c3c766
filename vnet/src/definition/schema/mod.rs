//! Which elements and attributes there are: those of libvirt (`network.rng`, `networkcommon.rng`)
//! and vnet's own.
//!
//! libvirt ignores what it does not know, and of an element that may stand once it reads the
//! first. Both are warned of here, because a misspelt element changes what a network does. In
//! vnet's own options both are errors: nobody else reads them, and most of them are about safety.

mod shapes;

use std::borrow::Cow;

use roxmltree::{Document, Node};

use self::shapes::{DNSMASQ_OPTIONS, Holds, NETWORK, Shape, VNET_OPTIONS};
use super::{
    diagnostic::{Diagnostic, Severity, Span},
    render::visible,
    source::SourceId,
    xml,
};

/// The namespace of dnsmasq's own options in a definition.
pub(super) const DNSMASQ: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// The namespace of vnet's own options in `<metadata>`.
pub(super) const OPTIONS: &str = "urn:vnet:options:1";

/// What every version of the namespace of vnet's own options begins with.
const OPTIONS_FAMILY: &str = "urn:vnet:";

/// Names with the prefix that is customary for their namespace, whatever the file declares.
pub(super) fn shown<'a>(node: Node<'a, '_>) -> Cow<'a, str> {
    let name = node.tag_name().name();
    match Vocabulary::of(node) {
        Some(vocabulary) => Cow::Owned(vocabulary.shown(name)),
        None => Cow::Borrowed(name),
    }
}

/// Whether libvirt takes an empty value of an attribute for none. It refuses all others.
pub(super) fn empty_is_absent(node: Node, attribute: &str) -> bool {
    const ABSENT: &[(&str, &[&str])] = &[
        ("bridge", &["name", "zone", "stp", "delay", "macTableManager"]),
        ("driver", &["name"]),
        ("forward", &["mode", "dev", "managed"]),
        ("forwarder", &["domain"]),
        ("host", &["id"]),
        ("ip", &["family", "netmask"]),
        ("mac", &["address"]),
        ("mtu", &["size"]),
        ("network", &["ipv6"]),
        ("portgroup", &["default"]),
        ("srv", &["domain", "target", "port", "priority", "weight"]),
        ("vlan", &["trunk"]),
    ];
    let listed = |(element, attributes): &(&str, &[&str])| {
        node.has_tag_name(*element) && attributes.contains(&attribute)
    };
    ABSENT.iter().any(listed)
}

/// Reports everything in `document` that nobody would read.
pub(super) fn check(source: SourceId, document: &Document, diagnostics: &mut Vec<Diagnostic>) {
    Checker { source, diagnostics }.element(document.root_element(), &NETWORK, Vocabulary::Libvirt);
}

/// Who defines an element.
#[derive(Clone, Copy, PartialEq)]
enum Vocabulary {
    Libvirt,
    Dnsmasq,
    Vnet,
}

impl Vocabulary {
    fn of(node: Node) -> Option<Self> {
        match node.tag_name().namespace() {
            None => Some(Self::Libvirt),
            Some(DNSMASQ) => Some(Self::Dnsmasq),
            Some(OPTIONS) => Some(Self::Vnet),
            Some(_) => None,
        }
    }

    fn shown(self, name: &str) -> String {
        let prefix = match self {
            Self::Libvirt => "",
            Self::Dnsmasq => "dnsmasq:",
            Self::Vnet => "vnet:",
        };
        format!("{prefix}{name}")
    }

    /// How grave it is that something is not known, and the end of a sentence that says so.
    fn unread(self) -> (Severity, &'static str) {
        match self {
            Self::Libvirt | Self::Dnsmasq => (Severity::Warning, " is ignored"),
            Self::Vnet => (Severity::Error, ""),
        }
    }
}

struct Checker<'a> {
    source: SourceId,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Checker<'_> {
    /// `vocabulary` is the one that `shape` and its children are of.
    fn element(&mut self, node: Node, shape: &'static Shape, vocabulary: Vocabulary) {
        if matches!(shape.holds, Holds::Anything) {
            self.metadata(node);
            return;
        }
        self.attributes(node, shape, vocabulary);
        let children = match shape.holds {
            Holds::Elements(children) => children,
            Holds::Text | Holds::Anything => &[],
        };
        let mut first: Vec<(&str, Node)> = Vec::new();
        for child in node.children() {
            if child.is_text() && matches!(shape.holds, Holds::Elements(_)) {
                self.stray_text(child, shape, vocabulary);
            }
            if !child.is_element() {
                continue;
            }
            let name = child.tag_name().name();
            let is_dnsmasq = Vocabulary::of(child) == Some(Vocabulary::Dnsmasq);
            if is_dnsmasq && vocabulary == Vocabulary::Libvirt {
                if name == "options" && shape.name == NETWORK.name {
                    self.element(child, &DNSMASQ_OPTIONS, Vocabulary::Dnsmasq);
                } else {
                    self.unknown_element(child, shape, &[], vocabulary);
                }
                continue;
            }
            let known = children.iter().find(|known| known.name == name);
            let Some(known) = known.filter(|_| Vocabulary::of(child) == Some(vocabulary)) else {
                self.unknown_element(child, shape, children, vocabulary);
                continue;
            };
            match first.iter().find(|(seen, _)| *seen == name) {
                Some((_, first)) if !known.repeats => {
                    self.repetition(child, *first, vocabulary);
                }
                Some(_) => self.element(child, known, vocabulary),
                None => {
                    first.push((known.name, child));
                    self.element(child, known, vocabulary);
                }
            }
        }
    }

    /// Other programs' data is theirs; libvirt keeps one element of each namespace.
    fn metadata(&mut self, node: Node) {
        let mut first: Option<Node> = None;
        for child in node.children().filter(Node::is_element) {
            let namespace = child.tag_name().namespace().unwrap_or_default();
            let span = xml::start_tag(self.source, child);
            if Vocabulary::of(child) != Some(Vocabulary::Vnet) {
                if namespace.starts_with(OPTIONS_FAMILY) {
                    self.diagnostics.push(
                        Diagnostic::error(span, "this version of vnet's options is not known")
                            .label(format!("of the namespace {}", visible(namespace)))
                            .help(format!("write xmlns:vnet='{OPTIONS}'")),
                    );
                }
                continue;
            }
            let name = child.tag_name().name();
            if name != VNET_OPTIONS.name {
                let message = format!("`<vnet:{}>` is not known", visible(name));
                let diagnostic = Diagnostic::error(span, message);
                self.diagnostics.push(if homes_of(name, Vocabulary::Vnet).is_some() {
                    diagnostic.label("put it into `<vnet:options>`")
                } else {
                    diagnostic.label("did you mean `<vnet:options>`?")
                });
                continue;
            }
            if let Some(first) = first {
                self.repetition(child, first, Vocabulary::Vnet);
            } else {
                first = Some(child);
                self.element(child, &VNET_OPTIONS, Vocabulary::Vnet);
            }
        }
    }

    fn attributes(&mut self, node: Node, shape: &Shape, vocabulary: Vocabulary) {
        let element = vocabulary.shown(shape.name);
        let (severity, end) = vocabulary.unread();
        for attribute in node.attributes() {
            let name = attribute.name();
            let span = Span::new(self.source, attribute.range());
            if attribute.namespace().is_none() && shape.attributes.contains(&name) {
                continue;
            }
            let message = format!("unknown attribute `{}` of `<{element}>`{end}", visible(name));
            let diagnostic = Diagnostic::new(severity, span, message);
            let near = nearest(name, shape.attributes.iter().copied());
            self.diagnostics.push(match near {
                Some(near) if near == name => diagnostic
                    .label("in a namespace")
                    .help(format!("write `{name}` without a prefix")),
                Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
                None if shape.attributes.is_empty() => {
                    diagnostic.help(format!("`<{element}>` has no attributes"))
                }
                None => diagnostic.help(format!(
                    "the attributes of `<{element}>` are: {}",
                    shape.attributes.join(", ")
                )),
            });
        }
    }

    fn unknown_element(
        &mut self,
        node: Node,
        parent: &Shape,
        siblings: &[Shape],
        vocabulary: Vocabulary,
    ) {
        let name = node.tag_name().name();
        let namespace = node.tag_name().namespace();
        let span = xml::start_tag(self.source, node);
        let parent = vocabulary.shown(parent.name);
        if vocabulary != Vocabulary::Vnet
            && namespace.is_some_and(|namespace| namespace.starts_with(OPTIONS_FAMILY))
        {
            self.diagnostics.push(
                Diagnostic::error(
                    span,
                    format!("vnet's own options have no place in `<{parent}>`"),
                )
                .help("put `<vnet:options>` into `<metadata>`, where libvirt keeps it"),
            );
            return;
        }
        let (severity, end) = vocabulary.unread();
        let written = match Vocabulary::of(node) {
            Some(written) if vocabulary == Vocabulary::Vnet => written.shown(name),
            _ => name.to_owned(),
        };
        let message = format!("unknown element `<{}>` in `<{parent}>`{end}", visible(&written));
        let diagnostic = Diagnostic::new(severity, span, message);
        let near = nearest(name, siblings.iter().map(|shape| shape.name));
        let meant = |near: &str| format!("did you mean `<{}>`?", vocabulary.shown(near));
        let foreign = namespace.filter(|_| Vocabulary::of(node) != Some(vocabulary));
        self.diagnostics.push(if let Some(namespace) = foreign {
            diagnostic
                .label(format!("of the namespace {}", visible(namespace)))
                .help("data of other programs belongs into `<metadata>`")
        } else if let Some(near) = near {
            diagnostic.label(meant(near))
        } else if let Some(homes) = homes_of(name, vocabulary) {
            let name = vocabulary.shown(name);
            diagnostic.label(format!("`<{name}>` belongs into {homes}"))
        } else if siblings.is_empty() {
            diagnostic.help(format!("`<{parent}>` has no elements in it"))
        } else {
            let names: Vec<_> = siblings.iter().map(|shape| vocabulary.shown(shape.name)).collect();
            diagnostic.help(format!("the elements of `<{parent}>` are: {}", names.join(", ")))
        });
    }

    fn repetition(&mut self, node: Node, first: Node, vocabulary: Vocabulary) {
        let (severity, _) = vocabulary.unread();
        let name = shown(node);
        let message = match severity {
            Severity::Error => format!("a network has one `<{name}>`"),
            Severity::Warning | Severity::Note => format!("second `<{name}>` is ignored"),
        };
        self.diagnostics.push(
            Diagnostic::new(severity, xml::start_tag(self.source, node), message)
                .related("the first is at", &xml::start_tag(self.source, first)),
        );
    }

    fn stray_text(&mut self, node: Node, parent: &Shape, vocabulary: Vocabulary) {
        let text = node.text().unwrap_or_default();
        if text.trim().is_empty() {
            return;
        }
        let range = node.range();
        let lead = text.len() - text.trim_start().len();
        let start = range.start + lead.min(range.len());
        let first_line = text.trim().lines().next().unwrap_or_default().len();
        let span = Span::new(self.source, start..(start + first_line).min(range.end));
        let parent = vocabulary.shown(parent.name);
        self.diagnostics.push(match vocabulary.unread() {
            (Severity::Error, _) => {
                Diagnostic::error(span, format!("`<{parent}>` holds elements, not text"))
            }
            (severity, end) => {
                Diagnostic::new(severity, span, format!("text in `<{parent}>`{end}"))
            }
        });
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
fn homes_of(name: &str, vocabulary: Vocabulary) -> Option<String> {
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
    let root = match vocabulary {
        Vocabulary::Libvirt => &NETWORK,
        Vocabulary::Dnsmasq => &DNSMASQ_OPTIONS,
        Vocabulary::Vnet => &VNET_OPTIONS,
    };
    collect(root, name, &mut homes);
    let homes: Vec<String> =
        homes.into_iter().map(|home| format!("`<{}>`", vocabulary.shown(home))).collect();
    (!homes.is_empty()).then(|| homes.join(" or "))
}
