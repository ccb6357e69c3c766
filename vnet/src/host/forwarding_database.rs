//! The bridges' forwarding databases and the neighbour tables: what they say, and notice of every change.

use std::{io, os::fd::AsFd};

use futures::FutureExt as _;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{
    netlink::{
        AF_INET, AF_INET6, Connection, NetlinkError, Request, attributes, ip_address, messages,
        push_attribute, u16_at, u32_at,
    },
    qdisc::{RTM_DELQDISC, RTM_DELTFILTER, RTM_NEWQDISC, RTM_NEWTFILTER},
    snapshot::table,
};

const AF_BRIDGE: u8 = 7;
const RTM_DELLINK: u16 = 17;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RECEIVE_BUFFER: usize = 64 * 1024;
/// What the kernel keeps for us, in bytes.
const KEPT: usize = 4 << 20;
/// Datagrams that are read at once at most.
const BATCH: usize = 256;
const WATCHING: &str = "watch the bridges' forwarding databases";

/// An address that a bridge knows at one of its ports, without a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// Interface index of the bridge.
    pub bridge: u32,
    /// Interface index of the port.
    pub port: u32,
    /// The address.
    pub mac: [u8; 6],
}

/// A change of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A bridge has learned an address, or knows it at another port.
    Known(Station),
    /// It has forgotten it.
    Forgotten(Station),
    /// An interface has gone, or is no port of its bridge any more.
    Left {
        /// Interface index.
        interface: u32,
    },
    /// A neighbour has this link-layer address, or none any more.
    Neighbour {
        /// Interface index.
        interface: u32,
        /// Its address.
        address: std::net::IpAddr,
        /// None while it is not known.
        mac: Option<[u8; 6]>,
    },
    /// Somebody has changed queueing disciplines or filters.
    TrafficControl {
        /// Interface index; [`MANY_INTERFACES`] if several share them.
        interface: u32,
    },
}

/// `TCM_IFINDEX_MAGIC_BLOCK` of `include/uapi/linux/rtnetlink.h`.
pub const MANY_INTERFACES: u32 = u32::MAX;

/// What has happened.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the kernel's order.
    pub events: Vec<Event>,
    /// The kernel lost some (`ENOBUFS`): the tables have to be read again.
    pub overrun: bool,
}

/// Listens for changes since it was opened.
pub struct NeighbourWatch {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl NeighbourWatch {
    /// Starts to listen in the calling thread's network namespace. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_with(KEPT)
    }

    /// As [`NeighbourWatch::open`], with room for so many bytes of notifications.
    pub fn open_with(bytes: usize) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            // Beyond `net.core.rmem_max` it takes CAP_NET_ADMIN.
            setsockopt(&Borrowed(&socket), sockopt::RcvBufForce, &bytes)
                .or_else(|_| setsockopt(&Borrowed(&socket), sockopt::RcvBuf, &bytes))?;
            socket.socket_mut().bind_auto()?;
            for group in [MulticastGroup::Neigh, MulticastGroup::Tc, MulticastGroup::Link] {
                socket.socket_ref().add_membership(group as u32)?;
            }
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError::Socket { action: WATCHING, source })?;
        Ok(Self { socket, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// Waits for changes, and takes what else is there already. May be cancelled.
    pub async fn next(&mut self) -> Result<Batch, NetlinkError> {
        let mut batch = Batch::default();
        self.receive(&mut batch).await?;
        for _ in 0..BATCH {
            match self.receive(&mut batch).now_or_never() {
                Some(received) => received?,
                None => break,
            }
        }
        Ok(batch)
    }

    async fn receive(&mut self, batch: &mut Batch) -> Result<(), NetlinkError> {
        self.buffer.clear();
        match self.socket.recv_from(&mut self.buffer).await {
            // Any process may write to the socket; port 0 is the kernel.
            Ok(sender) if sender.port_number() != 0 => {}
            Ok(_) => {
                let messages = messages(&self.buffer).flatten();
                batch
                    .events
                    .extend(messages.filter_map(|message| event(message.kind, message.body)));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => batch.overrun = true,
            Err(source) => return Err(NetlinkError::Socket { action: WATCHING, source }),
        }
        Ok(())
    }
}

struct Borrowed<'a>(&'a TokioSocket);

impl AsFd for Borrowed<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the socket owns the descriptor and is borrowed for as long as the result.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// What a bridge knows; nothing if it is gone.
pub async fn stations(bridge: u32) -> Result<Vec<Station>, NetlinkError> {
    const IFLA_MASTER: u16 = 10;
    // struct ifinfomsg: so the kernel takes a filter (`valid_fdb_dump_legacy` in `net/core/rtnetlink.c`).
    let request = || {
        let mut body = vec![0; 16];
        body[0] = AF_BRIDGE;
        push_attribute(&mut body, IFLA_MASTER, &bridge.to_ne_bytes());
        let action = "list a bridge's forwarding database";
        Request { action, message_type: RTM_GETNEIGH, flags: 0, body }
    };
    let of_bridge = |kind, body: &[u8]| {
        let station = (kind == RTM_NEWNEIGH).then(|| station(body)).flatten()?;
        station.ok().filter(|station| station.bridge == bridge)
    };
    // It changes all the time, of which the watch tells.
    let found = table(&mut Connection::open()?, &mut false, request, of_bridge).await;
    match found {
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(Vec::new()),
        found => found,
    }
}

/// The neighbours of both families, as events.
pub async fn neighbours() -> Result<Vec<Event>, NetlinkError> {
    let mut connection = Connection::open()?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = || {
            // struct ndmsg.
            let mut body = vec![0; 12];
            body[0] = family;
            let action = "list the neighbours";
            Request { action, message_type: RTM_GETNEIGH, flags: 0, body }
        };
        found.extend(table(&mut connection, &mut false, request, event).await?);
    }
    Ok(found)
}

