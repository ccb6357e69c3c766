//! The kernel's own SCTP (`sctp(7)`), as sockets in the style of TCP.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    SockaddrLike, SockaddrStorage, bind, connect, setsockopt, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::lab::background::patient;
use crate::lab::error::{Result, While};
use crate::lab::namespace::Namespace;

/// Opens a socket of the kernel's SCTP, which may load a module for it.
///
/// # Errors
/// [`crate::lab::Error::System`] with the kernel's reason if it has none.
pub(crate) fn kernel_has_sctp(namespace: &Namespace) -> Result<()> {
    namespace.enter(|| socket(libc::AF_INET).map(drop))?.during(|| "open a socket".to_owned())
}

/// A listening socket of the kernel's SCTP.
#[derive(Debug)]
pub struct KernelSctpServer {
    listener: TcpListener,
    deadline: Duration,
}

impl Namespace {
    /// Listens for SCTP associations, each of which has to come, and to speak, before `deadline`.
    pub fn kernel_sctp_listen(
        &self,
        address: SocketAddr,
        deadline: Duration,
    ) -> Result<KernelSctpServer> {
        let listener = self.enter(|| listen(address, patient(deadline)))?;
        let listener = listener.during(|| format!("SCTP at {address} in {}", self.name()))?;
        Ok(KernelSctpServer { listener, deadline: patient(deadline) })
    }

    /// Sends one message over an SCTP association of the kernel's, and waits for the answer.
    pub fn kernel_sctp_ask(
        &self,
        to: SocketAddr,
        message: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>> {
        let exchange = || {
            let mut stream = associate(to, patient(deadline))?;
            stream.write_all(message)?;
            let mut answer = vec![0; 64 * 1024];
            let length = stream.read(&mut answer)?;
            answer.truncate(length);
            Ok::<_, io::Error>(answer)
        };
        self.enter(exchange)?.during(|| format!("SCTP association from {} to {to}", self.name()))
    }

    /// Whether the kernel has SCTP; it may load a module for it.
    #[must_use]
    pub fn kernel_has_sctp(&self) -> bool {
        kernel_has_sctp(self).is_ok()
    }
}

impl KernelSctpServer {
    /// Takes the next association and sends one message back; who has begun it.
    pub fn echo_one_message(&self) -> io::Result<SocketAddr> {
        let (mut stream, peer) = self.listener.accept()?;
        stream.set_read_timeout(Some(self.deadline))?;
        let mut message = [0; 2048];
        let length = stream.read(&mut message)?;
        stream.write_all(&message[..length])?;
        Ok(peer)
    }
}

fn listen(address: SocketAddr, deadline: Duration) -> io::Result<TcpListener> {
    let address = SockaddrStorage::from(address);
    let fd = socket(family(&address))?;
    bind(fd.as_raw_fd(), &address)?;
    // Also bounds the time of accept(2).
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(deadline.as_secs().cast_signed()))?;
    // SAFETY: a system call without pointers.
    if unsafe { libc::listen(fd.as_raw_fd(), 8) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpListener::from(fd))
}

fn associate(to: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    let to = SockaddrStorage::from(to);
    let stream = TcpStream::from(socket(family(&to))?);
    stream.set_read_timeout(Some(deadline))?;
    // Also bounds the time of connect(2).
    stream.set_write_timeout(Some(deadline))?;
    connect(stream.as_raw_fd(), &to)?;
    Ok(stream)
}

fn family(address: &SockaddrStorage) -> libc::c_int {
    address.family().map_or(libc::AF_UNSPEC, |family| family as libc::c_int)
}

fn socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers.
    let fd =
        unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
