//! What a lab is made of: hosts with bridges, guests on their ports, and wires to the outside.

use std::ops::Deref;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::background::wait_until;
use super::error::{Error, Result};
use super::namespace::{Ipv6Noise, Namespace};
use super::tap::TapPair;
use super::teardown;

/// How long an interface may take until it carries packets.
const LINK_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of IP packet on an ordinary Ethernet.
const ETHERNET_MTU: u32 = 1500;

/// A set of nodes and wires. When it is dropped, every process in its namespaces is killed.
#[derive(Debug)]
pub struct Lab {
    ipv6_noise: Ipv6Noise,
    nodes: Mutex<Vec<Node>>,
    serial: AtomicU16,
}

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
    name: String,
    kind: PortKind,
    addresses: Vec<String>,
    gateways: Vec<String>,
    mtu: u32,
    offloads: bool,
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
    node: &'a Node,
    interface: &'a str,
    addresses: Vec<String>,
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

impl Lab {
    /// An empty lab in which IPv6 is quiet.
    pub fn new() -> Result<Self> {
        Self::with_ipv6(Ipv6Noise::Off)
    }

    /// An empty lab.
    pub fn with_ipv6(ipv6_noise: Ipv6Noise) -> Result<Self> {
        Ok(Self { ipv6_noise, nodes: Mutex::default(), serial: AtomicU16::new(1) })
    }

    /// A host as it comes: nothing but `lo`, forwarding off.
    pub fn host(&self, name: &str) -> Result<Node> {
        self.node(name, Role::Host)
    }

    /// A host beyond an uplink, not wired to anything yet.
    pub fn station(&self, name: &str) -> Result<Node> {
        self.node(name, Role::Outside)
    }

    /// A router beyond an uplink, not wired to anything yet.
    pub fn router(&self, name: &str) -> Result<Node> {
        let node = self.node(name, Role::Outside)?;
        node.forwarding(true)?;
        Ok(node)
    }

    /// Plugs a new guest into a bridge of `host`. Its NIC is `eth0`; the port is called `vnetN` for
    /// a tap and `vethN` for a veth pair.
    pub fn guest(&self, host: &Node, bridge: &str, guest: &Guest) -> Result<Node> {
        let namespace = Namespace::new(&guest.name, self.ipv6_noise)?;
        let serial = self.next_serial();
        // The port has the guest's address but for the first byte, as libvirt does.
        let (mac, port_mac) = (mac("52:54", serial), mac("fe:54", serial));
        let (port, tap) = match guest.kind {
            PortKind::Veth => {
                let port = format!("veth{serial}");
                host.run(&[
                    "ip",
                    "link",
                    "add",
                    &port,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    &namespace.path(),
                ])?;
                if !guest.offloads {
                    offloads_off(host, &port)?;
                    offloads_off(&namespace, "eth0")?;
                }
                (port, None)
            }
            PortKind::Tap => {
                let port = format!("vnet{serial}");
                let tap = TapPair::new(host, &port, &namespace, "eth0", guest.offloads)?;
                (port, Some(tap))
            }
        };
        let mtu = guest.mtu;
        host.ip_batch(&[format!(
            "link set {port} address {port_mac} mtu {mtu} master {bridge} up"
        )])?;
        bring_up(&namespace, "eth0", &mac, mtu, &guest.addresses, &guest.gateways)?;
        wait_for_link(&namespace, "eth0")?;
        wait_for_link(host, &port)?;
        wait_for_port(host, &port)?;
        wait_for_link(host, bridge)?;

        let node = Node::new(namespace, Role::Guest, tap);
        node.record("eth0", &guest.addresses, mtu, Link::Nic { gateways: guest.gateways.clone() });
        let (bridge, kind) = (bridge.to_owned(), guest.kind);
        host.record(&port, &[], mtu, Link::Port { bridge, guest: guest.name.clone(), kind });
        self.nodes().push(node.clone());
        Ok(node)
    }

    /// Removes a guest: its processes, its NIC and its port. The namespace itself lives until the
    /// caller's clones of the node are gone.
    pub fn unplug(&self, host: &Node, guest: Node) -> Result<()> {
        teardown::kill_processes_in(&[guest.inode()?]);
        let port = host
            .port_of(guest.name())
            .ok_or_else(|| Error::unexpected("port of a guest", guest.name()))?;
        // Deleting a tap's interface makes its pump end.
        host.run(&["ip", "link", "delete", &port])?;
        host.interfaces_mut().retain(|interface| interface.name != port);
        self.nodes().retain(|node| !Arc::ptr_eq(&node.inner, &guest.inner));
        Ok(())
    }

