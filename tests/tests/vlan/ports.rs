//! `<vlan>` on a bridge that filters by VLAN.

use serde_json::Value;
use vnet_tests::lab::{Guest, Lab, Node, require_vlan, wait_until};
use vnet_tests::vnet::Vnet;

use crate::support::DEADLINE;

/// A network on the bridge `br0`.
fn bridged(vlan: &str) -> String {
    format!(
        "<network>\n  <name>lan</name>\n  <forward mode='bridge'/>\n  <bridge name='br0'/>\n  \
         {vlan}\n</network>\n"
    )
}

/// The VLANs of a port with their flags, as `42 PVID Egress Untagged`.
fn vlans(host: &Node, port: &str) -> anyhow::Result<Vec<String>> {
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

fn wait_for_vlans(host: &Node, port: &str, wanted: &[&str]) -> anyhow::Result<()> {
    wait_until(&format!("{port} has VLANs {wanted:?}"), DEADLINE, || match vlans(host, port) {
        Ok(found) if found == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

/// A host with a bridge that filters; `None` on a kernel that cannot.
fn filtering_bridge(lab: &Lab) -> anyhow::Result<Node> {
    let host = lab.host("host")?;
    host.bridge("br0", &[])?;
    host.run(&["ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1"])?;
    Ok(host)
}

const DEFAULT: &str = "1 PVID Egress Untagged";

#[test]
fn guests_ports_get_the_vlans_of_their_network_and_lose_them_at_the_end() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    for (vlan, expected) in [
        ("<vlan><tag id='42'/></vlan>", ["42 PVID Egress Untagged"].as_slice()),
        (
            "<vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='47'/></vlan>",
            &["42 PVID Egress Untagged", "47"],
        ),
        (
            "<portgroup name='a' default='yes'><vlan><tag id='7'/></vlan></portgroup>",
            &["7 PVID Egress Untagged"],
        ),
    ] {
        let lab = Lab::new()?;
        let host = filtering_bridge(&lab)?;
        let first = lab.guest(&host, "br0", &Guest::tap("first"))?;
        let foreign = lab.guest(&host, "br0", &Guest::veth("foreign"))?;
        let port = |guest: &Node| host.port_of(guest.name()).unwrap();
        // Somebody else's decision stays.
        let foreign = port(&foreign);
        host.run(&["bridge", "vlan", "add", "dev", &foreign, "vid", "99"])?;
        host.run(&["ip", "link", "add", "wire0", "type", "vxlan", "id", "7", "dstport", "4789"])?;
        host.run(&["ip", "link", "set", "wire0", "master", "br0"])?;

        let vnet = Vnet::start(&host, &[bridged(vlan)])?;
        wait_for_vlans(&host, &port(&first), expected)?;
        let later = lab.guest(&host, "br0", &Guest::veth("later"))?;
        wait_for_vlans(&host, &port(&later), expected)?;
        assert_eq!(vlans(&host, &foreign)?, [DEFAULT, "99"]);
        assert_eq!(vlans(&host, "wire0")?, [DEFAULT]);
        vnet.stop()?;
        for guest in [&first, &later] {
            assert_eq!(vlans(&host, &port(guest))?, [DEFAULT]);
        }
        assert_eq!(vlans(&host, &foreign)?, [DEFAULT, "99"]);
    }
    Ok(())
}
