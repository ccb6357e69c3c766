//! Requests to rtnetlink, and the attribute encoding they share (RFC 3549 section 2).
//!
//! Messages are read attribute by attribute and whatever is not understood is passed over. The
//! typed parsers of `netlink-packet-route` reject a whole message for one attribute of unexpected
//! size, which here would make an interface, and with it an uplink, disappear.

use std::{io, net::IpAddr};

use rtnetlink::{
    packet_core::{
        NLA_ALIGNTO, NLA_F_NESTED, NLA_HEADER_SIZE, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_ACK_TLVS,
        NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO, NLMSG_DONE,
        NLMSG_ERROR,
    },
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use thiserror::Error;

/// `AF_INET` as the one byte that rtnetlink headers carry.
pub(super) const AF_INET: u8 = 2;
/// `AF_INET6` as the one byte that rtnetlink headers carry.
pub(super) const AF_INET6: u8 = 10;

/// Why the kernel did not answer a netlink request, or refused it.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// No socket, or it broke.
    #[error("cannot {action}: the netlink socket failed")]
    Socket {
        /// What was being done.
        action: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel answered with an error number.
    #[error("cannot {action}: {source}{}", detail.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// What was being done.
        action: &'static str,
        /// The error number in the answer.
        source: io::Error,
        /// What the kernel said about it (`NLMSGERR_ATTR_MSG`).
        detail: Option<String>,
    },
    /// The table changes all the time.
    #[error("cannot {action}: it changes while it is read")]
    Restless {
        /// What was being done.
        action: &'static str,
    },
    /// The answer cannot be a netlink message.
    #[error("cannot {action}: the kernel's answer is malformed")]
    Malformed {
        /// What was being done.
        action: &'static str,
    },
}

impl NetlinkError {
    /// The kernel's error number, when it refused the request.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Socket { .. } | Self::Restless { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// A request without its `nlmsghdr`.
pub(super) struct Request {
    /// For error messages: "cannot …".
    pub action: &'static str,
    /// `RTM_*`.
    pub message_type: u16,
    /// `NLM_F_*` beyond those that the way of asking implies.
    pub flags: u16,
    /// The family's header and its attributes.
    pub body: Vec<u8>,
}

/// A netlink socket for requests, one at a time.
pub(super) struct Connection {
    socket: TokioSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

// The kernel fills dumps up to 32 KiB per datagram (netlink_recvmsg in net/netlink/af_netlink.c).
const RECEIVE_BUFFER: usize = 64 * 1024;

impl Connection {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Self::open_of(NETLINK_ROUTE, "talk to rtnetlink")
    }

    /// Of another protocol than rtnetlink.
    pub(super) fn open_of(protocol: isize, action: &'static str) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Socket { action, source };
        let mut socket = TokioSocket::new(protocol).map_err(failed)?;
        socket.socket_mut().bind_auto().map_err(failed)?;
        // Both only make refusals more readable, so a kernel without them is fine.
        let _ = socket.socket_ref().set_ext_ack(true);
        let _ = socket.socket_ref().set_cap_ack(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// Sends a dump request and hands each entry's type and body to `entry`.
    ///
    /// Returns true when the kernel says that the table changed while it was read
    /// (`NLM_F_DUMP_INTR`): entries may then be missing or doubled.
    pub(super) async fn dump(
        &mut self,
        request: Request,
        mut entry: impl FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        let action = request.action;
        self.send(&request, NLM_F_DUMP).await?;
        let mut interrupted = false;
        loop {
            self.receive(action).await?;
            for message in messages(&self.buffer) {
                let message = message.ok_or(NetlinkError::Malformed { action })?;
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return message.into_result(action).map(|()| interrupted);
                    }
                    kind => entry(kind, message.body),
                }
            }
        }
    }

    /// Sends a request that changes something and waits for the acknowledgement.
    pub(super) async fn change(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.ask(request, |_, _| ()).await
    }

    /// Sends a request for one thing, hands the type and the body of what comes to `entry`, and waits for
    /// the acknowledgement.
    pub(super) async fn ask(
        &mut self,
        request: Request,
        mut entry: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        let action = request.action;
        self.send(&request, NLM_F_ACK).await?;
        loop {
            self.receive(action).await?;
            for message in messages(&self.buffer) {
                let message = message.ok_or(NetlinkError::Malformed { action })?;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR => return message.into_result(action),
                    kind => entry(kind, message.body),
                }
            }
        }
    }

    async fn send(&mut self, request: &Request, flags: u16) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (MESSAGE_HEADER + request.body.len()) as u32;
        let mut datagram = Vec::with_capacity(length as usize);
        datagram.extend(length.to_ne_bytes());
        datagram.extend(request.message_type.to_ne_bytes());
        datagram.extend((NLM_F_REQUEST | flags | request.flags).to_ne_bytes());
        datagram.extend(self.sequence.to_ne_bytes());
        datagram.extend(0_u32.to_ne_bytes());
        datagram.extend(&request.body);
        self.socket
            .send_to(&datagram, &SocketAddr::new(0, 0))
            .await
            .map_err(|source| NetlinkError::Socket { action: request.action, source })?;
        Ok(())
    }

    async fn receive(&mut self, action: &'static str) -> Result<(), NetlinkError> {
        loop {
            self.buffer.clear();
            let sender = self
                .socket
                .recv_from(&mut self.buffer)
                .await
                .map_err(|source| NetlinkError::Socket { action, source })?;
            // Any process may write to the socket; port 0 is the kernel.
            if sender.port_number() == 0 {
                return Ok(());
            }
        }
    }
}

