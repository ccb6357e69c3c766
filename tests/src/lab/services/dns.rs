//! A DNS client for one question.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::lab::error::{Error, Result};
use crate::lab::namespace::Namespace;

/// RFC 1035 section 3.2: type A, class IN.
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;

impl Namespace {
    /// Asks `server` for the IPv4 addresses of `name`, over UDP.
    pub fn resolve(
        &self,
        server: SocketAddr,
        name: &str,
        deadline: Duration,
    ) -> Result<Vec<Ipv4Addr>> {
        let question = question(name);
        let answer = self.udp_ask(server, &question, deadline)?;
        addresses(&question, &answer)
            .ok_or_else(|| Error::unexpected(format!("answer of {server}"), format!("{answer:?}")))
    }
}

/// RFC 1035 section 4.1: identifier, recursion desired, one question.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(TYPE_A.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// The addresses in the answers, which repeat the question and name it by a pointer (section 4.1.4).
fn addresses(question: &[u8], answer: &[u8]) -> Option<Vec<Ipv4Addr>> {
    if answer.get(..2) != question.get(..2) {
        return None;
    }
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let mut rest = answer.get(question.len()..)?;
    let mut found = Vec::new();
    for _ in 0..count {
        // Pointer, type, class, time to live, length of the data.
        let (fixed, after) = rest.split_at_checked(12)?;
        let length = usize::from(u16::from_be_bytes([fixed[10], fixed[11]]));
        let (data, after) = after.split_at_checked(length)?;
        if u16::from_be_bytes([fixed[2], fixed[3]]) == TYPE_A {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        }
        rest = after;
    }
    Some(found)
}
