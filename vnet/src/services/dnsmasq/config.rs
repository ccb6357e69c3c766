//! dnsmasq's configuration of a network, as libvirt writes it (`networkDnsmasqConfContents` in
//! `src/network/bridge_driver.c`).

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;

use crate::definition::{
    Dhcp, DhcpRange, Dns, DnsForwarder, DnsService, ForwardMode, Ip, Lease, Network,
};

/// Where dnsmasq finds and leaves its files for one network.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The process's number.
    pub pid: &'a Path,
    /// What it has lent.
    pub leases: &'a Path,
    /// Who gets which address: [`super::hosts::reserved`].
    pub reserved: &'a Path,
    /// Address records: [`super::hosts::records`].
    pub records: &'a Path,
}

/// Whether a definition asks for a service that dnsmasq does: addresses, names, or an IPv6 router to
/// tell guests of.
#[must_use]
pub fn is_wanted(network: &Network) -> bool {
    let has_records = network.dns.as_ref().is_some_and(|dns| dns.enable);
    network.forward.mode.value.has_own_bridge()
        && !network.ips.is_empty()
        && (has_records || network.ips.iter().any(|ip| ip.dhcp.is_some() || is_ipv6(ip)))
}

/// A value of a definition would end its line in the file, and so begin another option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "network `{network}`: the value of dnsmasq's option `{option}` has a control character in it"
)]
pub struct ConfigError {
    network: String,
    option: String,
}

/// The configuration file's text. `user` is whom the process runs as.
pub fn text(
    network: &Network,
    bridge: &str,
    files: Files,
    user: &str,
) -> Result<String, ConfigError> {
    let mut config = Config { text: String::new(), broken: None };
    let is_isolated = network.forward.mode.value == ForwardMode::Isolated;
    config.option("user", user);
    config.word("strict-order");
    if !has_dns(network) {
        config.option("port", 0);
    }
    let forwarders = network.dns.as_ref().map_or(&[][..], |dns| &dns.forwarders);
    for forwarder in forwarders {
        config.option("server", Forwarder(forwarder));
    }
    // Isolated guests must not reach the outside by way of the host's resolver.
    if is_isolated || forwarders.iter().any(|forwarder| forwarder.domain.is_none()) {
        config.word("no-resolv");
    }
    config.names(network);
    config.option("pid-file", files.pid.display());
    config.option("except-interface", "lo");
    config.word("bind-dynamic");
    config.option("interface", bridge);
    if is_isolated {
        // No default route, in either family, because it would lead nowhere.
        config.option("dhcp-option", 3);
        config.option("ra-param", "*,0,0");
    }
    if let Some(dns) = network.dns.as_ref().filter(|dns| dns.enable) {
        config.records(dns, network);
    }
    config.dhcp(network, files);
    if has_dns(network) {
        config.option("addn-hosts", files.records.display());
    }
    for line in &network.dnsmasq_options {
        config.word(&line.value);
    }
    match config.broken {
        Some(option) => Err(ConfigError { network: network.name.value.clone(), option }),
        None => Ok(config.text),
    }
}

fn has_dns(network: &Network) -> bool {
    network.dns.as_ref().is_none_or(|dns| dns.enable)
}

fn is_ipv6(ip: &Ip) -> bool {
    ip.address.value.is_ipv6()
}

/// Lines of `name` or `name=value`.
struct Config {
    text: String,
    /// The first option whose line is more than one.
    broken: Option<String>,
}

impl Config {
    fn word(&mut self, word: &str) {
        if word.contains(char::is_control) && self.broken.is_none() {
            self.broken = Some(word.split('=').next().unwrap_or_default().to_owned());
        }
        self.text.push_str(word);
        self.text.push('\n');
    }

    fn option(&mut self, name: &str, value: impl fmt::Display) {
        self.word(&format!("{name}={value}"));
    }

