//! A DNS client for one question.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::lab::error::{Error, Result, While};
use crate::lab::namespace::Namespace;

/// RFC 1035 section 3.2, RFC 3596 section 2.1: types A and AAAA, class IN.
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// What a server has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The answer did not fit: the client has to ask again over TCP.
    pub truncated: bool,
    /// The addresses, in the server's order.
    pub addresses: Vec<IpAddr>,
}

impl Namespace {
    /// Asks `server` for the IPv4 addresses of `name`, over UDP.
    pub fn resolve(
        &self,
        server: SocketAddr,
        name: &str,
        deadline: Duration,
    ) -> Result<Vec<Ipv4Addr>> {
        let found = self.ask_dns(server, &question(name, TYPE_A), deadline)?.addresses;
        Ok(found
            .into_iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect())
    }

    /// Asks `server` for the addresses of `name` in its own family, over UDP.
    pub fn resolve_by_udp(
        &self,
        server: SocketAddr,
        name: &str,
        deadline: Duration,
    ) -> Result<DnsAnswer> {
        self.ask_dns(server, &question(name, family_type(server)), deadline)
    }

    /// As [`Namespace::resolve_by_udp`], over TCP (RFC 1035 section 4.2.2).
    pub fn resolve_by_tcp(
        &self,
        server: SocketAddr,
        name: &str,
        deadline: Duration,
    ) -> Result<DnsAnswer> {
        let question = question(name, family_type(server));
        let mut stream = self.tcp_connect(server, deadline)?;
        let mut exchange = || {
            let mut message = (question.len() as u16).to_be_bytes().to_vec();
            message.extend(&question);
            stream.write_all(&message)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer =
            exchange().during(|| format!("DNS over TCP from {} to {server}", self.name()))?;
        parsed(server, &question, &answer)
    }

    fn ask_dns(
        &self,
        server: SocketAddr,
        question: &[u8],
        deadline: Duration,
    ) -> Result<DnsAnswer> {
        let answer = self.udp_ask(server, question, deadline)?;
        parsed(server, question, &answer)
    }
}

fn parsed(server: SocketAddr, question: &[u8], answer: &[u8]) -> Result<DnsAnswer> {
    parse(question, answer)
        .ok_or_else(|| Error::unexpected(format!("answer of {server}"), format!("{answer:?}")))
}

fn family_type(server: SocketAddr) -> u16 {
    if server.is_ipv4() { TYPE_A } else { TYPE_AAAA }
}

/// RFC 1035 section 4.1: identifier, recursion desired, one question.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// The answers, which repeat the question and name it by a pointer (section 4.1.4).
fn parse(question: &[u8], answer: &[u8]) -> Option<DnsAnswer> {
    if answer.get(..2) != question.get(..2) {
        return None;
    }
    let truncated = answer.get(2)? & 2 != 0;
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let mut rest = answer.get(question.len()..)?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        // Pointer, type, class, time to live, length of the data.
        let (fixed, after) = rest.split_at_checked(12)?;
        let length = usize::from(u16::from_be_bytes([fixed[10], fixed[11]]));
        let (data, after) = after.split_at_checked(length)?;
        match u16::from_be_bytes([fixed[2], fixed[3]]) {
            TYPE_A => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            TYPE_AAAA => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            _ => {}
        }
        rest = after;
    }
    Some(DnsAnswer { truncated, addresses })
}
