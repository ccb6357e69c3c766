use vnet_common::{
    guard::Mac,
    names::program,
    shortcut::{BridgePort, PORT_IS_UPLINK, PORT_JUDGED, PORT_SHORT, PORT_TAKES_XDP, XdpUplink},
};

use super::*;
use crate::host::{
    BondMode, BridgePortSettings, Port,
    bridge_rules::{Calls, Rules},
};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xfe];
type Change = fn(&mut BridgePortSettings);

const BRIDGED: &str =
    "<network><name>b</name><forward mode='bridge'/><bridge name='br0'/></network>";

/// The uplink; `virbr0` with a tap; `br0` with a container and a bond of two NICs.
fn two_bridges() -> Host {
    let port = || Some(Port::Bridge { isolated: false });
    host()
        .change(|link| link.mac = Some(MAC))
        .link(4, "vnet0", LinkKind::Tap)
        .port(3, port())
        .link(5, "br0", LinkKind::Bridge)
        .link(6, "veth0", LinkKind::Veth)
        .change(|link| link.parent_is_foreign = true)
        .port(5, port())
        .link(7, "eth1", LinkKind::Physical)
        .port(9, Some(Port::Bond))
        .link(8, "eth2", LinkKind::Physical)
        .port(9, Some(Port::Bond))
        .link(9, "bond0", LinkKind::Bond)
        .port(5, port())
}

fn ways(host: &Host, setting: XdpSetting, surfaces: &Surfaces) -> Shortcuts {
    let mut plan = planned(host, &[&network("<forward mode='nat'/>", IPV4), BRIDGED]).plan;
    assert_eq!(Shortcuts::of(&plan, &host.0, setting, surfaces), Shortcuts::default());
    plan.short_ways = true;
    Shortcuts::of(&plan, &host.0, setting, surfaces)
}

fn auto(host: &Host) -> Shortcuts {
    ways(host, XdpSetting::Auto, &Surfaces::default())
}

fn long_ways(host: &Host) -> Vec<String> {
    auto(host).long_ways.iter().map(ToString::to_string).collect()
}

fn refusals(host: &Host, setting: XdpSetting) -> Vec<(String, Option<String>)> {
    let ways = ways(host, setting, &Surfaces::default());
    ways.xdp.into_iter().map(|place| (place.name, place.refusal)).collect()
}

#[test]
fn ports_of_guests_and_of_bridges_to_outside_may_be_passed_by() {
    let ways = auto(&two_bridges());
    let port = |bridge, port, flags| BridgePort { bridge, port, flags, ageing_ms: 300_000 };
    let bond = port(5, 9, PORT_SHORT | PORT_IS_UPLINK);
    let expected = [
        (4, port(3, 4, PORT_SHORT | PORT_TAKES_XDP | PORT_JUDGED)),
        (6, port(5, 6, PORT_SHORT)),
        // XDP of a bond sees its slaves' numbers.
        (7, bond),
        (8, bond),
        (9, bond),
    ];
    assert_eq!(ways.tables.ports, expected.into());
    assert_eq!(ways.tables.addresses, [(1, Mac::from_bytes(MAC))].into());
    assert_eq!(ways.long_ways, []);
    let xdp: Vec<_> = ways.xdp.iter().map(|place| (place.ifindex, place.program)).collect();
    assert_eq!(xdp, [(2, program::UPLINK_XDP), (9, program::BRIDGED_XDP)]);
    assert!(ways.xdp.iter().all(|place| place.refusal.is_none()));
}

#[test]
fn kernel_says_which_ports_take_frames_of_xdp_and_which_drivers_have_it() {
    let features = |native, takes_frames| XdpFeatures { native, takes_frames };
    let xdp = [(2, features(false, false)), (4, features(false, false)), (6, features(true, true))];
    let surfaces = Surfaces { xdp: Some(xdp.into()), ..Surfaces::default() };
    let ways = ways(&two_bridges(), XdpSetting::On, &surfaces);
    assert_eq!(ways.tables.ports[&4].flags, PORT_SHORT | PORT_JUDGED);
    assert_eq!(ways.tables.ports[&6].flags, PORT_SHORT | PORT_TAKES_XDP);
    assert_eq!(ways.xdp[0].refusal.as_deref(), Some("its driver has no native XDP"));
}

