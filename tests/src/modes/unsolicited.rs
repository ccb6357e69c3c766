//! Packets that look like parts of connections that nobody has opened.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use etherparse::{PacketBuilder, TransportSlice};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use super::Place;
use crate::lab::{CapturedPacket, Error, Result};

/// Where answers come from.
const SERVICE: u16 = 7;
/// Ports from here on are those of unsolicited packets: below the ephemeral ones.
const FIRST_PORT: u16 = 20_000;

/// What a packet pretends to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The second packet of a TCP connection's handshake.
    SynAck,
    /// Data of an established TCP connection.
    Ack,
    /// A datagram from a well-known port.
    Udp,
}

/// An unsolicited packet from one place to another.
#[derive(Debug, Clone, Copy)]
pub struct Unsolicited {
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub destination: IpAddr,
    /// The port there, which tells it from all others.
    pub port: u16,
}

impl Unsolicited {
    /// The packet number `number` of all that are sent.
    #[must_use]
    pub fn new(kind: Kind, destination: IpAddr, number: u16) -> Self {
        Self { kind, destination, port: FIRST_PORT + number }
    }

    /// Sends it with the sender's own address.
    pub fn send(&self, from: &Place) -> Result<()> {
        let source = from.address_towards(self.destination);
        let segment = self.segment(source);
        let (family, protocol) = match (self.destination, self.kind) {
            (IpAddr::V4(_), Kind::Udp) => (AddressFamily::Inet, SockProtocol::Udp),
            (IpAddr::V4(_), _) => (AddressFamily::Inet, SockProtocol::Tcp),
            (IpAddr::V6(_), Kind::Udp) => (AddressFamily::Inet6, SockProtocol::Udp),
            (IpAddr::V6(_), _) => (AddressFamily::Inet6, SockProtocol::Tcp),
        };
        let sent = from.node.enter(|| {
            let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            // Raw sockets of IPv6 take no port (raw(7), ipv6(7)).
            let to = SockaddrStorage::from(SocketAddr::new(self.destination, 0));
            sendto(socket.as_raw_fd(), &segment, &to, MsgFlags::empty())
        })?;
        sent.map(drop).map_err(|source| Error::System {
            what: format!("{self:?} from {}", from.name),
            source: source.into(),
        })
    }

    /// The segment with its checksum, without IP header.
    fn segment(&self, source: IpAddr) -> Vec<u8> {
        let (ip, header) = match (source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (PacketBuilder::ipv4(from.octets(), to.octets(), 64), 20)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                (PacketBuilder::ipv6(from.octets(), to.octets(), 64), 40)
            }
            _ => panic!("{source} and {} are of different families", self.destination),
        };
        let mut packet = Vec::new();
        let written = match self.kind {
            Kind::Udp => ip.udp(SERVICE, self.port).write(&mut packet, b"unsolicited"),
            Kind::SynAck => {
                ip.tcp(SERVICE, self.port, 1, 65_535).syn().ack(1).write(&mut packet, b"")
            }
            Kind::Ack => {
                ip.tcp(SERVICE, self.port, 1, 65_535).ack(1).psh().write(&mut packet, b"data")
            }
        };
        written.unwrap_or_else(|error| panic!("{error}"));
        packet.split_off(header)
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::SynAck, Self::Ack, Self::Udp];

    /// Whether a packet is of this kind and goes to `port`.
    #[must_use]
    pub fn is(self, packet: &CapturedPacket, port: u16) -> bool {
        let transport = packet.layers().and_then(|layers| layers.transport);
        match (self, transport) {
            (Self::Udp, Some(TransportSlice::Udp(udp))) => {
                udp.destination_port() == port && udp.payload() == b"unsolicited"
            }
            (Self::SynAck, Some(TransportSlice::Tcp(tcp))) => {
                tcp.destination_port() == port && tcp.syn() && tcp.ack()
            }
            (Self::Ack, Some(TransportSlice::Tcp(tcp))) => {
                tcp.destination_port() == port && tcp.psh() && tcp.payload() == b"data"
            }
            _ => false,
        }
    }
}
