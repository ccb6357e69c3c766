//! A host with two networks of each mode, of both families.

use anyhow::Result;
use vnet_common::{
    family::Family,
    network::{SUBNET_BEHIND_GUEST, SUBNET_IS_HOST},
    policy::Mode,
};

use super::load::SLOTS;
use super::rig::{Rig, address, ipv4};
use crate::lab::{Ipv6Noise, Namespace, require_root};

/// A guest of the NAT network [`super::NETWORK`]; its IPv4 address is [`super::GUEST`].
pub const GUEST_6: &str = "fd00:122::10";
/// Another guest of it.
pub const SECOND_GUEST_6: &str = "fd00:122::11";
/// The host's address on the bridge of [`super::NETWORK`].
pub const GATEWAY_6: &str = "fd00:122::1";
/// The host's address on its uplink `eth0`.
pub const EXTERNAL_6: &str = "2001:db8:100::1";
/// A host behind the default route.
pub const REMOTE_6: &str = "2001:db8:86dd::10";
/// The next router of `eth0`.
pub const ROUTER_6: &str = "2001:db8:100::fe";

/// A network bound to `eth0`, NAT.
pub const NAT_BOUND: u16 = 3;
/// A routed network.
pub const ROUTED: u16 = 5;
/// A network bound to `eth0`, routed.
pub const ROUTED_BOUND: u16 = 7;
/// A network without `<forward>`.
pub const ISOLATED: u16 = 9;
/// An open network.
pub const OPEN: u16 = 11;

/// A network of the rig.
#[derive(Clone, Copy, Debug)]
pub struct ModeNetwork {
    /// Its slot.
    pub slot: u16,
    /// Its bridge.
    pub bridge: &'static str,
    /// Its mode, of both families.
    pub mode: Mode,
    /// Whether it is bound to `eth0`.
    pub bound: bool,
    ipv4: &'static str,
    ipv6: &'static str,
}

impl ModeNetwork {
    /// The address of its guest, or with host part 1 its gateway's.
    #[must_use]
    pub fn address(&self, family: Family, host: u8) -> String {
        match family {
            Family::Ipv4 => format!("{}.{host}", self.ipv4),
            Family::Ipv6 => format!("{}::{host}", self.ipv6),
        }
    }
}

const fn network(
    slot: u16,
    bridge: &'static str,
    (mode, bound): (Mode, bool),
    ipv4: &'static str,
    ipv6: &'static str,
) -> ModeNetwork {
    ModeNetwork { slot, bridge, mode, bound, ipv4, ipv6 }
}

/// The networks by slot, two of each kind.
pub const NETWORKS: [ModeNetwork; 12] = [
    network(1, "virbr0", (Mode::Nat, false), "192.168.122", "fd00:122"),
    network(2, "virbr1", (Mode::Nat, false), "192.168.123", "fd00:123"),
    network(3, "virbr2", (Mode::Nat, true), "192.168.124", "fd00:124"),
    network(4, "virbr3", (Mode::Nat, true), "192.168.125", "fd00:125"),
    network(5, "virbr4", (Mode::Route, false), "172.16.5", "2001:db8:5"),
    network(6, "virbr5", (Mode::Route, false), "172.16.6", "2001:db8:6"),
    network(7, "virbr6", (Mode::Route, true), "172.16.7", "2001:db8:7"),
    network(8, "virbr7", (Mode::Route, true), "172.16.8", "2001:db8:8"),
    network(9, "virbr8", (Mode::Isolated, false), "172.16.9", "fd00:9"),
    network(10, "virbr9", (Mode::Isolated, false), "172.16.10", "fd00:10"),
    network(11, "virbr10", (Mode::Open, false), "172.16.11", "2001:db8:11"),
    network(12, "virbr11", (Mode::Open, false), "172.16.12", "2001:db8:12"),
];

/// The network of a slot.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn network_of(slot: u16) -> ModeNetwork {
    NETWORKS[usize::from(slot) - 1]
}

