//! What XDP the devices can do, as the kernel tells since Linux 6.3 (`Documentation/netlink/specs/netdev.yaml`).

use std::{collections::BTreeMap, io};

use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use super::{
    generic::{self, NETLINK_GENERIC},
    netlink::{Connection, NetlinkError, Request, attributes, messages, u32_at},
};
use crate::plan::XdpFeatures;

/// `include/uapi/linux/netdev.h`
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_CMD_DEV_CHANGE_NTF: u8 = 4;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_NDO_XMIT: u64 = 4;
/// The group that is told of changes.
const MANAGEMENT: &str = "mgmt";

const FAMILY: &str = "netdev";
const ACTION: &str = "ask what XDP the devices can do";
const WATCHING: &str = "watch what XDP the devices can do";
/// A notification is some words.
const RECEIVE_BUFFER: usize = 8 * 1024;

/// What XDP each device can do, by its index; `None` on kernels that do not tell.
pub async fn features() -> Result<Option<BTreeMap<u32, XdpFeatures>>, NetlinkError> {
    let mut connection = Connection::open_of(NETLINK_GENERIC, ACTION)?;
    let Some(family) = generic::family(&mut connection, FAMILY, ACTION).await? else {
        return Ok(None);
    };
    let body = generic::header(NETDEV_CMD_DEV_GET);
    let request = Request { action: ACTION, message_type: family.id, flags: 0, body };
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

/// Listens for devices that can do other XDP than before.
pub struct FeatureWatch {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl FeatureWatch {
    /// Starts to listen in the calling thread's network namespace; `None` on kernels that do not tell. Must be called
    /// inside a tokio runtime.
    pub async fn open() -> Result<Option<Self>, NetlinkError> {
        let mut connection = Connection::open_of(NETLINK_GENERIC, WATCHING)?;
        let family = generic::family(&mut connection, FAMILY, WATCHING).await?;
        let Some(group) = family.and_then(|family| family.groups.get(MANAGEMENT).copied()) else {
            return Ok(None);
        };
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
            socket.socket_mut().bind_auto()?;
            socket.socket_ref().add_membership(group)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Socket { action: WATCHING, source })?;
        Ok(Some(Self { socket, buffer: Vec::with_capacity(RECEIVE_BUFFER) }))
    }

    /// Waits for a change: the device and what it can do now; `None` if the kernel has lost some. May be cancelled.
    pub async fn next(&mut self) -> Result<Option<(u32, XdpFeatures)>, NetlinkError> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                // Any process may write to the socket; port 0 is the kernel.
                Ok(sender) if sender.port_number() != 0 => {}
                Ok(_) => {
                    // The kernel sends one at a time.
                    let mut all = messages(&self.buffer).flatten();
                    if let Some(change) = all.find_map(|message| change(message.body)) {
                        return Ok(Some(change));
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Err(source) => return Err(NetlinkError::Socket { action: WATCHING, source }),
            }
        }
    }
}

fn change(body: &[u8]) -> Option<(u32, XdpFeatures)> {
    let is_change = body.first() == Some(&NETDEV_CMD_DEV_CHANGE_NTF);
    is_change.then(|| parse(body)).flatten()
}

fn parse(body: &[u8]) -> Option<(u32, XdpFeatures)> {
    let (mut index, mut bits) = (None, 0);
    for (kind, payload) in attributes(generic::payload(body)?) {
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
            let mut body = generic::header(NETDEV_CMD_DEV_GET);
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

    #[test]
    fn of_notifications_only_changes_count() {
        let mut body = generic::header(NETDEV_CMD_DEV_CHANGE_NTF);
        push_attribute(&mut body, NETDEV_A_DEV_IFINDEX, &7_u32.to_ne_bytes());
        push_attribute(&mut body, NETDEV_A_DEV_XDP_FEATURES, &4_u64.to_ne_bytes());
        assert_eq!(change(&body), Some((7, XdpFeatures { native: false, takes_frames: true })));
        body[0] = 3;
        assert_eq!(change(&body), None);
    }
}
