//! A `DHCPv6` client (RFC 8415) for guests that are lent an IPv6 address.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};

use crate::lab::error::{Error, Result, While};
use crate::lab::namespace::Namespace;

/// `All_DHCP_Relay_Agents_and_Servers`, section 7.1.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
const TRANSACTION: [u8; 3] = *b"vne";

/// Message types and options, sections 7.3 and 21.
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const REPLY: u8 = 7;
const CLIENT_IDENTIFIER: u16 = 1;
const SERVER_IDENTIFIER: u16 = 2;
const IDENTITY_ASSOCIATION: u16 = 3;
const ADDRESS: u16 = 5;
const ELAPSED_TIME: u16 = 8;
/// Bytes of an identity association in front of its options.
const ASSOCIATION_FIXED: usize = 12;

impl Namespace {
    /// Asks for an address on an interface that has a link-local one, under this DUID. Configures
    /// nothing.
    pub fn dhcpv6(&self, interface: &str, duid: &[u8], deadline: Duration) -> Result<Ipv6Addr> {
        let what = || format!("DHCPv6 on {interface} in {}", self.name());
        let (socket, scope) = self.enter(|| open(interface))?.during(what)?;
        let link = Link { socket, servers: SocketAddrV6::new(SERVERS, SERVER_PORT, 0, scope) };
        let offer = link.ask(SOLICIT, duid, None, ADVERTISE, deadline).during(what)?;
        let lease = link.ask(REQUEST, duid, Some(&offer), REPLY, deadline).during(what)?;
        let address = lease.address();
        address.ok_or_else(|| Error::unexpected(what(), format!("no address in {lease:?}")))
    }
}

fn open(interface: &str) -> io::Result<(UdpSocket, u32)> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, CLIENT_PORT))?;
    setsockopt(&socket, BindToDevice, &interface.into())?;
    Ok((socket, if_nametoindex(interface)?))
}

struct Link {
    socket: UdpSocket,
    servers: SocketAddrV6,
}

impl Link {
    /// Sends a message, again every second, until the wanted answer comes.
    fn ask(
        &self,
        kind: u8,
        duid: &[u8],
        offer: Option<&Answer>,
        wanted: u8,
        deadline: Duration,
    ) -> io::Result<Answer> {
        let start = Instant::now();
        let message = message(kind, duid, offer);
        self.socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut buffer = [0; 2048];
        while start.elapsed() < deadline {
            match self.socket.send_to(&message, self.servers) {
                // The link-local address is still being looked for on the link (RFC 4862, section 5.4).
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                sent => drop(sent?),
            }
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(answer) = Answer::parse(&buffer[..length], wanted) {
                        return Ok(answer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn message(kind: u8, duid: &[u8], offer: Option<&Answer>) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(TRANSACTION);
    push(&mut message, CLIENT_IDENTIFIER, duid);
    push(&mut message, ELAPSED_TIME, &[0, 0]);
    // Its number, and no wish as to when to renew.
    let mut association = vec![0; ASSOCIATION_FIXED];
    association[3] = 1;
    if let Some(offer) = offer {
        push(&mut message, SERVER_IDENTIFIER, offer.option(SERVER_IDENTIFIER).unwrap_or_default());
        association = offer.option(IDENTITY_ASSOCIATION).unwrap_or_default().to_vec();
    }
    push(&mut message, IDENTITY_ASSOCIATION, &association);
    message
}

fn push(message: &mut Vec<u8>, option: u16, value: &[u8]) {
    message.extend(option.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
}

/// The options of a server's message.
#[derive(Debug)]
struct Answer(Vec<(u16, Vec<u8>)>);

impl Answer {
    fn parse(bytes: &[u8], wanted: u8) -> Option<Self> {
        let (header, options) = bytes.split_at_checked(4)?;
        (header[0] == wanted && header[1..] == TRANSACTION).then(|| Self(parse_options(options)))
    }

    fn option(&self, wanted: u16) -> Option<&[u8]> {
        self.0.iter().find(|(option, _)| *option == wanted).map(|(_, value)| value.as_slice())
    }

    fn address(&self) -> Option<Ipv6Addr> {
        let association = self.option(IDENTITY_ASSOCIATION)?.get(ASSOCIATION_FIXED..)?;
        let options = parse_options(association);
        let (_, value) = options.iter().find(|(option, _)| *option == ADDRESS)?;
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(value.get(..16)?).ok()?))
    }
}

fn parse_options(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while let [kind_high, kind_low, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, after)) = after.split_at_checked(length) else { break };
        options.push((u16::from_be_bytes([*kind_high, *kind_low]), value.to_vec()));
        rest = after;
    }
    options
}
