//! A network as its definition says it.

mod address;
mod link;
mod options;
mod service;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

pub use address::{AddressRange, MacAddress, PciAddress, PortRange, Uuid};
pub use link::{
    Bandwidth, MacTableManager, NativeMode, PortGroup, Rate, VirtualPort, Vlan, VlanTag,
};
pub use options::{
    AddressSources, Filtering, ForwardProtocol, Guard, Guest, Limits, Masquerade, Options,
    PortForward, Timeouts,
};
pub use service::{
    Bootp, Dhcp, DhcpHost, DhcpRange, Dns, DnsForwarder, DnsHost, DnsService, DnsText, Domain,
    Lease,
};

use super::diagnostic::{Located, Span};

/// One `<network>`. Values that the definition does not give are filled in as libvirt fills them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Network {
    /// The start tag of `<network>`.
    #[serde(skip)]
    pub span: Span,
    /// The name, unique on a host; holds no `/` and no newline.
    pub name: Located<String>,
    /// The identity that libvirt gave it.
    pub uuid: Option<Located<Uuid>>,
    /// A short description.
    pub title: Option<String>,
    /// A long description.
    pub description: Option<String>,
    /// Where traffic of guests may go, and how.
    pub forward: Forward,
    /// The bridge that guests are attached to.
    pub bridge: Bridge,
    /// The bridge's own address.
    pub mac: Option<Located<MacAddress>>,
    /// The largest packet of the bridge and its ports, in bytes.
    pub mtu: Option<Located<u32>>,
    /// The addresses of the host on the bridge, and so the subnets.
    pub ips: Vec<Ip>,
    /// Subnets that are reached through a guest.
    pub routes: Vec<Route>,
    /// `ipv6='yes'`: guests may use IPv6 among themselves without an IPv6 `<ip>`.
    pub ipv6: Option<Located<bool>>,
    /// `trustGuestRxFilters`, for macvtap.
    pub trust_guest_rx_filters: Option<Located<bool>>,
    /// The DNS domain of guests.
    pub domain: Option<Domain>,
    /// The DNS service for guests.
    pub dns: Option<Dns>,
    /// The limits of the bridge as a whole.
    pub bandwidth: Option<Bandwidth>,
    /// The VLAN of all guests.
    pub vlan: Option<Vlan>,
    /// `<port isolated='yes'>`: guests cannot reach each other.
    pub port_isolated: Option<Located<bool>>,
    /// How ports attach to a switch that is not a Linux bridge.
    pub virtual_port: Option<VirtualPort>,
    /// Settings that a guest interface may choose by name.
    pub port_groups: Vec<PortGroup>,
    /// vnet's own options, from `<metadata>`.
    pub options: Options,
    /// The `<metadata>` element as it is written.
    pub metadata: Option<Located<String>>,
    /// Lines for dnsmasq's configuration (`dnsmasq:option`).
    pub dnsmasq_options: Vec<Located<String>>,
}

/// What becomes of traffic that leaves its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardMode {
    /// No `<forward>`: it does not leave.
    Isolated,
    /// Forwarded with the source address replaced.
    Nat,
    /// Forwarded.
    Route,
    /// Forwarded, without any rule of the network's own.
    Open,
    /// The guests are on a bridge of the host, or on its NICs through macvtap.
    Bridge,
    /// macvtap in private mode.
    Private,
    /// macvtap in VEPA mode.
    Vepa,
    /// macvtap in passthrough mode.
    Passthrough,
    /// PCI functions handed to guests.
    Hostdev,
}

/// `<forward>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forward {
    /// The mode; at the `<network>` if there is no `<forward>`.
    pub mode: Located<ForwardMode>,
    /// `dev` and each `<interface dev>` without repetition. In mode nat and route there is at most
    /// one: the only interface that traffic may leave through.
    pub devices: Vec<Located<String>>,
    /// How sources are replaced: set if the mode is nat.
    pub nat: Option<Nat>,
    /// The PCI functions of mode hostdev.
    pub pci_devices: Vec<Located<PciAddress>>,
    /// The SR-IOV NIC whose virtual functions are handed out.
    pub physical_function: Option<Located<String>>,
    /// The driver that PCI functions are bound to.
    pub driver: Option<Located<String>>,
    /// Whether libvirt binds PCI functions to the driver.
    pub managed: bool,
}

