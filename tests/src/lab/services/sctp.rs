//! SCTP (RFC 9260) over raw sockets, as far as one association with one message each way needs it.
//!
//! Not a full implementation: one stream, one message in flight, nothing is sent again. It is for
//! kernels without SCTP; what it sends is what a kernel would accept.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::raw::RawSocket;
use crate::lab::background::{Background, Wake};
use crate::lab::error::{Error, Result, While};
use crate::lab::namespace::Namespace;

const PROTOCOL: u8 = 132;
const HEADER: usize = 12;
const WINDOW: u32 = 64 * 1024;
const CLIENT_TSN: u32 = 1000;
const SERVER_TSN: u32 = 2000;
const SERVER_TAG: u32 = 0x5e7e_7a60;
const COOKIE: &[u8] = b"cookie of the lab!!!";
/// Parameter of INIT ACK (RFC 9260 section 3.3.3).
const STATE_COOKIE: u16 = 7;

/// Chunk types, RFC 9260 section 3.2.
mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

#[derive(Debug, Clone)]
struct Chunk {
    kind: u8,
    flags: u8,
    value: Vec<u8>,
}

#[derive(Debug)]
struct Packet {
    source: u16,
    destination: u16,
    tag: u32,
    chunks: Vec<Chunk>,
}

impl Packet {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for chunk in &self.chunks {
            bytes.extend([chunk.kind, chunk.flags]);
            bytes.extend((4 + chunk.value.len() as u16).to_be_bytes());
            bytes.extend(&chunk.value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let checksum = crc32c(&bytes);
        // The one field in little-endian order (RFC 9260 appendix A).
        bytes[8..HEADER].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Nothing if the checksum is wrong.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_at_checked(HEADER)?;
        let mut zeroed = bytes.to_vec();
        zeroed[8..HEADER].fill(0);
        if header[8..] != crc32c(&zeroed).to_le_bytes() {
            return None;
        }
        let mut chunks = Vec::new();
        while let [kind, flags, high, low, after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low])).checked_sub(4)?;
            let value = after.get(..length)?.to_vec();
            chunks.push(Chunk { kind: *kind, flags: *flags, value });
            rest = after.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(Self {
            source: u16::from_be_bytes([header[0], header[1]]),
            destination: u16::from_be_bytes([header[2], header[3]]),
            tag: word(header, 4)?,
            chunks,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// RFC 9260 section 3.3.2: tag, window, streams out and in, first TSN.
fn init(tag: u32, tsn: u32) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &WINDOW.to_be_bytes(), &[0, 1, 0, 1], &tsn.to_be_bytes()].concat()
}

/// A message in one chunk (both flags of a fragment, section 3.3.1) of stream 0.
fn data(tsn: u32, message: &[u8]) -> Chunk {
    let value = [&tsn.to_be_bytes()[..], &[0; 8], message].concat();
    Chunk { kind: chunk::DATA, flags: 3, value }
}

fn acknowledgement(tsn: u32) -> Chunk {
    let value = [&tsn.to_be_bytes()[..], &WINDOW.to_be_bytes(), &[0; 4]].concat();
    Chunk { kind: chunk::SACK, flags: 0, value }
}

fn chunk(kind: u8, value: &[u8]) -> Chunk {
    Chunk { kind, flags: 0, value: value.to_vec() }
}

/// `CRC32c`, bit by bit: polynomial 0x1EDC6F41, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82f6_3b78 }
        })
    })
}

/// A server that accepts associations and sends each message back.
#[derive(Debug)]
pub struct SctpServer {
    peers: Arc<Mutex<Vec<IpAddr>>>,
    _thread: Background,
}

impl SctpServer {
    /// Starts a server in `namespace`. It listens when this returns.
    pub fn start(namespace: &Namespace, address: IpAddr, port: u16) -> Result<Self> {
        let socket = RawSocket::bind(namespace, address, PROTOCOL)?;
        let peers = Arc::<Mutex<Vec<IpAddr>>>::default();
        let known = Arc::clone(&peers);
        let thread = Background::start("sctp-server", move |stop| {
            // The tag that the one client of the moment has chosen.
            let mut client_tag = 0;
            while let Ok(Wake::Readable(_)) = stop.wait(&[socket.as_fd()]) {
                while let Ok((bytes, peer)) = socket.receive() {
                    let Some(packet) = Packet::parse(&bytes).filter(|p| p.destination == port)
                    else {
                        continue;
                    };
                    let chunks = serve(&packet, &mut client_tag);
                    if chunks.is_empty() {
                        continue;
                    }
                    if chunks[0].kind == chunk::INIT_ACK {
                        known.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                    }
                    let (source, destination) = (port, packet.source);
                    let answer = Packet { source, destination, tag: client_tag, chunks };
                    // The client's deadline notices what is lost.
                    let _ = socket.send(peer, &answer.bytes());
                }
            }
        })?;
        Ok(Self { peers, _thread: thread })
    }

