//! How networks are served, for other processes to read.

use serde::{Deserialize, Serialize};

use super::dnsmasq::{self, Directories};
use crate::definition::Network;

/// How a network is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// The network.
    pub network: String,
    /// The bridge.
    pub bridge: String,
    /// Who serves it.
    #[serde(default)]
    pub state: ServedBy,
    /// The dnsmasq that serves it.
    pub process: Option<u32>,
    /// What that dnsmasq has for guests.
    #[serde(default)]
    pub serves: Vec<Offer>,
    /// Why there is none.
    pub reason: Option<String>,
}

/// Who serves a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServedBy {
    /// vnet's own dnsmasq.
    Vnet,
    /// libvirt, while it runs the network.
    Libvirt,
    /// Somebody else who was there first.
    Other,
    /// Nobody.
    #[default]
    Nobody,
}

/// What guests may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offer {
    /// IPv4 addresses.
    Dhcp,
    /// IPv6 addresses.
    #[serde(rename = "dhcpv6")]
    DhcpV6,
    /// Router advertisements.
    RouterAdvertisements,
    /// Names.
    Dns,
    /// Files to boot.
    Tftp,
}

impl Offer {
    /// What a definition asks for.
    #[must_use]
    pub fn of(network: &Network) -> Vec<Self> {
        let ips = &network.ips;
        let is_ipv6 = |address: std::net::IpAddr| address.is_ipv6();
        let has_dhcp =
            |ipv6| ips.iter().any(|ip| ip.dhcp.is_some() && is_ipv6(ip.address.value) == ipv6);
        let offers = [
            (Self::Dhcp, has_dhcp(false)),
            (Self::DhcpV6, has_dhcp(true)),
            (Self::RouterAdvertisements, ips.iter().any(|ip| is_ipv6(ip.address.value))),
            (Self::Dns, network.dns.as_ref().is_none_or(|dns| dns.enable)),
            (Self::Tftp, ips.iter().any(|ip| ip.tftp_root.is_some())),
        ];
        offers.into_iter().filter_map(|(offer, is_wanted)| is_wanted.then_some(offer)).collect()
    }

    /// A word or two for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "DHCP",
            Self::DhcpV6 => "DHCPv6",
            Self::RouterAdvertisements => "RA",
            Self::Dns => "DNS",
            Self::Tftp => "TFTP",
        }
    }
}

impl ServiceState {
    /// The state as it is now: a dnsmasq may have ended while no daemon was there to notice.
    #[must_use]
    pub fn now(self, directories: &Directories) -> Self {
        let ended = self
            .process
            .filter(|process| !dnsmasq::is_running(*process, &self.network, directories));
        match ended {
            None => self,
            Some(process) => Self {
                state: ServedBy::Nobody,
                process: None,
                serves: Vec::new(),
                reason: Some(format!("process {process} has ended")),
                ..self
            },
        }
    }
}
