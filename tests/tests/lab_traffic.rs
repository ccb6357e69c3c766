//! Packets cross the lab as they would cross a real host.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use vnet_tests::lab::services::{HttpServer, IperfServer, TcpEcho, UdpEcho, Upload, content, hash};
use vnet_tests::lab::{Checksum, End, Guest, Lab, StandardLab, listing, require_root};

const DEADLINE: Duration = Duration::from_secs(10);

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn guests_on_tap_and_veth_reach_each_other_and_the_host_over_the_bridge() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    for (from, to) in [
        (&lab.tap_guest, "192.168.122.12"),
        (&lab.veth_guest, "192.168.122.11"),
        (&lab.tap_guest, "192.168.122.1"),
        (&lab.veth_guest, "192.168.122.1"),
        (&lab.host, "192.168.122.11"),
        (&lab.host, "192.168.122.12"),
        (&lab.host, "203.0.113.1"),
    ] {
        let ping = from.ping(to, 3)?;
        assert_eq!((ping.sent, ping.received), (3, 3), "{} to {to}", from.name());
    }
    // No route and no forwarding: nothing leaves the host.
    assert_eq!(lab.tap_guest.ping("203.0.113.1", 1)?.received, 0);
    Ok(())
}
