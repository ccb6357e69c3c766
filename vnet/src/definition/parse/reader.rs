//! Reading attributes and texts, with what is wrong about them.

use roxmltree::Node;

use super::{
    super::{
        diagnostic::{Diagnostic, Located, Span},
        schema,
        values::{self, Fault},
        xml,
    },
    Reader,
};

/// A value is wrong, and that has been reported.
pub(super) struct Reported;

impl Reader<'_> {
    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn tag(&self, node: Node) -> Span {
        xml::start_tag(self.source, node)
    }

    /// The text inside an element, or its tag if there is none.
    pub(super) fn content_span(&self, node: Node) -> Span {
        let texts = || node.children().filter(Node::is_text).map(|text| text.range());
        match texts().next().zip(texts().next_back()) {
            Some((first, last)) => Span::new(self.source, first.start..last.end),
            None => self.tag(node),
        }
    }

    /// Reads each child element of a name, leaving out those that are in error.
    pub(super) fn each<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl Fn(&mut Self, Node<'_, '_>) -> Option<T>,
    ) -> Vec<T> {
        children(node, name).filter_map(|child| read(self, child)).collect()
    }

    /// libvirt refuses some elements that stand twice, instead of ignoring the second.
    pub(super) fn at_most_one(&mut self, node: Node, name: &str) {
        let mut elements = children(node, name);
        if let Some((first, second)) = elements.next().zip(elements.next()) {
            self.report(
                Diagnostic::error(
                    self.tag(second),
                    format!("`<{}>` takes one `<{name}>`", node.tag_name().name()),
                )
                .related("the first is at", &self.tag(first)),
            );
        }
    }

    /// Where an attribute is, with its name.
    pub(super) fn attribute_span(&self, node: Node, name: &str) -> Span {
        match node.attribute_node(name) {
            Some(attribute) => Span::new(self.source, attribute.range()),
            None => self.tag(node),
        }
    }

    /// An attribute's value; none if it is absent, or reported as wrong.
    pub(super) fn value<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        let text = node.attribute(name)?;
        let span = self.attribute_span(node, name);
        if text.is_empty() {
            if !schema::empty_is_absent(node, name) {
                let message = format!("`{name}` of `<{}>` is empty", schema::shown(node));
                self.report(Diagnostic::error(span, message).help("give a value, or leave it out"));
            }
            return None;
        }
        match read(text) {
            Ok(value) => Some(Located { value, span }),
            Err(fault) => {
                let what = format!("`{name}` of `<{}>`", schema::shown(node));
                self.report(explain(&what, fault, span));
                None
            }
        }
    }

    /// A value that must be there.
    pub(super) fn required<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        if node.attribute(name).is_none_or(str::is_empty) {
            let element = schema::shown(node);
            let message = format!("`<{element}>` needs the attribute `{name}`");
            let diagnostic = Diagnostic::error(self.attribute_span(node, name), message);
            self.report(match example(&element) {
                Some(example) => diagnostic.help(format!("for example {example}")),
                None => diagnostic,
            });
            return None;
        }
        self.value(node, name, read)
    }

    /// A value that may be absent, told apart from one that is wrong.
    pub(super) fn optional<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Result<Option<Located<T>>, Reported> {
        let value = self.value(node, name, read);
        let absent = node
            .attribute(name)
            .is_none_or(|text| text.is_empty() && schema::empty_is_absent(node, name));
        if absent || value.is_some() { Ok(value) } else { Err(Reported) }
    }

    /// A yes or no, with the value it has if it is absent.
    pub(super) fn flag(&mut self, node: Node, name: &str, default: bool) -> bool {
        self.value(node, name, values::yes_no).map_or(default, |flag| flag.value)
    }

    /// The value of an element's text.
    pub(super) fn content<T>(
        &mut self,
        node: Node,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        let text = text_of(node);
        let span = self.content_span(node);
        match read(&text) {
            Ok(value) => Some(Located { value, span }),
            Err(fault) => {
                self.report(explain(&format!("`<{}>`", node.tag_name().name()), fault, span));
                None
            }
        }
    }
}

fn explain(what: &str, fault: Fault, span: Span) -> Diagnostic {
    let diagnostic =
        Diagnostic::error(span, format!("{what} must be {}", fault.expected)).label(fault.found);
    match fault.help {
        Some(help) => diagnostic.help(help),
        None => diagnostic,
    }
}

/// A whole element of this name.
fn example(element: &str) -> Option<&'static str> {
    Some(match element {
        "bootp" => "<bootp file='pxelinux.0'/>",
        "domain" => "<domain name='lab.example.com'/>",
        "host" => "<host mac='52:54:00:12:34:56' ip='192.168.122.10'/>",
        "interface" => "<interface dev='eth0'/>",
        "ip" => "<ip address='192.168.122.1' prefix='24'/>",
        "lease" => "<lease expiry='60' unit='minutes'/>",
        "dnsmasq:option" => "<dnsmasq:option value='log-queries'/>",
        "port" => "<port start='1024' end='65535'/>",
        "portgroup" => "<portgroup name='engineering'/>",
        "range" => "<range start='192.168.122.2' end='192.168.122.254'/>",
        "route" => "<route address='10.0.0.0' prefix='8' gateway='192.168.122.2'/>",
        "srv" => "<srv service='ldap' protocol='tcp'/>",
        "tag" => "<tag id='42'/>",
        "txt" => "<txt name='greeting' value='hello'/>",
        "vnet:address" => "<vnet:address ip='192.168.122.10'/>",
        "vnet:filtering" => "<vnet:filtering mode='endpoint-independent'/>",
        "vnet:forward" => {
            "<vnet:forward protocol='tcp' port='8080' to='192.168.122.10' to-port='80'/>"
        }
        "vnet:guest" => "<vnet:guest mac='52:54:00:12:34:56' guard='no'/>",
        "vnet:masquerade" => "<vnet:masquerade ipv6='yes'/>",
        "vnet:uplink" => "<vnet:uplink dev='eth1'/>",
        _ => return None,
    })
}

/// The first child element of this name.
pub(super) fn child<'a, 'd>(node: Node<'a, 'd>, name: &str) -> Option<Node<'a, 'd>> {
    children(node, name).next()
}

pub(super) fn children<'a, 'd>(
    node: Node<'a, 'd>,
    name: &str,
) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children().filter(move |child| {
        child.is_element()
            && child.tag_name().namespace().is_none()
            && child.tag_name().name() == name
    })
}

/// All text in an element, as libvirt reads it (`virXPathString`).
pub(super) fn text_of(node: Node) -> String {
    node.descendants().filter(Node::is_text).filter_map(|text| text.text()).collect()
}
