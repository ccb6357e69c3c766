//! Tags, devices that add them, and bridges that filter by them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use vnet_tests::lab::services::content;
use vnet_tests::lab::{CapturedPacket, Lab, Namespace, Node, listing, wait_until};

/// For an answer, also on an emulated machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// `VLAN_VID_MASK`, `include/linux/if_vlan.h`.
const IDENTIFIER: u16 = 0x0fff;
/// Ethertype of 802.1Q.
const TAGGED: [u8; 2] = [0x81, 0x00];

/// The VLAN identifier of a frame's tag, whether it travels beside the frame or in it.
pub fn identifier(packet: &CapturedPacket) -> Option<u16> {
    tag(packet).map(|tag| tag & IDENTIFIER)
}

/// The tag control information of a frame: priority and identifier.
pub fn tag(packet: &CapturedPacket) -> Option<u16> {
    let inside = || match packet.data.get(12..16)? {
        [high, low, tag @ ..] if [*high, *low] == TAGGED => {
            Some(u16::from_be_bytes([tag[0], tag[1]]))
        }
        _ => None,
    };
    packet.vlan.or_else(inside)
}

/// The IPv4 packets of a capture, each of which must carry exactly this identifier or no tag.
pub fn ipv4_with(packets: &[CapturedPacket], wanted: Option<u16>) -> Vec<CapturedPacket> {
    let ipv4: Vec<_> =
        packets.iter().filter(|packet| packet.source().is_some_and(|ip| ip.is_ipv4())).collect();
    assert!(!ipv4.is_empty(), "nothing captured:\n{}", listing(packets));
    for packet in &ipv4 {
        assert_eq!(identifier(packet), wanted, "{packet}");
    }
    ipv4.into_iter().cloned().collect()
}

/// Adds `INTERFACE.IDENTIFIER`, up and with an address, above an interface.
pub fn add_vlan(on: &Namespace, interface: &str, vid: u16, address: &str) -> anyhow::Result<()> {
    let (name, vid) = (format!("{interface}.{vid}"), vid.to_string());
    on.run(&["ip", "link", "add", "link", interface, "name", &name, "type", "vlan", "id", &vid])?;
    on.ip_batch(&[format!("link set {name} up"), format!("address add {address} dev {name}")])?;
    Ok(())
}

/// Adds `INTERFACE.0`: what is sent through it carries a tag with a priority and no VLAN.
pub fn add_priority(on: &Namespace, interface: &str, priority: u16) -> anyhow::Result<String> {
    let (name, map) = (format!("{interface}.0"), format!("0:{priority}"));
    on.run(&[
        "ip",
        "link",
        "add",
        "link",
        interface,
        "name",
        &name,
        "type",
        "vlan",
        "id",
        "0",
        "egress-qos-map",
        &map,
    ])?;
    on.run(&["ip", "link", "set", &name, "up"])?;
    Ok(name)
}

/// The MAC of an interface.
pub fn mac_of(on: &Namespace, interface: &str) -> anyhow::Result<String> {
    let path = format!("/sys/class/net/{interface}/address");
    Ok(on.enter(|| std::fs::read_to_string(path))??.trim().to_owned())
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Sends `length` bytes over TCP and gets them back.
pub fn assert_echoes(from: &Namespace, to: SocketAddr, length: usize) -> anyhow::Result<()> {
    let stream: &TcpStream = &from.tcp_connect(to, DEADLINE)?;
    let sent = &content(length);
    let mut back = vec![0; length];
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || (&*stream).write_all(sent));
        (&*stream).read_exact(&mut back).unwrap();
        sending.join().unwrap().unwrap();
    });
    assert!(&back == sent, "{length} bytes came back changed");
    Ok(())
}

/// A network of mode bridge on `br0`, with options of vnet's own.
pub fn bridged(name: &str, options: &str, vlan: &str) -> String {
    format!(
        "<network>\n  <name>{name}</name>\n  <metadata>\n    \
         <vnet:options xmlns:vnet='urn:vnet:options:1'>{options}</vnet:options>\n  </metadata>\n  \
         <forward mode='bridge'/>\n  <bridge name='br0'/>\n  {vlan}\n</network>\n"
    )
}

/// A host with a bridge that filters.
pub fn filtering_bridge(lab: &Lab) -> anyhow::Result<Node> {
    let host = lab.host("host")?;
    host.bridge("br0", &[])?;
    host.run(&["ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1"])?;
    Ok(host)
}

/// The VLANs of a port with their flags, as `42 PVID Egress Untagged`.
pub fn vlans(host: &Node, port: &str) -> anyhow::Result<Vec<String>> {
    let shown = host.run(&["bridge", "-j", "vlan", "show", "dev", port])?;
    let json: Value = serde_json::from_str(&shown)?;
    let list = json[0]["vlans"].as_array().cloned().unwrap_or_default();
    let text = |vlan: &Value| {
        let flags = vlan["flags"].as_array().cloned().unwrap_or_default();
        let words = flags.iter().filter_map(Value::as_str).map(|flag| format!(" {flag}"));
        format!("{}{}", vlan["vlan"], words.collect::<String>())
    };
    Ok(list.iter().map(text).collect())
}

pub fn wait_for_vlans(host: &Node, port: &str, wanted: &[&str]) -> anyhow::Result<()> {
    wait_until(&format!("{port} has VLANs {wanted:?}"), DEADLINE, || match vlans(host, port) {
        Ok(found) if found == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}
