//! Two guests, their host, two routers and a server, in both families.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vnet_tests::lab::{Capture, End, Guest, Lab, Node, PortKind, listing, require_root};
use vnet_tests::vnet::Vnet;

pub const DEADLINE: Duration = Duration::from_secs(10);

/// The addresses of one family, hop by hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Of `ip -4`.
    pub switch: &'static str,
    /// The host's on its bridge.
    pub gateway: &'static str,
    pub guest: &'static str,
    /// The host's on its uplink: what the outside sees of guests.
    pub uplink: &'static str,
    pub isp: &'static str,
    /// Behind the isp, towards it.
    pub transit: &'static str,
    pub server: &'static str,
    /// Another address of the server.
    pub second: &'static str,
    /// Bytes of an IP header and a TCP header without options.
    pub tcp_headers: u32,
}

pub const IPV4: Family = Family {
    switch: "-4",
    gateway: "192.168.122.1",
    guest: "192.168.122.11",
    uplink: "203.0.113.2",
    isp: "203.0.113.1",
    transit: "198.51.100.2",
    server: "192.0.2.2",
    second: "192.0.2.3",
    tcp_headers: 40,
};

pub const IPV6: Family = Family {
    switch: "-6",
    gateway: "fd00:122::1",
    guest: "fd00:122::11",
    uplink: "2001:db8:1::2",
    isp: "2001:db8:1::1",
    transit: "2001:db8:2::2",
    server: "2001:db8:3::2",
    second: "2001:db8:3::3",
    tcp_headers: 60,
};

pub const FAMILIES: [Family; 2] = [IPV4, IPV6];
pub const KINDS: [PortKind; 2] = [PortKind::Tap, PortKind::Veth];

/// MTU of each link.
#[derive(Debug, Clone, Copy)]
pub struct Mtu {
    /// Of the bridge and the guest's NIC.
    pub bridge: u32,
    /// Between host and isp.
    pub uplink: u32,
    /// Between isp and transit.
    pub middle: u32,
}

impl Default for Mtu {
    fn default() -> Self {
        Self { bridge: 1500, uplink: 1500, middle: 1500 }
    }
}

/// guests --- host --- isp --- transit --- server, with vnet running on the host.
pub struct Internet {
    // Before the lab, whose end kills every process in it.
    pub vnet: Vnet,
    pub host: Node,
    pub guest: Node,
    pub other_guest: Node,
    pub server: Node,
    /// On the wire between host and isp, at the isp.
    wire: Capture,
    pub lab: Lab,
}

impl Internet {
    /// With elements of `<vnet:options>`.
    pub fn new(kind: PortKind, mtu: Mtu, options: &str) -> anyhow::Result<Self> {
        Self::with_routes(kind, mtu, options, "")
    }

    /// As [`Internet::new`], with `<route>`s of the network.
    pub fn with_routes(
        kind: PortKind,
        mtu: Mtu,
        options: &str,
        routes: &str,
    ) -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let [host, server] = [lab.host("host")?, lab.station("server")?];
        let [isp, transit] = [lab.router("isp")?, lab.router("transit")?];
        // As distributions set it: what the stack forwards has to pass this as well.
        host.sysctl("net.ipv4.conf.all.rp_filter", "1")?;
        let wire = |from: (&Node, &str, [&str; 2]), to: (&Node, &str, [&str; 2]), mtu: u32| {
            let [from, to] = [from, to].map(|(node, interface, [ipv4, ipv6])| {
                End::new(node, interface).address(ipv4).address(ipv6)
            });
            lab.wire_with_mtu(&from, &to, mtu)
        };
        wire(
            (&host, "eth0", ["203.0.113.2/24", "2001:db8:1::2/64"]),
            (&isp, "eth0", ["203.0.113.1/24", "2001:db8:1::1/64"]),
            mtu.uplink,
        )?;
        wire(
            (&isp, "eth1", ["198.51.100.1/24", "2001:db8:2::1/64"]),
            (&transit, "eth0", ["198.51.100.2/24", "2001:db8:2::2/64"]),
            mtu.middle,
        )?;
        wire(
            (&transit, "eth1", ["192.0.2.1/24", "2001:db8:3::1/64"]),
            (&server, "eth0", ["192.0.2.2/24", "2001:db8:3::2/64"]),
            1500,
        )?;
        server.add_address("eth0", "192.0.2.3/24")?;
        server.add_address("eth0", "2001:db8:3::3/64")?;
        // No router has a route to the guests.
        for (node, gateways) in [
            (&host, ["203.0.113.1", "2001:db8:1::1"]),
            (&isp, ["198.51.100.2", "2001:db8:2::2"]),
            (&server, ["192.0.2.1", "2001:db8:3::1"]),
        ] {
            for gateway in gateways {
                node.route("default", gateway)?;
            }
        }
        transit.route("203.0.113.0/24", "198.51.100.1")?;
        transit.route("2001:db8:1::/64", "2001:db8:2::1")?;

