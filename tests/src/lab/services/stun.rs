//! STUN (RFC 8489) and the discovery of a NAT's behaviour by it (RFC 5780).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::lab::background::{Background, Wake, patient};
use crate::lab::error::{Error, Result, While};
use crate::lab::namespace::Namespace;

/// RFC 8489 section 5: binding request and its success response.
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_RESPONSE: u16 = 0x0101;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
/// Attributes of RFC 8489 section 14 and RFC 5780 section 7.
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const CHANGE_REQUEST: u16 = 0x0003;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;
/// Bits of `CHANGE-REQUEST`.
const CHANGE_PORT: u8 = 2;
const CHANGE_ADDRESS: u8 = 4;

type Transaction = [u8; 12];

/// A server on two addresses and two ports of each, as RFC 5780 needs it.
#[derive(Debug)]
pub struct StunServer {
    primary: SocketAddr,
    _thread: Background,
}

impl StunServer {
    /// Starts a server in `namespace`. It is bound when this returns.
    pub fn start(namespace: &Namespace, addresses: [IpAddr; 2], ports: [u16; 2]) -> Result<Self> {
        let mut sockets = Vec::new();
        for address in addresses {
            for port in ports {
                let local = SocketAddr::new(address, port);
                let what = || format!("STUN socket at {local} in {}", namespace.name());
                let socket = namespace.enter(|| UdpSocket::bind(local))?.during(what)?;
                socket.set_nonblocking(true).during(what)?;
                sockets.push(socket);
            }
        }
        let at = move |index: usize| SocketAddr::new(addresses[index / 2], ports[index % 2]);
        let thread = Background::start("stun-server", move |stop| {
            let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            let mut datagram = [0; 1500];
            while let Ok(Wake::Readable(_)) = stop.wait(&descriptors) {
                for (index, socket) in sockets.iter().enumerate() {
                    while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                        let Some((transaction, change)) = parse_request(&datagram[..length]) else {
                            continue;
                        };
                        let address = usize::from(change & CHANGE_ADDRESS != 0) * 2;
                        let from = index ^ address ^ usize::from(change & CHANGE_PORT != 0);
                        // The one whose both parts differ (RFC 5780 section 7.4).
                        let response = response(transaction, peer, at(from), at(index ^ 3));
                        // The client asks again if it is lost.
                        let _ = sockets[from].send_to(&response, peer);
                    }
                }
            }
        })?;
        Ok(Self { primary: SocketAddr::new(addresses[0], ports[0]), _thread: thread })
    }

    /// Where clients ask first.
    #[must_use]
    pub fn primary(&self) -> SocketAddr {
        self.primary
    }
}

/// The classes of RFC 4787 sections 4.1 and 5, for mapping or for filtering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// The remote's address and port do not matter.
    EndpointIndependent,
    /// The remote's address matters.
    AddressDependent,
    /// Both matter.
    AddressAndPortDependent,
}

/// What a client has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatBehaviour {
    /// The client's endpoint as the server's primary address sees it.
    pub mapped: SocketAddr,
    /// Which endpoint other remotes see.
    pub mapping: Dependence,
    /// Who may send to it.
    pub filtering: Dependence,
}

impl Namespace {
    /// The endpoint from which `server` sees a UDP socket, which the socket keeps for its peers.
    pub fn stun_endpoint(&self, socket: &UdpSocket, server: SocketAddr) -> Result<SocketAddr> {
        let socket = socket.try_clone().during(|| "another handle of a socket".to_owned())?;
        Ok(Client { namespace: self, socket }.ask(server, 0, None)?.mapped)
    }