#[test]
fn bridges_that_have_to_see_their_packets_are_not_passed_by() {
    let rules = Rules { of_all: Some("somebody has rules".to_owned()), ..Rules::default() };
    let surfaces = Surfaces { rules, ..Surfaces::default() };
    let told = ways(&two_bridges(), XdpSetting::Auto, &surfaces);
    assert!(told.tables.ports.values().all(|port| port.flags & PORT_SHORT == 0));
    assert!(auto(&two_bridges()).tables.is_wider_than(&told.tables));
    assert!(!told.tables.is_wider_than(&auto(&two_bridges()).tables));

    let long = |change: &dyn Fn(&mut crate::host::Link)| {
        let mut host = two_bridges();
        host.0.links.iter_mut().for_each(change);
        long_ways(&host)
    };
    let at = "packets take the long way through bridge `br0`: ";
    let all = long(&|link| {
        if link.name == "br0" {
            link.vlan_filtering = Some(true);
        }
    });
    assert_eq!(all, [format!("{at}it filters VLANs")]);
    let cases: [(Change, &str); 4] = [
        (|port| port.forwarding = false, "the bridge does not let it forward"),
        (|port| port.isolated = true, "it is isolated"),
        (|port| port.learning = false, "the bridge does not learn from it"),
        (|port| port.locked = true, "it is locked"),
    ];
    for (change, reason) in cases {
        let one = long(&|link| {
            if link.name == "veth0" {
                link.bridge_port.iter_mut().for_each(change);
            }
        });
        assert_eq!(one, [format!("{at}its port `veth0`: {reason}")]);
    }
}

#[test]
fn bridge_whose_packets_are_shown_to_rules_for_packets_is_not_passed_by() {
    let calls = Calls { ip6tables: true, ..Calls::default() };
    let mut host = two_bridges();
    for link in host.0.links.iter_mut().filter(|link| link.name == "br0") {
        link.netfilter_calls = calls;
    }
    let with = |for_packets| {
        let surfaces =
            Surfaces { rules: Rules { of_all: None, for_packets }, ..Surfaces::default() };
        ways(&host, XdpSetting::Auto, &surfaces)
    };
    let told = with(Calls { iptables: true, ip6tables: true, arptables: false });
    let reasons: Vec<_> = told.long_ways.iter().map(ToString::to_string).collect();
    let reason = "packets take the long way through bridge `br0`: it shows its packets to the host's rules: \
                  `ip link set br0 type bridge nf_call_ip6tables 0`";
    assert_eq!(reasons, [reason]);
    assert_eq!(told.tables.ports[&6].flags & PORT_SHORT, 0);
    assert_eq!(told.tables.ports[&4].flags & PORT_SHORT, PORT_SHORT);
    // Without rules it does not matter.
    assert_eq!(with(Calls { iptables: true, ..Calls::default() }).long_ways, []);
}

