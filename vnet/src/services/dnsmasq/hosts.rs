//! The files that dnsmasq reads again when it is told to: who gets which address, and the names of
//! addresses.

use std::fmt::Write as _;

use super::config::LeaseTime;
use crate::definition::{DhcpHost, Network};

/// `dhcp-hostsfile`: a line for each `<host>` of `<dhcp>`, as libvirt writes it (`hostsfileAdd` in
/// `src/util/virdnsmasq.c`).
#[must_use]
pub fn reserved(network: &Network) -> String {
    let hosts = network.ips.iter().filter_map(|ip| ip.dhcp.as_ref()).flat_map(|dhcp| &dhcp.hosts);
    hosts.map(line).collect()
}

/// `addn-hosts`: an address and its names on each line.
#[must_use]
pub fn records(network: &Network) -> String {
    let mut text = String::new();
    for host in network.dns.iter().filter(|dns| dns.enable).flat_map(|dns| &dns.hosts) {
        // A string takes everything.
        let _ = write!(text, "{}", host.ip.value);
        for name in &host.names {
            let _ = write!(text, "\t{}", name.value);
        }
        text.push('\n');
    }
    text
}

fn line(host: &DhcpHost) -> String {
    let mac = host.mac.as_ref().map(|mac| mac.value.to_string());
    let id = host.id.as_ref().map(|id| format!("id:{}", id.value));
    let name = host.name.as_ref().map(|name| name.value.clone());
    let ip = host.ip.value;
    let fields = if ip.is_ipv6() {
        [id, name, Some(format!("[{ip}]"))]
    } else {
        [mac, Some(ip.to_string()), name]
    };
    // A guest without MAC address is known by its name, which dnsmasq wants first.
    let mut fields: Vec<String> = fields.into_iter().flatten().collect();
    if host.mac.is_none() && ip.is_ipv4() {
        fields.reverse();
    }
    fields.extend(host.lease.map(|lease| LeaseTime(lease).to_string()));
    fields.join(",") + "\n"
}
