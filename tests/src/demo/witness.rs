//! What the outside host sees of the guests, and the proof that netfilter is not involved.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::page::{Colour, Finding, Page};
use super::stage::{OUTSIDE, Stage, UPLINK};
use crate::lab::services::Tcpdump;
use crate::lab::{Capture, CapturedPacket};

/// Largest IP packet on the wire in bytes.
const MTU: usize = 1500;
/// What tcpdump is shown: the packets that begin something.
const BEGINNINGS: &str = "src net 192.168.0.0/16 or src host 203.0.113.2 and \
                          (icmp or udp or tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn)";

/// Two independent captures at the outside host's end of the wire.
#[derive(Debug)]
pub(super) struct Witness {
    packets: Capture,
    tcpdump: Tcpdump,
}

impl Witness {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let packets = stage.outside.capture("eth0", "ip")?;
        let tcpdump = stage.outside.tcpdump("eth0", BEGINNINGS)?;
        Ok(Self { packets, tcpdump })
    }

    pub(super) fn show(self, page: &Page, stage: &Stage) -> Result<()> {
        let lines = self.tcpdump.finish()?;
        let lines =
            stage.outside.run_with_input(&["tcpdump", "-nn", "-t", "-q", "-r", "-"], &lines)?;
        page.text("  outside# tcpdump -i eth0 (the first packet of each kind)");
        for line in one_of_each_kind(&lines) {
            page.text(&page.paint(Colour::Dim, &format!("    {line}")));
        }
        let packets = self.packets.finish()?;
        page.check("addresses that the outside saw", || {
            let mut seen = seen(&packets);
            seen.extend([stage.web.peers(), stage.udp.peers()].concat().iter().map(SocketAddr::ip));
            let list: Vec<String> = seen.iter().map(ToString::to_string).collect();
            let text = format!("{} in {} packets", list.join(", "), packets.len());
            Ok(Finding::new(list == [UPLINK], text))
        });
        page.check("checksums, and sizes on the wire", || {
            let wrong = packets.iter().find_map(|packet| packet.verify_checksums().err());
            let largest = packets.iter().map(CapturedPacket::largest_ip_packet).max().unwrap_or(0);
            let text = wrong.clone().unwrap_or_else(|| "right".to_owned());
            let text = format!("{text}; largest IP packet {largest} of {MTU} bytes");
            Ok(Finding::new(wrong.is_none() && largest <= MTU, text))
        });
        page.check("host# nft list ruleset", || {
            let rules = stage.host.nft_ruleset()?;
            let text = if rules.is_empty() { "(empty)" } else { &rules };
            Ok(Finding::new(rules.is_empty(), text))
        });
        page.check("host# conntrack --count", || {
            let count = stage.host.conntrack_count()?;
            Ok(Finding::new(count == 0, count.to_string()))
        });
        Ok(())
    }
}

/// Who the outside host talked to.
fn seen(packets: &[CapturedPacket]) -> BTreeSet<IpAddr> {
    let ends = packets.iter().flat_map(|packet| [packet.source(), packet.destination()]);
    ends.flatten().filter(|address| address.to_string() != OUTSIDE).collect()
}

/// The first line that tcpdump prints of ICMP, of TCP and of UDP.
fn one_of_each_kind(lines: &str) -> Vec<&str> {
    let first = |kind: &str| lines.lines().find(|line| line.to_lowercase().contains(kind));
    [" icmp ", " tcp ", " udp"].into_iter().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcpdump_is_cut_down_to_one_line_of_each_kind() {
        let lines = "\
IP 203.0.113.2 > 203.0.113.1: ICMP echo request, id 9, seq 1, length 64
IP 203.0.113.2 > 203.0.113.1: ICMP echo request, id 9, seq 2, length 64
IP 203.0.113.2.1040 > 203.0.113.1.80: tcp 0
IP 203.0.113.2.1041 > 203.0.113.1.53: UDP, length 50
IP 203.0.113.2.1042 > 203.0.113.1.80: tcp 0
";
        let shown: Vec<&str> = lines.lines().step_by(2).collect();
        assert_eq!(
            one_of_each_kind(lines),
            [lines.lines().next().unwrap(), shown[1], lines.lines().nth(3).unwrap()]
        );
    }
}
