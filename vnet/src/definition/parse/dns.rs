//! `<dns>` and the records in it.

use roxmltree::Node;

use super::{
    super::{
        diagnostic::{Diagnostic, Located},
        model::{Dns, DnsForwarder, DnsHost, DnsService, DnsText},
        values::{self, Fault},
    },
    Reader, text_of,
};

/// The longest name of a service, in bytes (`DNS_RECORD_LENGTH_SRV`).
const SERVICE_LIMIT: usize = 512 - 30;

impl Reader<'_> {
    pub(super) fn dns(&mut self, node: Node) -> Dns {
        let enable = self.flag(node, "enable", true);
        if !enable {
            let record = node.children().find(|child| {
                matches!(child.tag_name().name(), "forwarder" | "txt" | "srv" | "host")
            });
            if let Some(record) = record {
                self.report(
                    Diagnostic::error(self.tag(record), "this DNS service is switched off")
                        .label("it can have no records")
                        .related("it is switched off at", &self.attribute_span(node, "enable"))
                        .help("remove enable='no', or what is in `<dns>`"),
                );
            }
        }
        Dns {
            span: self.tag(node),
            enable,
            forward_plain_names: self.flag(node, "forwardPlainNames", true),
            forwarders: self.each(node, "forwarder", Self::dns_forwarder),
            hosts: self.each(node, "host", Self::dns_host),
            services: self.each(node, "srv", Self::dns_service),
            texts: self.each(node, "txt", Self::dns_text),
        }
    }

    fn dns_forwarder(&mut self, node: Node) -> Option<DnsForwarder> {
        let forwarder = DnsForwarder {
            address: self.value(node, "addr", values::address),
            domain: self.value(node, "domain", values::string),
        };
        if !node.has_attribute("addr") && forwarder.domain.is_none() {
            self.report(Diagnostic::error(
                self.tag(node),
                "`<forwarder>` needs `addr`, `domain`, or both",
            ));
            return None;
        }
        Some(forwarder)
    }

    fn dns_host(&mut self, node: Node) -> Option<DnsHost> {
        let ip = self.required(node, "ip", values::address);
        let names: Vec<Located<String>> = self.each(node, "hostname", |reader, name| {
            Some(Located { value: text_of(name), span: reader.tag(name) })
        });
        let empty = names.iter().find(|name| name.value.is_empty());
        if names.is_empty() || empty.is_some() {
            let span = empty.map_or_else(|| self.tag(node), |name| name.span.clone());
            self.report(
                Diagnostic::error(span, "this `<host>` needs a name")
                    .help("write <hostname>gateway</hostname> inside it"),
            );
            return None;
        }
        Some(DnsHost { ip: ip?, names })
    }

    /// libvirt takes the characters that occur in `/etc/services`, without `.`, which separates.
    fn dns_service(&mut self, node: Node) -> Option<DnsService> {
        let service = self.required(node, "service", |text| label(text, "_-+/*"));
        let protocol = self.required(node, "protocol", |text| label(text, "-+/"));
        let target = self.value(node, "target", values::string);
        if target.is_none() {
            for name in ["port", "priority", "weight"] {
                if node.has_attribute(name) {
                    self.report(
                        Diagnostic::error(
                            self.attribute_span(node, name),
                            format!("`{name}` of `<srv>` needs a `target`"),
                        )
                        .help("add target='...', with the host that offers the service"),
                    );
                }
            }
        }
        let port = self.value(node, "port", values::port);
        let priority = self.value(node, "priority", values::number::<0, 65535>);
        let weight = self.value(node, "weight", values::number::<0, 65535>);
        Some(DnsService {
            service: service?,
            protocol: protocol?,
            domain: self.value(node, "domain", values::string),
            target,
            port,
            priority: priority.map(|priority| priority.map(|priority| priority as u16)),
            weight: weight.map(|weight| weight.map(|weight| weight as u16)),
        })
    }

    fn dns_text(&mut self, node: Node) -> Option<DnsText> {
        let name = self.required(node, "name", |text| {
            if text.contains([' ', ',']) {
                return Err(Fault::new("a name without spaces and commas", text));
            }
            Ok(text.to_owned())
        });
        let value = self.required(node, "value", values::string);
        Some(DnsText { name: name?, value: value? })
    }
}

fn label(text: &str, marks: &str) -> Result<String, Fault> {
    let fits = |character: char| character.is_ascii_alphanumeric() || marks.contains(character);
    if text.len() <= SERVICE_LIMIT && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(format!("at most {SERVICE_LIMIT} letters, digits and {marks}"), text))
}