    /// Finds out what a NAT on the way to `server` does: the tests of RFC 5780, sections 4.3 and
    /// 4.4. `silence` is how long to wait for what a filter may hold back.
    pub fn discover_nat(&self, server: SocketAddr, silence: Duration) -> Result<NatBehaviour> {
        let mapping = Client::new(self, server)?;
        let first = mapping.ask(server, 0, None)?;
        let other = first.other;
        let second = mapping.ask(SocketAddr::new(other.ip(), server.port()), 0, None)?.mapped;
        let third = mapping.ask(other, 0, None)?.mapped;
        let found = if first.mapped == second && second == third {
            Dependence::EndpointIndependent
        } else if second == third {
            Dependence::AddressDependent
        } else {
            Dependence::AddressAndPortDependent
        };

        // A socket of its own, because the first one has opened the filter for all addresses.
        let filtering = Client::new(self, server)?;
        let mapped = filtering.ask(server, 0, None)?.mapped;
        let get_in =
            |change: u8, from: SocketAddr| match filtering.ask(server, change, Some(silence)) {
                Ok(response) if response.origin == from => Ok(true),
                Ok(response) => {
                    Err(Error::unexpected("origin of a response", format!("{response:?}")))
                }
                Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::TimedOut => {
                    Ok(false)
                }
                Err(error) => Err(error),
            };
        let filter = if get_in(CHANGE_ADDRESS | CHANGE_PORT, other)? {
            Dependence::EndpointIndependent
        } else if get_in(CHANGE_PORT, SocketAddr::new(server.ip(), other.port()))? {
            Dependence::AddressDependent
        } else {
            Dependence::AddressAndPortDependent
        };
        Ok(NatBehaviour { mapped, mapping: found, filtering: filter })
    }
}

struct Client<'a> {
    namespace: &'a Namespace,
    socket: UdpSocket,
}

#[derive(Debug)]
struct Response {
    mapped: SocketAddr,
    origin: SocketAddr,
    other: SocketAddr,
}

impl<'a> Client<'a> {
    fn new(namespace: &'a Namespace, server: SocketAddr) -> Result<Self> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = namespace
            .enter(|| UdpSocket::bind((any, 0)))?
            .during(|| format!("STUN socket in {}", namespace.name()))?;
        Ok(Self { namespace, socket })
    }