/// `eth0` and `eth1` are uplinks, `vpn0` is none; the second subnet of the first network, and what is
/// behind a guest of the first routed one.
const SETUP: &[&str] = &[
    "link add eth0 address 52:54:00:00:00:fe type veth peer name far0",
    "link add eth1 address 52:54:00:00:00:fe type veth peer name far1",
    "link add vpn0 address 52:54:00:00:00:fe type veth peer name far2",
    "link set far0 up",
    "link set far1 up",
    "link set far2 up",
    "link set eth0 up",
    "link set eth1 up",
    "link set vpn0 up",
    "address add 198.51.100.1/24 dev eth0",
    "address add 203.0.113.1/24 dev eth1",
    "address add 10.99.0.1/24 dev vpn0",
    "address add 2001:db8:100::1/64 dev eth0",
    "address add 2001:db8:113::1/64 dev eth1",
    "address add 2001:db8:99::1/64 dev vpn0",
    "route add default via 198.51.100.254 dev eth0",
    "route add 198.18.3.0/24 via 203.0.113.254 dev eth1",
    "route add 198.18.4.0/24 via 10.99.0.2 dev vpn0",
    "route add default via 2001:db8:100::fe dev eth0",
    "route add 2001:db8:1803::/64 via 2001:db8:113::fe dev eth1",
    "route add 2001:db8:1804::/64 via 2001:db8:99::2 dev vpn0",
    "neighbour add 198.51.100.254 lladdr 02:00:00:00:00:01 nud permanent dev eth0",
    "neighbour add 203.0.113.254 lladdr 02:00:00:00:00:02 nud permanent dev eth1",
    "neighbour add 10.99.0.2 lladdr 02:00:00:00:00:03 nud permanent dev vpn0",
    "neighbour add 2001:db8:100::fe lladdr 02:00:00:00:00:01 nud permanent dev eth0",
    "neighbour add 2001:db8:113::fe lladdr 02:00:00:00:00:02 nud permanent dev eth1",
    "neighbour add 2001:db8:99::2 lladdr 02:00:00:00:00:03 nud permanent dev vpn0",
    "address add 10.1.0.1/24 dev virbr0",
    "address add fd00:a1::1/64 dev virbr0",
    "neighbour add 10.1.0.5 lladdr 52:54:00:00:00:02 nud permanent dev virbr0",
    "neighbour add fd00:a1::5 lladdr 52:54:00:00:00:02 nud permanent dev virbr0",
    "route add 172.20.0.0/16 via 172.16.5.10 dev virbr4",
    "route add 2001:db8:5000::/48 via 2001:db8:5::10 dev virbr4",
    "route add fd00:122:5::/48 via fd00:122::10 dev virbr0",
];

/// The ends of a family, whose flows the tests of both families open.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The family.
    pub family: Family,
    /// A guest of [`super::NETWORK`].
    pub guest: &'static str,
    /// Another one.
    pub second: &'static str,
    /// The host's address on that bridge.
    pub gateway: &'static str,
    /// The host's address on `eth0`.
    pub external: &'static str,
    /// A host behind the default route.
    pub remote: &'static str,
    /// Another one.
    pub other_remote: &'static str,
    /// The next router of `eth0`.
    pub router: &'static str,
}

impl Ends {
    /// IPv4 and IPv6.
    pub const BOTH: [Self; 2] = [
        Self {
            family: Family::Ipv4,
            guest: super::GUEST,
            second: "192.168.122.11",
            gateway: super::GATEWAY,
            external: super::EXTERNAL,
            remote: super::REMOTE,
            other_remote: "192.0.2.11",
            router: "198.51.100.254",
        },
        Self {
            family: Family::Ipv6,
            guest: GUEST_6,
            second: SECOND_GUEST_6,
            gateway: GATEWAY_6,
            external: EXTERNAL_6,
            remote: REMOTE_6,
            other_remote: "2001:db8:86dd::11",
            router: ROUTER_6,
        },
    ];
}