    /// What is asked of nobody else, and what names without a domain belong to.
    fn names(&mut self, network: &Network) {
        let domain = network.domain.as_ref();
        if let Some(domain) = domain {
            if domain.local_only {
                self.option("local", format_args!("/{}/", domain.name.value));
            }
            self.option("domain", &domain.name.value);
            self.word("expand-hosts");
        }
        for ip in &network.ips {
            if ip.local_ptr.as_ref().is_some_and(|local| local.value)
                && let Some(zone) = reverse_zone(ip.subnet())
            {
                self.option("local", format_args!("/{zone}/"));
            }
        }
        let forwards_plain_names =
            network.dns.as_ref().is_none_or(|dns| !dns.enable || dns.forward_plain_names);
        if !forwards_plain_names {
            self.word("domain-needed");
            if domain.is_none() {
                self.option("local", "//");
            }
        }
    }

    fn records(&mut self, dns: &Dns, network: &Network) {
        for text in &dns.texts {
            self.option("txt-record", format_args!("{},{}", text.name.value, text.value.value));
        }
        let domain = network.domain.as_ref().map(|domain| domain.name.value.as_str());
        for service in &dns.services {
            self.option("srv-host", Service { service, domain });
        }
    }

    fn dhcp(&mut self, network: &Network, files: Files) {
        let services: Vec<(&Ip, &Dhcp)> =
            network.ips.iter().filter_map(|ip| Some((ip, ip.dhcp.as_ref()?))).collect();
        let mut addresses = 0_u128;
        for (ip, dhcp) in &services {
            for range in &dhcp.ranges {
                self.option("dhcp-range", Range { ip, range });
                addresses = addresses.saturating_add(count(range));
            }
            if dhcp.ranges.is_empty() && !dhcp.hosts.is_empty() {
                // Only those who are known, and by the subnet of the bridge's own address.
                self.option(
                    "dhcp-range",
                    format_args!("{},static{}", ip.subnet().network(), Mask(ip)),
                );
            }
        }
        if !services.is_empty() {
            self.word("dhcp-no-override");
            self.word("dhcp-authoritative");
            self.option("dhcp-leasefile", files.leases.display());
            self.option("dhcp-hostsfile", files.reserved.display());
        }
        if addresses > 0 {
            let hosts: usize = services.iter().map(|(_, dhcp)| dhcp.hosts.len()).sum();
            let wanted = addresses.saturating_add(hosts as u128).min(LEASES);
            // In steps, so that one more host is no reason to start dnsmasq anew.
            self.option("dhcp-lease-max", wanted.next_multiple_of(LEASE_STEP));
        }
        let tftp = network.ips.iter().find_map(|ip| ip.tftp_root.as_ref());
        if let Some(root) = tftp {
            self.word("enable-tftp");
            self.option("tftp-root", &root.value);
        }
        if let Some(bootp) = services.iter().find_map(|(_, dhcp)| dhcp.bootp.as_ref()) {
            match &bootp.server {
                Some(server) => {
                    self.option(
                        "dhcp-boot",
                        format_args!("{},,{}", bootp.file.value, server.value),
                    );
                }
                None => self.option("dhcp-boot", &bootp.file.value),
            }
        }
        self.router_advertisements(network, &services);
    }

    /// Guests learn their router of it alone; where it lends addresses, these come with it.
    fn router_advertisements(&mut self, network: &Network, services: &[(&Ip, &Dhcp)]) {
        if services.iter().any(|(ip, _)| is_ipv6(ip)) {
            self.word("enable-ra");
            return;
        }
        for ip in network.ips.iter().filter(|ip| is_ipv6(ip)) {
            self.option("dhcp-range", format_args!("{},ra-only", ip.subnet().network()));
        }
    }
}

/// The most leases that one network is given room for; IPv6 ranges have more addresses than that.
const LEASES: u128 = 1 << 16;
const LEASE_STEP: u128 = 1024;

fn count(range: &DhcpRange) -> u128 {
    match (range.start.value, range.end.value) {
        (IpAddr::V4(start), IpAddr::V4(end)) => {
            u128::from(u32::from(end).saturating_sub(u32::from(start))) + 1
        }
        (IpAddr::V6(start), IpAddr::V6(end)) => {
            u128::from(end).saturating_sub(u128::from(start)).saturating_add(1)
        }
        _ => 0,
    }
}