/// `<nat>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nat {
    /// Whether IPv6 is masqueraded too.
    pub ipv6: Option<Located<bool>>,
    /// The addresses to use instead of the uplink's own (IPv4).
    pub addresses: Option<Located<AddressRange>>,
    /// The source ports to use; 1024 to 65535 unless given.
    pub ports: PortRange,
    /// Where `ports` is given.
    #[serde(skip)]
    pub ports_span: Option<Span>,
}

/// `<bridge>`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Bridge {
    /// The interface name.
    pub name: Option<Located<String>>,
    /// Whether the spanning tree protocol runs; on unless given.
    pub stp: Option<Located<bool>>,
    /// The forward delay in seconds; 0 unless given.
    pub delay: Option<Located<u64>>,
    /// The firewalld zone.
    pub zone: Option<Located<String>>,
    /// Who fills the bridge's forwarding table.
    pub mac_table_manager: Option<Located<MacTableManager>>,
}

/// `<ip>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ip {
    /// The start tag of `<ip>`.
    #[serde(skip)]
    pub span: Span,
    /// The host's address on the bridge: the guests' gateway.
    pub address: Located<IpAddr>,
    /// The length of the subnet's prefix; without mask that of the address class (IPv4) or 64.
    pub prefix: u8,
    /// Whether reverse look-ups in the subnet stay in the network's own DNS service.
    pub local_ptr: Option<Located<bool>>,
    /// The root directory of the TFTP service.
    pub tftp_root: Option<Located<String>>,
    /// The DHCP service.
    pub dhcp: Option<Dhcp>,
}

/// `<route>`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Route {
    /// The start tag of `<route>`.
    #[serde(skip)]
    pub span: Span,
    /// The subnet.
    pub destination: IpNet,
    /// The guest that leads there.
    pub gateway: Located<IpAddr>,
    /// The route's metric; 1 unless given.
    pub metric: Option<Located<u32>>,
}

impl ForwardMode {
    /// The modes that `mode=` may name, as it names them.
    pub const NAMED: [(&'static str, Self); 8] = [
        ("nat", Self::Nat),
        ("route", Self::Route),
        ("open", Self::Open),
        ("bridge", Self::Bridge),
        ("private", Self::Private),
        ("vepa", Self::Vepa),
        ("passthrough", Self::Passthrough),
        ("hostdev", Self::Hostdev),
    ];

    /// The name in the definition; `isolated` for networks without `<forward>`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, mode)| *mode == self).map_or("isolated", |(name, _)| name)
    }

    /// Whether the network has a bridge of its own with addresses of the host on it.
    #[must_use]
    pub fn has_own_bridge(self) -> bool {
        matches!(self, Self::Isolated | Self::Nat | Self::Route | Self::Open)
    }
}

impl Network {
    /// The subnets, in the order of the `<ip>` elements.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> {
        self.ips.iter().map(Ip::subnet)
    }

    /// The VLAN of guests that choose no port group: that of the default port group, else the
    /// network's (`networkAllocatePort` in `src/network/bridge_driver.c`).
    #[must_use]
    pub fn guest_vlan(&self) -> Option<&Vlan> {
        let group = self.port_groups.iter().find(|group| group.default);
        group.and_then(|group| group.vlan.as_ref()).or(self.vlan.as_ref())
    }

    /// The only interface that forwarded traffic may leave through, if one is named.
    #[must_use]
    pub fn forward_device(&self) -> Option<&str> {
        self.forward.devices.first().map(|device| device.value.as_str())
    }
}

impl Ip {
    /// The subnet of the address.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        IpNet::new(self.address.value, self.prefix)
            .map_or_else(|_| IpNet::from(self.address.value), |net| net.trunc())
    }
}
