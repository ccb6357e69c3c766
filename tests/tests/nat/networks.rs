//! Several networks, several subnets, and interfaces that vnet does not know.

use vnet_common::reason::DropReason;
use vnet_tests::lab::services::TcpEcho;
use vnet_tests::lab::{
    Capture, End, Guest, Lab, Node, PortKind, StandardLab, listing, require_root, wait_until,
};
use vnet_tests::vnet::{Vnet, nat_network};

use crate::support::*;

const OTHER_GUEST: &str = "10.20.0.11";
const KINDS: [PortKind; 2] = [PortKind::Tap, PortKind::Veth];

fn guest(
    lab: &Lab,
    host: &Node,
    bridge: &str,
    guest: Guest,
    address: &str,
) -> anyhow::Result<Node> {
    let gateway = address.rsplit_once('.').unwrap().0.to_owned() + ".1";
    Ok(lab.guest(host, bridge, &guest.address(&format!("{address}/24")).gateway(&gateway))?)
}

fn assert_nothing(capture: Capture) -> anyhow::Result<()> {
    let packets = capture.finish()?;
    assert!(packets.is_empty(), "{}", listing(&packets));
    Ok(())
}

#[test]
fn two_nat_networks_reach_outside_and_not_each_other() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let StandardLab { host, tap_guest, veth_guest, outside, lab } = StandardLab::new()?;
        host.bridge("virbr1", &["10.20.0.1/24"])?;
        let other = guest(&lab, &host, "virbr1", Guest::new("other", kind), OTHER_GUEST)?;
        let networks = [default_network(), nat_network("second", "virbr1", &["10.20.0.1/24"])];
        let vnet = Vnet::start(&host, &networks)?;
        let _servers: Vec<_> = [&tap_guest, &veth_guest, &other, &outside]
            .map(|node| echo_servers(node).unwrap())
            .into();
        let wire = outside.capture("eth0", "ip")?;
        let [at_first, at_second] = [
            ("virbr0", "ip and src net 10.20.0.0/24"),
            ("virbr1", "ip and src net 192.168.122.0/24"),
        ]
        .map(|(bridge, filter)| host.capture(bridge, filter).unwrap());
        let ports = ["guest1", "guest2"].map(|name| {
            host.capture(&host.port_of(name).unwrap(), "ip and src net 10.20.0.0/24").unwrap()
        });
        let other_port = host.port_of("other").unwrap();
        let other_port = host.capture(&other_port, "ip and src net 192.168.122.0/24")?;
        for address in ["192.168.122.11", "192.168.122.12"] {
            assert_unreachable(&other, address)?;
        }
        assert_unreachable(&tap_guest, OTHER_GUEST)?;
        assert_unreachable(&veth_guest, OTHER_GUEST)?;
        assert!(vnet.drops(DropReason::PolicyRejected)? >= 12);
        for node in [&tap_guest, &veth_guest, &other] {
            assert_eq!(node.ping(OUTSIDE, 3)?.received, 3);
            assert_echoes(&node.tcp_connect(at(OUTSIDE, 7), DEADLINE)?, 100_000);
            assert_eq!(node.udp_ask(at(OUTSIDE, 7), b"outside?", DEADLINE)?, b"outside?");
        }
        assert_nothing(at_first)?;
        assert_nothing(at_second)?;
        for port in ports {
            assert_nothing(port)?;
        }
        assert_nothing(other_port)?;
        assert_only_uplink_is_seen(&wire.finish()?, &[UPLINK]);
        finish(&host, vnet)?;
    }
    Ok(())
}

