//! A DHCP client (RFC 2131) for guests that get their address as real ones do.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};

use crate::lab::error::{Error, Result, While};
use crate::lab::namespace::Namespace;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const TRANSACTION: [u8; 4] = [0x76, 0x6e, 0x65, 0x74];
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::BROADCAST, 67);
/// Length of a message up to the options, with the magic cookie.
const FIXED: usize = 240;

/// Options and message types, RFC 2132.
const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const NAME_SERVER: u8 = 6;
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_IDENTIFIER: u8 = 54;
const PARAMETER_LIST: u8 = 55;
const END: u8 = 255;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACKNOWLEDGE: u8 = 5;

/// What a DHCP server has granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DhcpLease {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Length of its prefix in bits.
    pub prefix_length: u32,
    /// The server's identifier.
    pub server: Ipv4Addr,
    /// The first default router, if the server names one.
    pub router: Option<Ipv4Addr>,
    /// The first name server, if the server names one.
    pub name_server: Option<Ipv4Addr>,
}

impl Namespace {
    /// Asks for a lease on an interface that has no address yet. Configures nothing.
    pub fn dhcp(&self, interface: &str, deadline: Duration) -> Result<DhcpLease> {
        let what = || format!("DHCP on {interface} in {}", self.name());
        let path = format!("/sys/class/net/{interface}/address");
        let mac = self.enter(|| std::fs::read_to_string(path))?.during(what)?;
        let mac: Vec<u8> =
            mac.trim_end().split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
        let socket = self.enter(|| open(interface))?.during(what)?;

        let offer = ask(&socket, &mac, DISCOVER, &[], OFFER, deadline).during(what)?;
        let missing = || Error::unexpected(what(), format!("offer without an option: {offer:?}"));
        let server = offer.option(SERVER_IDENTIFIER).ok_or_else(missing)?;
        let chosen = [(REQUESTED_ADDRESS, offer.address), (SERVER_IDENTIFIER, server)];
        let lease = ask(&socket, &mac, REQUEST, &chosen, ACKNOWLEDGE, deadline).during(what)?;
        let mask = lease.option(SUBNET_MASK).ok_or_else(missing)?;
        Ok(DhcpLease {
            address: lease.address,
            prefix_length: mask.to_bits().leading_ones(),
            server,
            router: lease.option(ROUTER),
            name_server: lease.option(NAME_SERVER),
        })
    }
}

fn open(interface: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
    socket.set_broadcast(true)?;
    setsockopt(&socket, BindToDevice, &interface.into())?;
    Ok(socket)
}

/// Sends a message, again every second, until the wanted answer comes.
fn ask(
    socket: &UdpSocket,
    mac: &[u8],
    kind: u8,
    addresses: &[(u8, Ipv4Addr)],
    wanted: u8,
    deadline: Duration,
) -> io::Result<Message> {
    let start = Instant::now();
    let message = message(mac, kind, addresses);
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 2048];
    while start.elapsed() < deadline {
        socket.send_to(&message, SERVER)?;
        let answer = match socket.recv(&mut buffer) {
            Ok(length) => Message::parse(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if let Some(answer) = answer.filter(|answer| answer.kind == wanted) {
            return Ok(answer);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn message(mac: &[u8], kind: u8, addresses: &[(u8, Ipv4Addr)]) -> Vec<u8> {
    let mut message = vec![0; FIXED];
    // Request, Ethernet, 6 bytes of address; the answer is to be broadcast.
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&TRANSACTION);
    message[10] = 0x80;
    message[28..28 + mac.len().min(16)].copy_from_slice(&mac[..mac.len().min(16)]);
    message[FIXED - MAGIC.len()..].copy_from_slice(&MAGIC);
    message.extend([MESSAGE_TYPE, 1, kind]);
    for (option, address) in addresses {
        message.extend([*option, 4]);
        message.extend(address.octets());
    }
    message.extend([PARAMETER_LIST, 3, SUBNET_MASK, ROUTER, NAME_SERVER, END]);
    message
}

#[derive(Debug)]
struct Message {
    kind: u8,
    address: Ipv4Addr,
    /// Options that start with an address.
    options: Vec<(u8, Ipv4Addr)>,
}

impl Message {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = bytes.split_at_checked(FIXED)?;
        if fixed[0] != 2 || fixed[4..8] != TRANSACTION || !fixed.ends_with(&MAGIC) {
            return None;
        }
        let address = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
        let (mut kind, mut options) = (0, Vec::new());
        while let [option, length, after @ ..] = rest {
            if *option == END {
                break;
            }
            let (value, after) = after.split_at_checked(usize::from(*length))?;
            match (*option, value) {
                (MESSAGE_TYPE, [value]) => kind = *value,
                (option, [a, b, c, d, ..]) => options.push((option, Ipv4Addr::new(*a, *b, *c, *d))),
                _ => {}
            }
            rest = after;
        }
        Some(Self { kind, address, options })
    }

    fn option(&self, wanted: u8) -> Option<Ipv4Addr> {
        self.options.iter().find(|(option, _)| *option == wanted).map(|(_, address)| *address)
    }
}
