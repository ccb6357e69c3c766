//! What NICs do with VLAN tags (`Documentation/networking/ethtool-netlink.rst`, `FEATURES_GET`; Linux 5.8).

use std::collections::BTreeMap;

use super::{
    generic::{self, NETLINK_GENERIC},
    netlink::{Connection, NetlinkError, Request, attributes, push_attribute, push_nested, string},
};
use crate::plan::VlanOffloads;

/// `include/uapi/linux/ethtool_netlink.h`
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
/// `netdev_features_strings` in `net/ethtool/common.c`
const STRIPS: &str = "rx-vlan-hw-parse";
const STRIPS_SERVICE: &str = "rx-vlan-stag-hw-parse";
const FILTERS: &str = "rx-vlan-filter";

const ACTION: &str = "ask what devices do with VLAN tags";

/// What devices do with the VLAN tags of frames that come in. One that does not tell may do anything.
pub async fn vlan_offloads(devices: &[u32]) -> Result<BTreeMap<u32, VlanOffloads>, NetlinkError> {
    let mut all: BTreeMap<u32, VlanOffloads> =
        devices.iter().map(|device| (*device, VlanOffloads::UNTOLD)).collect();
    if devices.is_empty() {
        return Ok(all);
    }
    let mut connection = Connection::open_of(NETLINK_GENERIC, ACTION)?;
    let Some(family) = generic::family(&mut connection, "ethtool", ACTION).await? else {
        return Ok(all);
    };
    for (device, offloads) in &mut all {
        let mut header = Vec::new();
        push_attribute(&mut header, ETHTOOL_A_HEADER_DEV_INDEX, &device.to_ne_bytes());
        let mut body = generic::header(ETHTOOL_MSG_FEATURES_GET);
        push_nested(&mut body, ETHTOOL_A_FEATURES_HEADER, &header);
        let request = Request { action: ACTION, message_type: family.id, flags: 0, body };
        let mut told = None;
        let asked = connection.ask(request, |_, body| told = told.or(parse(body))).await;
        match asked {
            Ok(()) => *offloads = told.unwrap_or(VlanOffloads::UNTOLD),
            // It may be gone.
            Err(error) if error.errno().is_some() => log::debug!("{error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Of what is on, the names.
fn parse(body: &[u8]) -> Option<VlanOffloads> {
    let find = |bytes, wanted| {
        let mut all = attributes(bytes);
        all.find(|(kind, _)| *kind == wanted).map(|(_, payload): (u16, &[u8])| payload)
    };
    let active = find(generic::payload(body)?, ETHTOOL_A_FEATURES_ACTIVE)?;
    let mut offloads = VlanOffloads::default();
    for (kind, bit) in attributes(find(active, ETHTOOL_A_BITSET_BITS).unwrap_or_default()) {
        let name = find(bit, ETHTOOL_A_BITSET_BIT_NAME).map(string).unwrap_or_default();
        if kind == ETHTOOL_A_BITSET_BITS_BIT {
            offloads.strips |= name == STRIPS;
            offloads.strips_service |= name == STRIPS_SERVICE;
            offloads.filters |= name == FILTERS;
        }
    }
    Some(offloads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netlink::push_string;

    fn device(names: &[&str]) -> Option<VlanOffloads> {
        let mut bits = Vec::new();
        for name in names {
            let mut bit = Vec::new();
            push_string(&mut bit, ETHTOOL_A_BITSET_BIT_NAME, name);
            push_nested(&mut bits, ETHTOOL_A_BITSET_BITS_BIT, &bit);
        }
        let mut active = Vec::new();
        push_nested(&mut active, ETHTOOL_A_BITSET_BITS, &bits);
        let mut body = generic::header(ETHTOOL_MSG_FEATURES_GET);
        push_nested(&mut body, ETHTOOL_A_FEATURES_ACTIVE, &active);
        parse(&body)
    }

    #[test]
    fn offloads_are_known_by_their_names() {
        let offloads = |strips, strips_service, filters| {
            Some(VlanOffloads { strips, strips_service, filters })
        };
        assert_eq!(device(&["rx-gro", "tx-vlan-hw-insert"]), offloads(false, false, false));
        assert_eq!(device(&["rx-vlan-hw-parse"]), offloads(true, false, false));
        assert_eq!(device(&["rx-vlan-stag-hw-parse"]), offloads(false, true, false));
        assert_eq!(device(&["rx-vlan-filter", "rx-vlan-hw-parse"]), offloads(true, false, true));
        assert_eq!(parse(&[1, 1]), None);
    }
}