    /// One transaction: five requests, or those that fit into `silence`.
    fn ask(&self, to: SocketAddr, change: u8, silence: Option<Duration>) -> Result<Response> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut transaction = *b"vnet-lab\0\0\0\0";
        transaction[8..].copy_from_slice(&serial.to_be_bytes());
        let request = request(transaction, change);
        let pause = silence.unwrap_or_else(|| patient(Duration::from_secs(2)));
        let tries = if silence.is_some() { 1 } else { 5 };
        let exchange = || {
            self.socket.set_read_timeout(Some(pause))?;
            let mut datagram = [0; 1500];
            for _ in 0..tries {
                self.socket.send_to(&request, to)?;
                loop {
                    match self.socket.recv_from(&mut datagram) {
                        Ok((length, from)) => {
                            let response = parse_response(transaction, from, &datagram[..length]);
                            // Anything else is late: of a transaction before.
                            if let Some(response) = response {
                                return Ok(response);
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(io::ErrorKind::TimedOut.into())
        };
        exchange().during(|| format!("STUN from {} to {to}", self.namespace.name()))
    }
}

fn message(kind: u16, transaction: Transaction, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    // All values here are multiples of four bytes.
    let length: usize = attributes.iter().map(|(_, value)| 4 + value.len()).sum();
    let mut message = Vec::with_capacity(HEADER + length);
    message.extend(kind.to_be_bytes());
    message.extend((length as u16).to_be_bytes());
    message.extend(MAGIC_COOKIE);
    message.extend(transaction);
    for (attribute, value) in attributes {
        message.extend(attribute.to_be_bytes());
        message.extend((value.len() as u16).to_be_bytes());
        message.extend(value);
    }
    message
}

fn request(transaction: Transaction, change: u8) -> Vec<u8> {
    let changes = vec![(CHANGE_REQUEST, vec![0, 0, 0, change])];
    message(BINDING_REQUEST, transaction, if change == 0 { &[] } else { &changes })
}

fn response(
    transaction: Transaction,
    peer: SocketAddr,
    origin: SocketAddr,
    other: SocketAddr,
) -> Vec<u8> {
    let attributes = [
        (XOR_MAPPED_ADDRESS, xor(endpoint(peer), transaction)),
        (RESPONSE_ORIGIN, endpoint(origin)),
        (OTHER_ADDRESS, endpoint(other)),
    ];
    message(BINDING_RESPONSE, transaction, &attributes)
}

fn parse_request(datagram: &[u8]) -> Option<(Transaction, u8)> {
    let (transaction, attributes) = parse(BINDING_REQUEST, datagram)?;
    let change = attributes.iter().find(|(attribute, _)| *attribute == CHANGE_REQUEST);
    Some((transaction, change.and_then(|(_, value)| value.get(3).copied()).unwrap_or(0)))
}

fn parse_response(wanted: Transaction, from: SocketAddr, datagram: &[u8]) -> Option<Response> {
    let (transaction, attributes) = parse(BINDING_RESPONSE, datagram)?;
    let value = |wanted: u16| {
        attributes
            .iter()
            .find(|(attribute, _)| *attribute == wanted)
            .map(|(_, value)| value.clone())
    };
    let response = Response {
        mapped: parse_endpoint(&xor(value(XOR_MAPPED_ADDRESS)?, transaction))?,
        origin: parse_endpoint(&value(RESPONSE_ORIGIN)?)?,
        other: parse_endpoint(&value(OTHER_ADDRESS)?)?,
    };
    (transaction == wanted && response.origin == from).then_some(response)
}

type Attributes = Vec<(u16, Vec<u8>)>;

fn parse(kind: u16, datagram: &[u8]) -> Option<(Transaction, Attributes)> {
    let (header, mut rest) = datagram.split_at_checked(HEADER)?;
    if header[..2] != kind.to_be_bytes() || header[4..8] != MAGIC_COOKIE {
        return None;
    }
    let mut attributes = Vec::new();
    while let [a, b, c, d, after @ ..] = rest {
        let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
        attributes.push((u16::from_be_bytes([*a, *b]), value.to_vec()));
        rest = after;
    }
    Some((header[8..].try_into().ok()?, attributes))
}

/// RFC 8489 section 14.1: zero, family, port, address.
fn endpoint(endpoint: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![0, if endpoint.is_ipv4() { 1 } else { 2 }];
    bytes.extend(endpoint.port().to_be_bytes());
    match endpoint.ip() {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
    bytes
}

fn parse_endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let (head, address) = bytes.split_at_checked(4)?;
    let address: IpAddr = match head[1] {
        1 => <[u8; 4]>::try_from(address).ok()?.into(),
        _ => <[u8; 16]>::try_from(address).ok()?.into(),
    };
    Some(SocketAddr::new(address, u16::from_be_bytes([head[2], head[3]])))
}

/// RFC 8489 section 14.2, its own inverse.
fn xor(mut bytes: Vec<u8>, transaction: Transaction) -> Vec<u8> {
    let port = MAGIC_COOKIE[..2].iter();
    let key = port.chain(&MAGIC_COOKIE).chain(&transaction);
    for (byte, key) in bytes.iter_mut().skip(2).zip(key) {
        *byte ^= key;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_of_the_rfcs_test_vectors_is_read() {
        // RFC 5769 sections 2.2 and 2.3: the endpoints of the sample responses.
        let transaction = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let ipv4 = [0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let wanted: SocketAddr = "192.0.2.1:32853".parse().unwrap();
        assert_eq!(parse_endpoint(&xor(ipv4.to_vec(), transaction)), Some(wanted));
        let ipv6 = [
            0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
            0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        let wanted: SocketAddr = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(parse_endpoint(&xor(ipv6.to_vec(), transaction)), Some(wanted));
        assert_eq!(xor(endpoint(wanted), transaction), ipv6);
    }
}
