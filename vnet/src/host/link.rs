//! Network interfaces as `RTM_NEWLINK` describes them.

pub use netlink_packet_route::link::{BondMode, LinkFlags};

use super::{
    bridge_rules::Calls,
    ipv6::Ipv6Settings,
    netlink::{attributes, string, u16_at, u32_at},
};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// What kind of device it is.
    pub kind: LinkKind,
    /// What its frames start with.
    pub layer: LinkLayer,
    /// `IFF_*`.
    pub flags: LinkFlags,
    /// MTU in bytes, without link-layer header.
    pub mtu: u32,
    /// Hardware address, when it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge, bond, VRF … that it is enslaved to.
    pub master: Option<u32>,
    /// What it is to its master.
    pub port: Option<Port>,
    /// Whether its bond takes frames from it beyond those for many (`bond_should_deliver_exact_match` in
    /// `drivers/net/bonding/bond_main.c`); `None` if it is no slave of a bond.
    pub active_slave: Option<bool>,
    /// What its bridge does with its frames; `None` if it is no port of a bridge.
    pub bridge_port: Option<BridgePortSettings>,
    /// Index of the device under it (VLAN, macvlan) or of the peer (veth). The peer may be in
    /// another network namespace, where the index means something else: see `parent_is_foreign`.
    pub parent: Option<u32>,
    /// `parent` is an index of another network namespace (`IFLA_LINK_NETNSID`).
    pub parent_is_foreign: bool,
    /// VLAN identifier of a VLAN device.
    pub vlan_id: Option<u16>,
    /// Settings of a bond.
    pub bond: Option<Bond>,
    /// Whether a bridge filters by VLAN; `None` for anything else.
    pub vlan_filtering: Option<bool>,
    /// The VLAN that a bridge gives to new ports; `None` for none, and for anything else.
    pub default_vlan: Option<u16>,
    /// How long a bridge keeps the address of a silent station, in hundredths of a second (`clock_t`); `None`
    /// for anything else.
    pub ageing_time: Option<u32>,
    /// Which of its frames a bridge shows to the host's rules for packets, whatever the sysctls say.
    pub netfilter_calls: Calls,
    /// The spanning tree settings of a bridge.
    pub spanning_tree: Option<SpanningTree>,
    /// What somebody has noted about it (`ip link set IF alias …`).
    pub alias: Option<String>,
    /// It takes frames for any address (`IFF_PROMISC`), whoever asked for that.
    pub promiscuous: bool,
    /// The bus of the device behind it, as `pci` or `xen`; `None` if there is none, or on kernels that do not tell
    /// (before Linux 5.14).
    pub bus: Option<String>,
    /// Its IPv6 parameters; `None` where there is no IPv6, as in a kernel without it.
    pub ipv6: Option<Ipv6Settings>,
}

/// Kinds of devices that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// The loopback device (`IFF_LOOPBACK`).
    Loopback,
    /// A device of a driver without `rtnl_link_ops`: hardware, or a hypervisor's NIC.
    Physical,
    /// Linux bridge.
    Bridge,
    /// Bonding master.
    Bond,
    /// One end of a veth pair.
    Veth,
    /// 802.1Q or 802.1ad sub-interface.
    Vlan,
    /// Layer 3 tun.
    Tun,
    /// Layer 2 tap.
    Tap,
    /// Dummy.
    Dummy,
    /// A `wireguard` tunnel.
    Wireguard,
    /// VRF master.
    Vrf,
    /// Any other `IFLA_INFO_KIND`.
    Other(String),
}

/// What a frame starts with at the TC hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header (`ARPHRD_ETHER`, `ARPHRD_LOOPBACK`).
    Ethernet,
    /// The IP header (`ARPHRD_NONE`, `_PPP`, `_RAWIP`, `_TUNNEL`, `_TUNNEL6`, `_SIT`).
    RawIp,
    /// Something else: the `ARPHRD_*` number. GRE is here, because for a GRE device without a fixed
    /// peer the outer header counts as link-layer header on receive (`__ipgre_rcv` in
    /// `net/ipv4/ip_gre.c`).
    Other(u16),
}

