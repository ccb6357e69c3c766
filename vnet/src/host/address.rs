//! Addresses of interfaces as `RTM_NEWADDR` describes them.

use std::net::IpAddr;

use ipnet::IpNet;
pub use netlink_packet_route::address::{AddressFlags, AddressScope};

use super::netlink::{AF_INET, AF_INET6, attributes, ip_address, u32_at};

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Index of the interface.
    pub interface: u32,
    /// The host's own address.
    pub address: IpAddr,
    /// The other end's address, when it was set (`ip address add … peer …`).
    pub peer: Option<IpAddr>,
    /// Length of the subnet's prefix in bits.
    pub prefix_len: u8,
    /// How far the address is valid.
    pub scope: AddressScope,
    /// `IFA_F_*`.
    pub flags: AddressFlags,
}

impl InterfaceAddress {
    /// The subnet that is on the link: that of the peer, when there is one.
    #[must_use]
    pub fn subnet(&self) -> IpNet {
        let address = self.peer.unwrap_or(self.address);
        IpNet::new(address, self.prefix_len)
            .map_or_else(|_| IpNet::from(address), |net| net.trunc())
    }

    /// An IPv4 address in the subnet of an earlier one of the same interface (`IFA_F_SECONDARY`).
    #[must_use]
    pub fn is_secondary(&self) -> bool {
        self.address.is_ipv4() && self.flags.contains(AddressFlags::Secondary)
    }

    /// An IPv6 privacy address (`IFA_F_TEMPORARY`, the same bit as `IFA_F_SECONDARY`; RFC 8981).
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.address.is_ipv6() && self.flags.contains(AddressFlags::Secondary)
    }

    /// Its preferred lifetime is over.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        self.flags.contains(AddressFlags::Deprecated)
    }

    /// Duplicate address detection is not finished, so it cannot be used yet.
    #[must_use]
    pub fn is_tentative(&self) -> bool {
        self.flags.contains(AddressFlags::Tentative)
    }

    /// Reads the body of an `RTM_NEWADDR`: `struct ifaddrmsg` and attributes. `None` for families
    /// other than IPv4 and IPv6.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_FLAGS: u16 = 8;

        let [family, prefix_len, flags, scope] = *body.first_chunk()?;
        if !matches!(family, AF_INET | AF_INET6) {
            return None;
        }
        let mut flags = u32::from(flags);
        let (mut address, mut local) = (None, None);
        for (kind, payload) in attributes(body.get(8..)?) {
            match kind {
                IFA_ADDRESS => address = ip_address(payload),
                IFA_LOCAL => local = ip_address(payload),
                IFA_FLAGS => flags = u32_at(payload, 0).unwrap_or(flags),
                _ => {}
            }
        }
        let own = local.or(address)?;
        Some(Self {
            interface: u32_at(body, 4)?,
            address: own,
            peer: address.filter(|address| *address != own),
            prefix_len,
            scope: AddressScope::from(scope),
            flags: AddressFlags::from_bits_retain(flags),
        })
    }
}
