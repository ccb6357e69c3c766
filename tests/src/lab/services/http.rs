//! A small HTTP/1.1 file server (RFC 9112), one request per connection:
//! `GET /bytes/N` answers with [`content`]`(N)`, `PUT` and `POST` count and hash what they are sent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::echo::TcpService;
use crate::lab::error::Result;
use crate::lab::namespace::Namespace;

/// A running server.
#[derive(Debug)]
pub struct HttpServer {
    service: TcpService,
}

/// What the server says about an upload: `BYTES HASH` in decimal and hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    /// Bytes of the body.
    pub bytes: u64,
    /// [`hash`] of the body.
    pub hash: u64,
}

impl Upload {
    /// Reads the body of the server's answer.
    #[must_use]
    pub fn parse(answer: &str) -> Option<Self> {
        let (bytes, hash) = answer.trim().split_once(' ')?;
        Some(Self { bytes: bytes.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? })
    }
}

impl HttpServer {
    /// Starts a server in `namespace`; `address` may be unspecified, port 0 means any. It listens
    /// when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        // A client that goes away in mid-transfer is the client's affair.
        let serve = |stream: TcpStream| drop(answer(&stream));
        Ok(Self { service: TcpService::start(namespace, address, serve)? })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// Who has connected so far, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.service.peers()
    }
}

/// The first `length` bytes of a fixed sequence in which neighbouring 256-byte blocks differ.
#[must_use]
pub fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
}

/// FNV-1a, 64 bits (<https://www.ietf.org/archive/id/draft-eastlake-fnv-17.html>).
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn answer(stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let request = read_line(&mut reader)?;
    let (mut length, mut expects_continue) = (0, false);
    loop {
        let line = read_line(&mut reader)?.to_ascii_lowercase();
        match line.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse().unwrap_or(0),
            Some(("expect", value)) => expects_continue = value.trim() == "100-continue",
            Some(_) => {}
        }
    }
    let mut words = request.split(' ');
    match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        ("GET", path) => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(count)) => respond(stream, "200 OK", &content(count)),
            _ => respond(stream, "404 Not Found", b""),
        },
        ("PUT" | "POST", _) => {
            if expects_continue {
                let mut writer = stream;
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let mut body = Vec::new();
            reader.take(length).read_to_end(&mut body)?;
            let report = format!("{} {:016x}\n", body.len(), hash(&body));
            respond(stream, "200 OK", report.as_bytes())
        }
        _ => respond(stream, "405 Method Not Allowed", b""),
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn respond(mut stream: &TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(body)
}
