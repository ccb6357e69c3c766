//! Guests that are what they say, under the guard.

use std::net::IpAddr;

use vnet_common::reason::DropReason;
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig};
use vnet_tests::lab::{Guest, Node, PortKind, require_root, wait_until};

use crate::support::*;

const GATEWAY: &str = "192.168.122.1";
const OUTSIDE: &str = "203.0.113.1";
const RANGE: &str = "<range start='192.168.122.100' end='192.168.122.200'/>";

/// Reasons for which only the guard drops.
const GUARDS: [DropReason; 7] = [
    DropReason::SpoofedMac,
    DropReason::SpoofedAddress,
    DropReason::SpoofedNeighbour,
    DropReason::RogueDhcpServer,
    DropReason::RogueRouter,
    DropReason::TaggedFrame,
    DropReason::UncheckedProtocol,
];

#[track_caller]
fn assert_nothing_was_dropped(lab: &Guarded) {
    for reason in GUARDS {
        assert_eq!(lab.vnet.drops(reason).unwrap(), 0, "{}", reason.id());
    }
}

/// Answers to pings within a deadline.
fn wait_for_ping(guest: &Node, to: &str) -> anyhow::Result<()> {
    wait_until(&format!("{} reaches {to}", guest.name()), DEADLINE, || {
        match guest.ping_with(to, 1, &["-W", "0.3"]) {
            Ok(ping) if ping.received == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    Ok(())
}

fn start_dnsmasq(lab: &Guarded, options: &[&str]) -> anyhow::Result<Dnsmasq> {
    let leases = lab.leases.path().join("default.leases");
    let config = DnsmasqConfig {
        interface: "virbr0",
        dhcp_range: Some(("192.168.122.100", "192.168.122.200")),
        lease_file: leases.to_str(),
        options,
        ..DnsmasqConfig::default()
    };
    Ok(Dnsmasq::start(&lab.host, &config)?)
}

#[test]
fn guest_with_a_lease_reaches_everybody() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in [PortKind::Tap, PortKind::Veth] {
        let settings = Settings { options: "<vnet:guard/>", dhcp: RANGE, ..Settings::default() };
        let lab = Guarded::new(&settings, &[Guest::new("guest", kind)])?;
        let guest = &lab.guests[0];
        let _dnsmasq = start_dnsmasq(&lab, &[])?;
        let lease = guest.dhcp("eth0", DEADLINE)?;
        assert_nothing_was_dropped(&lab);
        guest.add_address("eth0", &format!("{}/{}", lease.address, lease.prefix_length))?;
        guest.run(&["ip", "route", "add", "default", "via", GATEWAY])?;
        wait_for_ping(guest, GATEWAY)?;
        wait_for_ping(guest, OUTSIDE)?;
        // And with no other address.
        guest.add_address("eth0", "192.168.122.77/24")?;
        let ping = guest.ping_with(GATEWAY, 1, &["-I", "192.168.122.77", "-W", "0.3"])?;
        assert_eq!(ping.received, 0);
        lab.finish()?;
    }
    Ok(())
}

#[test]
fn guest_with_a_lease_of_dhcpv6_uses_that_address_and_no_other() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let settings = Settings {
        options: "<vnet:guard/>",
        dhcp_ipv6: "<range start='fd00:122::100' end='fd00:122::1ff'/>",
        ..Settings::default()
    };
    let lab = Guarded::new(&settings, &[Guest::tap("first"), Guest::veth("second")])?;
    let _dnsmasq = start_dnsmasq(&lab, &["--dhcp-range=fd00:122::100,fd00:122::1ff,64,1h"])?;
    // Kinds 3 and 1: the link-layer address, alone and with a time (RFC 8415, section 11).
    let duids = [
        [[0, 3, 0, 1].as_slice(), &mac(1)].concat(),
        [[0, 1, 0, 1, 0x2a, 0, 0, 0].as_slice(), &mac(2)].concat(),
    ];
    let mut leases = Vec::new();
    for (guest, duid) in lab.guests.iter().zip(&duids) {
        guest.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")?;
        let address = guest.dhcpv6("eth0", duid, DEADLINE)?;
        assert!((0x100..0x200).contains(&(address.to_bits() & 0xffff)), "{address}");
        assert_nothing_was_dropped(&lab);
        guest.add_address("eth0", &format!("{address}/64"))?;
        wait_for_ping(guest, "fd00:122::1")?;
        assert!(!leases.contains(&address));
        leases.push(address);
    }
    let [first, second] = [leases[0].to_string(), leases[1].to_string()];
    wait_for_ping(&lab.guests[0], &second)?;
    wait_for_ping(&lab.guests[1], &first)?;
    // Neither one that nobody has been lent, nor another's.
    for other in ["fd00:122::1f7", "fd00:122::77", &second] {
        let before = lab.vnet.drops(DropReason::SpoofedAddress)?;
        let address = format!("{other}/64");
        lab.guests[0].run(&["ip", "address", "add", &address, "dev", "eth0", "nodad"])?;
        let ping = lab.guests[0].ping_with("fd00:122::1", 1, &["-I", other, "-W", "0.3"])?;
        assert_eq!(ping.received, 0, "{other}");
        lab.wait_for_drops(DropReason::SpoofedAddress, before + 1)?;
    }
    lab.finish()
}

#[test]
fn guest_without_a_lease_reaches_nobody() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let settings = Settings { options: "<vnet:guard/>", dhcp: RANGE, ..Settings::default() };
    let guest = Guest::veth("guest").address("192.168.122.50/24").gateway(GATEWAY);
    let lab = Guarded::new(&settings, &[guest])?;
    let ping = lab.guests[0].ping_with(GATEWAY, 1, &["-W", "0.3"])?;
    assert_eq!(ping.received, 0);
    // Its ARP requests already are.
    lab.wait_for_drops(DropReason::SpoofedNeighbour, 1)?;
    // The lease of libvirt's own file takes effect at once.
    let status = format!(
        r#"[{{"ip-address": "192.168.122.50", "mac-address": "{}", "expiry-time": 0}}]"#,
        text(mac(1))
    );
    std::fs::write(lab.leases.path().join("virbr0.status"), status)?;
    wait_for_ping(&lab.guests[0], GATEWAY)?;
    // And its end, too.
    std::fs::write(lab.leases.path().join("virbr0.status"), "[]")?;
    wait_until("the guest is cut off", DEADLINE, || {
        match lab.guests[0].ping_with(GATEWAY, 1, &["-W", "0.3"]) {
            Ok(ping) if ping.received == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    lab.finish()
}

#[test]
fn learning_keeps_the_first_address() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let settings = Settings { options: "<vnet:guard from='learn'/>", ..Settings::default() };
    let guest = |name: &str, address: &str| Guest::veth(name).address(address).gateway(GATEWAY);
    let guests = [guest("first", "192.168.122.50/24"), guest("second", "192.168.122.51/24")];
    let lab = Guarded::new(&settings, &guests)?;
    for guest in &lab.guests {
        assert_eq!(guest.ping(GATEWAY, 1)?.received, 1);
    }
    assert_nothing_was_dropped(&lab);
    // Neither a second one nor another guest's.
    for (guest, address) in [(0, "192.168.122.60"), (0, "192.168.122.51"), (1, "192.168.122.50")] {
        lab.guests[guest].add_address("eth0", &format!("{address}/24"))?;
        let ping = lab.guests[guest].ping_with(GATEWAY, 1, &["-I", address, "-W", "0.3"])?;
        assert_eq!(ping.received, 0, "{address}");
    }
    // The gateway's is nobody's to learn.
    let third = lab.lab.guest(&lab.host, "virbr0", &Guest::veth("third"))?;
    lab.wait_for_guard(&lab.port(&third))?;
    let before = lab.vnet.drops(DropReason::SpoofedNeighbour)?;
    third.add_address("eth0", "192.168.122.1/24")?;
    third.ping_with("192.168.122.50", 1, &["-W", "0.3"])?;
    assert!(lab.vnet.drops(DropReason::SpoofedNeighbour)? > before);
    lab.finish()
}

#[test]
fn ipv6_configures_itself_under_the_guard() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let settings = Settings { options: "<vnet:guard/>", dhcp: RANGE, ..Settings::default() };
    let lab = Guarded::new(&settings, &[Guest::tap("first"), Guest::veth("second")])?;
    let _dnsmasq = start_dnsmasq(&lab, &["--enable-ra", "--dhcp-range=fd00:122::,ra-only"])?;
    let mut addresses = Vec::new();
    for guest in &lab.guests {
        for (name, value) in [("use_tempaddr", "2"), ("accept_ra", "1"), ("disable_ipv6", "0")] {
            guest.sysctl(&format!("net/ipv6/conf/eth0/{name}"), value)?;
        }
    }
    for guest in &lab.guests {
        let own = wait_until("the guest has two global addresses", DEADLINE, || {
            let found = global_addresses(guest).map_err(|error| error.to_string())?;
            if found.len() == 2 { Ok(found) } else { Err(format!("{found:?}")) }
        })?;
        // The one that follows from the MAC address, and a temporary one.
        for address in &own {
            let from = address.to_string();
            let ping = guest.ping_with("fd00:122::1", 1, &["-I", &from, "-W", "5"])?;
            assert_eq!(ping.received, 1, "{from}");
        }
        addresses.push(own);
    }
    let to = addresses[1][0].to_string();
    assert_eq!(lab.guests[0].ping(&to, 2)?.received, 2);
    assert_nothing_was_dropped(&lab);

    // The other's address is taken.
    let stolen = format!("{to}/64");
    lab.guests[0].run(&["ip", "address", "add", &stolen, "dev", "eth0", "nodad"])?;
    let ping = lab.guests[0].ping_with("fd00:122::1", 1, &["-I", &to, "-W", "0.3"])?;
    assert_eq!(ping.received, 0);
    lab.wait_for_drops(DropReason::SpoofedAddress, 1)?;
    lab.finish()
}

/// Addresses that have passed duplicate address detection.
fn global_addresses(guest: &Node) -> anyhow::Result<Vec<IpAddr>> {
    let shown =
        guest.run(&["ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "global"])?;
    let usable = shown.lines().filter(|line| !line.contains("tentative"));
    let address = |line: &str| {
        let (_, rest) = line.split_once("inet6 ")?;
        rest.split_once('/')?.0.parse().ok()
    };
    Ok(usable.filter_map(address).collect())
}

#[test]
fn only_the_named_guest_is_guarded_or_free() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let guest = |name: &str, address: &str| Guest::veth(name).address(address).gateway(GATEWAY);
    let guests = [guest("first", "192.168.122.50/24"), guest("second", "192.168.122.51/24")];
    let cases = [
        ("<vnet:guard/><vnet:guest mac='52:54:00:00:00:01' guard='no'/>", [1, 0]),
        ("<vnet:guest mac='52:54:00:00:00:01' guard='yes'/>", [0, 1]),
    ];
    for (options, expected) in cases {
        let lab = Guarded::new(&Settings { options, ..Settings::default() }, &guests)?;
        for (guest, expected) in lab.guests.iter().zip(expected) {
            let ping = guest.ping_with(GATEWAY, 1, &["-W", "1"])?;
            assert_eq!(ping.received, expected, "{} with {options}", guest.name());
        }
        lab.finish()?;
    }
    Ok(())
}
