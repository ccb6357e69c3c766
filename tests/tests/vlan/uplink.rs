//! A VLAN device as an uplink.

use vnet_tests::lab::services::{TcpEcho, UdpEcho};
use vnet_tests::lab::{End, Guest, Lab, listing, require_vlan};
use vnet_tests::vnet::{Vnet, nat_network};

use crate::support::*;

const UPLINK: &str = "203.0.113.2";
const OUTSIDE: &str = "203.0.113.1";

#[test]
fn guests_are_masqueraded_behind_a_tagged_uplink() -> anyhow::Result<()> {
    masquerade(&[])
}

#[test]
fn clsact_does_the_same_on_a_tagged_uplink() -> anyhow::Result<()> {
    masquerade(&["--attach", "clsact"])
}

fn masquerade(arguments: &[&str]) -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (host, outside) = (lab.host("host")?, lab.station("outside")?);
    lab.wire(&End::new(&host, "eth0"), &End::new(&outside, "eth0"))?;
    add_vlan(&host, "eth0", 100, "203.0.113.2/24")?;
    add_vlan(&outside, "eth0", 100, "203.0.113.1/24")?;
    host.run(&["ip", "route", "add", "default", "via", OUTSIDE, "dev", "eth0.100"])?;
    host.bridge("virbr0", &["192.168.122.1/24"])?;
    let guests =
        [(Guest::tap("guest1"), "192.168.122.11"), (Guest::veth("guest2"), "192.168.122.12")].map(
            |(guest, address)| {
                let guest = guest.address(&format!("{address}/24")).gateway("192.168.122.1");
                lab.guest(&host, "virbr0", &guest).unwrap()
            },
        );
    let network = nat_network("default", "virbr0", &["192.168.122.1/24"]);
    let vnet = Vnet::start_with(&host, &[network], arguments)?;
    let tcp = TcpEcho::start(&outside, at(OUTSIDE, 7))?;
    let udp = UdpEcho::start(&outside, at(OUTSIDE, 7))?;
    let wire = host.capture("eth0", "")?;

    for guest in &guests {
        // The first packet may wait for the neighbour.
        assert_eq!(guest.udp_ask(udp.address(), b"who am I?", DEADLINE)?, b"who am I?");
        assert_eq!(guest.ping_with(OUTSIDE, 3, &["-W", "10"])?.received, 3, "{}", guest.name());
        assert_echoes(guest, tcp.address(), 300_000)?;
    }
    for peer in tcp.peers().into_iter().chain(udp.peers()) {
        assert_eq!(peer.ip(), ip(UPLINK));
    }
    for flow in vnet.flows()? {
        assert_eq!((flow.uplink.as_str(), flow.outside.ip()), ("eth0.100", ip(UPLINK)));
    }
    let packets = wire.finish()?;
    for packet in ipv4_with(&packets, Some(100)) {
        let host_side = if packet.outgoing { packet.source() } else { packet.destination() };
        assert_eq!(host_side, Some(ip(UPLINK)), "{packet}\nin\n{}", listing(&packets));
    }
    assert_eq!(host.nft_ruleset()?, "");
    vnet.stop()?;
    Ok(())
}