#[test]
fn bridges_of_other_guests_are_no_way_outside() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let StandardLab { host, tap_guest, veth_guest, outside: _outside, lab } = StandardLab::new()?;
    // An isolated network whose definition is given, and a bridge that nobody says anything about.
    let isolated = "<network>\n  <name>isolated</name>\n  <bridge name='virbr1'/>\n  \
                    <ip address='10.20.0.1' prefix='24'/>\n</network>\n";
    let others = [("virbr1", "10.20.0.1/24", OTHER_GUEST), ("virbr2", "10.30.0.1/24", "10.30.0.2")];
    for (index, (bridge, address, guest_address)) in others.into_iter().enumerate() {
        host.bridge(bridge, &[address])?;
        guest(&lab, &host, bridge, Guest::veth(&format!("other{index}")), guest_address)?;
    }
    let vnet = Vnet::start(&host, &[default_network(), isolated.to_owned()])?;
    for (bridge, _, address) in others {
        let reached = host.capture(bridge, "ip and dst net 10.0.0.0/8")?;
        assert_unreachable(&tap_guest, address)?;
        assert_unreachable(&veth_guest, address)?;
        assert_nothing(reached)?;
    }
    assert!(vnet.drops(DropReason::PolicyRejected)? >= 4);
    assert!(vnet.drops(DropReason::NotAnUplink)? >= 4);
    let uplinks = vnet.status()?["uplinks"].clone();
    assert_eq!(uplinks.as_array().map(Vec::len), Some(1), "{uplinks}");
    assert_eq!(uplinks[0]["interface"], "eth0");
    finish(&host, vnet)
}

#[test]
fn two_subnets_of_one_network_reach_each_other_untranslated() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let StandardLab { host, tap_guest, veth_guest, outside, lab } = StandardLab::new()?;
        host.add_address("virbr0", "10.20.0.1/24")?;
        let other = guest(&lab, &host, "virbr0", Guest::new("other", kind), OTHER_GUEST)?;
        let both = nat_network("default", "virbr0", &["192.168.122.1/24", "10.20.0.1/24"]);
        let vnet = Vnet::start(&host, &[both])?;
        let wire = outside.capture("eth0", "ip")?;
        let (tcp, udp) = echo_servers(&other)?;
        for (node, address) in [(&tap_guest, "192.168.122.11"), (&veth_guest, "192.168.122.12")] {
            assert_eq!(node.ping(OTHER_GUEST, 3)?.received, 3);
            assert_echoes(&node.tcp_connect(at(OTHER_GUEST, 7), DEADLINE)?, 300_000);
            assert_eq!(node.udp_ask(at(OTHER_GUEST, 7), b"other?", DEADLINE)?, b"other?");
            for peers in [tcp.peers(), udp.peers()] {
                assert_eq!(peers.last().unwrap().ip(), ip(address));
            }
        }
        assert_eq!(vnet.flows()?, []);
        // Both subnets are masqueraded towards outside.
        for node in [&tap_guest, &other] {
            assert_eq!(node.ping(OUTSIDE, 3)?.received, 3);
        }
        assert_only_uplink_is_seen(&wire.finish()?, &[UPLINK]);
        finish(&host, vnet)?;
    }
    Ok(())
}

#[test]
fn interface_without_hooks_reaches_no_guest_and_no_guest_reaches_it() -> anyhow::Result<()> {
    const VPN_PEER: &str = "10.8.0.2";
    if !require_root() {
        return Ok(());
    }
    let StandardLab { host, tap_guest, veth_guest, outside, lab } = StandardLab::new()?;
    let peer = lab.station("peer")?;
    lab.wire(
        &End::new(&host, "vpn0").address("10.8.0.1/24"),
        &End::new(&peer, "eth0").address("10.8.0.2/24"),
    )?;
    peer.route("default", "10.8.0.1")?;
    let vnet = Vnet::start_with(&host, &[default_network()], &["--uplink", "eth0"])?;
    let _servers: Vec<_> =
        [&tap_guest, &veth_guest, &peer, &outside].map(|node| echo_servers(node).unwrap()).into();
    // The host itself talks to its VPN as ever, and forwards for it what is not about guests.
    assert_echoes(&host.tcp_connect(at(VPN_PEER, 7), DEADLINE)?, 10_000);
    outside.route("10.8.0.0/24", UPLINK)?;
    assert_echoes(&peer.tcp_connect(at(OUTSIDE, 7), DEADLINE)?, 10_000);

    let at_peer = peer.capture("eth0", "ip and net 192.168.122.0/24 and not src 10.8.0.2")?;
    let ports = ["guest1", "guest2"].map(|name| {
        host.capture(&host.port_of(name).unwrap(), "ip and src net 10.8.0.0/24").unwrap()
    });
    for address in ["192.168.122.11", "192.168.122.12"] {
        assert_unreachable(&peer, address)?;
    }
    for (node, rejected) in [(&tap_guest, 3), (&veth_guest, 6)] {
        assert_unreachable(node, VPN_PEER)?;
        assert!(vnet.drops(DropReason::NotAnUplink)? >= rejected);
    }
    assert!(vnet.drops(DropReason::PolicyRejected)? >= 6);
    assert_nothing(at_peer)?;
    for port in ports {
        assert_nothing(port)?;
    }
    // What is not the VPN's goes on.
    for node in [&tap_guest, &veth_guest] {
        assert_echoes(&node.tcp_connect(at(OUTSIDE, 7), DEADLINE)?, 10_000);
    }
    finish(&host, vnet)
}