    /// Who has begun an association so far, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<IpAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The chunks to answer with.
fn serve(packet: &Packet, client_tag: &mut u32) -> Vec<Chunk> {
    let mut answer = Vec::new();
    for received in &packet.chunks {
        // INIT comes with tag 0, everything else with ours (RFC 9260 section 8.5).
        let wanted = if received.kind == chunk::INIT { 0 } else { SERVER_TAG };
        if packet.tag != wanted {
            return Vec::new();
        }
        match received.kind {
            chunk::INIT => {
                *client_tag = word(&received.value, 0).unwrap_or(0);
                let mut value = init(SERVER_TAG, SERVER_TSN);
                value.extend(STATE_COOKIE.to_be_bytes());
                value.extend((4 + COOKIE.len() as u16).to_be_bytes());
                value.extend(COOKIE);
                answer.push(chunk(chunk::INIT_ACK, &value));
            }
            chunk::COOKIE_ECHO if received.value == COOKIE => {
                answer.push(chunk(chunk::COOKIE_ACK, &[]));
            }
            chunk::DATA => {
                let tsn = word(&received.value, 0).unwrap_or(0);
                answer.push(acknowledgement(tsn));
                let number = tsn.wrapping_sub(CLIENT_TSN);
                let message = received.value.get(12..).unwrap_or_default();
                answer.push(data(SERVER_TSN.wrapping_add(number), message));
            }
            chunk::SHUTDOWN => answer.push(chunk(chunk::SHUTDOWN_ACK, &[])),
            _ => {}
        }
    }
    answer
}

/// A client's association.
#[derive(Debug)]
pub struct SctpAssociation {
    socket: RawSocket,
    what: String,
    server: IpAddr,
    ports: (u16, u16),
    tag: u32,
    server_tag: u32,
    next_tsn: u32,
    deadline: Duration,
}

impl Namespace {
    /// Begins an association by the handshake of four packets.
    pub fn sctp_associate(
        &self,
        from: u16,
        to: (IpAddr, u16),
        deadline: Duration,
    ) -> Result<SctpAssociation> {
        let (server, port) = to;
        let mut association = SctpAssociation {
            socket: RawSocket::open(self, server, PROTOCOL)?,
            what: format!("SCTP from {} to {server} port {port}", self.name()),
            server,
            ports: (from, port),
            tag: 0x1ab0_0000 | u32::from(from),
            server_tag: 0,
            next_tsn: CLIENT_TSN,
            deadline,
        };
        let hello = chunk(chunk::INIT, &init(association.tag, CLIENT_TSN));
        let acknowledged = association.exchange(vec![hello], chunk::INIT_ACK)?;
        let missing = || Error::unexpected("INIT ACK", format!("{acknowledged:?}"));
        association.server_tag = word(&acknowledged.value, 0).ok_or_else(missing)?;
        // The cookie is the only parameter that our server sends.
        let cookie = acknowledged.value.get(20..).ok_or_else(missing)?.to_vec();
        association.exchange(vec![chunk(chunk::COOKIE_ECHO, &cookie)], chunk::COOKIE_ACK)?;
        Ok(association)
    }
}

impl SctpAssociation {
    /// Sends a message and gets it back.
    pub fn ask(&mut self, message: &[u8]) -> Result<Vec<u8>> {
        let sent = data(self.next_tsn, message);
        self.next_tsn = self.next_tsn.wrapping_add(1);
        let answer = self.exchange(vec![sent], chunk::DATA)?;
        let tsn = word(&answer.value, 0).unwrap_or(0);
        self.send(vec![acknowledgement(tsn)])?;
        Ok(answer.value.get(12..).unwrap_or_default().to_vec())
    }

    /// Ends the association by the handshake of three packets.
    pub fn shutdown(self) -> Result<()> {
        let last = SERVER_TSN + (self.next_tsn - CLIENT_TSN) - 1;
        let shutdown = chunk(chunk::SHUTDOWN, &last.to_be_bytes());
        self.exchange(vec![shutdown], chunk::SHUTDOWN_ACK)?;
        self.send(vec![chunk(chunk::SHUTDOWN_COMPLETE, &[])])
    }

    fn send(&self, chunks: Vec<Chunk>) -> Result<()> {
        let (source, destination) = self.ports;
        let packet = Packet { source, destination, tag: self.server_tag, chunks };
        self.socket.send(self.server, &packet.bytes()).during(|| self.what.clone())
    }

    /// Sends chunks and waits for one of a kind.
    fn exchange(&self, chunks: Vec<Chunk>, kind: u8) -> Result<Chunk> {
        self.send(chunks)?;
        let (client, server) = self.ports;
        let wanted = |bytes: &[u8]| {
            let packet = Packet::parse(bytes)?;
            let is_ours = (packet.source, packet.destination) == (server, client);
            let mut chunks =
                packet.chunks.into_iter().filter(|_| is_ours && packet.tag == self.tag);
            chunks.find(|chunk| chunk.kind == kind || chunk.kind == chunk::ABORT)
        };
        let what = || format!("{}: chunk of type {kind}", self.what);
        let found = self.socket.wait_for(self.server, self.deadline, wanted).during(what)?;
        if found.kind != kind {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted)).during(what);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_known_bytes_is_right() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packet_is_read_as_it_was_written_and_not_with_a_changed_bit() {
        let chunks = vec![data(1, b"odd"), acknowledgement(7)];
        let mut bytes = Packet { source: 1, destination: 2, tag: 3, chunks }.bytes();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.source, packet.destination, packet.tag), (1, 2, 3));
        assert_eq!(packet.chunks[0].value[12..], *b"odd");
        bytes[20] ^= 1;
        assert!(Packet::parse(&bytes).is_none());
    }
}
