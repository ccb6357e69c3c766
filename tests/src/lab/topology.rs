//! What a lab is made of: hosts with bridges, guests on their ports, and wires to the outside.

use crate::xdp;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{Error, Result};
use super::guest::{End, Guest, PortKind};
use super::link::{ETHERNET_MTU, bring_up, mac, offloads_off, wait_for_link, wait_for_port};
use super::namespace::{Ipv6Noise, Namespace};
use super::node::{Link, Node, Role};
use super::tap::TapPair;
use super::teardown;

/// A set of nodes and wires. When it is dropped, every process in its namespaces is killed.
#[derive(Debug)]
pub struct Lab {
    ipv6_noise: Ipv6Noise,
    nodes: Mutex<Vec<Node>>,
    serial: AtomicU16,
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
    pub fn unplug(&self, host: &Node, guest: &Node) -> Result<()> {
        teardown::kill_processes_in(&[guest.inode()?]);
        let port = host
            .port_of(guest.name())
            .ok_or_else(|| Error::unexpected("port of a guest", guest.name()))?;
        // Deleting a tap's interface makes its pump end.
        host.run(&["ip", "link", "delete", &port])?;
        host.interfaces_mut().retain(|interface| interface.name != port);
        self.nodes().retain(|node| !node.is(guest));
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
            &End::new(host, uplink).address(host_address),
            &End::new(&outside, "eth0").address(outside_address),
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
    pub fn wire(&self, a: &End<'_>, b: &End<'_>) -> Result<()> {
        self.wire_with_mtu(a, b, ETHERNET_MTU)
    }

    /// Wires two interfaces together.
    pub fn wire_with_mtu(&self, a: &End<'_>, b: &End<'_>, mtu: u32) -> Result<()> {
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
        for end in [a, b] {
            let mac = mac("02:00", self.next_serial());
            bring_up(end.node, end.interface, &mac, mtu, &end.addresses, &[])?;
            if xdp::needs_checksums() {
                end.node.run(&["ethtool", "-K", end.interface, "tx", "off"])?;
            }
        }
        for (end, other) in [(a, b), (b, a)] {
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

    pub(crate) fn next_serial(&self) -> u16 {
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

fn without_prefix(address: &str) -> &str {
    address.split_once('/').map_or(address, |(address, _)| address)
}
