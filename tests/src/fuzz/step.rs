//! The steps of a sequence, as data.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One step of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A packet at a hook.
    Packet(Sent),
    /// Something has changed, so that every flow is judged again.
    Epoch,
    /// Time passes, in units of the shortest timeout, and the sweep runs.
    Wait(u64),
    /// So many ICMP errors may be sent from now on.
    Tokens(u64),
    /// An uplink has these addresses (`address/length`) from now on.
    Uplink(Interface, Vec<String>),
    /// Settings of a network change.
    Network(u16, Setting),
    /// So many flows fit the table.
    Sessions(u32),
    /// A port of the first uplink's address leads to a guest of a network: protocol, port, guest, slot.
    Forward(u8, u16, SocketAddr, u16),
}

/// A setting of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// A [`vnet_common::policy::Mode`] of IPv4.
    Mode(u8),
    /// The same of IPv6.
    ModeIpv6(u8),
    /// External ports, first and last.
    Ports(u16, u16),
    /// Flows of one guest.
    FlowsPerGuest(u32),
    /// External ports of one guest.
    PortsPerGuest(u32),
    /// Slots of the session table.
    FlowLimit(u32),
    /// Whether it is bound to `eth0`.
    Bound(bool),
    /// The bridge's MTU.
    Mtu(u16),
    /// How many addresses of 203.0.113.128/25 are its pool.
    Pool(u8),
    /// Whether its guests are kept from each other.
    IsolatedPorts(bool),
    /// Whether anybody may send to the mappings of its guests.
    EndpointIndependent(bool),
}

/// A packet at a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The interface.
    pub at: Interface,
    /// Whether it leaves there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub leaves: bool,
    /// The interface through which it came to the host, if it leaves; `None` if the host made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came_by: Option<Interface>,
    /// Its mark.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mark: u32,
    /// What it is.
    #[serde(flatten)]
    pub spec: Spec,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Source.
    pub from: End,
    /// Destination, of the same family.
    pub to: End,
    /// What it carries.
    pub body: Body,
    /// Bytes of payload.
    #[serde(default, skip_serializing_if = "is_default")]
    pub payload: u16,
    /// Time to live, or hop limit.
    #[serde(default = "default_ttl", skip_serializing_if = "is_default_ttl")]
    pub ttl: u8,
    /// Identification of its datagram.
    #[serde(default, skip_serializing_if = "is_default")]
    pub id: u16,
    /// IPv4 options in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// IPv6 extension headers: kind, and how many eight bytes follow the first eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<(u8, u8)>,
    /// One fragment of it: how many bytes each has, and which one this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<(u16, u16)>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<Damage>,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A UDP datagram with a checksum.
    Udp,
    /// A UDP datagram without.
    UdpBare,
    /// An echo request, whose identifier is the source's port.
    Request,
    /// An echo reply, whose identifier is the destination's port.
    Reply,
    /// An ICMP error of a type and code about a packet, so many bytes of which it quotes.
    Error(u8, u8, Box<Spec>, u16),
    /// An ICMP message of a type and code.
    Icmp(u8, u8),
    /// SCTP, DCCP or UDP-Lite, by its number.
    Ported(u8),
    /// Another IP protocol.
    Raw(u8),
}

/// What is done to the finished frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// It ends after so many bytes.
    Cut(u16),
    /// So many bytes follow it.
    Pad(u16),
    /// The byte at an offset is another.
    Byte(u16, u8),
}

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum End {
    /// An address and a port.
    Fixed(SocketAddr),
    /// The external endpoint that an inside one has at an uplink: `inside at uplink`.
    External(SocketAddr, Interface),
}

/// An interface of the rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interface(usize);

/// Names of interfaces.
const NAMES: [&str; 15] = [
    "virbr0", "virbr1", "virbr2", "virbr3", "virbr4", "virbr5", "virbr6", "virbr7", "virbr8",
    "virbr9", "virbr10", "virbr11", "eth0", "eth1", "vpn0",
];

impl Interface {
    /// A NAT network's bridge.
    pub const VIRBR0: Self = Self(0);
    /// Another NAT network's.
    pub const VIRBR1: Self = Self(1);
    /// An uplink.
    pub const ETH0: Self = Self(12);
    /// Another.
    pub const ETH1: Self = Self(13);
    /// An interface without hooks.
    pub const VPN0: Self = Self(14);

    /// The bridge of a network by its slot.
    #[must_use]
    pub const fn bridge(slot: u16) -> Self {
        Self(slot as usize - 1)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[self.0]
    }

    /// Whether it is a network's bridge.
    #[must_use]
    pub const fn is_bridge(self) -> bool {
        self.0 < Self::ETH0.0
    }
}

impl From<Interface> for String {
    fn from(interface: Interface) -> Self {
        interface.name().to_owned()
    }
}

impl TryFrom<String> for Interface {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let place = NAMES.iter().position(|&known| known == name);
        place.map(Self).ok_or_else(|| format!("no interface {name}"))
    }
}

impl End {
    /// Whether it is IPv6.
    #[must_use]
    pub const fn is_ipv6(self) -> bool {
        match self {
            Self::Fixed(address) | Self::External(address, _) => address.is_ipv6(),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => write!(formatter, "{address}"),
            Self::External(inside, uplink) => write!(formatter, "{inside} at {}", uplink.name()),
        }
    }
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| text.parse().map_err(|_| format!("no endpoint: {text}"));
        Ok(match text.split_once(" at ") {
            Some((inside, uplink)) => {
                Self::External(parse(inside)?, Interface::try_from(uplink.to_owned())?)
            }
            None => Self::Fixed(parse(text)?),
        })
    }
}

impl From<End> for String {
    fn from(end: End) -> Self {
        end.to_string()
    }
}

impl TryFrom<String> for End {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

fn default_ttl() -> u8 {
    64
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_default_ttl(ttl: &u8) -> bool {
    *ttl == default_ttl()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Spec {
    /// A packet without anything special.
    #[must_use]
    pub fn new(from: End, to: End, body: Body) -> Self {
        Self {
            from,
            to,
            body,
            payload: 0,
            ttl: default_ttl(),
            id: 0,
            options: String::new(),
            extensions: Vec::new(),
            fragment: None,
            damage: Vec::new(),
        }
    }
}
