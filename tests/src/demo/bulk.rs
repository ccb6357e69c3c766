//! iperf3 both ways between a guest on a tap and the outside.

use std::net::SocketAddr;

use anyhow::Result;

use super::page::{Finding, Page};
use super::stage::{OUTSIDE, Stage};
use crate::lab::services::{IperfReport, IperfServer};

const PORT: u16 = 5201;
/// Bytes of payload in a full segment with timestamps at MTU 1500.
const SEGMENT: u64 = 1448;
/// More than one segment in so many sent again is a storm: a checksum or an offload is wrong.
const STORM: u64 = 100;

pub(super) fn show(page: &Page, stage: &Stage) -> Result<()> {
    let server = IperfServer::start(&stage.outside, SocketAddr::new(OUTSIDE.parse()?, PORT))?;
    for (way, further) in
        [("guest1 (tap) -> outside", None), ("outside -> guest1 (tap)", Some("-R"))]
    {
        page.check(way, || {
            let arguments: Vec<&str> = ["-t", "2"].into_iter().chain(further).collect();
            Ok(finding(&server.measure(&stage.tap_guest, &arguments)?))
        });
    }
    Ok(())
}

fn finding(report: &IperfReport) -> Finding {
    let segments = report.sent / SEGMENT;
    let calm = report.retransmits <= segments / STORM;
    let rate = report.bits_per_second / 1e9;
    let text = format!("{rate:.2} Gbit/s, {} of {segments} segments again", report.retransmits);
    Finding::new(report.received > 0 && calm, text)
}
