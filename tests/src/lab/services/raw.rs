//! Raw IP sockets, for protocols that the kernel may not have.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, recvfrom, sendto,
};

use crate::lab::background::{Background, Wake, patient};
use crate::lab::error::{Result, While};
use crate::lab::namespace::Namespace;

/// A socket for the payloads of one IP protocol.
#[derive(Debug)]
pub(super) struct RawSocket {
    fd: OwnedFd,
    is_ipv4: bool,
}

impl RawSocket {
    /// Opens one in `namespace` for the family of `like`. It does not block.
    pub(super) fn open(namespace: &Namespace, like: IpAddr, protocol: u8) -> Result<Self> {
        let is_ipv4 = like.is_ipv4();
        let fd = namespace
            .enter(|| open(is_ipv4, protocol))?
            .during(|| format!("raw socket of protocol {protocol} in {}", namespace.name()))?;
        Ok(Self { fd, is_ipv4 })
    }

    /// Opens one at an address of its own, from which it answers.
    pub(super) fn bind(namespace: &Namespace, address: IpAddr, protocol: u8) -> Result<Self> {
        let socket = Self::open(namespace, address, protocol)?;
        let to = SockaddrStorage::from(SocketAddr::new(address, 0));
        bind(socket.fd.as_raw_fd(), &to)
            .during(|| format!("bind to {address} in {}", namespace.name()))?;
        Ok(socket)
    }

    /// Sends one payload.
    pub(super) fn send(&self, to: IpAddr, payload: &[u8]) -> io::Result<()> {
        // The port of a raw socket's address has to be 0.
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(self.fd.as_raw_fd(), payload, &to, MsgFlags::empty())?;
        Ok(())
    }

    /// The next payload and its sender, if there is one.
    pub(super) fn receive(&self) -> io::Result<(Vec<u8>, IpAddr)> {
        let mut packet = vec![0; 64 * 1024];
        let fd = self.fd.as_raw_fd();
        if self.is_ipv4 {
            let (length, from) = recvfrom::<SockaddrIn>(fd, &mut packet)?;
            packet.truncate(length);
            // With its IP header (raw(7)).
            let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
            let payload = packet.split_off(header.min(packet.len()));
            let from = from.map_or(IpAddr::from([0; 4]), |from| from.ip().into());
            return Ok((payload, from));
        }
        let (length, from) = recvfrom::<SockaddrIn6>(fd, &mut packet)?;
        packet.truncate(length);
        Ok((packet, from.map_or(IpAddr::from([0; 16]), |from| from.ip().into())))
    }

    /// Waits for a payload from `from` that `wanted` takes.
    pub(super) fn wait_for<T>(
        &self,
        from: IpAddr,
        deadline: Duration,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        let end = Instant::now() + patient(deadline);
        loop {
            match self.receive() {
                Ok((payload, sender)) => {
                    if let Some(value) = wanted(&payload).filter(|_| sender == from) {
                        return Ok(value);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], left)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(is_ipv4: bool, protocol: u8) -> io::Result<OwnedFd> {
    let family = if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a system call without pointers.
    let fd = unsafe { libc::socket(family, kind, libc::c_int::from(protocol)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A server that sends each payload of one IP protocol back.
#[derive(Debug)]
pub struct RawEcho {
    peers: Arc<Mutex<Vec<IpAddr>>>,
    _thread: Background,
}

impl RawEcho {
    /// Starts a server in `namespace`. It listens when this returns.
    pub fn start(namespace: &Namespace, address: IpAddr, protocol: u8) -> Result<Self> {
        let socket = RawSocket::bind(namespace, address, protocol)?;
        let peers = Arc::<Mutex<Vec<IpAddr>>>::default();
        let known = Arc::clone(&peers);
        let thread = Background::start("raw-echo", move |stop| {
            while let Ok(Wake::Readable(_)) = stop.wait(&[socket.as_fd()]) {
                while let Ok((payload, peer)) = socket.receive() {
                    known.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                    // Nobody sends again what gets lost here, and the client says so.
                    let _ = socket.send(peer, &payload);
                }
            }
        })?;
        Ok(Self { peers, _thread: thread })
    }

    /// The sender of each packet so far, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<IpAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Namespace {
    /// Sends one packet of an IP protocol and waits for the answer's payload.
    pub fn raw_ask(
        &self,
        to: IpAddr,
        protocol: u8,
        payload: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>> {
        let what = || format!("answer of {to} to protocol {protocol} from {}", self.name());
        let socket = RawSocket::open(self, to, protocol)?;
        socket.send(to, payload).during(what)?;
        socket.wait_for(to, deadline, |answer| Some(answer.to_vec())).during(what)
    }
}
