//! What all sites have: namespaces, links, addresses, and what forwards.

use anyhow::{Context as _, Result};
use vnet_common::family::Family;

use super::{
    BRIDGE, Forwarding, Layout, UPLINK, Way, forwarding,
    threads::{FORWARDS, GENERATES, Receiver},
};
use crate::{
    lab::{Crowd, Guest, Lab, Node},
    vnet::Vnet,
};

/// The host's address at its uplink.
pub(in crate::bench) const HOST_OUTSIDE: &str = "203.0.113.2";
const OUTSIDE: &str = "203.0.113.1";
const OUTSIDE_IPV6: &str = "2001:db8:1::1";

/// A host, its outside, and a guest with a stack if it is on a veth pair.
pub(in crate::bench) struct Base {
    pub host: Node,
    pub outside: Node,
    pub guest: Option<Node>,
    /// The guest's port.
    pub port: String,
    /// What runs if the host forwards by it.
    pub vnet: Option<Vnet>,
    of_port: Option<Receiver>,
    of_uplink: Option<Receiver>,
    of_ends: Vec<Receiver>,
    pub(super) lab: Lab,
}

impl Base {
    /// Lays it out; `plug` makes the guest's port unless it is to be a veth pair.
    pub fn lay<T>(
        layout: &Layout,
        plug: impl FnOnce(&Node) -> Result<Option<(&'static str, T)>>,
    ) -> Result<(Self, Option<(&'static str, T)>)> {
        let lab = Lab::new()?;
        let host = lab.host("host")?;
        let addresses = (format!("{HOST_OUTSIDE}/24"), format!("{OUTSIDE}/24"));
        let outside = lab.outside(&host, UPLINK, "outside", &addresses.0, &addresses.1)?;
        if layout.family == Family::Ipv6 {
            host.add_address(UPLINK, &format!("{}/64", layout.external()))?;
            outside.add_address("eth0", &format!("{OUTSIDE_IPV6}/64"))?;
            host.run(&["ip", "route", "add", "default", "via", OUTSIDE_IPV6, "dev", UPLINK])?;
        }
        host.bridge(BRIDGE, &layout.gateways())?;
        Crowd { networks: layout.networks - 1, ports: 0 }.settle(&host)?;
        let made = plug(&host)?;
        let (guest, port) = if let Some((port, _)) = &made {
            // So that nothing is dropped while the reader waits for its turn.
            host.ip_batch(&[format!("link set {port} master {BRIDGE} txqueuelen 16384 up")])?;
            (None, (*port).to_owned())
        } else {
            let guest = Guest::veth("guest").address("10.64.0.10/16").gateway("10.64.0.1");
            let guest = lab.guest(&host, BRIDGE, &guest)?;
            (Some(guest), host.port_of("guest").context("the guest has no port")?)
        };
        host.forwarding(true)?;
        if !layout.forwarding.translates() {
            outside.route("10.64.0.0/16", HOST_OUTSIDE)?;
        }
        let base = Self {
            host,
            outside,
            guest,
            port,
            vnet: None,
            of_port: None,
            of_uplink: None,
            of_ends: Vec::new(),
            lab,
        };
        Ok((base, made))
    }

    /// A site whose ends have stacks, ready to be used.
    pub fn with_stacks(layout: &Layout) -> Result<Self> {
        let (mut base, _) = Self::lay(layout, |_| Ok(None::<(_, ())>))?;
        base.bind_receivers(Receiver::of)?;
        if layout.forwarding == Forwarding::Xdp {
            // XDP on a veth cannot tell which sums are yet to be completed.
            base.outside.run(&["ethtool", "-K", "eth0", "tx", "off"])?;
        }
        base.forward(layout)?;
        Ok(base)
    }

    /// As [`Base::with_stacks`]; also what stacks send is received by the threads. A veth that offers TSO passes that
    /// by (`veth_skb_is_eligible_for_gro` in `drivers/net/veth.c`).
    pub fn with_threads(layout: &Layout) -> Result<Self> {
        let base = Self::with_stacks(layout)?;
        for (node, interface) in [
            (&base.host, UPLINK),
            (&base.host, &*base.port),
            (&base.outside, "eth0"),
            (base.guest()?, "eth0"),
        ] {
            node.run(&["ethtool", "-K", interface, "tso", "off"])?;
        }
        Ok(base)
    }

    /// The guest, which has a stack.
    pub fn guest(&self) -> Result<&Node> {
        self.guest.as_ref().context("a guest on a tap has no stack here")
    }

    /// Lets all receive in threads of their own, those of the ends as told.
    pub fn bind_receivers(
        &mut self,
        end: fn(&Node, &str, usize) -> Result<Receiver>,
    ) -> Result<()> {
        self.of_uplink = Some(Receiver::of(&self.host, UPLINK, FORWARDS)?);
        self.of_ends.push(end(&self.outside, "eth0", GENERATES)?);
        if let Some(guest) = &self.guest {
            self.of_port = Some(Receiver::of(&self.host, &self.port, FORWARDS)?);
            self.of_ends.push(end(guest, "eth0", GENERATES)?);
        }
        Ok(())
    }

    /// Enters neighbours, which nobody answers for where ends have no stack.
    pub fn know_neighbours(&self, layout: &Layout, guest: [u8; 6], outside: [u8; 6]) -> Result<()> {
        let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let router = match layout.family {
            Family::Ipv4 => OUTSIDE,
            Family::Ipv6 => OUTSIDE_IPV6,
        };
        Ok(self.host.ip_batch(&[
            format!(
                "neighbour replace {} lladdr {} nud permanent dev {BRIDGE}",
                layout.guest(),
                text(guest)
            ),
            format!(
                "neighbour replace {router} lladdr {} nud permanent dev {UPLINK}",
                text(outside)
            ),
        ])?)
    }

    /// Lets the host forward as it is to.
    pub fn forward(&mut self, layout: &Layout) -> Result<()> {
        match layout.forwarding {
            Forwarding::Floor | Forwarding::FloorOfXdp | Forwarding::Plain => {}
            Forwarding::Masquerade | Forwarding::Flowtable => {
                forwarding::masquerade(&self.host, layout)?;
            }
            Forwarding::LongWays | Forwarding::Vnet | Forwarding::Xdp => {
                let mut arguments = layout.forwarding.arguments().unwrap_or_default().to_vec();
                let flows = layout.max_flows.map(|flows| flows.to_string());
                arguments.extend(flows.iter().flat_map(|flows| ["--max-flows", flows]));
                let definitions = forwarding::definitions(layout);
                self.vnet = Some(Vnet::start_patiently(&self.host, &definitions, &arguments)?);
            }
        }
        Ok(())
    }

    /// Flows that are live, if what forwards knows of flows.
    pub fn live_flows(&self) -> Result<Option<u64>> {
        let Some(vnet) = &self.vnet else { return forwarding::tracked(&self.host) };
        let status = vnet.status()?;
        Ok(Some(status["flows"]["live"].as_u64().context("the status does not say")?))
    }

    /// Nanoseconds of the threads that forward, in one direction.
    pub fn time(&self, way: Way) -> Result<u64> {
        let thread = if way == Way::Out { &self.of_port } else { &self.of_uplink };
        thread.as_ref().map_or(Ok(0), Receiver::time)
    }

    /// Waits until all that was sent is forwarded.
    pub fn rest(&self) -> Result<()> {
        for thread in [&self.of_port, &self.of_uplink].into_iter().flatten() {
            thread.rest()?;
        }
        Ok(())
    }

    /// Ends what was started. What many networks need to be taken down is not waited for: the kernel does it
    /// with the namespace.
    pub fn finish(self) -> Result<()> {
        let Some(vnet) = self.vnet else { return Ok(()) };
        Ok(vnet.discard()?)
    }
}
