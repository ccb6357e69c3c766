//! `<vlan>` on a bridge that filters by VLAN: what the bridge is told of guests' ports.

use vnet_tests::lab::{Guest, Lab, Node, require_vlan};
use vnet_tests::vnet::Vnet;

use crate::support::*;

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

        let vnet = Vnet::start(&host, &[bridged("lan", "", vlan)])?;
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

#[test]
fn bridges_default_vlan_is_whatever_the_bridge_says() -> anyhow::Result<()> {
    if !require_vlan() {
        return Ok(());
    }
    for (default, before) in [("0", &[] as &[&str]), ("5", &["5 PVID Egress Untagged"])] {
        let lab = Lab::new()?;
        let host = filtering_bridge(&lab)?;
        let settings = ["type", "bridge", "vlan_default_pvid", default];
        host.run(&[["ip", "link", "set", "br0"].as_slice(), &settings].concat())?;
        let guest = lab.guest(&host, "br0", &Guest::tap("guest"))?;
        let decided = lab.guest(&host, "br0", &Guest::tap("decided"))?;
        let port = |guest: &Node| host.port_of(guest.name()).unwrap();
        let (guest, decided) = (port(&guest), port(&decided));
        assert_eq!(vlans(&host, &guest)?, before);
        // Somebody else's decision, although it is the only one and the number 1.
        if !before.is_empty() {
            host.run(&["bridge", "vlan", "del", "dev", &decided, "vid", default])?;
        }
        let vid = ["vid", "1", "pvid", "untagged"];
        host.run(&[["bridge", "vlan", "add", "dev", &decided].as_slice(), &vid].concat())?;

        let network = bridged("lan", "", "<vlan><tag id='42'/></vlan>");
        let vnet = Vnet::start(&host, &[network])?;
        wait_for_vlans(&host, &guest, &["42 PVID Egress Untagged"])?;
        assert_eq!(vlans(&host, &decided)?, [DEFAULT]);
        vnet.stop()?;
        assert_eq!(vlans(&host, &guest)?, before);
        assert_eq!(vlans(&host, &decided)?, [DEFAULT]);
    }
    Ok(())
}
