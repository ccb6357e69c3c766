//! DHCP leases, from the files in which dnsmasq and libvirt keep them.
//!
//! libvirt's networks write `BRIDGE.status` through its lease helper (`src/network/leaseshelper.c`);
//! a dnsmasq that keeps its own leases writes `NETWORK.leases` (`lease_update_file` in dnsmasq's
//! `src/lease.c`).

use std::{fs, net::IpAddr, path::Path};

use serde::Deserialize;

use super::duid;
use crate::{definition::MacAddress, services::dnsmasq::file_stem};

/// An address that a guest was lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The guest.
    pub mac: MacAddress,
    /// The address.
    pub address: IpAddr,
}

/// Every lease of a network in a directory of lease files that has not ended at `now`, in seconds of
/// Unix time. A file that is not there, or says nothing that is understood, has no leases.
#[must_use]
pub fn read(directory: &Path, network: &str, bridge: &str, now: u64) -> Vec<Lease> {
    let text = |name: String| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let mut entries = status_entries(&text(format!("{bridge}.status")));
    entries.extend(lease_entries(&text(format!("{network}.leases"))));
    let ours = file_stem(network);
    if ours != network {
        entries.extend(lease_entries(&text(format!("{ours}.leases"))));
    }
    leases(entries, now)
}

/// What a file says of a lease.
struct Entry {
    /// Seconds of Unix time; 0 for never.
    expires: u64,
    address: IpAddr,
    mac: Option<MacAddress>,
    /// A client identifier of `DHCPv4`, or a DUID of `DHCPv6`.
    client: Option<Vec<u8>>,
}

impl Entry {
    /// The identity that `DHCPv4` and `DHCPv6` of one guest have in common (RFC 4361).
    fn duid(&self) -> Option<&[u8]> {
        let client = self.client.as_deref()?;
        if self.address.is_ipv6() { Some(client) } else { duid::of_client_identifier(client) }
    }
}

/// `DHCPv6` does not always tell the server a MAC address. Then it is that of the lease of `DHCPv4` with
/// the same DUID, or the one in the DUID.
fn leases(mut entries: Vec<Entry>, now: u64) -> Vec<Lease> {
    entries.retain(|entry| entry.expires == 0 || entry.expires > now);
    let mac_of = |entry: &Entry| {
        let of_same_guest = |duid: &[u8]| {
            entries.iter().find(|other| other.duid() == Some(duid)).and_then(|other| other.mac)
        };
        entry.mac.or_else(|| {
            let duid = entry.duid()?;
            of_same_guest(duid).or_else(|| duid::mac(duid))
        })
    };
    let lease = |entry: &Entry| Some(Lease { mac: mac_of(entry)?, address: entry.address });
    entries.iter().filter_map(lease).collect()
}

/// dnsmasq's file: time of expiry, MAC address or IAID, address, name, client identifier or DUID.
fn lease_entries(text: &str) -> Vec<Entry> {
    text.lines().filter_map(lease_entry).collect()
}

fn lease_entry(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    // The server's own DUID has a line that begins with a word.
    let expires = words.next()?.parse().ok()?;
    let hardware = words.next()?;
    let address: IpAddr = words.next()?.parse().ok()?;
    let client = words.nth(1).and_then(duid::parse);
    let mac = if address.is_ipv4() { Some(parse_mac(hardware)?) } else { None };
    Some(Entry { expires, address, mac, client })
}

/// An element of libvirt's file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StatusEntry {
    ip_address: Option<IpAddr>,
    mac_address: Option<String>,
    client_id: Option<String>,
    #[serde(default)]
    expiry_time: u64,
}

fn status_entries(json: &str) -> Vec<Entry> {
    let elements: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let entry = |element| {
        let element: StatusEntry = serde_json::from_value(element).ok()?;
        Some(Entry {
            expires: element.expiry_time,
            address: element.ip_address?,
            mac: element.mac_address.as_deref().and_then(parse_mac),
            client: element.client_id.as_deref().and_then(duid::parse),
        })
    };
    elements.into_iter().filter_map(entry).collect()
}

fn parse_mac(text: &str) -> Option<MacAddress> {
    duid::parse(text)?.try_into().ok().map(MacAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 2]);

    fn lease(mac: MacAddress, address: &str) -> Lease {
        Lease { mac, address: address.parse().unwrap() }
    }

    #[test]
    fn leases_of_dnsmasq_are_read_for_both_families() {
        let text = "\
            1000 52:54:00:00:00:01 192.168.122.10 guest ff:00:00:00:01:00:04:aa:bb\n\
            0 52:54:00:00:00:02 192.168.122.11 * *\n\
            900 52:54:00:00:00:02 192.168.122.12 * 01:52:54:00:00:00:02\n\
            1000 06-00:11:22:33:44:55 192.168.122.13 * *\n\
            duid 00:01:00:01:2c:aa:bb:cc:52:54:00:00:00:fe\n\
            1000 1 fd00:122::10 guest 00:04:aa:bb\n\
            1000 T2 fd00:122::11 * 00:03:00:01:52:54:00:00:00:02\n\
            1000 3 fd00:122::12 * 00:02:00:00:ab:11\n\
            nonsense\n";
        let expected = [
            lease(GUEST, "192.168.122.10"),
            lease(OTHER, "192.168.122.11"),
            lease(GUEST, "fd00:122::10"),
            lease(OTHER, "fd00:122::11"),
        ];
        assert_eq!(leases(lease_entries(text), 950), expected);
        assert_eq!(leases(lease_entries(text), 2000), [expected[1]]);
    }

    #[test]
    fn leases_of_libvirt_are_read_for_both_families() {
        let json = r#"[
            {"ip-address": "192.168.122.10", "mac-address": "52:54:00:00:00:01",
             "hostname": "guest", "client-id": "01:52:54:00:00:00:01", "expiry-time": 1000},
            {"iaid": "1", "ip-address": "fd00:122::10", "mac-address": "52:54:00:00:00:01",
             "client-id": "00:02:aa", "server-duid": "00:01:bb", "expiry-time": 1000},
            {"iaid": "2", "ip-address": "fd00:122::11",
             "client-id": "00:03:00:01:52:54:00:00:00:02", "expiry-time": 1000},
            {"ip-address": "192.168.122.12", "mac-address": "52:54:00:00:00:02",
             "expiry-time": 900},
            {"ip-address": 7}, 7
        ]"#;
        let expected = [
            lease(GUEST, "192.168.122.10"),
            lease(GUEST, "fd00:122::10"),
            lease(OTHER, "fd00:122::11"),
        ];
        assert_eq!(leases(status_entries(json), 950), expected);
        assert_eq!(leases(status_entries("[{]"), 950), []);
    }
}