    /// A host beyond uplink `uplink` of `host`, wired to it, with the default route of `host`
    /// through it; a further uplink gets a default route with a higher metric. The outside host's
    /// interface is called `eth0`. Addresses carry their prefix length.
    pub fn outside(
        &self,
        host: &Node,
        uplink: &str,
        name: &str,
        host_address: &str,
        outside_address: &str,
    ) -> Result<Node> {
        let outside = self.station(name)?;
        self.wire(
            End::new(host, uplink).address(host_address),
            End::new(&outside, "eth0").address(outside_address),
        )?;
        let uplinks = host.interfaces().into_iter().filter(|i| matches!(i.link, Link::Wire { .. }));
        let metric = 100 * uplinks.count();
        host.run(&[
            "ip",
            "route",
            "add",
            "default",
            "via",
            without_prefix(outside_address),
            "dev",
            uplink,
            "metric",
            &metric.to_string(),
        ])?;
        Ok(outside)
    }

    /// Wires two interfaces together, MTU 1500.
    pub fn wire(&self, a: End<'_>, b: End<'_>) -> Result<()> {
        self.wire_with_mtu(a, b, ETHERNET_MTU)
    }

    /// Wires two interfaces together.
    pub fn wire_with_mtu(&self, a: End<'_>, b: End<'_>, mtu: u32) -> Result<()> {
        a.node.run(&[
            "ip",
            "link",
            "add",
            a.interface,
            "type",
            "veth",
            "peer",
            "name",
            b.interface,
            "netns",
            &b.node.path(),
        ])?;
        for end in [&a, &b] {
            let mac = mac("02:00", self.next_serial());
            bring_up(end.node, end.interface, &mac, mtu, &end.addresses, &[])?;
        }
        for (end, other) in [(&a, &b), (&b, &a)] {
            wait_for_link(end.node, end.interface)?;
            let link = Link::Wire {
                node: other.node.name().to_owned(),
                interface: other.interface.to_owned(),
            };
            end.node.record(end.interface, &end.addresses, mtu, link);
        }
        Ok(())
    }

    fn node(&self, name: &str, role: Role) -> Result<Node> {
        let node = Node::new(Namespace::new(name, self.ipv6_noise)?, role, None);
        self.nodes().push(node.clone());
        Ok(node)
    }

    fn next_serial(&self) -> u16 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let inodes: Vec<u64> = self.nodes().iter().filter_map(|node| node.inode().ok()).collect();
        teardown::kill_processes_in(&inodes);
    }
}

impl Deref for Node {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.inner.namespace
    }
}

impl Node {
    fn new(namespace: Namespace, role: Role, tap: Option<TapPair>) -> Self {
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

    pub(crate) fn interfaces(&self) -> Vec<Interface> {
        self.interfaces_mut().clone()
    }

    fn interfaces_mut(&self) -> MutexGuard<'_, Vec<Interface>> {
        self.inner.interfaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, name: &str, addresses: &[String], mtu: u32, link: Link) {
        let (name, addresses) = (name.to_owned(), addresses.to_vec());
        self.interfaces_mut().push(Interface { name, addresses, mtu, link });
    }
}

fn bring_up(
    namespace: &Namespace,
    interface: &str,
    mac: &str,
    mtu: u32,
    addresses: &[String],
    gateways: &[String],
) -> Result<()> {
    if has_ipv6(addresses) {
        namespace.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
    }
    let mut lines = vec![format!("link set {interface} address {mac} mtu {mtu} up")];
    lines.extend(addresses.iter().map(|a| format!("address add {a} dev {interface}")));
    lines.extend(gateways.iter().map(|g| format!("route add default via {g} dev {interface}")));
    namespace.ip_batch(&lines)
}

/// An interface's queue drops everything until the kernel has noticed that the other end is up.
fn wait_for_link(namespace: &Namespace, interface: &str) -> Result<()> {
    wait_for_file(namespace, &format!("/sys/class/net/{interface}/operstate"), &["up", "unknown"])
}

/// 3 is `BR_STATE_FORWARDING`, `include/uapi/linux/if_bridge.h`.
fn wait_for_port(namespace: &Namespace, port: &str) -> Result<()> {
    wait_for_file(namespace, &format!("/sys/class/net/{port}/brport/state"), &["3"])
}

fn wait_for_file(namespace: &Namespace, path: &str, wanted: &[&str]) -> Result<()> {
    let what = format!("{path} in {} is one of {wanted:?}", namespace.name());
    namespace.enter(|| {
        wait_until(&what, LINK_DEADLINE, || match std::fs::read_to_string(path) {
            Ok(value) if wanted.contains(&value.trim_end()) => Ok(()),
            Ok(value) => Err(value),
            Err(error) => Err(error.to_string()),
        })
    })?
}

fn offloads_off(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut arguments = vec!["ethtool", "-K", interface];
    for feature in ["tx", "tso", "gso", "gro"] {
        arguments.extend([feature, "off"]);
    }
    namespace.run(&arguments).map(drop)
}

fn has_ipv6(addresses: &[String]) -> bool {
    addresses.iter().any(|address| address.contains(':'))
}

fn mac(prefix: &str, serial: u16) -> String {
    let [high, low] = serial.to_be_bytes();
    format!("{prefix}:00:00:{high:02x}:{low:02x}")
}

fn without_prefix(address: &str) -> &str {
    address.split_once('/').map_or(address, |(address, _)| address)
}
