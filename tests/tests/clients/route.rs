//! traceroute: every hop is seen with its own address.

use vnet_common::reason::Handover;
use vnet_tests::lab::Node;
use vnet_tests::lab::services::HttpServer;

use crate::internet::*;

/// The addresses that answered, hop by hop.
fn traceroute(from: &Node, family: Family, method: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut command = vec!["traceroute", family.switch, "-n", "-q", "1", "-w", "3", "-m", "8"];
    command.extend(method);
    command.push(family.server);
    let printed = from.run(&command)?;
    let hops = printed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    Ok(hops.map(str::to_owned).collect())
}

fn assert_every_hop_is_seen(method: &[&str]) -> anyhow::Result<()> {
    on_each_port(|net| {
        for family in FAMILIES {
            let _web = HttpServer::start(&net.server, at(family.server, 80))?;
            let hops = traceroute(&net.guest, family, method)?;
            assert_eq!(hops, [family.gateway, family.isp, family.transit, family.server]);
        }
        assert!(net.vnet.handovers(Handover::TtlExpiring)? >= 2);
        Ok(())
    })
}

#[test]
fn traceroute_by_udp_shows_every_hop() -> anyhow::Result<()> {
    assert_every_hop_is_seen(&[])
}

#[test]
fn traceroute_by_icmp_shows_every_hop() -> anyhow::Result<()> {
    assert_every_hop_is_seen(&["-I"])
}

#[test]
fn traceroute_by_tcp_syn_shows_every_hop() -> anyhow::Result<()> {
    assert_every_hop_is_seen(&["-T", "-p", "80"])
}
