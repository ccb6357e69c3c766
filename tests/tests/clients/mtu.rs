//! Path MTU discovery (RFC 1191, RFC 8201): whoever sends too much learns the smallest hop's MTU.

use vnet_tests::lab::services::{HttpServer, Upload, content, hash};
use vnet_tests::lab::{End, Node, require_root};

use crate::internet::*;

const LENGTH: usize = 1_000_000;

/// Makes `node` offer the segments of an Ethernet to others, as one does that is further away.
fn offer_ethernet(node: &Node, family: Family, gateway: &str) -> anyhow::Result<()> {
    let mss = (1500 - family.tcp_headers).to_string();
    let route = ["route", "replace", "default", "via", gateway, "dev", "eth0", "advmss", &mss];
    let mut command = vec!["ip", family.switch];
    command.extend(route);
    node.run(&command)?;
    Ok(())
}

/// The MTU that `node` has learnt of the way to `to`.
fn learnt(node: &Node, to: &str) -> anyhow::Result<Option<u32>> {
    let route = node.run(&["ip", "route", "get", to])?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
    Ok(words.nth(1).map(|mtu| mtu.parse().unwrap()))
}

struct Learnt {
    /// By the guest, of the way to the server.
    guest: Option<u32>,
    /// By the server, of the way to the guest, which it takes for the uplink.
    server: Option<u32>,
}

/// Transfers in both directions and both families.
fn assert_learnt(mtu: Mtu, wanted: &Learnt) -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::new(kind, mtu, "")?;
        for family in FAMILIES {
            let web = HttpServer::start(&net.server, at(family.server, 80))?;
            offer_ethernet(&net.guest, family, family.gateway)?;
            let beyond = if family == IPV4 { "192.0.2.1" } else { "2001:db8:3::1" };
            offer_ethernet(&net.server, family, beyond)?;
            let url = format!("http://{}/bytes/{LENGTH}", web.address());
            let body = content(LENGTH);
            let answer = net.guest.curl_upload(&url, &body)?;
            assert_eq!(Upload::parse(&answer).map(|upload| upload.hash), Some(hash(&body)));
            assert_eq!(learnt(&net.guest, family.server)?, wanted.guest, "{kind:?} {family:?}");
            assert!(net.guest.curl(&url)? == body);
            assert_eq!(learnt(&net.server, family.uplink)?, wanted.server, "{kind:?} {family:?}");
        }
        net.finish()?;
    }
    Ok(())
}

#[test]
fn smaller_mtu_between_two_routers_outside_is_learnt_by_both_ends() -> anyhow::Result<()> {
    let mtu = Mtu { middle: 1300, ..Mtu::default() };
    assert_learnt(mtu, &Learnt { guest: Some(1300), server: Some(1300) })
}

#[test]
fn smaller_mtu_of_the_uplink_is_learnt_by_both_ends() -> anyhow::Result<()> {
    let mtu = Mtu { uplink: 1400, ..Mtu::default() };
    assert_learnt(mtu, &Learnt { guest: Some(1400), server: Some(1400) })
}

#[test]
fn smaller_mtu_on_the_guests_side_is_learnt_by_the_server() -> anyhow::Result<()> {
    // The guest's own link has that MTU, so there is nothing that it could learn.
    let mtu = Mtu { bridge: 1350, ..Mtu::default() };
    assert_learnt(mtu, &Learnt { guest: None, server: Some(1350) })
}

#[test]
fn smaller_mtu_of_a_hop_behind_a_guest_that_routes_is_learnt_by_the_server() -> anyhow::Result<()> {
    const ROUTES: &str = "<route address='10.77.0.0' prefix='24' gateway='192.168.122.11'/>\
         <route family='ipv6' address='fd00:77::' prefix='64' gateway='fd00:122::11'/>";
    if !require_root() {
        return Ok(());
    }
    for kind in KINDS {
        let net = Internet::with_routes(kind, Mtu::default(), "", ROUTES)?;
        let inner = net.lab.station("inner")?;
        for forwarding in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            net.guest.sysctl(forwarding, "1")?;
        }
        net.lab.wire_with_mtu(
            &End::new(&net.guest, "eth1").address("10.77.0.1/24").address("fd00:77::1/64"),
            &End::new(&inner, "eth0").address("10.77.0.2/24").address("fd00:77::2/64"),
            1300,
        )?;
        for (family, gateway) in FAMILIES.into_iter().zip(["10.77.0.1", "fd00:77::1"]) {
            let web = HttpServer::start(&net.server, at(family.server, 80))?;
            offer_ethernet(&inner, family, gateway)?;
            let url = format!("http://{}/bytes/{LENGTH}", web.address());
            assert!(inner.curl(&url)? == content(LENGTH));
            // The guest's error came with the host's address, about a packet to that.
            assert_eq!(learnt(&net.server, family.uplink)?, Some(1300), "{kind:?} {family:?}");
        }
        net.finish()?;
    }
    Ok(())
}
