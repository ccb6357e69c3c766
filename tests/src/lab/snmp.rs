//! The kernel's counters of a namespace.

use std::collections::BTreeMap;
use std::fs;

use super::error::{Error, Result, While};
use super::namespace::Namespace;

/// Packets received with a wrong checksum, by protocol.
const CHECKSUM_ERRORS: [&str; 6] = [
    "IcmpInCsumErrors",
    "TcpInCsumErrors",
    "UdpInCsumErrors",
    "IpExtInCsumErrors",
    "Icmp6InCsumErrors",
    "Udp6InCsumErrors",
];

impl Namespace {
    /// Counters of `/proc/net/snmp`, `snmp6` and `netstat`, as `TcpRetransSegs`.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let mut counters = BTreeMap::new();
        for file in ["snmp", "netstat"] {
            let text = self.proc_net(file)?;
            let lines: Vec<&str> = text.lines().collect();
            for pair in lines.chunks_exact(2) {
                let (protocol, names) = pair[0].split_once(": ").unwrap_or_default();
                let values = pair[1].split(' ').skip(1);
                for (name, value) in names.split(' ').zip(values) {
                    counters.insert(format!("{protocol}{name}"), value.parse().unwrap_or(0));
                }
            }
        }
        for line in self.proc_net("snmp6")?.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(value)) = (words.next(), words.next()) {
                counters.insert(name.to_owned(), value.parse().unwrap_or(0));
            }
        }
        Ok(counters)
    }

    /// No packet was received there with a wrong checksum.
    ///
    /// # Panics
    /// If one was.
    pub fn assert_no_checksum_errors(&self) -> Result<()> {
        let counters = self.counters()?;
        for name in CHECKSUM_ERRORS {
            let count = counters.get(name).ok_or_else(|| Error::unexpected("counter", name))?;
            assert_eq!(*count, 0, "{name} of {}", self.name());
        }
        Ok(())
    }

    fn proc_net(&self, file: &str) -> Result<String> {
        // `/proc/net` would be that of the main thread.
        let path = format!("/proc/thread-self/net/{file}");
        self.enter(|| fs::read_to_string(&path))?.during(|| format!("read {path}"))
    }
}
