//! libvirt's example of virtual server hosting: a routed network in which each guest has a public
//! address of its own, and a second NIC of the host for its management.

use vnet_tests::lab::services::HttpServer;
use vnet_tests::lab::{Guest, require_root};
use vnet_tests::modes::{Forward, Net, Place, Rig, Uplink};
use vnet_tests::vnet::Vnet;

use crate::support::{assert_reaches, assert_rejected, at, place};

/// eth0: the data centre's router, to which the host is known as the way to the guests.
const PUBLIC: Uplink = Uplink {
    interface: "eth0",
    name: "internet",
    host: ["203.0.113.2/24", "2001:db8:b::2/64"],
    outside: ["203.0.113.1/24", "2001:db8:b::1/64"],
};
/// eth1: where the administrators are.
const MANAGEMENT: Uplink = Uplink {
    interface: "eth1",
    name: "admin",
    host: ["10.0.0.2/24", "2001:db8:ad::2/64"],
    outside: ["10.0.0.1/24", "2001:db8:ad::1/64"],
};

#[test]
fn virtual_server_hosting() -> anyhow::Result<()> {
    const GATEWAY: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];
    if !require_root() {
        return Ok(());
    }
    let net = Net::new(
        "public",
        Forward::RouteTo("eth0"),
        "virbr1",
        &["192.0.2.1/28", "2001:db8:2::1/64"],
    );
    let rig = Rig::with_uplinks(vec![net], &[PUBLIC, MANAGEMENT])?;
    let mut servers: Vec<(Place, [String; 2])> = Vec::new();
    for number in 2..5 {
        let addresses = [format!("192.0.2.{number}"), format!("2001:db8:2::{number}")];
        let guest = Guest::tap(&format!("server{number}"))
            .address(&format!("{}/28", addresses[0]))
            .address(&format!("{}/64", addresses[1]));
        let guest = guest.gateway(GATEWAY[0]).gateway(GATEWAY[1]);
        let node = rig.lab.guest(&rig.host, "virbr1", &guest)?;
        servers.push((place(&format!("server{number}"), &node), addresses));
    }
    let vnet = Vnet::start(&rig.host, &rig.definitions())?;
    let [internet, admin, host] = ["internet", "admin", "host"].map(|name| rig.place(name));
    let _web: Vec<HttpServer> = servers
        .iter()
        .flat_map(|(server, addresses)| {
            addresses
                .iter()
                .map(|address| HttpServer::start(&server.node, at(address, 80)).unwrap())
        })
        .collect();
    for (server, [v4, v6]) in &servers {
        // Each is a web server of its own, and no address is translated either way.
        for url in [format!("http://{v4}/bytes/100000"), format!("http://[{v6}]/bytes/100000")] {
            assert_eq!(internet.node.curl(&url)?.len(), 100_000);
        }
        assert_reaches(internet, server, v4, "203.0.113.1")?;
        assert_reaches(internet, server, v6, "2001:db8:b::1")?;
        assert_reaches(server, internet, "203.0.113.1", v4)?;
        assert_reaches(server, internet, "2001:db8:b::1", v6)?;
        // The management network is the host's alone.
        assert_rejected(server, admin, "10.0.0.1", GATEWAY[0])?;
        assert_rejected(server, admin, "2001:db8:ad::1", GATEWAY[1])?;
        assert_rejected(admin, server, v4, "10.0.0.2")?;
        assert_rejected(admin, server, v6, "2001:db8:ad::2")?;
    }
    let [(first, _), (second, addresses), ..] = servers.as_slice() else { panic!("{servers:?}") };
    assert_reaches(first, second, &addresses[0], "192.0.2.2")?;
    assert_reaches(first, second, &addresses[1], "2001:db8:2::2")?;
    assert_reaches(admin, host, "10.0.0.2", "10.0.0.1")?;
    assert_reaches(host, admin, "10.0.0.1", "10.0.0.2")?;
    // Nothing is translated, so nothing is in the flow table.
    assert_eq!(rig.host.nft_ruleset()?, "");
    assert_eq!(rig.host.conntrack_count()?, 0);
    vnet.stop()?;
    Ok(())
}
