//! `<ip>` with its DHCP service, and `<route>`.

use std::net::IpAddr;

use ipnet::IpNet;
use roxmltree::Node;

use super::{
    super::{
        diagnostic::{Diagnostic, Located},
        model::{Bootp, Dhcp, DhcpHost, DhcpRange, Ip, Lease, Route},
        schema, values,
    },
    Reader, child,
};

impl Reader<'_> {
    pub(super) fn ip(&mut self, node: Node) -> Option<Ip> {
        let ipv6 = node.attribute("address").is_some_and(|address| address.contains(':'));
        let address = self.required(node, "address", values::address);
        let prefix = self.prefix(node);
        let local_ptr = self.value(node, "localPtr", values::yes_no);
        let tftp = child(node, "tftp");
        let tftp_root = tftp.and_then(|tftp| self.required(tftp, "root", values::string));
        if let Some(tftp) = tftp.filter(|_| ipv6) {
            self.report(
                Diagnostic::error(self.tag(tftp), "`<tftp>` is not allowed in an IPv6 `<ip>`")
                    .help("move it into an IPv4 `<ip>`"),
            );
        }
        let dhcp = child(node, "dhcp").map(|dhcp| self.dhcp(dhcp, ipv6));
        let address = address?;
        self.family(node, &address)?;
        let prefix = match prefix? {
            Prefix::Given(prefix) => prefix,
            Prefix::Absent => self.default_prefix(&address)?,
        };
        Some(Ip { span: self.tag(node), address, prefix, local_ptr, tftp_root, dhcp })
    }

    /// `<route>`: without mask its prefix is 0 (`virNetDevIPRouteCreate`).
    pub(super) fn route(&mut self, node: Node) -> Option<Route> {
        let address = self.required(node, "address", values::address);
        let gateway = self.required(node, "gateway", values::address);
        let prefix = self.prefix(node);
        let metric = self.value(node, "metric", values::number::<1, { u32::MAX as u64 }>);
        let (address, gateway) = address.zip(gateway)?;
        self.family(node, &address)?;
        if address.value.is_ipv6() != gateway.value.is_ipv6() {
            let family = if address.value.is_ipv6() { "IPv6" } else { "IPv4" };
            self.report(
                Diagnostic::error(gateway.span, "the route's gateway is of another family")
                    .label(format!("not an {family} address")),
            );
            return None;
        }
        let prefix = match prefix? {
            Prefix::Given(prefix) => prefix,
            Prefix::Absent => 0,
        };
        let destination = IpNet::new(address.value, prefix).ok()?;
        if destination.trunc().addr() != address.value {
            self.report(
                Diagnostic::error(address.span, "the route's address is not that of a subnet")
                    .label(format!("the subnet of /{prefix} is {}", destination.trunc().addr()))
                    .help(format!("write address='{}'", destination.trunc().addr())),
            );
            return None;
        }
        Some(Route {
            span: self.tag(node),
            destination,
            gateway,
            metric: metric.map(|metric| metric.map(|metric| metric as u32)),
        })
    }

    /// `family` has to fit the address; without it the address is IPv4.
    fn family(&mut self, node: Node, address: &Located<IpAddr>) -> Option<()> {
        let is_ipv6 = address.value.is_ipv6();
        let choices = [("ipv4", false), ("ipv6", true)];
        let family = self.optional(node, "family", |text| values::choice(text, &choices));
        if let Some(family) = family.ok()? {
            if family.value != is_ipv6 {
                let right = if is_ipv6 { "ipv6" } else { "ipv4" };
                self.report(
                    Diagnostic::error(family.span, "`family` does not fit the address")
                        .label(format!("{} is not of this family", address.value))
                        .help(format!("write family='{right}'")),
                );
                return None;
            }
        } else if is_ipv6 {
            self.report(
                Diagnostic::error(address.span.clone(), "an IPv6 address needs family='ipv6'")
                    .label("without it libvirt takes the address for IPv4")
                    .help(format!(
                        "write <{} family='ipv6' address='{}' ...>",
                        node.tag_name().name(),
                        address.value
                    )),
            );
            return None;
        }
        Some(())
    }

    /// None if `prefix` or `netmask` is wrong.
    fn prefix(&mut self, node: Node) -> Option<Prefix> {
        let written = |name| {
            let empty = |text: &str| text.is_empty() && schema::empty_is_absent(node, name);
            node.attribute(name).is_some_and(|text| !empty(text))
        };
        let is_ipv6 = node.attribute("address").is_some_and(|address| address.contains(':'));
        if written("prefix") && written("netmask") {
            self.report(
                Diagnostic::error(
                    self.attribute_span(node, "prefix"),
                    "`prefix` and `netmask` exclude each other",
                )
                .related("`netmask` is given at", &self.attribute_span(node, "netmask"))
                .help("keep one of the two"),
            );
            return None;
        }
        if written("netmask") {
            let span = self.attribute_span(node, "netmask");
            if is_ipv6 {
                self.report(
                    Diagnostic::error(span, "an IPv6 address takes no `netmask`")
                        .help("write prefix='64', or another length of the prefix"),
                );
                return None;
            }
            return Some(Prefix::Given(self.value(node, "netmask", values::netmask)?.value));
        }
        if written("prefix") {
            // libvirt reads 0 in an <ip> as if it were absent; a route to everywhere needs it.
            let length = match (node.has_tag_name("route"), is_ipv6) {
                (true, false) => self.value(node, "prefix", values::number::<0, 32>),
                (true, true) => self.value(node, "prefix", values::number::<0, 128>),
                (false, false) => self.value(node, "prefix", values::number::<1, 32>),
                (false, true) => self.value(node, "prefix", values::number::<1, 128>),
            };
            return Some(Prefix::Given(length?.value as u8));
        }
        Some(Prefix::Absent)
    }

    /// The address class of IPv4 and 64 for IPv6 (`virSocketAddrGetIPPrefix`).
    fn default_prefix(&mut self, address: &Located<IpAddr>) -> Option<u8> {
        match address.value {
            IpAddr::V6(_) => Some(64),
            IpAddr::V4(ipv4) => match ipv4.octets()[0] {
                0..=127 => Some(8),
                128..=191 => Some(16),
                192..=223 => Some(24),
                224..=255 => {
                    self.report(
                        Diagnostic::error(
                            address.span.clone(),
                            "this address has no class, and so no subnet without a mask",
                        )
                        .help("add prefix='24', or another length of the prefix"),
                    );
                    None
                }
            },
        }
    }

    fn dhcp(&mut self, node: Node, ipv6: bool) -> Dhcp {
        Dhcp {
            span: self.tag(node),
            ranges: self.each(node, "range", Self::dhcp_range),
            hosts: self.each(node, "host", |reader, host| reader.dhcp_host(host, ipv6)),
            bootp: child(node, "bootp").filter(|_| !ipv6).and_then(|bootp| self.bootp(bootp)),
        }
    }

    fn dhcp_range(&mut self, node: Node) -> Option<DhcpRange> {
        let start = self.required(node, "start", values::address);
        let end = self.required(node, "end", values::address);
        let lease = self.lease(node);
        Some(DhcpRange { start: start?, end: end?, lease })
    }

    fn dhcp_host(&mut self, node: Node, ipv6: bool) -> Option<DhcpHost> {
        let written = |name| is_written(node, name);
        let host = DhcpHost {
            span: self.tag(node),
            mac: self.value(node, "mac", values::mac),
            id: self.value(node, "id", client_id),
            name: self.value(node, "name", host_name),
            lease: self.lease(node),
            ip: self.required(node, "ip", values::address)?,
        };
        if ipv6 && written("mac") {
            self.report(
                Diagnostic::error(
                    self.attribute_span(node, "mac"),
                    "an IPv6 `<host>` takes no `mac`",
                )
                .help("DHCPv6 knows guests by `id` (their DUID) or `name`"),
            );
            return None;
        }
        let (known_by, names) =
            if ipv6 { ("id", "`id` or `name`") } else { ("mac", "`mac` or `name`") };
        if !written(known_by) && !written("name") {
            self.report(
                Diagnostic::error(host.span, format!("this `<host>` needs {names}"))
                    .label("nothing says which guest gets the address"),
            );
            return None;
        }
        Some(host)
    }

    fn bootp(&mut self, node: Node) -> Option<Bootp> {
        let server = self.value(node, "server", values::address);
        Some(Bootp { file: self.required(node, "file", values::string)?, server })
    }

    /// `<lease>`: minutes unless given, at least two of them (`virNetworkDHCPLeaseTimeDefParseXML`).
    fn lease(&mut self, parent: Node) -> Option<Lease> {
        let node = child(parent, "lease")?;
        let units = [("seconds", 1), ("minutes", 60), ("hours", 3600)];
        let expiry = self.required(node, "expiry", values::count);
        let unit = self.optional(node, "unit", |text| values::choice(text, &units)).ok()?;
        let unit = unit.map_or(60, |unit| unit.value);
        let expiry = expiry?;
        match expiry.value.checked_mul(unit) {
            Some(0) => Some(Lease::Infinite),
            Some(seconds @ 120..=0xffff_ffff) => Some(Lease::Seconds(seconds)),
            Some(0..120) => {
                self.report(
                    Diagnostic::error(expiry.span, "this lease is shorter than two minutes")
                        .help("write 2 minutes or more, or expiry='0' for a lease without end"),
                );
                None
            }
            Some(_) | None => {
                self.report(
                    Diagnostic::error(expiry.span, "this lease is longer than DHCP can say")
                        .help("at most 4294967295 seconds; expiry='0' is a lease without end"),
                );
                None
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Prefix {
    Given(u8),
    Absent,
}

fn is_written(node: Node, name: &str) -> bool {
    node.attribute(name).is_some_and(|text| !text.is_empty())
}

fn client_id(text: &str) -> Result<String, values::Fault> {
    match text.chars().find(|character| !character.is_ascii_hexdigit() && *character != ':') {
        None => Ok(text.to_owned()),
        Some(_) => Err(values::Fault::new("hexadecimal octets with colons between them", text)),
    }
}

fn host_name(text: &str) -> Result<String, values::Fault> {
    match text.chars().next() {
        Some(first) if first.is_ascii_alphanumeric() => Ok(text.to_owned()),
        _ => Err(values::Fault::new("a host name, which begins with a letter or digit", text)),
    }
}