#[test]
fn what_others_do_with_packets_is_not_passed_by() {
    let with = |interface: u32, others: Others, setting| {
        let others = [(interface, others)].into();
        let ways = ways(&two_bridges(), setting, &Surfaces { others, ..Surfaces::default() });
        let said: Vec<_> = ways.long_ways.iter().map(ToString::to_string).collect();
        (ways.tables.ports, ways.xdp, said)
    };
    let auto = |interface, others| with(interface, others, XdpSetting::Auto);
    let some = || Some("a thing".to_owned());
    let before = || Others { before: some(), ..Others::default() };
    let after = || Others { after: some(), ..Others::default() };
    let out = || Others { out: some(), ..Others::default() };
    let all = PORT_SHORT | PORT_TAKES_XDP | PORT_JUDGED;
    let at = "packets take the long way through bridge `virbr0`: ";

    // At the port: what it sends, and what XDP would send to it. TC goes through its qdisc.
    let (ports, _, said) = auto(4, after());
    assert_eq!(ports[&4].flags, all & !PORT_JUDGED);
    assert_eq!(said, [format!("{at}its port `vnet0`: what it sends meets a thing")]);
    let (ports, _, said) = auto(4, out());
    assert_eq!(ports[&4].flags, all & !PORT_TAKES_XDP);
    let reason = "XDP leaves what is for it to TC, which has a thing there";
    assert_eq!(said, [format!("{at}its port `vnet0`: {reason}")]);
    // What comes before our program there sees everything.
    let (ports, _, said) = auto(4, before());
    assert_eq!((ports[&4].flags, said), (all, vec![]));

    // At the bridge: what guests send, and what is for them.
    let (ports, _, said) = auto(3, before());
    assert_eq!(ports[&4].flags, all & !PORT_JUDGED);
    assert_eq!(said, [format!("{at}what guests send meets a thing")]);
    let (ports, _, said) = auto(3, out());
    assert_eq!(ports[&4].flags, all & !PORT_SHORT);
    assert_eq!(said, [format!("{at}what is for guests meets a thing")]);
    // Packets of guests never get to what comes after our program.
    assert_eq!(auto(3, after()).2, [""; 0]);
    // Frames of the other bridge's guests do not come to its own device.
    assert_eq!(auto(5, out()).0[&6].flags, PORT_SHORT);

    let refusal = |interface, others, setting, at: usize| {
        with(interface, others, setting).1.remove(at).refusal
    };
    let passed_by = Some("packets would pass by a thing: `--xdp on` does so".to_owned());
    assert_eq!(refusal(2, before(), XdpSetting::Auto, 0), passed_by);
    assert_eq!(refusal(2, before(), XdpSetting::On, 0), None);
    assert_eq!(refusal(2, after(), XdpSetting::Auto, 0), None);
    assert_eq!(refusal(9, after(), XdpSetting::Auto, 1), passed_by);
}

#[test]
fn devices_without_native_xdp_are_told_of_with_the_reason() {
    let off = Some("--xdp off".to_owned());
    let names = |reason: &Option<String>| {
        vec![("eth0".to_owned(), reason.clone()), ("bond0".to_owned(), reason.clone())]
    };
    assert_eq!(refusals(&two_bridges(), XdpSetting::Off), names(&off));
    assert_eq!(refusals(&two_bridges(), XdpSetting::On), names(&None));

    let of_uplink = |kind: LinkKind, setting| {
        let host = Host::with_loopback()
            .link(2, "up", kind)
            .address("203.0.113.2/24")
            .route("0.0.0.0/0")
            .link(3, "virbr0", LinkKind::Bridge)
            .link(5, "br0", LinkKind::Bridge);
        refusals(&host, setting).remove(0).1
    };
    let veth = "frames from a veth lack their checksums, unless its peer has `ethtool -K PEER tx \
                off`: then `--xdp on`";
    assert_eq!(of_uplink(LinkKind::Veth, XdpSetting::Auto).as_deref(), Some(veth));
    assert_eq!(of_uplink(LinkKind::Veth, XdpSetting::On), None);
    let vlan = of_uplink(LinkKind::Vlan, XdpSetting::On);
    assert_eq!(vlan.as_deref(), Some("VLAN devices have no native XDP"));
    let tun = of_uplink(LinkKind::Tun, XdpSetting::On);
    assert_eq!(tun.as_deref(), Some("it has no Ethernet headers"));

    let bond = |mode, slave: LinkKind| {
        let host = two_bridges()
            .change(|link| link.bond.iter_mut().for_each(|bond| bond.mode = mode))
            .link(10, "third", slave)
            .port(9, Some(Port::Bond));
        refusals(&host, XdpSetting::Auto).remove(1).1
    };
    assert_eq!(bond(BondMode::BalanceXor, LinkKind::Physical), None);
    assert_eq!(
        bond(BondMode::BalanceAlb, LinkKind::Physical).as_deref(),
        Some("bonds of mode 6 (balance-alb) have no native XDP")
    );
    let of_slave = bond(BondMode::ActiveBackup, LinkKind::Veth);
    assert_eq!(of_slave, Some(format!("its slave `third`: {veth}")));
}

