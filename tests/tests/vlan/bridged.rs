//! Frames that guests tag themselves, through a bridged network.

use vnet_tests::lab::services::{TcpEcho, UdpEcho};
use vnet_tests::lab::{CapturedPacket, End, Guest, Lab, Node, listing, require_vlan};
use vnet_tests::vnet::{Vnet, nat_network};

use crate::support::*;

const GUEST: &str = "198.51.100.11/24";
const STATION: &str = "198.51.100.1";

/// A bridge with the NIC `eth0` as a port, as the guests' way into the LAN; no address of the
/// host's.
struct Lan {
    // Before the lab, whose end kills every process in it.
    vnet: Vnet,
    host: Node,
    guest: Node,
    station: Node,
    _lab: Lab,
}

impl Lan {
    fn new() -> anyhow::Result<Self> {
        let lab = Lab::new()?;
        let (host, station) = (lab.host("host")?, lab.station("station")?);
        lab.wire(&End::new(&host, "eth0"), &End::new(&station, "eth0"))?;
        host.bridge("br0", &[])?;
        host.run(&["ip", "link", "set", "eth0", "master", "br0"])?;
        // A network that vnet has work with, beside the bridged one.
        lab.outside(&host, "eth1", "outside", "203.0.113.2/24", "203.0.113.1/24")?;
        host.bridge("virbr0", &["192.168.122.1/24"])?;
        let guest = lab.guest(&host, "br0", &Guest::tap("guest"))?;
        add_vlan(&guest, "eth0", 100, GUEST)?;
        add_vlan(&station, "eth0", 100, &format!("{STATION}/24"))?;
        let bridged = "<network>\n  <name>lan</name>\n  <forward mode='bridge'/>\n  \
                       <bridge name='br0'/>\n</network>\n";
        let nat = nat_network("default", "virbr0", &["192.168.122.1/24"]);
        let vnet = Vnet::start(&host, &[nat, bridged.to_owned()])?;
        Ok(Self { vnet, host, guest, station, _lab: lab })
    }

    fn port(&self) -> String {
        self.host.port_of("guest").unwrap()
    }

    /// Lets the bridge filter, with these identifiers at both of its ports.
    fn filter(&self, identifiers: &[u16]) -> anyhow::Result<()> {
        self.host.run(&["ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1"])?;
        for identifier in identifiers {
            for port in ["eth0", &self.port()] {
                let vid = identifier.to_string();
                self.host.run(&["bridge", "vlan", "add", "dev", port, "vid", &vid])?;
            }
        }
        Ok(())
    }

    /// What the guest tags reaches the station with its tag and not a byte changed, and back.
    fn assert_tagged_traffic_passes(&self) -> anyhow::Result<()> {
        let tcp = TcpEcho::start(&self.station, at(STATION, 7))?;
        let udp = UdpEcho::start(&self.station, at(STATION, 7))?;
        let at_guest = self.host.capture(&self.port(), "udp")?;
        let at_nic = self.host.capture("eth0", "udp")?;
        let all = self.host.capture("eth0", "")?;
        for question in [&b"one"[..], b"two", &[7; 1400]] {
            assert_eq!(self.guest.udp_ask(udp.address(), question, DEADLINE)?, question);
        }
        assert_eq!(self.guest.ping_with(STATION, 3, &["-W", "10"])?.received, 3);
        assert_echoes(&self.guest, tcp.address(), 300_000)?;
        assert_eq!(tcp.peers()[0].ip(), ip("198.51.100.11"));

        let (at_guest, at_nic) = (at_guest.finish()?, at_nic.finish()?);
        let count = ipv4_with(&at_guest, Some(100)).len();
        assert_eq!(count, 6, "{}", listing(&at_guest));
        assert_eq!(frames(&at_guest), frames(&at_nic));
        ipv4_with(&all.finish()?, Some(100));
        Ok(())
    }
}

/// Tag and bytes of each frame.
fn frames(packets: &[CapturedPacket]) -> Vec<(Option<u16>, &[u8])> {
    packets.iter().map(|packet| (tag(packet), packet.data.as_slice())).collect()
}

#[test]
fn tagged_frames_pass_a_bridged_network_unharmed() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let lan = Lan::new()?;
    lan.assert_tagged_traffic_passes()?;
    lan.vnet.stop()?;
    Ok(())
}

#[test]
fn tagged_frames_pass_a_vlan_filtering_bridge_as_it_allows() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let lan = Lan::new()?;
    lan.filter(&[100])?;
    lan.assert_tagged_traffic_passes()?;

    // The bridge has not been told of this one, and drops it.
    add_vlan(&lan.guest, "eth0", 200, "192.0.2.11/24")?;
    add_vlan(&lan.station, "eth0", 200, "192.0.2.1/24")?;
    let nic = lan.host.capture("eth0", "")?;
    assert_eq!(lan.guest.ping_with("192.0.2.1", 2, &["-W", "0.5"])?.received, 0);
    let leaked: Vec<_> =
        nic.finish()?.into_iter().filter(|packet| identifier(packet) == Some(200)).collect();
    assert!(leaked.is_empty(), "{}", listing(&leaked));
    lan.vnet.stop()?;
    Ok(())
}