#[test]
fn two_instances_with_the_same_names_and_addresses_do_not_disturb_each_other() -> anyhow::Result<()>
{
    if !require_root() {
        return Ok(());
    }
    let nats = [Nat::new()?, Nat::new()?];
    let servers = [0, 1]
        .map(|index: usize| TcpEcho::start(&nats[index].lab.outside, at(OUTSIDE, 7)).unwrap());
    for nat in &nats {
        for guest in nat.guests() {
            let stream = tcp_from(guest, v4("0.0.0.0", 20_000), v4(OUTSIDE, 7))?;
            assert_echoes(&stream, 100_000);
        }
    }
    for (nat, server) in nats.iter().zip(&servers) {
        assert_eq!(nat.vnet.flows()?.len(), 2);
        assert_eq!(server.peers().len(), 2);
        assert_eq!(server.peers()[0], at(UPLINK, 20_000));
    }
    // The end of one is not the end of the other.
    let [one, other] = nats;
    one.finish()?;
    for guest in other.guests() {
        assert_echoes(&guest.tcp_connect(at(OUTSIDE, 7), DEADLINE)?, 100_000);
    }
    other.finish()
}

#[test]
fn uplink_without_link_layer_headers_serves_guests_too() -> anyhow::Result<()> {
    const FAR_END: &str = "10.7.0.2";
    if !require_root() {
        return Ok(());
    }
    let StandardLab { host, tap_guest, veth_guest, outside, lab: _lab } = StandardLab::new()?;
    // A tunnel of two tun devices over the wire between host and outside.
    let tunnel = |node: &Node, own: &str, other: &str, address: &str| {
        let wire = format!("UDP4:{other}:9999,bind={own}:9999");
        let device = format!("TUN:{address}/24,tun-name=tun0,tun-type=tun,iff-no-pi,iff-up");
        node.spawn(&["socat", &wire, &device])
    };
    let _far = tunnel(&outside, OUTSIDE, UPLINK, FAR_END)?;
    let _near = tunnel(&host, UPLINK, OUTSIDE, "10.7.0.1")?;
    wait_until("the tunnel carries packets", DEADLINE, || {
        // Without the tunnel its far end answers over the wire.
        let ping = host.try_run(&["ping", "-n", "-I", "tun0", "-c", "1", "-W", "1", FAR_END]);
        ping.and_then(|output| output.success().map(drop)).map_err(|error| error.to_string())
    })?;
    let vnet = Vnet::start(&host, &[default_network()])?;
    let servers = echo_servers(&outside)?;
    for node in [&tap_guest, &veth_guest] {
        assert_eq!(node.ping(FAR_END, 3)?.received, 3);
        assert_echoes(&node.tcp_connect(at(FAR_END, 7), DEADLINE)?, 100_000);
        assert_eq!(node.udp_ask(at(FAR_END, 7), b"far?", DEADLINE)?, b"far?");
    }
    for peers in [servers.0.peers(), servers.1.peers()] {
        assert!(!peers.is_empty() && peers.iter().all(|peer| peer.ip() == ip("10.7.0.1")));
    }
    finish(&host, vnet)
}