/// Settings of a bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bond {
    /// Mode, see [`BondMode`].
    pub mode: BondMode,
    /// MII monitoring interval in milliseconds; 0 is off.
    pub miimon: u32,
    /// ARP monitoring interval in milliseconds; 0 is off.
    pub arp_interval: u32,
    /// Frames of inactive slaves are taken, too (`all_slaves_active`).
    pub all_slaves_active: bool,
}

/// How a bridge keeps loops out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanningTree {
    /// Whether the protocol runs.
    pub on: bool,
    /// How long a new port listens, and then learns, in hundredths of a second (`clock_t`).
    pub forward_delay: u32,
}

/// What an enslaved interface is to its master (`IFLA_INFO_SLAVE_KIND`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// Port of a bridge.
    Bridge {
        /// Isolated ports talk only to ports that are not.
        isolated: bool,
    },
    /// Slave of a bond.
    Bond,
    /// Slave of anything else: VRF, team, …
    Other(String),
}

/// What a bridge does with the frames of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent settings")]
pub struct BridgePortSettings {
    /// It takes part in forwarding (`BR_STATE_FORWARDING`).
    pub forwarding: bool,
    /// It talks only to ports that are not isolated.
    pub isolated: bool,
    /// Source addresses are learned.
    pub learning: bool,
    /// Only stations that somebody has entered may send (802.1X).
    pub locked: bool,
}

impl BridgePortSettings {
    /// Reads `IFLA_INFO_SLAVE_DATA` (`br_port_fill_attrs` in `net/bridge/br_netlink.c`).
    fn parse(data: &[u8]) -> Self {
        const IFLA_BRPORT_STATE: u16 = 1;
        const IFLA_BRPORT_LEARNING: u16 = 8;
        const IFLA_BRPORT_ISOLATED: u16 = 33;
        const IFLA_BRPORT_LOCKED: u16 = 43;
        const BR_STATE_FORWARDING: u8 = 3;

        let is = |wanted: u16, value: u8| {
            attributes(data).any(|(kind, payload)| kind == wanted && payload == [value])
        };
        Self {
            forwarding: is(IFLA_BRPORT_STATE, BR_STATE_FORWARDING),
            isolated: is(IFLA_BRPORT_ISOLATED, 1),
            learning: is(IFLA_BRPORT_LEARNING, 1),
            locked: is(IFLA_BRPORT_LOCKED, 1),
        }
    }
}

impl Link {
    /// Administratively up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// Has carrier.
    #[must_use]
    pub fn is_lower_up(&self) -> bool {
        self.flags.contains(LinkFlags::LowerUp)
    }

    /// Reads the body of an `RTM_NEWLINK`: `struct ifinfomsg` and attributes.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        const IFLA_ADDRESS: u16 = 1;
        const IFLA_IFNAME: u16 = 3;
        const IFLA_MTU: u16 = 4;
        const IFLA_LINK: u16 = 5;
        const IFLA_MASTER: u16 = 10;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_IFALIAS: u16 = 20;
        const IFLA_AF_SPEC: u16 = 26;
        const IFLA_PROMISCUITY: u16 = 30;
        const IFLA_LINK_NETNSID: u16 = 37;
        const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;

