//! ICMP errors as the sender of a packet gets them.

use std::{
    fmt,
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

/// An ICMP error about a packet that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Who sent it.
    pub from: IpAddr,
    /// The ICMP type of its family: 3 is "destination unreachable" of ICMP, 1 of `ICMPv6`.
    pub kind: u8,
    /// The code of the type.
    pub code: u8,
}

impl Rejection {
    /// Whether it is a port-unreachable (RFC 792; RFC 4443, section 3.1).
    #[must_use]
    pub fn is_port_unreachable(&self) -> bool {
        match self.from {
            IpAddr::V4(_) => (self.kind, self.code) == (3, 3),
            IpAddr::V6(_) => (self.kind, self.code) == (1, 4),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_port_unreachable() {
            write!(formatter, "port unreachable from {}", self.from)
        } else {
            write!(formatter, "ICMP type {} code {} from {}", self.kind, self.code, self.from)
        }
    }
}

/// Asks the kernel to keep ICMP errors about the socket's packets (ip(7), `IP_RECVERR`).
pub(super) fn keep(socket: &impl AsFd, family: IpAddr) -> nix::Result<()> {
    match family {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4RecvErr, &true),
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvErr, &true),
    }
}

/// Takes the oldest ICMP error that the kernel has kept for the socket.
pub(super) fn take(socket: BorrowedFd<'_>) -> Option<Rejection> {
    let mut packet = [0; 256];
    let mut iov = [IoSliceMut::new(&mut packet)];
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags).ok()?;
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, from)
            if error.ee_origin == libc::SO_EE_ORIGIN_ICMP =>
        {
            let from = Ipv4Addr::from(u32::from_be(from?.sin_addr.s_addr));
            Some(Rejection { from: from.into(), kind: error.ee_type, code: error.ee_code })
        }
        ControlMessageOwned::Ipv6RecvErr(error, from)
            if error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 =>
        {
            let from = Ipv6Addr::from(from?.sin6_addr.s6_addr);
            Some(Rejection { from: from.into(), kind: error.ee_type, code: error.ee_code })
        }
        _ => None,
    })
}
