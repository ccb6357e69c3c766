//! What is said of a guest before it is plugged in, and of a wire before it is laid.

use super::link::ETHERNET_MTU;
use super::node::Node;

/// How a guest is plugged into a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// The bridge's port is one end of a veth pair.
    Veth,
    /// The bridge's port is a tap, as with QEMU.
    Tap,
}

/// A guest to be plugged in: by default MTU 1500 and all offloads on.
#[derive(Debug, Clone)]
pub struct Guest {
    pub(crate) name: String,
    pub(crate) kind: PortKind,
    pub(crate) addresses: Vec<String>,
    pub(crate) gateways: Vec<String>,
    pub(crate) mtu: u32,
    pub(crate) offloads: bool,
}

impl Guest {
    /// A guest on a port of this kind, without addresses.
    #[must_use]
    pub fn new(name: &str, kind: PortKind) -> Self {
        let name = name.to_owned();
        let (addresses, gateways) = (Vec::new(), Vec::new());
        Self { name, kind, addresses, gateways, mtu: ETHERNET_MTU, offloads: true }
    }

    /// A guest on a tap.
    #[must_use]
    pub fn tap(name: &str) -> Self {
        Self::new(name, PortKind::Tap)
    }

    /// A guest on a veth pair.
    #[must_use]
    pub fn veth(name: &str) -> Self {
        Self::new(name, PortKind::Veth)
    }

    /// Adds an address with its prefix length, of either family.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.to_owned());
        self
    }

    /// Adds a default route.
    #[must_use]
    pub fn gateway(mut self, gateway: &str) -> Self {
        self.gateways.push(gateway.to_owned());
        self
    }

    /// Sets the MTU of the guest's NIC and of its port.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Switches checksum and segmentation offload off at both ends.
    #[must_use]
    pub fn without_offloads(mut self) -> Self {
        self.offloads = false;
        self
    }
}

/// One end of a wire.
#[derive(Debug, Clone)]
pub struct End<'a> {
    pub(crate) node: &'a Node,
    pub(crate) interface: &'a str,
    pub(crate) addresses: Vec<String>,
}

impl<'a> End<'a> {
    /// The interface `name`, to be made in `node`.
    #[must_use]
    pub fn new(node: &'a Node, interface: &'a str) -> Self {
        Self { node, interface, addresses: Vec::new() }
    }

    /// Adds an address with its prefix length, of either family.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.to_owned());
        self
    }
}
