//! Families of generic netlink, which have their numbers from the kernel (`include/uapi/linux/genetlink.h`).

use std::collections::BTreeMap;

use super::netlink::{
    Connection, NetlinkError, Request, attributes, push_string, string, u16_at, u32_at,
};

pub(super) const NETLINK_GENERIC: isize = 16;
/// The controller's own number.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

/// A family as this kernel knows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Family {
    /// The type of its messages.
    pub id: u16,
    /// Its multicast groups by name.
    pub groups: BTreeMap<String, u32>,
}

/// A family by its name; `None` if the kernel has none of it.
pub(super) async fn family(
    connection: &mut Connection,
    name: &str,
    action: &'static str,
) -> Result<Option<Family>, NetlinkError> {
    let mut body = header(CTRL_CMD_GETFAMILY);
    push_string(&mut body, CTRL_ATTR_FAMILY_NAME, name);
    let request = Request { action, message_type: GENL_ID_CTRL, flags: 0, body };
    let mut family = None;
    let found = connection.ask(request, |_, body| family = family.take().or(parse(body))).await;
    match found {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        found => found.map(|()| family),
    }
}

/// `struct genlmsghdr`
pub(super) fn header(command: u8) -> Vec<u8> {
    vec![command, 1, 0, 0]
}

/// The attributes behind it.
pub(super) fn payload(body: &[u8]) -> Option<&[u8]> {
    body.get(4..)
}

fn parse(body: &[u8]) -> Option<Family> {
    let mut family = Family::default();
    for (kind, value) in attributes(payload(body)?) {
        match kind {
            CTRL_ATTR_FAMILY_ID => family.id = u16_at(value, 0)?,
            CTRL_ATTR_MCAST_GROUPS => {
                family.groups =
                    attributes(value).filter_map(|(_, group)| parse_group(group)).collect();
            }
            _ => {}
        }
    }
    (family.id != 0).then_some(family)
}

fn parse_group(group: &[u8]) -> Option<(String, u32)> {
    let find = |wanted| attributes(group).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    Some((string(find(CTRL_ATTR_MCAST_GRP_NAME)?), u32_at(find(CTRL_ATTR_MCAST_GRP_ID)?, 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::netlink::{push_attribute, push_nested};

    #[test]
    fn family_has_a_number_and_groups() {
        let (mut group, mut groups) = (Vec::new(), Vec::new());
        push_string(&mut group, CTRL_ATTR_MCAST_GRP_NAME, "mgmt");
        push_attribute(&mut group, CTRL_ATTR_MCAST_GRP_ID, &9_u32.to_ne_bytes());
        push_nested(&mut groups, 1, &group);
        let mut body = header(1);
        push_attribute(&mut body, CTRL_ATTR_FAMILY_ID, &33_u16.to_ne_bytes());
        push_nested(&mut body, CTRL_ATTR_MCAST_GROUPS, &groups);
        let family = Family { id: 33, groups: [("mgmt".to_owned(), 9)].into() };
        assert_eq!(parse(&body), Some(family));
        assert_eq!(parse(&header(1)), None);
        assert_eq!(parse(&[1, 1]), None);
    }
}
