//! DNS: a name server outside, asked over UDP and over TCP.

use std::net::IpAddr;

use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig};

use crate::internet::*;

/// Addresses of one name: more than 512 bytes hold (RFC 1035 section 4.2.1).
const MANY: u8 = 60;

fn many(family: Family) -> Vec<IpAddr> {
    let prefix = if family == IPV4 { "198.18.0." } else { "2001:db8:ffff::" };
    (1..=MANY).map(|last| ip(&format!("{prefix}{last}"))).collect()
}

#[test]
fn names_are_resolved_over_udp_and_over_tcp() -> anyhow::Result<()> {
    on_each_port(|net| {
        let records: Vec<String> = FAMILIES
            .iter()
            .flat_map(|family| many(*family))
            .map(|address| format!("--host-record=many.example,{address}"))
            .collect();
        let options: Vec<&str> = records.iter().map(String::as_str).collect();
        let names: Vec<_> = FAMILIES.iter().map(|family| ("web.example", family.server)).collect();
        let _dnsmasq = Dnsmasq::start(
            &net.server,
            &DnsmasqConfig {
                interface: "eth0",
                names: &names,
                options: &options,
                ..DnsmasqConfig::default()
            },
        )?;
        for family in FAMILIES {
            let server = at(family.server, 53);
            let short = net.guest.resolve_by_udp(server, "web.example", DEADLINE)?;
            assert_eq!((short.truncated, short.addresses), (false, vec![ip(family.server)]));
            let long = net.guest.resolve_by_udp(server, "many.example", DEADLINE)?;
            assert!(long.truncated, "{long:?}");
            let mut long = net.guest.resolve_by_tcp(server, "many.example", DEADLINE)?;
            long.addresses.sort();
            assert_eq!((long.truncated, long.addresses), (false, many(family)));
        }
        Ok(())
    })
}