        let hardware = u16_at(body, 2)?;
        let flags = LinkFlags::from_bits_retain(u32_at(body, 8)?);
        let mut link = Self {
            index: u32_at(body, 4)?,
            name: String::new(),
            kind: if flags.contains(LinkFlags::Loopback) {
                LinkKind::Loopback
            } else {
                LinkKind::Physical
            },
            layer: LinkLayer::from_hardware_type(hardware),
            flags,
            mtu: 0,
            mac: None,
            master: None,
            port: None,
            active_slave: None,
            bridge_port: None,
            parent: None,
            parent_is_foreign: false,
            vlan_id: None,
            bond: None,
            vlan_filtering: None,
            default_vlan: None,
            ageing_time: None,
            netfilter_calls: Calls::default(),
            spanning_tree: None,
            alias: None,
            promiscuous: false,
            bus: None,
            ipv6: None,
        };
        for (kind, payload) in attributes(body.get(16..)?) {
            match kind {
                IFLA_ADDRESS => link.mac = payload.try_into().ok(),
                IFLA_IFNAME => link.name = string(payload),
                IFLA_MTU => link.mtu = u32_at(payload, 0).unwrap_or_default(),
                IFLA_LINK => link.parent = u32_at(payload, 0).filter(|index| *index != 0),
                IFLA_LINK_NETNSID => link.parent_is_foreign = true,
                IFLA_MASTER => link.master = u32_at(payload, 0).filter(|index| *index != 0),
                IFLA_IFALIAS => link.alias = Some(string(payload)).filter(|text| !text.is_empty()),
                IFLA_PROMISCUITY => {
                    link.promiscuous = u32_at(payload, 0).is_some_and(|count| count > 0);
                }
                IFLA_PARENT_DEV_BUS_NAME => link.bus = Some(string(payload)),
                IFLA_AF_SPEC => link.ipv6 = Ipv6Settings::parse(payload),
                IFLA_LINKINFO => link.read_info(payload, hardware),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    fn read_info(&mut self, info: &[u8], hardware: u16) {
        const IFLA_INFO_KIND: u16 = 1;
        const IFLA_INFO_DATA: u16 = 2;
        const IFLA_INFO_SLAVE_KIND: u16 = 4;
        const IFLA_INFO_SLAVE_DATA: u16 = 5;
        const IFLA_BOND_SLAVE_STATE: u16 = 1;
        const BOND_STATE_ACTIVE: u8 = 0;

        let find =
            |wanted| attributes(info).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload);
        let data = find(IFLA_INFO_DATA).unwrap_or_default();
        if let Some(kind) = find(IFLA_INFO_KIND) {
            self.kind = LinkKind::from_name(string(kind), data, hardware);
            self.read_data(data);
        }
        let kind = find(IFLA_INFO_SLAVE_KIND).map(string);
        self.bridge_port = kind
            .as_ref()
            .filter(|kind| *kind == "bridge")
            .map(|_| BridgePortSettings::parse(find(IFLA_INFO_SLAVE_DATA).unwrap_or_default()));
        self.active_slave = kind.as_ref().filter(|kind| *kind == "bond").map(|_| {
            let data = find(IFLA_INFO_SLAVE_DATA).unwrap_or_default();
            attributes(data).any(|(kind, payload)| {
                kind == IFLA_BOND_SLAVE_STATE && payload == [BOND_STATE_ACTIVE]
            })
        });
        self.port = kind.map(|kind| match kind.as_str() {
            "bridge" => Port::Bridge {
                isolated: self.bridge_port.is_some_and(|settings| settings.isolated),
            },
            "bond" => Port::Bond,
            _ => Port::Other(kind),
        });
    }

    fn read_data(&mut self, data: &[u8]) {
        const IFLA_BOND_MODE: u16 = 1;
        const IFLA_BOND_MIIMON: u16 = 3;
        const IFLA_BOND_ARP_INTERVAL: u16 = 7;
        const IFLA_BOND_ALL_SLAVES_ACTIVE: u16 = 17;
        const IFLA_BR_FORWARD_DELAY: u16 = 1;
        const IFLA_BR_AGEING_TIME: u16 = 4;
        const IFLA_BR_STP_STATE: u16 = 5;
        const IFLA_BR_VLAN_FILTERING: u16 = 7;
        const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
        const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
        const IFLA_BR_NF_CALL_ARPTABLES: u16 = 38;
        const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
        const IFLA_VLAN_ID: u16 = 1;

        let find =
            |wanted| attributes(data).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload);
        let number =
            |wanted| find(wanted).and_then(|payload| u32_at(payload, 0)).unwrap_or_default();
        match self.kind {
            LinkKind::Bridge => {
                self.vlan_filtering =
                    Some(find(IFLA_BR_VLAN_FILTERING).is_some_and(|payload| payload == [1]));
                self.default_vlan = find(IFLA_BR_VLAN_DEFAULT_PVID)
                    .and_then(|payload| u16_at(payload, 0))
                    .filter(|id| *id != 0);
                self.ageing_time = find(IFLA_BR_AGEING_TIME).and_then(|payload| u32_at(payload, 0));
                let is_on = |wanted| find(wanted).is_some_and(|payload| payload == [1]);
                self.netfilter_calls = Calls {
                    iptables: is_on(IFLA_BR_NF_CALL_IPTABLES),
                    ip6tables: is_on(IFLA_BR_NF_CALL_IP6TABLES),
                    arptables: is_on(IFLA_BR_NF_CALL_ARPTABLES),
                };
                self.spanning_tree = Some(SpanningTree {
                    on: number(IFLA_BR_STP_STATE) != 0,
                    forward_delay: number(IFLA_BR_FORWARD_DELAY),
                });
            }
            LinkKind::Bond => {
                self.bond = find(IFLA_BOND_MODE).and_then(<[u8]>::first).map(|mode| Bond {
                    mode: BondMode::from(*mode),
                    miimon: number(IFLA_BOND_MIIMON),
                    arp_interval: number(IFLA_BOND_ARP_INTERVAL),
                    all_slaves_active: find(IFLA_BOND_ALL_SLAVES_ACTIVE)
                        .is_some_and(|payload| payload == [1]),
                });
            }
            LinkKind::Vlan => {
                self.vlan_id = find(IFLA_VLAN_ID).and_then(|payload| u16_at(payload, 0));
            }
            _ => {}
        }
    }
}

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_PPP: u16 = 512;
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_TUNNEL: u16 = 768;
const ARPHRD_TUNNEL6: u16 = 769;
const ARPHRD_LOOPBACK: u16 = 772;
const ARPHRD_SIT: u16 = 776;
const ARPHRD_NONE: u16 = 0xfffe;

