//! Probes by ICMP echo.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    process,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, sendto,
    socket,
};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::{End, Options, Outcome, Probe, ProbeError, Rejection, connection::until_answered};

/// Bytes of an ICMP header with identifier and sequence number (RFC 792; RFC 4443, section 4.1).
const HEADER: usize = 8;
const IPV6_HEADER: usize = 40;
const MARK: &[u8; 4] = b"vnet";

/// Sends an echo request, again if need be, and gets the reply.
pub(super) async fn echo(
    number: usize,
    probe: &Probe<'_>,
    options: &Options,
) -> Result<Outcome, ProbeError> {
    let query = Query::new(number);
    let server = probe.listen(0, |address| open(address.ip()))?;
    let (client, own) = probe.call(|address| {
        let own = UdpSocket::bind(address)
            .and_then(|socket| socket.connect((probe.destination, 9)).and(socket.local_addr()));
        Ok((open(address.ip())?, own))
    })?;
    let own = own.map(|address| address.ip());
    let seen = Cell::new(None);
    let serve = async {
        let Ok(server) = register(server) else { return };
        // The kernel answers; here one only looks on.
        while let Ok((message, from)) = receive(&server).await {
            if message == Message::Request(query) {
                seen.set(Some(from));
                return;
            }
        }
    };
    let ask = async {
        let to = SockaddrStorage::from(SocketAddr::new(probe.destination, 0));
        let request = query.request(probe.destination);
        let client = register(client)?;
        loop {
            if let Err(error) = sendto(client.as_raw_fd(), &request, &to, MsgFlags::empty()) {
                return Ok(End::NotSent(error as i32));
            }
            if let Ok(end) = timeout(options.resend, answer(&client, query)).await {
                return end;
            }
        }
    };
    let end = match own {
        Ok(_) => until_answered(serve, ask, &seen, options).await,
        Err(ref error) => End::NotSent(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    Ok(Outcome { own: own.ok(), port: 0, seen: seen.get(), end })
}

/// Waits for what ends the query.
async fn answer(client: &AsyncFd<OwnedFd>, query: Query) -> io::Result<End> {
    loop {
        let (message, from) = receive(client).await?;
        match message {
            Message::Reply(answered) if answered == query => return Ok(End::Answered),
            Message::Error { identifier, kind, code } if identifier == query.identifier => {
                return Ok(End::Rejected(Rejection { from, kind, code }));
            }
            _ => {}
        }
    }
}

/// One probe's echo requests. The identifier may be translated on the way, the payload is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Query {
    identifier: u16,
    payload: [u8; 12],
}

/// What a packet of ICMP says.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Request(Query),
    Reply(Query),
    /// An error about an echo request.
    Error {
        identifier: u16,
        kind: u8,
        code: u8,
    },
    Other,
}

/// Numbers of the message types.
struct Types {
    request: u8,
    reply: u8,
    errors: &'static [u8],
}

impl Types {
    fn of(family: IpAddr) -> Self {
        match family {
            IpAddr::V4(_) => Self { request: 8, reply: 0, errors: &[3, 11, 12] },
            IpAddr::V6(_) => Self { request: 128, reply: 129, errors: &[1, 2, 3, 4] },
        }
    }
}

impl Query {
    fn new(number: usize) -> Self {
        let mut payload = [0; 12];
        payload[..4].copy_from_slice(MARK);
        payload[4..8].copy_from_slice(&process::id().to_be_bytes());
        payload[8..].copy_from_slice(&(number as u32).to_be_bytes());
        Self { identifier: number as u16, payload }
    }

    fn request(self, to: IpAddr) -> Vec<u8> {
        let mut message = vec![Types::of(to).request, 0, 0, 0];
        message.extend(self.identifier.to_be_bytes());
        message.extend([0, 1]);
        message.extend(self.payload);
        if to.is_ipv4() {
            let sum: u32 = message
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        }
        // The kernel computes that of ICMPv6 (RFC 3542, section 3.1).
        message
    }
}