/// An address with a port, as the packets take it.
#[must_use]
pub fn port_of(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Runs `work` inside the namespace of a new rig with two networks of each mode; not at all, and says
/// so, without root rights.
pub fn with_modes(work: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    with_modes_and_room(SLOTS, work)
}

/// As [`with_modes`], with so many slots in the tables.
pub(crate) fn with_modes_and_room(
    slots: u32,
    work: impl FnOnce(&mut Rig) -> Result<()> + Send,
) -> Result<()> {
    let mut rig = rig(slots)?;
    let namespace = rig.namespace.clone();
    namespace.enter(|| work(&mut rig))?
}

fn rig(slots: u32) -> Result<Rig> {
    let namespace = Namespace::new("modes", Ipv6Noise::Off)?;
    namespace.sysctl("net.ipv4.ip_forward", "1")?;
    namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "0")?;
    namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let mut lines = Vec::new();
    for network in NETWORKS {
        let ModeNetwork { slot, bridge, .. } = network;
        // The programs see no difference between a bridge and this.
        lines.push(format!(
            "link add {bridge} address 52:54:00:00:00:fe type veth peer name port{slot}"
        ));
        lines.push(format!("link set port{slot} up"));
        lines.push(format!("link set {bridge} up"));
        for (family, length) in [(Family::Ipv4, 24), (Family::Ipv6, 64)] {
            let gateway = network.address(family, 1);
            lines.push(format!("address add {gateway}/{length} dev {bridge}"));
            let guest = network.address(family, 10);
            let neighbour = format!("neighbour add {guest} lladdr 52:54:00:00:00:01");
            lines.push(format!("{neighbour} nud permanent dev {bridge}"));
        }
    }
    lines.extend(SETUP.iter().map(|&line| line.to_owned()));
    namespace.ip_batch(&lines)?;
    let mut rig = Rig::with_room(&namespace, NETWORKS.len() as u32 + 1, slots)?;
    let eth0 = rig.ifindex("eth0")?;
    for network in NETWORKS {
        enter(&mut rig, network, eth0)?;
    }
    for subnet in ["10.1.0.0/24", "fd00:a1::/64"] {
        rig.add_subnet(1, subnet, 0)?;
    }
    for subnet in ["172.20.0.0/16", "2001:db8:5000::/48"] {
        rig.add_subnet(ROUTED, subnet, SUBNET_BEHIND_GUEST)?;
    }
    rig.add_subnet(1, "fd00:122:5::/48", SUBNET_BEHIND_GUEST)?;
    for own in ["10.1.0.1/32", "fd00:a1::1/128"] {
        rig.add_subnet(1, own, SUBNET_IS_HOST)?;
    }
    for own in ["198.51.100.1/32", "203.0.113.1/32", "10.99.0.1/32"] {
        rig.add_subnet(0, own, SUBNET_IS_HOST)?;
    }
    for own in ["2001:db8:100::1/128", "2001:db8:113::1/128", "2001:db8:99::1/128"] {
        rig.add_subnet(0, own, SUBNET_IS_HOST)?;
    }
    rig.set_uplink("eth0", &["198.51.100.1/24", "2001:db8:100::1/64"])?;
    rig.set_uplink("eth1", &["203.0.113.1/24", "2001:db8:113::1/64"])?;
    Ok(rig)
}

fn enter(rig: &mut Rig, network: ModeNetwork, eth0: u32) -> Result<()> {
    let ModeNetwork { slot, bridge, mode, bound, .. } = network;
    let of = |family, host| network.address(family, host);
    let subnets = [format!("{}/24", of(Family::Ipv4, 0)), format!("{}/64", of(Family::Ipv6, 0))];
    rig.add_network(slot, bridge, mode, &subnets.each_ref().map(String::as_str))?;
    rig.set_network(slot, |network| {
        network.forward_ifindex = if bound { eth0 } else { 0 };
        network.gateway = ipv4(&of(Family::Ipv4, 1));
        network.gateway_ipv6 = address(&of(Family::Ipv6, 1));
    })?;
    rig.add_subnet(slot, &format!("{}/32", of(Family::Ipv4, 1)), SUBNET_IS_HOST)?;
    rig.add_subnet(slot, &format!("{}/128", of(Family::Ipv6, 1)), SUBNET_IS_HOST)?;
    // As the plan does it: others are masqueraded to the addresses of these bridges.
    if matches!(mode, Mode::Route | Mode::Open) {
        let gateways =
            [format!("{}/24", of(Family::Ipv4, 1)), format!("{}/64", of(Family::Ipv6, 1))];
        rig.set_uplink(bridge, &gateways.each_ref().map(String::as_str))?;
    }
    Ok(())
}

impl Rig {
    /// Makes a NAT network one without `<nat ipv6='yes'/>`.
    pub fn without_nat66(&mut self, slot: u16) -> Result<()> {
        self.set_network(slot, |network| network.mode_ipv6 = Mode::Route as u8)?;
        let network = network_of(slot);
        let gateway = format!("{}/64", network.address(Family::Ipv6, 1));
        self.set_uplink(network.bridge, &[&gateway])
    }
}