/// Reads `struct ndmsg` or `struct tcmsg` and attributes.
fn event(kind: u16, body: &[u8]) -> Option<Event> {
    const NUD_INCOMPLETE: u16 = 0x01;
    const NUD_FAILED: u16 = 0x20;
    match (kind, *body.first()?) {
        // `struct ifinfomsg`; a bridge tells of a port that leaves it.
        (RTM_DELLINK, 0 | AF_BRIDGE) => Some(Event::Left { interface: u32_at(body, 4)? }),
        // What was learned may become the bridge's own.
        (RTM_NEWNEIGH, AF_BRIDGE) => Some(match station(body)? {
            Ok(station) => Event::Known(station),
            Err(own) => Event::Forgotten(own),
        }),
        (RTM_DELNEIGH, AF_BRIDGE) => {
            let (Ok(station) | Err(station)) = station(body)?;
            Some(Event::Forgotten(station))
        }
        (RTM_NEWNEIGH | RTM_DELNEIGH, AF_INET | AF_INET6) => {
            let is_known =
                kind == RTM_NEWNEIGH && u16_at(body, 8)? & (NUD_INCOMPLETE | NUD_FAILED) == 0;
            let (address, mac) = addresses(body)?;
            let (interface, mac) = (u32_at(body, 4)?, mac.filter(|_| is_known));
            Some(Event::Neighbour { interface, address: address?, mac })
        }
        (RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER, _) => {
            Some(Event::TrafficControl { interface: u32_at(body, 4)? })
        }
        _ => None,
    }
}

type Addresses = (Option<std::net::IpAddr>, Option<[u8; 6]>);

fn addresses(body: &[u8]) -> Option<Addresses> {
    const NDA_DST: u16 = 1;
    let (mut address, mut mac) = (None, None);
    for (kind, payload) in attributes(body.get(12..)?) {
        match kind {
            NDA_DST => address = ip_address(payload),
            NDA_LLADDR => mac = payload.try_into().ok(),
            _ => {}
        }
    }
    Some((address, mac))
}

const NDA_LLADDR: u16 = 2;

/// An entry of a bridge itself for a station behind a port (`fdb_fill_info` in `net/bridge/br_fdb.c`), not one
/// of a port's driver. `Err` if the address is one of the bridge's own or of a port.
fn station(body: &[u8]) -> Option<Result<Station, Station>> {
    const NDA_VLAN: u16 = 5;
    const NDA_MASTER: u16 = 9;
    const NUD_PERMANENT: u16 = 0x80;
    const NTF_SELF: u8 = 0x02;

    let (port, state, flags) = (u32_at(body, 4)?, u16_at(body, 8)?, *body.get(10)?);
    let (mut mac, mut bridge, mut vlan) = (None, None, 0);
    for (kind, payload) in attributes(body.get(12..)?) {
        match kind {
            NDA_LLADDR => mac = payload.try_into().ok(),
            NDA_VLAN => vlan = u16_at(payload, 0).unwrap_or_default(),
            NDA_MASTER => bridge = u32_at(payload, 0),
            _ => {}
        }
    }
    let station = Station { bridge: bridge?, port, mac: mac? };
    let is_local = state & NUD_PERMANENT != 0 || station.port == station.bridge;
    let station = if is_local { Err(station) } else { Ok(station) };
    (flags & NTF_SELF == 0 && vlan == 0).then_some(station)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 7];

    fn entry(port: u32, state: u16, flags: u8, vlan: Option<u16>) -> Vec<u8> {
        let mut body = vec![AF_BRIDGE, 0, 0, 0];
        body.extend(port.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([flags, 0]);
        push_attribute(&mut body, NDA_LLADDR, &MAC);
        push_attribute(&mut body, 9, &3_u32.to_ne_bytes());
        vlan.inspect(|vlan| push_attribute(&mut body, 5, &vlan.to_ne_bytes()));
        body
    }

    #[test]
    fn stations_are_what_bridges_have_at_their_ports_without_a_vlan() {
        let at = |port| Station { bridge: 3, port, mac: MAC };
        let known = Some(Ok(at(5)));
        // Learned, and entered by somebody.
        assert_eq!(station(&entry(5, 0x02, 0, None)), known);
        assert_eq!(station(&entry(5, 0x40, 0x10, None)), known);
        let forgotten = Some(Event::Forgotten(at(5)));
        assert_eq!(event(RTM_DELNEIGH, &entry(5, 0x02, 0, None)), forgotten);
        let mut link = vec![AF_BRIDGE, 0, 0, 0];
        link.extend(5_u32.to_ne_bytes());
        assert_eq!(event(RTM_DELLINK, &link), Some(Event::Left { interface: 5 }));
        // A port's own address, also if it was a station's; the bridge's.
        assert_eq!(station(&entry(5, 0x80, 0, None)), Some(Err(at(5))));
        assert_eq!(event(RTM_NEWNEIGH, &entry(5, 0x80, 0, None)), forgotten);
        assert_eq!(station(&entry(3, 0x02, 0, None)), Some(Err(at(3))));
        // A driver's entry, one of a VLAN.
        assert_eq!(station(&entry(5, 0x02, 0x02, None)), None);
        assert_eq!(station(&entry(5, 0x02, 0, Some(7))), None);
        assert_eq!(station(&entry(5, 0x02, 0, None)[..9]), None);
        let filter = [0, 0, 0, 0, 7, 0, 0, 0];
        let changed = Some(Event::TrafficControl { interface: u32::from_le_bytes([7, 0, 0, 0]) });
        assert_eq!(event(44, &filter), changed.filter(|_| cfg!(target_endian = "little")));
    }
}
