//! `<route>`: subnets behind a guest that is itself a router.

use vnet_tests::lab::{End, require_root};
use vnet_tests::modes::{Forward, Net, Rig};
use vnet_tests::vnet::Vnet;

use crate::support::{assert_does_not_reach, assert_reaches, assert_rejected, place};

const BEHIND: [&str; 2] = ["10.99.0.2", "2001:db8:99::2"];

fn network(name: &'static str, forward: Forward) -> Net {
    let (bridge, addresses, gateways) = match name {
        "front" => {
            ("virbr1", ["10.10.1.1/24", "2001:db8:1::1/64"], ["10.10.1.11", "2001:db8:1::11"])
        }
        "other" => {
            return Net::new(name, forward, "virbr2", &["10.10.2.1/24", "2001:db8:2::1/64"]);
        }
        _ => return Net::new(name, forward, "virbr3", &["10.10.3.1/24", "2001:db8:3::1/64"]),
    };
    Net::new(name, forward, bridge, &addresses)
        .element(&format!("<route address='10.99.0.0' prefix='24' gateway='{}'/>", gateways[0]))
        .element(&format!(
            "<route family='ipv6' address='2001:db8:99::' prefix='64' gateway='{}'/>",
            gateways[1]
        ))
        .nat66()
}

#[test]
fn hosts_behind_a_guest_are_of_its_network() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for forward in [Forward::Route, Forward::Nat, Forward::Isolated] {
        // The routed network makes the host a router: without forwarding nothing is rejected.
        let rig = Rig::new(vec![
            network("front", forward),
            network("other", Forward::Isolated),
            network("third", Forward::Route),
        ])?;
        let router = rig.place("front.1");
        router.node.forwarding(true)?;
        let behind = rig.lab.station("behind")?;
        rig.lab.wire(
            &End::new(&router.node, "eth1").address("10.99.0.1/24").address("2001:db8:99::1/64"),
            &End::new(&behind, "eth0").address("10.99.0.2/24").address("2001:db8:99::2/64"),
        )?;
        behind.route("default", "10.99.0.1")?;
        behind.route("default", "2001:db8:99::1")?;
        let behind = place("behind", &behind);
        // vnet turns it on for networks that need it, which isolated ones do not.
        rig.host.forwarding(true)?;
        // vnet sets the routes of the definition on the host itself.
        let vnet = Vnet::start(&rig.host, &rig.definitions())?;
        let [x, host, other] = ["X", "host", "other.1"].map(|name| rig.place(name));
        let outside = ["198.51.100.1", "2001:db8:a::1"];
        let uplink = ["198.51.100.2", "2001:db8:a::2"];
        let bridge = ["10.10.1.1", "2001:db8:1::1"];
        for index in [0, 1] {
            assert_reaches(host, &behind, BEHIND[index], bridge[index])?;
            assert_reaches(&behind, host, bridge[index], BEHIND[index])?;
            assert_rejected(
                &behind,
                other,
                ["10.10.2.11", "2001:db8:2::11"][index],
                bridge[index],
            )?;
            match forward {
                Forward::Route => {
                    assert_reaches(&behind, x, outside[index], BEHIND[index])?;
                    assert_reaches(x, &behind, BEHIND[index], outside[index])?;
                }
                Forward::Nat => {
                    assert_reaches(&behind, x, outside[index], uplink[index])?;
                    assert_rejected(x, &behind, BEHIND[index], uplink[index])?;
                }
                _ => {
                    assert_rejected(&behind, x, outside[index], bridge[index])?;
                    assert_rejected(x, &behind, BEHIND[index], uplink[index])?;
                }
            }
            assert_does_not_reach(other, &behind, BEHIND[index])?;
        }
        vnet.stop()?;
    }
    Ok(())
}