const MESSAGE_HEADER: usize = 16;

/// One message of a datagram: `nlmsghdr` and what follows it.
pub(super) struct Message<'a> {
    pub kind: u16,
    flags: u16,
    sequence: u32,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Reads the `i32` that `NLMSG_DONE` and `NLMSG_ERROR` start with: zero or a negated errno.
    fn into_result(self, action: &'static str) -> Result<(), NetlinkError> {
        let code = match u32_at(self.body, 0) {
            Some(code) => code.cast_signed(),
            // A bare NLMSG_DONE carries no code on some paths and means success.
            None if self.kind == NLMSG_DONE => 0,
            None => return Err(NetlinkError::Malformed { action }),
        };
        if code == 0 {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(code.saturating_neg());
        Err(NetlinkError::Refused { action, source, detail: self.extended_message() })
    }

    fn extended_message(&self) -> Option<String> {
        const NLMSGERR_ATTR_MSG: u16 = 1;
        if self.kind != NLMSG_ERROR || self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        // The code, then the request: its header alone when capped, else all of it.
        let request = if self.flags & NLM_F_CAPPED == 0 {
            align(u32_at(self.body, 4)? as usize, NLMSG_ALIGNTO as usize)
        } else {
            MESSAGE_HEADER
        };
        let tail = self.body.get(4 + request..)?;
        let (_, text) = attributes(tail).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
        Some(string(text))
    }
}

/// The messages of a datagram; ends with `None` where the rest is not a message.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Option<Message<'_>>> {
    let mut rest = Some(datagram);
    std::iter::from_fn(move || {
        let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        let message = split_message(bytes);
        rest = message.as_ref().map(|(_, tail)| *tail);
        Some(message.map(|(message, _)| message))
    })
}

fn split_message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let message = Message {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        body: bytes.get(MESSAGE_HEADER..length)?,
    };
    let tail = bytes.get(align(length, NLMSG_ALIGNTO as usize)..).unwrap_or_default();
    Some((message, tail))
}

/// The attributes in `bytes`: type without flag bits, and payload. Ends where they stop making
/// sense.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let payload = rest.get(NLA_HEADER_SIZE..length)?;
        rest = rest.get(align(length, NLA_ALIGNTO)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Appends one attribute to a request's body.
pub(super) fn push_attribute(body: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    body.extend(((NLA_HEADER_SIZE + payload.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(payload);
    body.resize(align(body.len(), NLA_ALIGNTO), 0);
}

/// Appends an attribute that holds attributes.
pub(super) fn push_nested(body: &mut Vec<u8>, kind: u16, nested: &[u8]) {
    push_attribute(body, kind | NLA_F_NESTED, nested);
}

/// Appends an attribute that holds a NUL-terminated string.
pub(super) fn push_string(body: &mut Vec<u8>, kind: u16, text: &str) {
    let mut payload = text.as_bytes().to_vec();
    payload.push(0);
    push_attribute(body, kind, &payload);
}

/// A host byte order `u16` at a byte offset.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

/// A host byte order `u32` at a byte offset.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// A string up to its NUL.
pub(super) fn string(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// An address of either family, told apart by its size.
pub(super) fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn align(length: usize, to: usize) -> usize {
    length.next_multiple_of(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let mut body = Vec::new();
        push_string(&mut body, 1, "abcd");
        push_nested(&mut body, 2, &[7]);
        let expected: Vec<u8> = [
            &9_u16.to_ne_bytes()[..],
            &1_u16.to_ne_bytes(),
            b"abcd\0\0\0\0",
            &5_u16.to_ne_bytes(),
            &0x8002_u16.to_ne_bytes(),
            &[7, 0, 0, 0],
        ]
        .concat();
        assert_eq!(body, expected);
        let read: Vec<_> = attributes(&body).collect();
        assert_eq!(read, [(1, &b"abcd\0"[..]), (2, &[7][..])]);
        assert_eq!(string(read[0].1), "abcd");
    }

    #[test]
    fn attributes_end_where_the_length_is_impossible() {
        let mut body = Vec::new();
        push_attribute(&mut body, 1, &[1, 2, 3, 4]);
        body.extend([200, 0, 2, 0, 1]);
        assert_eq!(attributes(&body).collect::<Vec<_>>(), [(1, &[1, 2, 3, 4][..])]);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn refusal_carries_the_words_of_the_kernel() {
        let mut body = (-libc::ENOENT).to_ne_bytes().to_vec();
        body.extend([0; MESSAGE_HEADER]);
        push_string(&mut body, 1, "Specified qdisc not found");
        let message = Message {
            kind: NLMSG_ERROR,
            flags: NLM_F_CAPPED | NLM_F_ACK_TLVS,
            sequence: 1,
            body: &body,
        };
        let error = message.into_result("delete the clsact qdisc").unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert_eq!(
            error.to_string(),
            "cannot delete the clsact qdisc: No such file or directory (os error 2) \
             (Specified qdisc not found)"
        );
    }

    #[test]
    fn truncated_datagram_ends_with_nothing() {
        let mut datagram = Vec::new();
        datagram.extend(40_u32.to_ne_bytes());
        datagram.extend([0; 16]);
        let read: Vec<bool> = messages(&datagram).map(|message| message.is_some()).collect();
        assert_eq!(read, [false]);
    }
}