/// A bond as the uplink: its first slave is active, its second is not.
fn bond_as_uplink() -> Host {
    Host::with_loopback()
        .link(2, "bond0", LinkKind::Bond)
        .change(|link| link.mac = Some(MAC))
        .address("203.0.113.2/24")
        .route("0.0.0.0/0")
        .link(3, "virbr0", LinkKind::Bridge)
        .link(5, "br0", LinkKind::Bridge)
        .link(7, "eth1", LinkKind::Physical)
        .port(2, Some(Port::Bond))
        .link(8, "eth2", LinkKind::Physical)
        .port(2, Some(Port::Bond))
        .change(|link| link.active_slave = Some(false))
}

#[test]
fn frames_of_slaves_that_a_bond_does_not_listen_to_are_not_taken() {
    let at = |ifindex| XdpUplink { ifindex, mac: MAC, reserved: [0; 2] };
    let uplinks = |host: &Host| auto(host).tables.uplinks;
    assert_eq!(uplinks(&bond_as_uplink()), [(2, at(2)), (7, at(2))].into());
    let mut takes_all = bond_as_uplink();
    for bond in takes_all.0.links.iter_mut().filter_map(|link| link.bond.as_mut()) {
        bond.all_slaves_active = true;
    }
    assert_eq!(uplinks(&takes_all), [(2, at(2)), (7, at(2)), (8, at(2))].into());
    // Each frame is asked for where it comes in: no way that is known depends on it.
    assert!(!auto(&takes_all).tables.is_wider_than(&auto(&bond_as_uplink()).tables));
    assert_eq!(ways(&takes_all, XdpSetting::Off, &Surfaces::default()).tables.uplinks, [].into());

    let mut bridged = two_bridges();
    for slave in bridged.0.links.iter_mut().filter(|link| link.name == "eth2") {
        slave.active_slave = Some(false);
    }
    let ports: Vec<_> = auto(&bridged).tables.ports.into_keys().collect();
    assert_eq!(ports, [4, 6, 7, 9]);
}

#[test]
fn what_others_have_at_slaves_counts_for_their_bond() {
    let with = |others: Others| Surfaces { others: [(8, others)].into(), ..Surfaces::default() };
    let refusal = |host: &Host, place: usize, setting| {
        let inbound =
            with(Others { after: Some("a filter `u32`".to_owned()), ..Others::default() });
        ways(host, setting, &inbound).xdp.swap_remove(place).refusal
    };
    let passed_by = "packets would pass by a filter `u32` at its slave `eth2`: `--xdp on` does so";
    for (host, place) in [(bond_as_uplink(), 0), (two_bridges(), 1)] {
        assert_eq!(refusal(&host, place, XdpSetting::Auto).as_deref(), Some(passed_by));
        assert_eq!(refusal(&host, place, XdpSetting::On), None);
    }
    let features = XdpFeatures { native: true, takes_frames: true };
    let told = |out: Option<&str>| {
        let mut surfaces = with(Others { out: out.map(str::to_owned), ..Others::default() });
        surfaces.xdp = Some([(9, features), (7, features), (8, features)].into());
        ways(&two_bridges(), XdpSetting::On, &surfaces).tables.ports[&9].flags
    };
    assert_eq!(told(None), PORT_SHORT | PORT_TAKES_XDP | PORT_IS_UPLINK);
    assert_eq!(told(Some("a qdisc `tbf`")), PORT_SHORT | PORT_IS_UPLINK);

    let host = two_bridges();
    let plan = planned(&host, &[&network("<forward mode='nat'/>", IPV4), BRIDGED]).plan;
    let names: Vec<_> = on_the_way(&plan, &host.0).into_values().collect();
    assert_eq!(names, ["eth0", "virbr0", "vnet0", "br0", "veth0", "eth1", "eth2", "bond0"]);
}

