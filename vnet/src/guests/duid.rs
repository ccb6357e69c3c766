//! DHCP unique identifiers (RFC 8415, section 11), as dnsmasq and libvirt write them.

use crate::definition::MacAddress;

const LINK_LAYER_AND_TIME: u16 = 1;
const LINK_LAYER: u16 = 3;
const ETHERNET: u16 = 1;
/// A client identifier of `DHCPv4` that holds a DUID (RFC 4361, section 6.1): its type and the four
/// bytes of the interface's number come first.
const NODE_SPECIFIC: u8 = 255;

/// Reads bytes in hexadecimal between colons; a leading zero may be left out.
pub(super) fn parse(text: &str) -> Option<Vec<u8>> {
    let byte = |part: &str| {
        (1..=2).contains(&part.len()).then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    text.split(':').map(byte).collect()
}

/// The MAC address of an Ethernet interface in a DUID, if it is of a kind that has one.
pub(super) fn mac(duid: &[u8]) -> Option<MacAddress> {
    let word = |at: usize| Some(u16::from_be_bytes([*duid.get(at)?, *duid.get(at + 1)?]));
    let address = match word(0)? {
        LINK_LAYER_AND_TIME => duid.get(8..)?,
        LINK_LAYER => duid.get(4..)?,
        _ => return None,
    };
    (word(2)? == ETHERNET).then_some(MacAddress(address.try_into().ok()?))
}

/// The DUID in a client identifier of `DHCPv4`, if it holds one.
pub(super) fn of_client_identifier(identifier: &[u8]) -> Option<&[u8]> {
    match identifier {
        [NODE_SPECIFIC, _, _, _, _, duid @ ..] if !duid.is_empty() => Some(duid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn link_layer_kinds_hold_the_mac() {
        for (text, expected) in [
            ("00:03:00:01:52:54:00:12:34:56", Some(MAC)),
            ("0:3:0:1:52:54:0:12:34:56", Some(MAC)),
            ("00:01:00:01:2a:bb:cc:dd:52:54:00:12:34:56", Some(MAC)),
            // InfiniBand, an enterprise's number, a UUID, and what is too short.
            ("00:03:00:20:52:54:00:12:34:56", None),
            ("00:02:00:00:ab:11:52:54:00:12:34:56", None),
            ("00:04:52:54:00:12:34:56:52:54:00:12:34:56:00:00:00:00", None),
            ("00:03:00:01:52:54:00:12:34", None),
            ("00", None),
        ] {
            assert_eq!(mac(&parse(text).unwrap()), expected, "{text}");
        }
        for text in ["", "*", "0:3:", "0:333", "g0"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn client_identifier_may_hold_a_duid() {
        let identifier = parse("ff:00:12:34:56:00:04:aa").unwrap();
        assert_eq!(of_client_identifier(&identifier), Some([0, 4, 0xaa].as_slice()));
        assert_eq!(of_client_identifier(&[1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]), None);
        assert_eq!(of_client_identifier(&[255, 0, 0, 0, 1]), None);
    }
}
