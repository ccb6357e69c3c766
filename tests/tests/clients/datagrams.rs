//! iperf3 with datagrams that are larger than the MTU: fragments, none of which gets lost.

use vnet_tests::lab::services::{IperfReport, IperfServer};

use crate::internet::*;

/// Six fragments each.
const LENGTH: u64 = 8000;
const DATAGRAMS: u64 = 500;

/// What the receiver did not get, and what its own socket had no room for while it did not run.
fn lost(report: &IperfReport) -> i64 {
    report.json["end"]["sum"]["lost_packets"].as_i64().unwrap()
}

fn assert_none_is_lost(direction: &[&str]) -> anyhow::Result<()> {
    on_each_port(|net| {
        for family in FAMILIES {
            let server = IperfServer::start(&net.server, at(family.server, 5201))?;
            let (length, total) = (LENGTH.to_string(), (LENGTH * DATAGRAMS).to_string());
            // 10 Mbit/s.
            let mut arguments = vec!["-u", "-l", &length, "-n", &total, "-b", "10M", "-w", "400K"];
            arguments.extend(direction);
            let receiver = if direction.is_empty() { &net.server } else { &net.guest };
            let overflown = |node: &vnet_tests::lab::Node| -> anyhow::Result<u64> {
                let counters = node.counters()?;
                Ok(counters["UdpRcvbufErrors"] + counters["Udp6RcvbufErrors"])
            };
            let before = overflown(receiver)?;
            let report = server.measure(&net.guest, &arguments)?;
            let overflown = (overflown(receiver)? - before).cast_signed();
            assert_eq!(lost(&report) - overflown, 0, "{:?} {}", family, report.json["end"]["sum"]);
            let packets = report.json["end"]["sum"]["packets"].as_u64().unwrap();
            assert!((DATAGRAMS..DATAGRAMS + 20).contains(&packets), "{packets}");
            let counters = receiver.counters()?;
            let reassembled = if family == IPV4 { "IpReasmOKs" } else { "Ip6ReasmOKs" };
            assert!(counters[reassembled] >= DATAGRAMS, "{}", counters[reassembled]);
        }
        for node in [&net.guest, &net.server] {
            let counters = node.counters()?;
            assert_eq!((counters["IpReasmFails"], counters["Ip6ReasmFails"]), (0, 0));
        }
        Ok(())
    })
}

#[test]
fn iperf3_sends_fragmented_datagrams_and_none_is_lost() -> anyhow::Result<()> {
    assert_none_is_lost(&[])
}

#[test]
fn iperf3_receives_fragmented_datagrams_and_none_is_lost() -> anyhow::Result<()> {
    assert_none_is_lost(&["-R"])
}
