//! The host's own copies of what it sends to many: they come in where they go out, without a link-layer
//! header (`dev_loopback_xmit` in `net/core/dev.c`).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use serde_json::{Value, json};
use vnet_tests::lab::{Node, StandardLab, require_root};
use vnet_tests::vnet::Vnet;

use crate::support::*;

/// Where the host sends, from which interface, and its address there.
const GROUPS: [(&str, &str, &str); 9] = [
    ("virbr0", "192.168.122.255", "192.168.122.1"),
    ("virbr0", "255.255.255.255", "192.168.122.1"),
    ("virbr0", "224.0.0.251", "192.168.122.1"),
    ("virbr0", "ff02::fb", "fe80::7"),
    ("virbr0", "ff05::fb", "fd00:122::1"),
    ("eth0", "203.0.113.255", "203.0.113.2"),
    ("eth0", "224.0.0.251", "203.0.113.2"),
    ("eth0", "239.1.2.3", "203.0.113.2"),
    ("eth0", "ff02::fb", "fe80::8"),
];

/// A socket of an interface that has joined the group.
fn member(host: &Node, interface: &str, group: IpAddr, own: IpAddr) -> anyhow::Result<UdpSocket> {
    let any = if group.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
    let socket = host.enter(|| -> anyhow::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        setsockopt(&socket, BindToDevice, &interface.into())?;
        match (group, own) {
            (IpAddr::V4(group), IpAddr::V4(own)) if group.is_multicast() => {
                socket.join_multicast_v4(&group, &own)?;
            }
            (IpAddr::V4(_), _) => socket.set_broadcast(true)?,
            (IpAddr::V6(group), _) => {
                socket.join_multicast_v6(&group, if_nametoindex(interface)?)?;
            }
        }
        Ok(socket)
    })??;
    socket.set_read_timeout(Some(DEADLINE))?;
    Ok(socket)
}

/// Every counter of every network and of none.
fn counters_of(vnet: &Vnet) -> anyhow::Result<Value> {
    let status = vnet.status()?;
    let networks = status["networks"].as_array().cloned().unwrap_or_default();
    assert_eq!(networks.len(), 1);
    let counters = |of: &Value| {
        json!([of["outbound"], of["inbound"], of["drops"], of["handovers"], of["flows"]])
    };
    Ok(json!([counters(&networks[0]), counters(&status["no_network"])]))
}

#[test]
fn hosts_own_copies_of_broadcasts_come_back_and_count_as_nothing() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for mode in ["tcx", "clsact"] {
        let lab = StandardLab::new()?;
        lab.host.add_address("virbr0", "fd00:122::1/64")?;
        lab.host.add_address("eth0", "2001:db8:a::2/64")?;
        for (interface, link_local) in [("virbr0", "fe80::7/64"), ("eth0", "fe80::8/64")] {
            lab.host.run(&["ip", "-6", "address", "flush", "dev", interface, "scope", "link"])?;
            lab.host.add_address(interface, link_local)?;
        }
        let vnet = Vnet::start_with(&lab.host, &[default_network()], &["--attach", mode])?;
        let before = counters_of(&vnet)?;
        for (interface, group, own) in GROUPS {
            let (group, own) = (ip(group), ip(own));
            let socket = member(&lab.host, interface, group, own)?;
            let to = SocketAddr::new(group, socket.local_addr()?.port());
            for text in [&b"hear, hear"[..], &[7; 1400], b""] {
                socket.send_to(text, to)?;
                let mut heard = [0; 2000];
                let (length, from) = socket
                    .recv_from(&mut heard)
                    .unwrap_or_else(|error| panic!("{group} on {interface}: {error}"));
                assert_eq!((&heard[..length], from.ip()), (text, own), "{group} on {interface}");
            }
        }
        assert_eq!(counters_of(&vnet)?, before);
        finish(&lab.host, vnet)?;
    }
    Ok(())
}