#[test]
fn nic_that_takes_tags_off_has_no_xdp_where_tagged_frames_come_in() {
    let refusal = |host: &Host, place: usize, strips, filters| {
        let offloads = VlanOffloads { strips, strips_service: false, filters };
        let vlan = [2, 7, 8].map(|index| (index, offloads)).into();
        let surfaces = Surfaces { vlan, ..Surfaces::default() };
        ways(host, XdpSetting::On, &surfaces).xdp.swap_remove(place).refusal
    };
    let taken_off = |name: &str| {
        format!(
            "it takes VLAN tags off frames before XDP sees them: `ethtool -K {name} rxvlan off`"
        )
    };
    let of_slave = |name: &str| format!("its slave `{name}`: {}", taken_off(name));
    let host = two_bridges();
    // A NIC without VLANs that drops what is tagged; a bond below a bridge, which hears all.
    assert_eq!(refusal(&host, 0, true, true), None);
    assert_eq!(refusal(&host, 0, true, false), Some(taken_off("eth0")));
    assert_eq!(refusal(&host, 0, false, false), None);
    assert_eq!(refusal(&host, 1, true, true), Some(of_slave("eth1")));
    assert_eq!(refusal(&host, 1, false, true), None);

    let vlan_on = |host: Host, parent| {
        host.link(20, "vlan", LinkKind::Vlan).change(|link| link.parent = Some(parent))
    };
    assert_eq!(refusal(&vlan_on(two_bridges(), 2), 0, true, true), Some(taken_off("eth0")));
    assert_eq!(refusal(&vlan_on(two_bridges(), 2), 0, false, true), None);
    assert_eq!(refusal(&vlan_on(two_bridges(), 7), 0, true, true), None);
    let bond = bond_as_uplink;
    assert_eq!(refusal(&bond(), 0, true, true), None);
    assert_eq!(refusal(&vlan_on(bond(), 2), 0, true, true), Some(of_slave("eth1")));
    assert_eq!(refusal(&vlan_on(bond(), 8), 0, true, true), Some(of_slave("eth2")));
    let listened = bond().change(|link| link.promiscuous = true);
    assert_eq!(refusal(&listened, 0, true, true), Some(of_slave("eth2")));

    // A veth takes none off but those of VLAN devices.
    let mut veth = two_bridges();
    for link in veth.0.links.iter_mut().filter(|link| link.name == "eth0") {
        link.kind = LinkKind::Veth;
        link.promiscuous = true;
    }
    assert_eq!(refusal(&veth, 0, true, false), None);
    assert_eq!(refusal(&vlan_on(veth, 2), 0, true, false), Some(taken_off("eth0")));
}

#[test]
fn command_leaves_all_tags_on_that_a_nic_takes_off() {
    let told = |strips, strips_service| {
        let offloads = VlanOffloads { strips, strips_service, filters: false };
        let surfaces = Surfaces { vlan: [(2, offloads)].into(), ..Surfaces::default() };
        ways(&two_bridges(), XdpSetting::On, &surfaces).xdp.swap_remove(0).refusal
    };
    let taken_off = |command: &str| {
        Some(format!(
            "it takes VLAN tags off frames before XDP sees them: `ethtool -K eth0 {command}`"
        ))
    };
    assert_eq!(told(false, false), None);
    assert_eq!(told(true, false), taken_off("rxvlan off"));
    assert_eq!(told(false, true), taken_off("rx-vlan-stag-hw-parse off"));
    assert_eq!(told(true, true), taken_off("rxvlan off rx-vlan-stag-hw-parse off"));
}

#[test]
fn nics_of_xen_are_taken_like_veths() {
    let mut host = two_bridges();
    for link in host.0.links.iter_mut().filter(|link| link.name == "eth0") {
        link.bus = Some("xen".to_owned());
    }
    let reason = "frames between Xen's domains lack their checksums, unless the other end has \
                  `ethtool -K PEER tx off`: then `--xdp on`";
    assert_eq!(refusals(&host, XdpSetting::Auto)[0].1.as_deref(), Some(reason));
    assert_eq!(refusals(&host, XdpSetting::On)[0].1, None);
}