impl Message {
    /// Reads a message; raw sockets of IPv4 put the IP header before it.
    fn parse(packet: &[u8], from: IpAddr) -> Self {
        Self::read(packet, from).unwrap_or(Self::Other)
    }

    fn read(packet: &[u8], from: IpAddr) -> Option<Self> {
        let message = match from {
            IpAddr::V4(_) => packet.get(ipv4_header(packet)?..)?,
            IpAddr::V6(_) => packet,
        };
        let types = Types::of(from);
        let (header, rest) = message.split_at_checked(HEADER)?;
        let (kind, code) = (header[0], header[1]);
        if types.errors.contains(&kind) {
            let skip = match from {
                IpAddr::V4(_) => ipv4_header(rest)?,
                IpAddr::V6(_) => IPV6_HEADER,
            };
            let quoted = rest.get(skip..skip + HEADER)?;
            let identifier = u16::from_be_bytes([quoted[4], quoted[5]]);
            return (quoted[0] == types.request).then_some(Self::Error { identifier, kind, code });
        }
        let payload: [u8; 12] = rest.get(..12)?.try_into().ok()?;
        // The one that was sent, whatever the identifier is by now.
        let number = u32::from_be_bytes(payload[8..].try_into().ok()?);
        let query = Query { identifier: number as u16, payload };
        match kind {
            _ if payload[..4] != *MARK => None,
            kind if kind == types.request => Some(Self::Request(query)),
            kind if kind == types.reply => Some(Self::Reply(query)),
            _ => None,
        }
    }
}

/// The length of an IPv4 header in bytes.
fn ipv4_header(packet: &[u8]) -> Option<usize> {
    packet.first().map(|first| usize::from(first & 0x0f) * 4)
}

fn open(family: IpAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (of, protocol) = match family {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    Ok(socket(of, SockType::Raw, flags, protocol)?)
}

fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register(socket)? })
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<(Message, IpAddr)> {
    let mut packet = [0; 512];
    loop {
        let mut ready = socket.readable().await?;
        let received = ready
            .try_io(|socket| Ok(recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut packet)?));
        let Ok(received) = received else { continue };
        let (length, from) = received?;
        let from = from.and_then(|from| {
            let v4 = from.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or(from.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        if let Some(from) = from {
            return Ok((Message::parse(&packet[..length], from), from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn with_ipv4_header(message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet.extend(message);
        packet
    }

    #[test]
    fn requests_and_replies_are_recognised_whatever_their_identifier_became() {
        let query = Query::new(70_000);
        for (family, reply) in [(V4, 0), (V6, 129)] {
            let mut message = query.request(family);
            message[4..6].copy_from_slice(&[0xab, 0xcd]);
            let packet = |message: &[u8]| match family {
                IpAddr::V4(_) => with_ipv4_header(message),
                IpAddr::V6(_) => message.to_vec(),
            };
            assert_eq!(Message::parse(&packet(&message), family), Message::Request(query));
            message[0] = reply;
            assert_eq!(Message::parse(&packet(&message), family), Message::Reply(query));
            message[8] = b'x';
            assert_eq!(Message::parse(&packet(&message), family), Message::Other);
            assert_eq!(Message::parse(&packet(&message)[..7], family), Message::Other);
        }
    }

    #[test]
    fn errors_name_the_request_that_they_are_about() {
        let query = Query::new(7);
        let request = query.request(V4);
        let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
        error.extend(with_ipv4_header(&request));
        let expected = Message::Error { identifier: 7, kind: 3, code: 3 };
        assert_eq!(Message::parse(&with_ipv4_header(&error), V4), expected);

        let mut error = vec![1, 4, 0, 0, 0, 0, 0, 0];
        error.extend([0; IPV6_HEADER]);
        error.extend(query.request(V6));
        let expected = Message::Error { identifier: 7, kind: 1, code: 4 };
        assert_eq!(Message::parse(&error, V6), expected);
    }

    #[test]
    fn checksum_of_a_request_is_right() {
        let request = Query::new(0xffff).request(V4);
        let sum: u32 =
            request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