impl LinkLayer {
    fn from_hardware_type(hardware: u16) -> Self {
        match hardware {
            ARPHRD_ETHER | ARPHRD_LOOPBACK => Self::Ethernet,
            ARPHRD_NONE | ARPHRD_PPP | ARPHRD_RAWIP | ARPHRD_TUNNEL | ARPHRD_TUNNEL6
            | ARPHRD_SIT => Self::RawIp,
            _ => Self::Other(hardware),
        }
    }
}

impl LinkKind {
    fn from_name(name: String, data: &[u8], hardware: u16) -> Self {
        const IFLA_TUN_TYPE: u16 = 3;
        const IFF_TAP: u8 = 2;
        match name.as_str() {
            "bridge" => Self::Bridge,
            "bond" => Self::Bond,
            "veth" => Self::Veth,
            "vlan" => Self::Vlan,
            "dummy" => Self::Dummy,
            "wireguard" => Self::Wireguard,
            "vrf" => Self::Vrf,
            // One driver makes both; kernels before 4.17 do not say which, the link layer does.
            "tun" => match attributes(data).find(|(kind, _)| *kind == IFLA_TUN_TYPE) {
                Some((_, [IFF_TAP])) => Self::Tap,
                None if hardware == ARPHRD_ETHER => Self::Tap,
                _ => Self::Tun,
            },
            _ => Self::Other(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::netlink::{push_attribute, push_nested, push_string},
        *,
    };

    fn link(hardware: u16, flags: u32, attributes: impl FnOnce(&mut Vec<u8>)) -> Link {
        let mut body = vec![0, 0];
        body.extend(hardware.to_ne_bytes());
        body.extend(4_u32.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend(0_u32.to_ne_bytes());
        push_string(&mut body, 3, "test0");
        attributes(&mut body);
        Link::parse(&body).unwrap()
    }

    fn info(kind: &str, data: &[(u16, &[u8])]) -> Vec<u8> {
        let mut info = Vec::new();
        push_string(&mut info, 1, kind);
        let mut nested = Vec::new();
        for (kind, payload) in data {
            push_attribute(&mut nested, *kind, payload);
        }
        push_nested(&mut info, 2, &nested);
        info
    }

    // Bonds, VLANs and VLAN filtering are read from messages made here: not every kernel that runs the tests has
    // the drivers.
    #[test]
    fn bond_carries_mode_and_monitoring() {
        let data =
            info("bond", &[(1, &[4]), (3, &100_u32.to_ne_bytes()), (7, &0_u32.to_ne_bytes())]);
        let bond = link(1, 0x1_0043, |body| push_nested(body, 18, &data));
        assert_eq!(bond.kind, LinkKind::Bond);
        assert_eq!(
            bond.bond,
            Some(Bond {
                mode: BondMode::Ieee8023Ad,
                miimon: 100,
                arp_interval: 0,
                all_slaves_active: false
            })
        );
        assert!(bond.is_up() && bond.is_lower_up());
    }

    #[test]
    fn bridge_tells_whether_it_filters_by_vlan() {
        let filters = |value: u8| {
            let data = info("bridge", &[(7, &[value])]);
            link(1, 0, |body| push_nested(body, 18, &data)).vlan_filtering
        };
        assert_eq!((filters(1), filters(0)), (Some(true), Some(false)));
        let default = |id: u16| {
            let data = info("bridge", &[(39, &id.to_ne_bytes())]);
            link(1, 0, |body| push_nested(body, 18, &data)).default_vlan
        };
        assert_eq!((default(1), default(77), default(0)), (Some(1), Some(77), None));
    }

    #[test]
    fn bridge_tells_whose_rules_see_its_frames() {
        let data = info("bridge", &[(36, &[0]), (37, &[1]), (38, &[1])]);
        let calls = link(1, 0, |body| push_nested(body, 18, &data)).netfilter_calls;
        assert_eq!(calls, Calls { iptables: false, ip6tables: true, arptables: true });
    }

    #[test]
    fn bridge_tells_of_its_spanning_tree_and_its_alias() {
        let data = info("bridge", &[(1, &200_u32.to_ne_bytes()), (5, &1_u32.to_ne_bytes())]);
        let bridge = link(1, 0, |body| {
            push_nested(body, 18, &data);
            push_string(body, 20, "somebody's");
        });
        assert_eq!(bridge.spanning_tree, Some(SpanningTree { on: true, forward_delay: 200 }));
        assert_eq!(bridge.alias.as_deref(), Some("somebody's"));
    }

    #[test]
    fn bond_slave_knows_its_master() {
        let mut data = Vec::new();
        push_string(&mut data, 4, "bond");
        push_nested(&mut data, 5, &[]);
        let slave = link(1, 0, |body| {
            push_attribute(body, 10, &9_u32.to_ne_bytes());
            push_nested(body, 18, &data);
        });
        assert_eq!(slave.kind, LinkKind::Physical);
        assert_eq!((slave.master, slave.port), (Some(9), Some(Port::Bond)));
        assert_eq!(slave.active_slave, Some(false));
        for (state, is_active) in [(0, true), (1, false)] {
            let mut data = Vec::new();
            push_string(&mut data, 4, "bond");
            let mut slave = Vec::new();
            push_attribute(&mut slave, 1, &[state]);
            push_nested(&mut data, 5, &slave);
            let slave = link(1, 0, |body| push_nested(body, 18, &data));
            assert_eq!(slave.active_slave, Some(is_active));
        }
    }

    #[test]
    fn vlan_carries_its_identifier() {
        let data = info("vlan", &[(1, &100_u16.to_ne_bytes())]);
        let vlan = link(1, 0, |body| {
            push_attribute(body, 5, &2_u32.to_ne_bytes());
            push_nested(body, 18, &data);
        });
        assert_eq!(vlan.kind, LinkKind::Vlan);
        assert_eq!((vlan.vlan_id, vlan.parent), (Some(100), Some(2)));
    }

    #[test]
    fn wireguard_is_raw_ip() {
        let wireguard = link(ARPHRD_NONE, 0, |body| push_nested(body, 18, &info("wireguard", &[])));
        assert_eq!((wireguard.kind, wireguard.layer), (LinkKind::Wireguard, LinkLayer::RawIp));
        assert_eq!(wireguard.mac, None);
    }

    #[test]
    fn odd_attribute_does_not_lose_the_link() {
        let odd = link(1, 0, |body| {
            push_attribute(body, 4, &[1]);
            push_attribute(body, 18, &[255, 255, 1]);
            push_attribute(body, 999, &[1, 2, 3]);
        });
        assert_eq!((odd.name.as_str(), odd.mtu, odd.kind), ("test0", 0, LinkKind::Physical));
    }
}
