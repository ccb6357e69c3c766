//! Probes by TCP and UDP.

use std::{
    cell::Cell,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use futures::future::{Either, select};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

use super::{End, Options, Outcome, Probe, ProbeError, rejection};

/// What the sender says, and the receiver.
const QUESTION: &[u8; 4] = b"vnet";
const ANSWER: &[u8; 4] = b"tenv";

/// Connects, and gets a word from the other end.
pub(super) async fn tcp(
    port: u16,
    probe: &Probe<'_>,
    options: &Options,
) -> Result<Outcome, ProbeError> {
    let (listener, port) = probe.listen(port, |address| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    })?;
    let client = probe.call(|_| open_stream(probe.destination))?;
    let seen = Cell::new(None);
    let serve = async {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        while let Ok((mut stream, peer)) = listener.accept().await {
            seen.set(Some(peer.ip()));
            // Who does not read it has given up.
            let _ = stream.write_all(ANSWER).await;
        }
    };
    let own = Cell::new(None);
    let ask = async {
        let to = SockaddrStorage::from(SocketAddr::new(probe.destination, port));
        match connect(client.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Ok(End::NotSent(error as i32)),
        }
        let mut stream = TcpStream::from_std(client.into())?;
        own.set(stream.local_addr().ok().map(|address| address.ip()));
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Ok(failure(&stream, &error));
        }
        let mut word = [0; ANSWER.len()];
        match stream.read_exact(&mut word).await {
            Ok(_) if word == *ANSWER => Ok(End::Answered),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => Ok(failure(&stream, &error)),
        }
    };
    let end = until_answered(serve, ask, &seen, options).await;
    Ok(Outcome { own: own.get(), port, seen: seen.get(), end })
}

/// Sends a datagram, again if need be, and gets it back.
pub(super) async fn udp(
    port: u16,
    probe: &Probe<'_>,
    options: &Options,
) -> Result<Outcome, ProbeError> {
    let bind = |address: SocketAddr| {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        Ok((socket, port))
    };
    let (server, port) = probe.listen(port, bind)?;
    let (client, _) = probe.call(bind)?;
    let seen = Cell::new(None);
    let serve = async {
        let Ok(server) = UdpSocket::from_std(server) else { return };
        let mut datagram = [0; 64];
        loop {
            // An error here is about an answer that did not arrive.
            let Ok((_, peer)) = server.recv_from(&mut datagram).await else { continue };
            seen.set(Some(peer.ip()));
            let _ = server.send_to(ANSWER, peer).await;
        }
    };
    let own = Cell::new(None);
    let ask = async {
        rejection::keep(&client, probe.destination)?;
        if let Err(error) = client.connect(SocketAddr::new(probe.destination, port)) {
            return Ok(not_sent(&error));
        }
        own.set(client.local_addr().ok().map(|address| address.ip()));
        let client = UdpSocket::from_std(client)?;
        let mut answer = [0; 64];
        loop {
            if let Err(error) = client.send(QUESTION).await {
                return Ok(failure(&client, &error));
            }
            match timeout(options.resend, client.recv(&mut answer)).await {
                Ok(Ok(length)) if answer[..length] == *ANSWER => return Ok(End::Answered),
                Ok(Ok(_)) => return Err(io::ErrorKind::InvalidData.into()),
                Ok(Err(error)) => return Ok(failure(&client, &error)),
                Err(_) => {}
            }
        }
    };
    let end = until_answered(serve, ask, &seen, options).await;
    Ok(Outcome { own: own.get(), port, seen: seen.get(), end })
}

/// Runs both ends until the asking one knows, or its patience is over. After an answer `serve` may end
/// if it has not seen anything yet: what it looks for has arrived.
pub(super) async fn until_answered(
    serve: impl Future<Output = ()>,
    ask: impl Future<Output = io::Result<End>>,
    seen: &Cell<Option<IpAddr>>,
    options: &Options,
) -> End {
    let both = async {
        let (serve, ask) = (std::pin::pin!(serve), std::pin::pin!(ask));
        match select(ask, serve).await {
            Either::Left((Ok(End::Answered), serve)) if seen.get().is_none() => {
                let _ = timeout(options.resend, serve).await;
                Ok(End::Answered)
            }
            Either::Left((end, _)) => end,
            Either::Right(((), ask)) => ask.await,
        }
    };
    match timeout(options.patience, both).await {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => not_sent(&error),
        Err(_) => End::Silence,
    }
}

/// A TCP socket that does not block.
fn open_stream(family: IpAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let of = match family {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let stream = socket(of, SockType::Stream, flags, None)?;
    rejection::keep(&stream, family)?;
    Ok(stream)
}

/// Why a call on the socket failed.
fn failure(socket: &impl AsFd, error: &io::Error) -> End {
    match rejection::take(socket.as_fd()) {
        Some(rejection) => End::Rejected(rejection),
        None if error.kind() == io::ErrorKind::ConnectionRefused => End::Reset,
        None if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
        None => not_sent(error),
    }
}

fn not_sent(error: &io::Error) -> End {
    End::NotSent(error.raw_os_error().unwrap_or(libc::EIO))
}
