//! Interfaces that have no hooks of vnet, and what other people do to the host's own rules.

use vnet_tests::lab::{End, require_root};
use vnet_tests::modes::{Net, Place, Rig, libvirt_rules, nine_networks};
use vnet_tests::vnet::Vnet;

use crate::support::{assert_none_reaches, assert_reaches, assert_rejected, ip, place};

const PEER: [&str; 2] = ["10.8.0.2", "2001:db8:8::2"];
const OPEN_TO_ALL: [&str; 3] = ["route-a.1", "route-b.1", "open.1"];
const CLOSED: [&str; 6] =
    ["nat-a.1", "nat-b.1", "nat-x.1", "route-x.1", "isolated-a.1", "isolated-b.1"];

/// Another way into the host, as a VPN: not an uplink.
fn vpn(rig: &Rig) -> anyhow::Result<Place> {
    let peer = rig.lab.station("vpn")?;
    rig.lab.wire(
        &End::new(&rig.host, "vpn0").address("10.8.0.1/24").address("2001:db8:8::1/64"),
        &End::new(&peer, "eth0").address("10.8.0.2/24").address("2001:db8:8::2/64"),
    )?;
    peer.route("default", "10.8.0.1")?;
    peer.route("default", "2001:db8:8::1")?;
    Ok(place("vpn", &peer))
}

/// To every guest that outside may not reach, by both families.
fn from_vpn<'a>(rig: &'a Rig, vpn: &'a Place) -> Vec<(&'a Place, &'a Place, String)> {
    let to = |name: &str| {
        let guest = rig.place(name);
        PEER.map(|like| (vpn, guest, guest.address_like(ip(like)).to_string()))
    };
    CLOSED.into_iter().flat_map(to).collect()
}

#[test]
fn interface_without_hooks_obeys_the_policy() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    let vpn = vpn(&rig)?;
    let arguments = ["--uplink", "upx", "--uplink", "upy"];
    let vnet = Vnet::start_with(&rig.host, &rig.definitions(), &arguments)?;
    assert_none_reaches(&from_vpn(&rig, &vpn))?;
    for peer in PEER {
        for name in OPEN_TO_ALL {
            let guest = rig.place(name);
            let address = guest.address_like(ip(peer)).to_string();
            assert_reaches(&vpn, guest, &address, peer)?;
            assert_reaches(guest, &vpn, peer, &address)?;
        }
        for name in CLOSED {
            let guest = rig.place(name);
            let gateway = guest.host_like(ip(peer)).to_string();
            assert_rejected(guest, &vpn, peer, &gateway)?;
        }
    }
    vnet.stop()?;
    Ok(())
}

#[test]
fn flushing_the_hosts_rules_opens_nothing() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let rig = Rig::new(nine_networks().into_iter().map(Net::nat66).collect())?;
    let vpn = vpn(&rig)?;
    rig.host.nft(&libvirt_rules(&rig.nets))?;
    let arguments = ["--uplink", "upx", "--uplink", "upy"];
    let vnet = Vnet::start_with(&rig.host, &rig.definitions(), &arguments)?;
    let [x, routed, nat] = ["X", "route-a.1", "nat-a.1"].map(|name| rig.place(name));
    let all = || -> anyhow::Result<()> {
        assert_none_reaches(&from_vpn(&rig, &vpn))?;
        // X is the uplink of that one.
        for name in CLOSED.into_iter().filter(|name| *name != "route-x.1") {
            let guest = rig.place(name);
            for like in PEER.map(ip) {
                let (address, uplink) = (guest.address_like(like), x.host_like(like));
                assert_rejected(x, guest, &address.to_string(), &uplink.to_string())?;
            }
        }
        assert_reaches(x, routed, "10.10.4.11", "198.51.100.1")?;
        assert_reaches(nat, x, "198.51.100.1", "198.51.100.2")?;
        assert_reaches(nat, x, "2001:db8:a::1", "2001:db8:a::2")
    };
    all()?;
    rig.host.nft("flush ruleset")?;
    all()?;
    vnet.stop()?;
    Ok(())
}
