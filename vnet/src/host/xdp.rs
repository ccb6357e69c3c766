//! What XDP the devices can do, as the kernel tells since Linux 6.3 (`Documentation/netlink/specs/netdev.yaml`).

use std::collections::BTreeMap;

use super::netlink::{Connection, NetlinkError, Request, attributes, push_string, u16_at, u32_at};
use crate::plan::XdpFeatures;

const NETLINK_GENERIC: isize = 16;
/// The controller's own number and commands: `include/uapi/linux/genetlink.h`.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `include/uapi/linux/netdev.h`
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;

const ACTION: &str = "ask what XDP the devices can do";

/// What XDP each device can do, by its index; `None` on kernels that do not tell.
pub async fn features() -> Result<Option<BTreeMap<u32, XdpFeatures>>, NetlinkError> {
    let mut connection = Connection::open_of(NETLINK_GENERIC, ACTION)?;
    let mut body = header(CTRL_CMD_GETFAMILY);
    push_string(&mut body, CTRL_ATTR_FAMILY_NAME, "netdev");
    let request = Request { action: ACTION, message_type: GENL_ID_CTRL, flags: 0, body };
    let mut family = None;
    let found = connection.ask(request, |_, body| family = family.or(family_in(body))).await;
    let family = match (found, family) {
        (Err(error), _) if error.errno() == Some(libc::ENOENT) => return Ok(None),
        (Err(error), _) => return Err(error),
        (Ok(()), None) => return Ok(None),
        (Ok(()), Some(family)) => family,
    };
    let body = header(NETDEV_CMD_DEV_GET);
    let request = Request { action: ACTION, message_type: family, flags: 0, body };
    let mut all = BTreeMap::new();
    connection.dump(request, |_, body| all.extend(parse(body))).await?;
    Ok(Some(all))
}

/// Whether a device has no program, of whatever mode.
pub async fn is_absent(ifindex: u32) -> Result<bool, NetlinkError> {
    const RTM_GETLINK: u16 = 18;
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_ATTACHED: u16 = 2;

    // struct ifinfomsg.
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let request = Request { action: ACTION, message_type: RTM_GETLINK, flags: 0, body };
    let mut attached = None;
    Connection::open()?
        .ask(request, |_, body| {
            let all = attributes(body.get(16..).unwrap_or_default());
            let xdp = all.filter(|(kind, _)| *kind == IFLA_XDP);
            let mut modes = xdp.flat_map(|(_, xdp)| attributes(xdp));
            attached =
                modes.find(|(kind, _)| *kind == IFLA_XDP_ATTACHED).map(|(_, mode)| mode == [0]);
        })
        .await?;
    Ok(attached.unwrap_or(false))
}

/// `struct genlmsghdr`
fn header(command: u8) -> Vec<u8> {
    vec![command, 1, 0, 0]
}

fn family_in(body: &[u8]) -> Option<u16> {
    let mut all = attributes(body.get(4..)?);
    all.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID).and_then(|(_, number)| u16_at(number, 0))
}

fn parse(body: &[u8]) -> Option<(u32, XdpFeatures)> {
    let (mut index, mut bits) = (None, 0);
    for (kind, payload) in attributes(body.get(4..)?) {
        match kind {
            NETDEV_A_DEV_IFINDEX => index = u32_at(payload, 0),
            NETDEV_A_DEV_XDP_FEATURES => {
                bits = payload.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            }
            _ => {}
        }
    }
    let native = bits & NETDEV_XDP_ACT_BASIC != 0;
    let takes_frames = bits & NETDEV_XDP_ACT_NDO_XMIT != 0;
    Some((index?, XdpFeatures { native, takes_frames }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netlink::push_attribute;

    #[test]
    fn features_are_bits_of_a_word() {
        let device = |bits: u64| {
            let mut body = header(NETDEV_CMD_DEV_GET);
            push_attribute(&mut body, NETDEV_A_DEV_IFINDEX, &7_u32.to_ne_bytes());
            push_attribute(&mut body, NETDEV_A_DEV_XDP_FEATURES, &bits.to_ne_bytes());
            parse(&body)
        };
        let features = |native, takes_frames| Some((7, XdpFeatures { native, takes_frames }));
        assert_eq!(device(0), features(false, false));
        assert_eq!(device(0b011), features(true, false));
        assert_eq!(device(0b111), features(true, true));
        assert_eq!(parse(&[1, 1]), None);
    }
}
