//! The guests of a network that are known by name of their MAC addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vnet_common::limits;

use super::{Lease, duid};
use crate::definition::{AddressSources, MacAddress, Network};

/// The guests of a network, by MAC address, and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    guests: BTreeMap<MacAddress, Vec<IpAddr>>,
}

impl Known {
    /// What a definition and the network's leases say. Of an address that is given to two guests the
    /// definition's guest has it, or the first.
    #[must_use]
    pub fn of(definition: &Network, leases: &[Lease], sources: AddressSources) -> Self {
        let mut known = Self::default();
        let mut taken = BTreeSet::new();
        let mut add = |mac: MacAddress, address: Option<IpAddr>, wanted: bool| {
            let addresses = known.guests.entry(mac).or_default();
            let Some(address) = address.filter(|_| wanted) else { return };
            if addresses.len() < limits::ADDRESSES_PER_GUEST && taken.insert(address) {
                addresses.push(address);
            }
        };
        for guest in &definition.options.guests {
            let mac = guest.mac.value;
            add(mac, None, false);
            for address in &guest.addresses {
                add(mac, Some(address.value), sources.fixed);
            }
        }
        for host in definition.ips.iter().filter_map(|ip| ip.dhcp.as_ref()).flat_map(|d| &d.hosts) {
            let identifier = host.id.as_ref().and_then(|id| duid::parse(&id.value));
            let mac = host.mac.as_ref().map(|mac| mac.value);
            if let Some(mac) = mac.or_else(|| duid::mac(&identifier?)) {
                add(mac, Some(host.ip.value), sources.fixed);
            }
        }
        for lease in leases {
            add(lease.mac, Some(lease.address), sources.leases);
        }
        known
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn has(&self, mac: MacAddress) -> bool {
        self.guests.contains_key(&mac)
    }

    /// The addresses of a guest.
    #[must_use]
    pub fn addresses(&self, mac: MacAddress) -> &[IpAddr] {
        self.guests.get(&mac).map_or(&[], Vec::as_slice)
    }

    /// Every guest with its addresses.
    pub fn iter(&self) -> impl Iterator<Item = (MacAddress, &[IpAddr])> {
        self.guests.iter().map(|(mac, addresses)| (*mac, addresses.as_slice()))
    }

    /// The guest whose tap has this MAC address: libvirt gives the tap the guest's own but for the
    /// first byte, which is 0xfe (`virNetDevTapCreateInBridgePort` in `src/util/virnetdevtap.c`).
    /// `None` if it is nobody's, or of two.
    #[must_use]
    pub fn guest_of_port(&self, port: MacAddress) -> Option<MacAddress> {
        let [0xfe, rest @ ..] = port.0 else { return None };
        let mut matching = self.guests.keys().filter(|mac| mac.0[1..] == rest);
        let found = matching.next()?;
        matching.next().is_none().then_some(*found)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::definition;

    const ALL: AddressSources = AddressSources { fixed: true, leases: true, learn: false };

    fn network(rest: &str) -> Network {
        let text = format!(
            "<network><name>n</name><metadata><vnet:options xmlns:vnet='urn:vnet:options:1'>\
             <vnet:guard/><vnet:guest mac='52:54:00:00:00:03'>\
             <vnet:address ip='192.168.122.30'/></vnet:guest></vnet:options></metadata>\
             <bridge name='virbr0'/>\
             <ip address='192.168.122.1' prefix='24'><dhcp>{rest}</dhcp></ip></network>"
        );
        let loaded = definition::load_text(Path::new("network.xml"), &text);
        let report = loaded.report.render(definition::Severity::Error);
        assert!(!loaded.report.has_errors(), "{report}");
        loaded.networks.into_iter().next().unwrap()
    }

    fn listed(known: &Known) -> Vec<String> {
        known.iter().map(|(mac, addresses)| format!("{mac} {addresses:?}")).collect()
    }

    const HOST: &str = "<host mac='52:54:00:00:00:01' ip='192.168.122.10'/>";

    #[test]
    fn addresses_come_from_the_definition_and_from_leases() {
        let lease = |last: u8, address: &str| Lease {
            mac: MacAddress([0x52, 0x54, 0, 0, 0, last]),
            address: address.parse().unwrap(),
        };
        // The last wants what the definition gives to another.
        let leases =
            [lease(1, "192.168.122.10"), lease(2, "192.168.122.20"), lease(2, "192.168.122.10")];
        let network = network(HOST);
        assert_eq!(
            listed(&Known::of(&network, &leases, ALL)),
            [
                "52:54:00:00:00:01 [192.168.122.10]",
                "52:54:00:00:00:02 [192.168.122.20]",
                "52:54:00:00:00:03 [192.168.122.30]",
            ]
        );
        let only = AddressSources { fixed: false, leases: true, learn: false };
        assert_eq!(
            listed(&Known::of(&network, &leases, only)),
            [
                "52:54:00:00:00:01 [192.168.122.10]",
                "52:54:00:00:00:02 [192.168.122.20]",
                "52:54:00:00:00:03 []",
            ]
        );
    }

    #[test]
    fn one_guest_is_given_no_more_than_its_share() {
        let mac = MacAddress([0x52, 0x54, 0, 0, 0, 9]);
        let lease = |last: u8| Lease { mac, address: IpAddr::from([192, 168, 122, last]) };
        let leases: Vec<Lease> = (100..200).map(lease).collect();
        let known = Known::of(&network(HOST), &leases, ALL);
        let of_guest = known.iter().find(|(other, _)| *other == mac).unwrap().1.len();
        assert_eq!(of_guest, 32);
    }

    #[test]
    fn tap_has_the_guests_mac_but_for_the_first_byte() {
        let known = Known::of(&network(HOST), &[], ALL);
        let port = |bytes| known.guest_of_port(MacAddress(bytes));
        let guest = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
        assert_eq!(port([0xfe, 0x54, 0, 0, 0, 1]), Some(guest));
        assert_eq!(port([0xfe, 0x54, 0, 0, 0, 7]), None);
        assert_eq!(port([0x52, 0x54, 0, 0, 0, 1]), None);
        let twin = "<host mac='56:54:00:00:00:01' ip='192.168.122.11'/>";
        let known = Known::of(&network(&format!("{HOST}{twin}")), &[], ALL);
        assert_eq!(known.guest_of_port(MacAddress([0xfe, 0x54, 0, 0, 0, 1])), None);
    }
}
