//! Echo servers that remember who has spoken to them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::lab::background::{Background, Stop, Wake};
use crate::lab::error::{Result, While};
use crate::lab::namespace::Namespace;

type Peers = Arc<Mutex<Vec<SocketAddr>>>;

/// A UDP server that sends each datagram back.
#[derive(Debug)]
pub struct UdpEcho {
    address: SocketAddr,
    peers: Peers,
    _thread: Background,
}

impl UdpEcho {
    /// Starts a server in `namespace`; port 0 means any. It is bound when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let what = || format!("UDP socket at {address} in {}", namespace.name());
        let socket = namespace.bind(&what, || UdpSocket::bind(address))?;
        socket.set_nonblocking(true).during(what)?;
        let address = socket.local_addr().during(what)?;
        let peers = Peers::default();
        let known = Arc::clone(&peers);
        let thread = Background::start("udp-echo", move |stop| {
            let mut datagram = vec![0; 64 * 1024];
            while let Ok(Wake::Readable(_)) = stop.wait(&[socket.as_fd()]) {
                while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                    record(&known, peer);
                    // The sender retries if the answer is lost.
                    let _ = socket.send_to(&datagram[..length], peer);
                }
            }
        })?;
        Ok(Self { address, peers, _thread: thread })
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sender of each datagram so far, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        list(&self.peers)
    }
}

/// A TCP server that sends back what it is sent, for as long as the client keeps the connection.
#[derive(Debug)]
pub struct TcpEcho {
    service: TcpService,
}

impl TcpEcho {
    /// Starts a server in `namespace`; port 0 means any. It listens when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        Ok(Self { service: TcpService::start(namespace, address, echo)? })
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

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

/// A TCP server with one thread for each connection; dropping it ends the connections.
#[derive(Debug)]
pub(super) struct TcpService {
    address: SocketAddr,
    peers: Peers,
    _thread: Background,
}

impl TcpService {
    pub(super) fn start(
        namespace: &Namespace,
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> Result<Self> {
        let what = || format!("TCP socket at {address} in {}", namespace.name());
        let listener = namespace.bind(&what, || TcpListener::bind(address))?;
        listener.set_nonblocking(true).during(what)?;
        let address = listener.local_addr().during(what)?;
        let peers = Peers::default();
        let known = Arc::clone(&peers);
        let thread = Background::start("tcp-server", move |stop| {
            accept(&stop, &listener, &known, &serve);
        })?;
        Ok(Self { address, peers, _thread: thread })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn peers(&self) -> Vec<SocketAddr> {
        list(&self.peers)
    }
}

fn accept<S>(stop: &Stop, listener: &TcpListener, known: &Peers, serve: &S)
where
    S: Fn(TcpStream) + Clone + Send + 'static,
{
    let open = Arc::new(Mutex::new(HashMap::new()));
    let mut threads = Vec::new();
    while let Ok(Wake::Readable(_)) = stop.wait(&[listener.as_fd()]) {
        while let Ok((stream, peer)) = listener.accept() {
            record(known, peer);
            let handle = stream.set_nonblocking(false).and_then(|()| stream.try_clone());
            // Out of descriptors: the connection is closed and the client sees it.
            let Ok(handle) = handle else { continue };
            open.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, handle);
            let (serve, open) = (serve.clone(), Arc::clone(&open));
            threads.push(thread::spawn(move || {
                serve(stream);
                // The last handle closes the connection, so that the client sees its end.
                open.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
            }));
        }
    }
    for stream in open.lock().unwrap_or_else(PoisonError::into_inner).values() {
        // Already closed by the client, or now.
        let _ = stream.shutdown(Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn record(peers: &Peers, peer: SocketAddr) {
    peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
}

fn list(peers: &Peers) -> Vec<SocketAddr> {
    peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