/// `<forwarder>`: `/DOMAIN/ADDRESS`; `#` stands for the host's own servers.
struct Forwarder<'a>(&'a DnsForwarder);

impl fmt::Display for Forwarder<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(domain) = &self.0.domain {
            write!(formatter, "/{}/", domain.value)?;
        }
        match &self.0.address {
            Some(address) => write!(formatter, "{}", address.value),
            None => formatter.write_str("#"),
        }
    }
}

/// `<srv>`: `_SERVICE._PROTOCOL[.DOMAIN],TARGET,PORT,PRIORITY,WEIGHT`, as far as they are given.
struct Service<'a> {
    service: &'a DnsService,
    /// The network's.
    domain: Option<&'a str>,
}

impl fmt::Display for Service<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DnsService { service, protocol, domain, target, port, priority, weight } = self.service;
        write!(formatter, "_{}._{}", service.value, protocol.value)?;
        if let Some(domain) = domain.as_ref().map(|domain| domain.value.as_str()).or(self.domain) {
            write!(formatter, ".{domain}")?;
        }
        let Some(target) = target else { return Ok(()) };
        write!(formatter, ",{}", target.value)?;
        let numbers = [port, priority, weight].map(|number| number.as_ref().map(|it| it.value));
        let given = numbers.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        // Those in front have to be there: libvirt's and dnsmasq's defaults are port 1 and 0, 0.
        for (number, default) in numbers.iter().zip([1, 0, 0]).take(given) {
            write!(formatter, ",{}", number.unwrap_or(default))?;
        }
        Ok(())
    }
}

/// `<range>`: `START,END,MASK[,LEASE]`.
struct Range<'a> {
    ip: &'a Ip,
    range: &'a DhcpRange,
}

impl fmt::Display for Range<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DhcpRange { start, end, lease } = self.range;
        write!(formatter, "{},{}{}", start.value, end.value, Mask(self.ip))?;
        lease.as_ref().map_or(Ok(()), |lease| write!(formatter, ",{}", LeaseTime(*lease)))
    }
}

/// `,NETMASK` of IPv4, `,LENGTH` of IPv6.
struct Mask<'a>(&'a Ip);

impl fmt::Display for Mask<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subnet() {
            IpNet::V4(subnet) => write!(formatter, ",{}", subnet.netmask()),
            IpNet::V6(subnet) => write!(formatter, ",{}", subnet.prefix_len()),
        }
    }
}

/// How long an address is lent, in dnsmasq's words.
pub(super) struct LeaseTime(pub(super) Lease);

impl fmt::Display for LeaseTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Lease::Infinite => formatter.write_str("infinite"),
            Lease::Seconds(seconds) => write!(formatter, "{seconds}s"),
        }
    }
}

/// The zone of a subnet's reverse look-ups (RFC 1035, section 3.5; RFC 3596, section 2.5); `None` if
/// the subnet is not whole labels, which no one zone stands for.
fn reverse_zone(subnet: IpNet) -> Option<String> {
    let length = usize::from(subnet.prefix_len());
    match subnet {
        IpNet::V4(subnet) if length % 8 == 0 && length > 0 => {
            let octets = subnet.network().octets();
            let mut zone = String::new();
            for octet in octets.iter().take(length / 8).rev() {
                let _ = write!(zone, "{octet}.");
            }
            Some(zone + "in-addr.arpa")
        }
        IpNet::V6(subnet) if length % 4 == 0 && length > 0 => {
            let octets = subnet.network().octets();
            let digits = octets.iter().flat_map(|octet| [octet >> 4, octet & 15]);
            let mut zone = String::new();
            for digit in digits.take(length / 4).collect::<Vec<_>>().iter().rev() {
                let _ = write!(zone, "{digit:x}.");
            }
            Some(zone + "ip6.arpa")
        }
        _ => None,
    }
}
