//! Routes of the main table through a gateway: adding and deleting them.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use serde::{Deserialize, Serialize};

use super::netlink::{AF_INET, AF_INET6, Connection, NetlinkError, Request, push_attribute};

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GatewayRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through whom; of the destination's family.
    pub gateway: IpAddr,
    /// Index of the interface that the gateway is at.
    pub interface: u32,
    /// The metric; the lower wins. The kernel takes another for IPv6 when it is 0.
    pub metric: u32,
}

impl GatewayRoute {
    /// Adds the route. Returns false if another of the same destination and metric is there: then it
    /// is somebody else's to delete.
    pub async fn add(&self) -> Result<bool, NetlinkError> {
        const RTM_NEWROUTE: u16 = 24;
        let request = Request {
            action: "add the route",
            message_type: RTM_NEWROUTE,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            body: self.message(),
        };
        match Connection::open()?.change(request).await {
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Deletes the route. Returns false if it is not there, perhaps with its interface.
    pub async fn delete(&self) -> Result<bool, NetlinkError> {
        const RTM_DELROUTE: u16 = 25;
        let request = Request {
            action: "delete the route",
            message_type: RTM_DELROUTE,
            flags: 0,
            body: self.message(),
        };
        match Connection::open()?.change(request).await {
            Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENODEV)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// `struct rtmsg` and attributes, as libvirt writes them (`virNetDevIPRouteAdd` in
    /// `src/util/virnetdevip.c`).
    fn message(&self) -> Vec<u8> {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_STATIC: u8 = 4;
        const RT_SCOPE_UNIVERSE: u8 = 0;
        const RTN_UNICAST: u8 = 1;
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RTA_PRIORITY: u16 = 6;

        let family = if self.destination.addr().is_ipv4() { AF_INET } else { AF_INET6 };
        let length = self.destination.prefix_len();
        let mut body = vec![family, length, 0, 0];
        body.extend([RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST]);
        body.extend(0_u32.to_ne_bytes());
        push_address(&mut body, RTA_DST, self.destination.network());
        push_address(&mut body, RTA_GATEWAY, self.gateway);
        push_attribute(&mut body, RTA_OIF, &self.interface.to_ne_bytes());
        push_attribute(&mut body, RTA_PRIORITY, &self.metric.to_ne_bytes());
        body
    }
}

fn push_address(body: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push_attribute(body, kind, &address.octets()),
        IpAddr::V6(address) => push_attribute(body, kind, &address.octets()),
    }
}
