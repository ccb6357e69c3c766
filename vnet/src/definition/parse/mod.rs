//! From XML to the model: each element by itself. Rules between elements are in `validate`.

mod dns;
mod forward;
mod ip;
mod link;
mod mode;
mod options;

use roxmltree::Node;

use super::{
    diagnostic::{Diagnostic, Located, Span},
    model::{Bridge, Domain, Network},
    render::visible,
    schema,
    source::SourceId,
    values::{self, Fault},
    xml,
};

/// Reads a file's network, as far as it can be read; every problem becomes a diagnostic.
pub(super) fn network(
    source: SourceId,
    text: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Network> {
    let document = xml::parse(source, text, diagnostics)?;
    let root = document.root_element();
    if let Some(diagnostic) = wrong_root(source, root) {
        diagnostics.push(diagnostic);
        return None;
    }
    schema::check(source, &document, diagnostics);
    Reader { source, text, diagnostics }.network(root)
}

/// A value is wrong, and that has been reported.
struct Reported;

/// Reads the elements of one file.
struct Reader<'a> {
    source: SourceId,
    text: &'a str,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn network(&mut self, root: Node) -> Option<Network> {
        let name = self.name(root);
        let forward = self.forward(root);
        self.mode_rules(root, forward.as_ref().map(|forward| forward.mode.value));
        let network = Network {
            span: self.tag(root),
            uuid: child(root, "uuid").and_then(|uuid| self.content(uuid, values::uuid)),
            title: self.title(root),
            description: child(root, "description").map(text_of),
            bridge: child(root, "bridge").map(|bridge| self.bridge(bridge)).unwrap_or_default(),
            mac: child(root, "mac").and_then(|mac| self.value(mac, "address", values::mac)),
            mtu: child(root, "mtu").and_then(|mtu| self.value(mtu, "size", values::mtu)),
            ips: self.each(root, "ip", Self::ip),
            routes: self.each(root, "route", Self::route),
            ipv6: self.value(root, "ipv6", values::yes_no),
            trust_guest_rx_filters: self.value(root, "trustGuestRxFilters", values::yes_no),
            domain: child(root, "domain").and_then(|domain| self.domain(domain)),
            dns: child(root, "dns").map(|dns| self.dns(dns)),
            bandwidth: child(root, "bandwidth").map(|bandwidth| self.bandwidth(bandwidth)),
            vlan: child(root, "vlan").map(|vlan| self.vlan(vlan)),
            port_isolated: child(root, "port")
                .and_then(|port| self.value(port, "isolated", values::yes_no)),
            virtual_port: child(root, "virtualport").map(|port| self.virtual_port(port, true)),
            port_groups: self.each(root, "portgroup", Self::port_group),
            options: self.options(root),
            metadata: child(root, "metadata").map(|metadata| Located {
                value: self.text.get(metadata.range()).unwrap_or_default().to_owned(),
                span: self.tag(metadata),
            }),
            dnsmasq_options: self.dnsmasq_options(root),
            // Last, so that everything else has been read and its problems reported.
            name: name?,
            forward: forward?,
        };
        Some(network)
    }

    /// libvirt refuses `/` (it names the file after the network) and newlines.
    fn name(&mut self, root: Node) -> Option<Located<String>> {
        let Some(element) = child(root, "name") else {
            self.report(
                Diagnostic::error(self.tag(root), "`<network>` has no `<name>`")
                    .help("add <name>default</name>, with the network's name"),
            );
            return None;
        };
        let name = text_of(element);
        let span = self.content_span(element);
        let fault = if name.is_empty() {
            Some("is empty")
        } else if name.contains('/') {
            Some("must not hold a `/`")
        } else if name.contains('\n') {
            Some("must not hold a newline")
        } else {
            None
        };
        if let Some(fault) = fault {
            self.report(Diagnostic::error(span, format!("the network's name {fault}")));
            return None;
        }
        Some(Located { value: name, span })
    }

    fn title(&mut self, root: Node) -> Option<String> {
        let title = child(root, "title")?;
        let text = text_of(title);
        if text.contains('\n') {
            self.report(
                Diagnostic::error(self.tag(title), "`<title>` must not hold a newline")
                    .help("long texts belong into `<description>`"),
            );
        }
        Some(text)
    }

    fn bridge(&mut self, node: Node) -> Bridge {
        Bridge {
            name: self.value(node, "name", values::interface),
            stp: self.value(node, "stp", values::on_off),
            delay: self.value(node, "delay", values::count),
            zone: self.value(node, "zone", values::string),
            mac_table_manager: self.value(node, "macTableManager", values::mac_table_manager),
        }
    }

    fn domain(&mut self, node: Node) -> Option<Domain> {
        let local_only = self.flag(node, "localOnly", false);
        let register = self.flag(node, "register", false);
        Some(Domain { name: self.required(node, "name", values::string)?, local_only, register })
    }

    fn dnsmasq_options(&mut self, root: Node) -> Vec<Located<String>> {
        let options =
            root.children().find(|child| child.has_tag_name((schema::DNSMASQ, "options")));
        let options = options.into_iter().flat_map(|options| options.children());
        options
            .filter(|option| option.has_tag_name((schema::DNSMASQ, "option")))
            .filter_map(|option| self.required(option, "value", values::string))
            .collect()
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn tag(&self, node: Node) -> Span {
        xml::start_tag(self.source, node)
    }

    /// The text inside an element, or its tag if there is none.
    fn content_span(&self, node: Node) -> Span {
        let texts = || node.children().filter(Node::is_text).map(|text| text.range());
        match texts().next().zip(texts().next_back()) {
            Some((first, last)) => Span::new(self.source, first.start..last.end),
            None => self.tag(node),
        }
    }

    /// Reads each child element of a name, leaving out those that are in error.
    fn each<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl Fn(&mut Self, Node<'_, '_>) -> Option<T>,
    ) -> Vec<T> {
        children(node, name).filter_map(|child| read(self, child)).collect()
    }

    /// Where an attribute is, with its name.
    fn attribute_span(&self, node: Node, name: &str) -> Span {
        match node.attribute_node(name) {
            Some(attribute) => Span::new(self.source, attribute.range()),
            None => self.tag(node),
        }
    }

    /// An attribute's value; none if it is absent, empty (which is absent to libvirt), or reported
    /// as wrong.
    fn value<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        let text = node.attribute(name).filter(|text| !text.is_empty())?;
        let span = self.attribute_span(node, name);
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
    fn required<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<Located<T>> {
        let empty_option =
            node.tag_name().namespace() == Some(schema::OPTIONS) && node.has_attribute(name);
        // `schema` has reported an empty value of vnet's own.
        if node.attribute(name).is_none_or(str::is_empty) && !empty_option {
            let element = schema::shown(node);
            let message = format!("`<{element}>` needs the attribute `{name}`");
            let diagnostic = Diagnostic::error(self.attribute_span(node, name), message);
            self.report(match example(&element) {
                Some(example) => diagnostic.help(format!("for example {example}")),
                None => diagnostic,
            });
        }
        self.value(node, name, read)
    }

    /// A value that may be absent, told apart from one that is wrong.
    fn optional<T>(
        &mut self,
        node: Node,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Result<Option<Located<T>>, Reported> {
        let value = self.value(node, name, read);
        let absent = node.attribute(name).is_none_or(str::is_empty);
        if absent || value.is_some() { Ok(value) } else { Err(Reported) }
    }

    /// A yes or no, with the value it has if it is absent.
    fn flag(&mut self, node: Node, name: &str, default: bool) -> bool {
        self.value(node, name, values::yes_no).map_or(default, |flag| flag.value)
    }

    /// The value of an element's text.
    fn content<T>(
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
        "vnet:uplink" => "<vnet:uplink dev='eth1'/>",
        _ => return None,
    })
}

