//! Settings of a bridge's ports: isolation and VLANs (`br_setlink` in `net/bridge/br_netlink.c`).

use serde::{Deserialize, Serialize};

use super::netlink::{
    Connection, NetlinkError, Request, attributes, push_attribute, push_nested, u16_at, u32_at,
};

const AF_BRIDGE: u8 = 7;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_PROTINFO: u16 = 12;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;

/// A VLAN of a bridge's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortVlan {
    /// Its identifier, 1 to 4094.
    pub id: u16,
    /// Untagged frames from the guest are of this VLAN.
    pub pvid: bool,
    /// Frames of this VLAN go to the guest untagged.
    pub untagged: bool,
}

impl PortVlan {
    fn flags(self) -> u16 {
        let flag = |set, flag| if set { flag } else { 0 };
        flag(self.pvid, BRIDGE_VLAN_INFO_PVID) | flag(self.untagged, BRIDGE_VLAN_INFO_UNTAGGED)
    }
}

/// Whether a change found its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The port has the setting now.
    Yes,
    /// There is no such port any more.
    Gone,
}

/// Sets whether a port of a bridge is isolated: then it talks only to ports that are not.
pub async fn set_isolated(port: u32, isolated: bool) -> Result<Changed, NetlinkError> {
    let request = Request {
        action: "set the isolation of a bridge's port",
        message_type: RTM_SETLINK,
        flags: 0,
        body: isolation_message(port, isolated),
    };
    change(request).await
}

/// Adds VLANs to a port of a bridge.
pub async fn add_vlans(port: u32, vlans: &[PortVlan]) -> Result<Changed, NetlinkError> {
    let request = Request {
        action: "add VLANs to a bridge's port",
        message_type: RTM_SETLINK,
        flags: 0,
        body: vlan_message(port, vlans),
    };
    change(request).await
}

/// Takes VLANs off a port of a bridge.
pub async fn delete_vlans(port: u32, vlans: &[PortVlan]) -> Result<Changed, NetlinkError> {
    let request = Request {
        action: "take VLANs off a bridge's port",
        message_type: RTM_DELLINK,
        flags: 0,
        body: vlan_message(port, vlans),
    };
    change(request).await
}

/// The VLANs of every port of the host's bridges, by interface index; ports without any are left
/// out, and so is everything on a kernel without VLAN filtering.
pub async fn vlans() -> Result<Vec<(u32, Vec<PortVlan>)>, NetlinkError> {
    const RTEXT_FILTER_BRVLAN: u32 = 1 << 1;
    let mut body = header(0);
    push_attribute(&mut body, IFLA_EXT_MASK, &RTEXT_FILTER_BRVLAN.to_ne_bytes());
    let request = Request {
        action: "list the VLANs of bridges' ports",
        message_type: RTM_GETLINK,
        flags: 0,
        body,
    };
    let mut found = Vec::new();
    let mut connection = Connection::open()?;
    connection
        .dump(request, |kind, body| {
            found.extend((kind == RTM_NEWLINK).then(|| parse_vlans(body)).flatten());
        })
        .await?;
    Ok(found)
}

async fn change(request: Request) -> Result<Changed, NetlinkError> {
    match Connection::open()?.change(request).await {
        Ok(()) => Ok(Changed::Yes),
        // The interface is gone, or is no bridge's port any more.
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::EOPNOTSUPP)) => {
            Ok(Changed::Gone)
        }
        Err(error) => Err(error),
    }
}

/// `struct ifinfomsg`
fn header(index: u32) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[0] = AF_BRIDGE;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

fn isolation_message(port: u32, isolated: bool) -> Vec<u8> {
    let mut body = header(port);
    let mut settings = Vec::new();
    push_attribute(&mut settings, IFLA_BRPORT_ISOLATED, &[u8::from(isolated)]);
    push_nested(&mut body, IFLA_PROTINFO, &settings);
    body
}

/// With one `struct bridge_vlan_info` for each.
fn vlan_message(port: u32, vlans: &[PortVlan]) -> Vec<u8> {
    let mut body = header(port);
    let mut infos = Vec::new();
    for vlan in vlans {
        let info = [vlan.flags().to_ne_bytes(), vlan.id.to_ne_bytes()].concat();
        push_attribute(&mut infos, IFLA_BRIDGE_VLAN_INFO, &info);
    }
    push_nested(&mut body, IFLA_AF_SPEC, &infos);
    body
}

fn parse_vlans(body: &[u8]) -> Option<(u32, Vec<PortVlan>)> {
    let index = u32_at(body, 4)?;
    let mut vlans = Vec::new();
    for (_, spec) in attributes(body.get(16..)?).filter(|(kind, _)| *kind == IFLA_AF_SPEC) {
        for (_, info) in attributes(spec).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
            let flags = u16_at(info, 0)?;
            vlans.push(PortVlan {
                id: u16_at(info, 2)?,
                pvid: flags & BRIDGE_VLAN_INFO_PVID != 0,
                untagged: flags & BRIDGE_VLAN_INFO_UNTAGGED != 0,
            });
        }
    }
    (!vlans.is_empty()).then_some((index, vlans))
}

// Not every kernel that runs the tests has VLAN filtering: the messages are checked byte by byte.
#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    const HEADER: [u8; 16] = [7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn isolation_is_a_port_setting() {
        let expected = [
            HEADER.as_slice(),
            // IFLA_PROTINFO with NLA_F_NESTED, and in it IFLA_BRPORT_ISOLATED, padded to four bytes.
            &[12, 0, 12, 0x80],
            &[5, 0, 33, 0, 1, 0, 0, 0],
        ];
        assert_eq!(isolation_message(5, true), expected.concat());
        assert_eq!(isolation_message(5, false)[24], 0);
    }

    #[test]
    fn vlans_are_told_one_by_one() {
        let vlans = [
            PortVlan { id: 100, pvid: true, untagged: true },
            PortVlan { id: 0x234, pvid: false, untagged: false },
        ];
        let message = vlan_message(5, &vlans);
        let expected = [
            HEADER.as_slice(),
            // IFLA_AF_SPEC with NLA_F_NESTED, and in it an IFLA_BRIDGE_VLAN_INFO for each.
            &[20, 0, 26, 0x80],
            &[8, 0, 2, 0, 6, 0, 100, 0],
            &[8, 0, 2, 0, 0, 0, 0x34, 2],
        ];
        assert_eq!(message, expected.concat());
        // The kernel tells of them in the same form.
        assert_eq!(parse_vlans(&message), Some((5, vlans.to_vec())));
        assert_eq!(parse_vlans(&vlan_message(5, &[])), None);
        assert_eq!(parse_vlans(&message[..10]), None);
    }
}