        host.bridge_with_mtu("virbr0", &["192.168.122.1/24", "fd00:122::1/64"], mtu.bridge)?;
        let plug = |name: &str, last: u32| {
            let guest = Guest::new(name, kind)
                .address(&format!("192.168.122.{last}/24"))
                .address(&format!("fd00:122::{last}/64"))
                .gateway("192.168.122.1")
                .gateway("fd00:122::1")
                .mtu(mtu.bridge);
            lab.guest(&host, "virbr0", &guest)
        };
        let [guest, other_guest] = [plug("guest1", 11)?, plug("guest2", 12)?];
        let vnet = Vnet::start(&host, &[network(options, routes)])?;
        let wire = isp.capture_headers("eth0", "ip or ip6")?;
        Ok(Self { vnet, host, guest, other_guest, server, wire, lab })
    }

    /// The successful end: nobody outside has seen a guest's address or a wrong checksum,
    /// netfilter was not involved, and vnet ends cleanly.
    pub fn finish(self) -> anyhow::Result<()> {
        let packets = self.wire.finish()?;
        assert!(!packets.is_empty());
        let uplink = FAMILIES.map(|family| ip(family.uplink));
        for packet in &packets {
            // Neighbour and listener discovery of the wire's own ends.
            if packet.icmp().is_some_and(|(kind, _)| (130..=143).contains(&kind)) {
                continue;
            }
            let host_side = if packet.outgoing { packet.destination() } else { packet.source() };
            let known = host_side.is_some_and(|address| uplink.contains(&address));
            assert!(known, "{packet}\nin\n{}", listing(&packets));
            packet.verify_checksums().unwrap_or_else(|wrong| panic!("{wrong}"));
        }
        for node in [&self.guest, &self.server, &self.host] {
            node.assert_no_checksum_errors()?;
        }
        assert_eq!(self.host.nft_ruleset()?, "");
        assert_eq!(self.host.conntrack_count()?, 0);
        self.vnet.stop()?;
        Ok(())
    }
}

/// libvirt's default network with IPv6 masqueraded, too.
fn network(options: &str, routes: &str) -> String {
    let options = if options.is_empty() {
        String::new()
    } else {
        format!(
            "  <metadata>\n    <vnet:options xmlns:vnet='urn:vnet:options:1'>\n{options}\n    \
             </vnet:options>\n  </metadata>\n"
        )
    };
    format!(
        "<network>\n  <name>default</name>\n{options}  <forward mode='nat'><nat ipv6='yes'/>\
         </forward>\n  <bridge name='virbr0' stp='on' delay='0'/>\n  \
         <ip address='192.168.122.1' prefix='24'/>\n  \
         <ip family='ipv6' address='fd00:122::1' prefix='64'/>\n{routes}</network>\n"
    )
}

/// Runs `test` with a new [`Internet`] for each kind of port; not at all, and says so, without root
/// rights.
pub fn on_each_port(test: impl Fn(&Internet) -> anyhow::Result<()>) -> anyhow::Result<()> {
    with_options("", test)
}

/// As [`on_each_port`], with elements of `<vnet:options>`.
pub fn with_options(
    options: &str,
    test: impl Fn(&Internet) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, Mtu::default(), options)?;
        test(&net)?;
        net.finish()?;
    }
    Ok(())
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}