fn wrong_root(source: SourceId, root: Node) -> Option<Diagnostic> {
    let span = xml::start_tag(source, root);
    let name = root.tag_name();
    if name.name() != "network" {
        let help = match name.name() {
            "domain" => "this defines a virtual machine; `virsh net-dumpxml NAME` prints a network",
            "networkstatus" => {
                "this is libvirt's own state of a network; its definition is in /etc/libvirt/qemu/networks"
            }
            "networks" => "a file holds one `<network>`; write one file for each",
            _ => "a definition is one `<network>` element, as `virsh net-dumpxml NAME` prints it",
        };
        let message = format!("expected `<network>`, found `<{}>`", visible(name.name()));
        return Some(Diagnostic::error(span, message).help(help));
    }
    let namespace = name.namespace()?;
    Some(
        Diagnostic::error(span, "`<network>` is in a namespace")
            .label(visible(namespace))
            .help("libvirt's `<network>` is in none: remove `xmlns='...'`"),
    )
}

/// The first child element of this name.
fn child<'a, 'd>(node: Node<'a, 'd>, name: &str) -> Option<Node<'a, 'd>> {
    children(node, name).next()
}

fn children<'a, 'd>(node: Node<'a, 'd>, name: &str) -> impl Iterator<Item = Node<'a, 'd>> {
    node.children().filter(move |child| {
        child.is_element()
            && child.tag_name().namespace().is_none()
            && child.tag_name().name() == name
    })
}

/// All text in an element, as libvirt reads it (`virXPathString`).
fn text_of(node: Node) -> String {
    node.descendants().filter(Node::is_text).filter_map(|text| text.text()).collect()
}
