//! What a guest gets, and what it sees of names, in each mode.

use std::{fs, net::SocketAddr, time::Duration};

use vnet::{
    definition::Network,
    services::{self, Supervisor},
};
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig};
use vnet_tests::lab::{Checksum, Guest, Ipv6Noise, Lab, Namespace, Node, require_root, wait_until};

use super::support::*;

pub const NAT: &str = "<forward mode='nat'/>";
pub const ROUTE: &str = "<forward mode='route'/>";
pub const ISOLATED: &str = "";
/// DUID of type link-layer address (RFC 8415, section 11.4).
pub const DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 7];

/// A host with a bridge in both families, two guests that have nothing yet, and a DNS server outside.
struct Site {
    host: Node,
    guest: Node,
    tap_guest: Node,
    _outside: Node,
    _dns: Dnsmasq,
    _lab: Lab,
}

impl Site {
    fn new() -> anyhow::Result<Self> {
        let lab = Lab::with_ipv6(Ipv6Noise::On)?;
        let host = lab.host("host")?;
        let outside = lab.outside(&host, "eth0", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        host.bridge("virbr0", &["192.168.122.1/24", "fd00:122::1/64"])?;
        let guest = lab.guest(&host, "virbr0", &Guest::veth("guest1"))?;
        let tap_guest = lab.guest(&host, "virbr0", &Guest::tap("guest2"))?;
        let names = [("upstream.example", "198.51.100.7")];
        let config = DnsmasqConfig { interface: "eth0", names: &names, ..DnsmasqConfig::default() };
        let dns = Dnsmasq::start(&outside, &config)?;
        Ok(Self { host, guest, tap_guest, _outside: outside, _dns: dns, _lab: lab })
    }

    /// Serves the network with what the host asks for other names at the server outside.
    fn serve(&self, place: &Place, network: &Network) {
        let said = in_namespace(&self.host, async {
            let mut supervisor = Supervisor::new(place.directories());
            supervisor.apply(&services::plan(std::slice::from_ref(network))).await
        });
        assert!(said.iter().all(|change| !change.what.is_bad()), "{said:?}");
    }

    fn end(&self, place: &Place) {
        in_namespace(&self.host, async { Supervisor::new(place.directories()).stop().await });
        assert_eq!(processes(place), Vec::<u32>::new());
    }
}

/// A network of both families; the host's own resolver is the one outside.
fn both_families(place: &Place, forward: &str, hosts: &str, dns: &str) -> Network {
    let resolver = place.0.join("resolv.conf");
    fs::write(&resolver, "nameserver 203.0.113.1\n").unwrap();
    network(&format!(
        "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\
         <name>n</name>{forward}<bridge name='virbr0'/><domain name='lab.example'/>\
         <dns>{dns}</dns>\
         <ip address='192.168.122.1' prefix='24'><dhcp>\
         <range start='192.168.122.100' end='192.168.122.120'/>{hosts}</dhcp></ip>\
         <ip family='ipv6' address='fd00:122::1' prefix='64'><dhcp>\
         <range start='fd00:122::100' end='fd00:122::1ff'/></dhcp></ip>\
         <dnsmasq:options><dnsmasq:option value='resolv-file={}'/></dnsmasq:options></network>",
        resolver.display()
    ))
}

/// What busybox's DHCP client was told; its script configures the interface.
pub fn udhcpc(guest: &Namespace, place: &Place) -> anyhow::Result<Vec<String>> {
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/udhcpc.sh");
    let said = place.0.join(format!("said-{}", guest.name()));
    let variable = format!("SAID={}", said.display());
    let client = ["env", &variable, "busybox", "udhcpc", "-i", "eth0", "-s", SCRIPT];
    // In the foreground, until it has a lease; ten tries.
    let options = ["-f", "-q", "-n", "-t", "10", "-T", "1"];
    guest.run(&[client.as_slice(), &options].concat())?;
    Ok(fs::read_to_string(said)?.lines().map(str::to_owned).collect())
}

pub fn default_routes(guest: &Namespace, family: &str) -> anyhow::Result<Vec<String>> {
    let routes = guest.run(&["ip", family, "route", "show", "default"])?;
    Ok(routes.lines().map(|line| line.split(" proto").next().unwrap_or(line).to_owned()).collect())
}

/// Waits until the guest's kernel has taken a router advertisement, which has its default route, too.
pub fn wait_for_advertisement(guest: &Namespace) -> anyhow::Result<()> {
    // Whatever was advertised before the guest listened is forgotten, and asked for anew.
    guest.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")?;
    for (parameter, value) in [("accept_ra", "1"), ("autoconf", "1"), ("disable_ipv6", "0")] {
        guest.sysctl(&format!("net/ipv6/conf/eth0/{parameter}"), value)?;
    }
    wait_until("the prefix of a router advertisement", Duration::from_secs(30), || {
        match guest.run(&["ip", "-6", "route", "show", "fd00:122::/64"]) {
            Ok(routes) if !routes.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    Ok(())
}

pub fn names(guest: &Namespace, name: &str) -> Vec<String> {
    let server: SocketAddr = "192.168.122.1:53".parse().unwrap();
    let found = guest.resolve(server, name, Duration::from_secs(5)).unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn forwarded_guest_gets_address_gateway_and_dns_in_both_families() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new()?;
    for (name, forward) in [("nat", NAT), ("route", ROUTE)] {
        let place = Place::new(&format!("clients-{name}"));
        site.serve(&place, &both_families(&place, forward, "", ""));
        let said = udhcpc(&site.guest, &place)?;
        let address = said[0].strip_prefix("ip=192.168.122.").unwrap();
        let (number, mask) = address.split_once('/').unwrap();
        assert!((100..=120).contains(&number.parse::<u8>()?), "{said:?}");
        assert_eq!(mask, "24");
        assert_eq!(said[1..4], ["router=192.168.122.1", "dns=192.168.122.1", "domain=lab.example"]);
        assert_eq!(default_routes(&site.guest, "-4")?, ["default via 192.168.122.1 dev eth0 "]);
        assert_eq!(names(&site.guest, "upstream.example"), ["198.51.100.7"]);

        wait_for_advertisement(&site.guest)?;
        let routes = default_routes(&site.guest, "-6")?;
        assert_eq!(routes.len(), 1, "{routes:?}");
        assert!(routes[0].starts_with("default via fe80::"), "{routes:?}");
        let lent = site.guest.dhcpv6("eth0", &DUID, DEADLINE)?;
        assert_eq!(lent.segments()[..7], [0xfd00, 0x122, 0, 0, 0, 0, 0]);
        assert!((0x100..=0x1ff).contains(&lent.segments()[7]), "{lent}");

        site.end(&place);
        site.guest.run(&["ip", "address", "flush", "dev", "eth0", "scope", "global"])?;
    }
    Ok(())
}

#[test]
fn isolated_guest_gets_no_default_route_and_no_names_of_the_outside() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new()?;
    let place = Place::new("clients-isolated");
    let dns = "<host ip='192.168.122.9'><hostname>nine</hostname></host>";
    site.serve(&place, &both_families(&place, ISOLATED, "", dns));
    let said = udhcpc(&site.guest, &place)?;
    assert_eq!(said[1..4], ["router=", "dns=192.168.122.1", "domain=lab.example"]);
    wait_for_advertisement(&site.guest)?;
    site.guest.dhcpv6("eth0", &DUID, DEADLINE)?;
    assert_eq!(default_routes(&site.guest, "-4")?, [""; 0]);
    assert_eq!(default_routes(&site.guest, "-6")?, [""; 0]);
    // Although the host itself knows it.
    assert_eq!(names(&site.guest, "upstream.example"), [""; 0]);
    assert_eq!(names(&site.guest, "nine.lab.example"), ["192.168.122.9"]);
    site.end(&place);
    Ok(())
}

#[test]
fn known_guest_has_its_address_and_name_and_every_record_is_answered() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new()?;
    let place = Place::new("clients-records");
    let mac = fs_of(&site.guest, "/sys/class/net/eth0/address");
    let hosts = format!("<host mac='{mac}' name='first' ip='192.168.122.50'/>");
    let dns = "<txt name='info.lab.example' value='rack seven'/>\
               <srv service='ldap' protocol='tcp' domain='lab.example' target='first.lab.example' \
               port='389'/>\
               <host ip='192.168.122.9'><hostname>nine</hostname></host>";
    site.serve(&place, &both_families(&place, NAT, &hosts, dns));
    let said = udhcpc(&site.guest, &place)?;
    assert_eq!(said[0], "ip=192.168.122.50/24");
    let other = udhcpc(&site.tap_guest, &place)?;
    assert_ne!(other[0], said[0]);

    assert_eq!(names(&site.guest, "first.lab.example"), ["192.168.122.50"]);
    assert_eq!(names(&site.tap_guest, "nine.lab.example"), ["192.168.122.9"]);
    let text = record(&site.guest, "info.lab.example", 16)?;
    assert!(text.windows(11).any(|at| at == b"\x0arack seven"), "{text:?}");
    let service = record(&site.guest, "_ldap._tcp.lab.example", 33)?;
    // Priority, weight, port, and the name's first label (RFC 2782).
    let wanted = b"\x00\x00\x00\x00\x01\x85\x05first";
    assert!(service.windows(wanted.len()).any(|at| at == wanted), "{service:?}");
    site.end(&place);
    Ok(())
}

#[test]
fn guest_is_told_what_to_boot_and_fetches_it() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new()?;
    let place = Place::new("clients-boot");
    let root = place.0.join("tftp");
    fs::create_dir(&root)?;
    fs::write(root.join("pxelinux.0"), "boot me")?;
    let network = network(&format!(
        "<network><name>n</name><bridge name='virbr0'/><dns enable='no'/>\
         <ip address='192.168.122.1' prefix='24'><tftp root='{}'/><dhcp>\
         <range start='192.168.122.100' end='192.168.122.120'/><bootp file='pxelinux.0'/></dhcp>\
         </ip></network>",
        root.display()
    ));
    site.serve(&place, &network);
    let said = udhcpc(&site.guest, &place)?;
    assert_eq!(said[4], "boot=pxelinux.0 from 192.168.122.1");
    assert_eq!(site.guest.curl("tftp://192.168.122.1/pxelinux.0")?, b"boot me");
    site.end(&place);
    Ok(())
}

/// Old clients that read raw frames check the sum in the frame, which the host's stack leaves to a
/// NIC that is not there: the program at the bridge completes it (`daemon.rs`), which this does without.
#[test]
fn dhcp_replies_leave_dnsmasq_with_a_partial_checksum() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let site = Site::new()?;
    let place = Place::new("clients-checksum");
    site.serve(&place, &both_families(&place, NAT, "", ""));
    for guest in [&site.guest, &site.tap_guest] {
        let capture = guest.capture("eth0", "udp src port 67")?;
        udhcpc(guest, &place)?;
        let reply = capture.wait_for(|_| true, DEADLINE)?;
        assert_eq!(reply.checksum, Checksum::Partial, "{}: {reply}", guest.name());
    }
    site.end(&place);
    Ok(())
}

/// The answer to a question of this type, as it came.
fn record(guest: &Namespace, name: &str, kind: u16) -> anyhow::Result<Vec<u8>> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len())?);
        question.extend(label.bytes());
    }
    question.push(0);
    question.extend(kind.to_be_bytes());
    question.extend(1_u16.to_be_bytes());
    Ok(guest.udp_ask("192.168.122.1:53".parse()?, &question, DEADLINE)?)
}
