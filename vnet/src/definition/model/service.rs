//! The part of a definition that is about services for guests.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    super::diagnostic::{Located, Span},
    address::MacAddress,
};

/// `<domain>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Domain {
    /// The DNS domain.
    pub name: Located<String>,
    /// Whether its names are never asked of other servers.
    pub local_only: bool,
    /// Whether the host's own resolver (systemd-resolved) asks the network's DNS service for them.
    pub register: bool,
}

/// `<dhcp>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dhcp {
    /// The start tag of `<dhcp>`.
    #[serde(skip)]
    pub span: Span,
    /// Addresses for any guest.
    pub ranges: Vec<DhcpRange>,
    /// Addresses for guests that are known.
    pub hosts: Vec<DhcpHost>,
    /// What guests boot (IPv4).
    pub bootp: Option<Bootp>,
}

/// `<range>` of `<dhcp>`; both ends are in the subnet and `start` is not above `end`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DhcpRange {
    /// The first address.
    pub start: Located<IpAddr>,
    /// The last address, within the range.
    pub end: Located<IpAddr>,
    /// How long an address is lent.
    pub lease: Option<Lease>,
}

/// `<host>` of `<dhcp>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DhcpHost {
    /// The start tag of `<host>`.
    #[serde(skip)]
    pub span: Span,
    /// The guest's Ethernet address (IPv4).
    pub mac: Option<Located<MacAddress>>,
    /// The guest's client identifier (IPv6).
    pub id: Option<Located<String>>,
    /// The guest's name.
    pub name: Option<Located<String>>,
    /// Its address.
    pub ip: Located<IpAddr>,
    /// How long the address is lent.
    pub lease: Option<Lease>,
}

/// `<lease>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lease {
    /// For ever (`expiry='0'`).
    Infinite,
    /// For this many seconds, at least 120.
    Seconds(u64),
}

/// `<bootp>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bootp {
    /// The file.
    pub file: Located<String>,
    /// The TFTP server; the host unless given.
    pub server: Option<Located<IpAddr>>,
}

/// `<dns>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dns {
    /// The start tag of `<dns>`.
    #[serde(skip)]
    pub span: Span,
    /// Whether there is a DNS service; yes unless given.
    pub enable: bool,
    /// Whether names without a dot are asked of other servers; yes unless given.
    pub forward_plain_names: bool,
    /// The servers to ask.
    pub forwarders: Vec<DnsForwarder>,
    /// Address records.
    pub hosts: Vec<DnsHost>,
    /// SRV records.
    pub services: Vec<DnsService>,
    /// TXT records.
    pub texts: Vec<DnsText>,
}

/// `<forwarder>`; at least one of the two is set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DnsForwarder {
    /// The server.
    pub address: Option<Located<IpAddr>>,
    /// The domain that it is asked for; any unless given.
    pub domain: Option<Located<String>>,
}

/// `<host>` of `<dns>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DnsHost {
    /// The address.
    pub ip: Located<IpAddr>,
    /// Its names; at least one.
    pub names: Vec<Located<String>>,
}

/// `<srv>` (RFC 2782).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DnsService {
    /// The service's name, without underscore.
    pub service: Located<String>,
    /// The protocol's name, without underscore.
    pub protocol: Located<String>,
    /// The domain; the network's unless given.
    pub domain: Option<Located<String>>,
    /// The host that offers it.
    pub target: Option<Located<String>>,
    /// The port, in host byte order.
    pub port: Option<Located<u16>>,
    /// The priority; lower is asked first.
    pub priority: Option<Located<u16>>,
    /// The weight among equal priorities.
    pub weight: Option<Located<u16>>,
}

/// `<txt>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DnsText {
    /// The record's name.
    pub name: Located<String>,
    /// Its text.
    pub value: Located<String>,
}
