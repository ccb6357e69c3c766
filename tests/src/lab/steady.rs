//! Traffic that goes on while something else happens, and that misses nothing silently.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::background::{Background, Stop, patient};
use super::error::{Result, While};
use super::namespace::Namespace;

/// Datagrams under way at the same time: few enough that no queue on their way overflows.
const WINDOW: u64 = 32;
/// When a datagram counts as lost.
const LATE: Duration = Duration::from_secs(5);
/// How long to wait for an answer before looking whether one is late.
const GLANCE: Duration = Duration::from_millis(20);

/// What became of the datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SteadyReport {
    /// Sent.
    pub sent: u64,
    /// Answered, each once.
    pub answered: u64,
    /// Never answered.
    pub lost: u64,
    /// Errors of the socket: an ICMP error has come.
    pub refused: u64,
}

/// Datagrams of one flow to an echo server, as fast as the answers come.
#[derive(Debug)]
pub struct SteadyUdp {
    report: Arc<Mutex<SteadyReport>>,
    thread: Background,
}

impl SteadyUdp {
    /// Starts to send from a port of a namespace.
    pub fn start(namespace: &Namespace, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        Self::start_paced(namespace, from, to, Duration::ZERO)
    }

    /// As [`SteadyUdp::start`], with a pause after each answer, which leaves the machine to others.
    pub fn start_paced(
        namespace: &Namespace,
        from: SocketAddr,
        to: SocketAddr,
        pause: Duration,
    ) -> Result<Self> {
        let socket = namespace.udp_socket(from, to, GLANCE)?;
        let report = Arc::new(Mutex::new(SteadyReport::default()));
        let shared = Arc::clone(&report);
        let thread = Background::start("steady-udp", move |stop| {
            exchange(&stop, &socket, &shared, pause);
        })?;
        Ok(Self { report, thread })
    }

    /// What has happened so far; datagrams under way are neither answered nor lost.
    #[must_use]
    pub fn so_far(&self) -> SteadyReport {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends nothing more, waits for what is under way, and tells what happened.
    #[must_use]
    pub fn finish(mut self) -> SteadyReport {
        self.thread.stop();
        self.so_far()
    }
}

fn exchange(stop: &Stop, socket: &UdpSocket, shared: &Mutex<SteadyReport>, pause: Duration) {
    let mut report = SteadyReport::default();
    let mut under_way: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut answer = [0; 16];
    let mut ending = false;
    while !(ending && under_way.is_empty()) {
        ending = ending || stop.is_requested();
        while !ending && (under_way.len() as u64) < WINDOW {
            match socket.send(&report.sent.to_be_bytes()) {
                Ok(_) => {
                    under_way.insert(report.sent, Instant::now());
                    report.sent += 1;
                }
                Err(_) => report.refused += 1,
            }
        }
        match socket.recv(&mut answer) {
            Ok(8) => {
                let number = answer.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                if number.is_some_and(|number| under_way.remove(&number).is_some()) {
                    report.answered += 1;
                    thread::sleep(pause);
                }
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => report.refused += 1,
        }
        let late = patient(LATE);
        while under_way.first_key_value().is_some_and(|(_, sent)| sent.elapsed() > late) {
            under_way.pop_first();
            report.lost += 1;
        }
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

/// Open connections to an echo server, each used in turn.
#[derive(Debug)]
pub struct SteadyTcp {
    rounds: Arc<Mutex<(u64, Vec<String>)>>,
    thread: Background,
}

impl SteadyTcp {
    /// Opens connections.
    pub fn open(namespace: &Namespace, to: SocketAddr, count: usize) -> Result<Self> {
        Self::open_paced(namespace, to, count, Duration::ZERO)
    }

    /// As [`SteadyTcp::open`], with a pause after each round.
    pub fn open_paced(
        namespace: &Namespace,
        to: SocketAddr,
        count: usize,
        pause: Duration,
    ) -> Result<Self> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let stream = namespace.tcp_connect(to, patient(LATE))?;
            stream.set_nodelay(true).during(|| format!("connection to {to}"))?;
            streams.push(stream);
        }
        let rounds = Arc::new(Mutex::new((0, Vec::new())));
        let shared = Arc::clone(&rounds);
        let thread = Background::start("steady-tcp", move |stop| {
            while !stop.is_requested() {
                let mut broken = Vec::new();
                streams.retain_mut(|stream| match ask(stream) {
                    Ok(()) => true,
                    Err(error) => {
                        broken.push(error);
                        false
                    }
                });
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                shared.0 += 1;
                shared.1.extend(broken);
                drop(shared);
                thread::sleep(pause);
            }
        })?;
        Ok(Self { rounds, thread })
    }

    /// How often each connection was used, and how those that broke did.
    #[must_use]
    pub fn finish(mut self) -> (u64, Vec<String>) {
        self.thread.stop();
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn ask(stream: &mut TcpStream) -> Result<(), String> {
    let question = *b"the same again, please";
    let mut answer = question;
    answer.reverse();
    stream.write_all(&question).map_err(|error| format!("write: {error}"))?;
    stream.read_exact(&mut answer).map_err(|error| format!("read: {error}"))?;
    if answer == question { Ok(()) } else { Err("another answer".to_owned()) }
}

/// New flows to an echo server, one after the other, each with a few datagrams; every one is asked again in
/// the end.
#[derive(Debug)]
pub struct SteadyOpening {
    sockets: Arc<Mutex<(Vec<UdpSocket>, Vec<String>)>>,
    thread: Background,
}

impl SteadyOpening {
    /// Starts to open them from the ports of an address of a namespace, one in each `interval`.
    pub fn start(
        namespace: &Namespace,
        from: SocketAddr,
        to: SocketAddr,
        interval: Duration,
    ) -> Result<Self> {
        let sockets = Arc::new(Mutex::new((Vec::new(), Vec::new())));
        let (shared, namespace) = (Arc::clone(&sockets), namespace.clone());
        let thread = Background::start("steady-opening", move |stop| {
            for port in from.port()..=u16::MAX {
                if stop.comes_within(interval) {
                    break;
                }
                let from = SocketAddr::new(from.ip(), port);
                let socket = namespace.udp_socket(from, to, patient(LATE));
                let asked = socket.map_err(|error| error.to_string()).and_then(|socket| {
                    ask_datagram(&socket).and_then(|()| ask_datagram(&socket)).map(|()| socket)
                });
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match asked {
                    Ok(socket) => shared.0.push(socket),
                    Err(error) => shared.1.push(format!("port {port}: {error}")),
                }
            }
        })?;
        Ok(Self { sockets, thread })
    }

    /// How many flows were opened, and what was wrong with any.
    #[must_use]
    pub fn finish(mut self) -> (usize, Vec<String>) {
        self.thread.stop();
        let mut shared = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let (sockets, mut failures) = std::mem::take(&mut *shared);
        for socket in &sockets {
            failures.extend(ask_datagram(socket).err().map(|error| format!("again: {error}")));
        }
        (sockets.len(), failures)
    }
}

fn ask_datagram(socket: &UdpSocket) -> Result<(), String> {
    let mut answer = [0; 16];
    socket.send(b"question").map_err(|error| format!("send: {error}"))?;
    let length = socket.recv(&mut answer).map_err(|error| format!("receive: {error}"))?;
    if answer.get(..length) == Some(b"question") { Ok(()) } else { Err("another answer".into()) }
}
