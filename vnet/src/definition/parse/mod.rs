//! From XML to the model: each element by itself. Rules between elements are in `validate`.

mod dns;
mod forward;
mod ip;
mod link;
mod mode;
mod options;
mod reader;

use roxmltree::Node;

use self::reader::{child, children, text_of};
use super::{
    diagnostic::{Diagnostic, Located},
    model::{Bridge, Domain, Network},
    render::visible,
    schema,
    source::SourceId,
    values, xml,
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

/// The longest name of a network in bytes: a file name has 255, of which libvirt uses 8 to end it
/// in `.xml.new`.
const NAME_LIMIT: usize = 255 - 8;

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
        let options = self.options(root);
        let forward = forward.map(|forward| self.masqueraded(forward, &options));
        let network = Network {
            span: self.tag(root),
            // libvirt chooses one in place of an empty one.
            uuid: child(root, "uuid")
                .filter(|uuid| !text_of(*uuid).is_empty())
                .and_then(|uuid| self.content(uuid, values::uuid)),
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
            options,
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

    /// libvirt names files after the network: it refuses `/` and newlines, and what is too long for
    /// the name of a file.
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
        } else if name.len() > NAME_LIMIT {
            Some("must not be longer than 247 bytes")
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
