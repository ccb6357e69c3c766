//! A machine of the lab and the interfaces that were made for it.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Result;
use super::guest::PortKind;
use super::link::{ETHERNET_MTU, bring_up, has_ipv6, mac, offloads_off};
use super::namespace::Namespace;
use super::tap::TapPair;

/// What a node is, for the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A host of virtual machines.
    Host,
    /// A virtual machine.
    Guest,
    /// Anything beyond an uplink.
    Outside,
}

/// A machine of the lab. It is also its [`Namespace`]: programs run and captures start on it.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<NodeInner>,
}

#[derive(Debug)]
struct NodeInner {
    namespace: Namespace,
    role: Role,
    interfaces: Mutex<Vec<Interface>>,
    // Held for a guest on a tap; it goes when the node goes.
    _tap: Option<TapPair>,
}

/// An interface that the lab has made, for the picture.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) mtu: u32,
    pub(crate) link: Link,
}

/// What is at the other end of an interface.
#[derive(Debug, Clone)]
pub(crate) enum Link {
    Bridge,
    /// Port of a bridge, towards a guest.
    Port {
        bridge: String,
        guest: String,
        kind: PortKind,
    },
    /// A guest's NIC; `gateways` as configured.
    Nic {
        gateways: Vec<String>,
    },
    /// A wire to an interface of another node.
    Wire {
        node: String,
        interface: String,
    },
}

impl Deref for Node {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.inner.namespace
    }
}

impl Node {
    pub(crate) fn new(namespace: Namespace, role: Role, tap: Option<TapPair>) -> Self {
        let interfaces = Mutex::default();
        Self { inner: Arc::new(NodeInner { namespace, role, interfaces, _tap: tap }) }
    }

    /// What the node is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.inner.role
    }

    /// Makes a bridge as libvirt does: no STP, no forwarding delay, IPv6 only with an address.
    /// `addresses` carry their prefix length.
    pub fn bridge(&self, name: &str, addresses: &[&str]) -> Result<()> {
        self.bridge_with_mtu(name, addresses, ETHERNET_MTU)
    }

    /// As [`Node::bridge`] with another MTU.
    pub fn bridge_with_mtu(&self, name: &str, addresses: &[&str], mtu: u32) -> Result<()> {
        let count = self.interfaces().len();
        let mac = mac("52:54", 0xff00 | count as u16);
        self.run(&[
            "ip",
            "link",
            "add",
            name,
            "type",
            "bridge",
            "stp_state",
            "0",
            "forward_delay",
            "0",
        ])?;
        let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        let disabled = if has_ipv6(&addresses) { "0" } else { "1" };
        self.sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), disabled)?;
        bring_up(self, name, &mac, mtu, &addresses, &[])?;
        self.record(name, &addresses, mtu, Link::Bridge);
        Ok(())
    }

    /// Adds an address with its prefix length; switches IPv6 on first if it is an IPv6 address.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        if address.contains(':') {
            self.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
        }
        self.run(&["ip", "address", "add", address, "dev", interface])?;
        for known in self.interfaces_mut().iter_mut().filter(|known| known.name == interface) {
            known.addresses.push(address.to_owned());
        }
        Ok(())
    }

    /// Adds a route, of either family.
    pub fn route(&self, destination: &str, gateway: &str) -> Result<()> {
        self.run(&["ip", "route", "add", destination, "via", gateway]).map(drop)
    }

    /// Switches IPv4 and IPv6 forwarding on or off for all interfaces.
    pub fn forwarding(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        self.sysctl("net.ipv4.ip_forward", value)?;
        self.sysctl("net.ipv6.conf.all.forwarding", value)
    }

    /// Switches checksum and segmentation offload of an interface off.
    pub fn offloads_off(&self, interface: &str) -> Result<()> {
        offloads_off(self, interface)
    }

    /// The bridge's port to which the guest of that name is plugged.
    #[must_use]
    pub fn port_of(&self, guest: &str) -> Option<String> {
        self.interfaces().into_iter().find_map(|interface| match interface.link {
            Link::Port { guest: plugged, .. } if plugged == guest => Some(interface.name),
            _ => None,
        })
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn interfaces(&self) -> Vec<Interface> {
        self.interfaces_mut().clone()
    }

    pub(crate) fn interfaces_mut(&self) -> MutexGuard<'_, Vec<Interface>> {
        self.inner.interfaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, name: &str, addresses: &[String], mtu: u32, link: Link) {
        let (name, addresses) = (name.to_owned(), addresses.to_vec());
        self.interfaces_mut().push(Interface { name, addresses, mtu, link });
    }
}
