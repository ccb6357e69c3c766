//! Probes between network namespaces: real connections, and what both ends see of them.
//!
//! Each probe opens the listener at its destination and the client at its source itself, so probes
//! do not disturb each other and nothing is left behind.

mod connection;
mod echo;
mod namespace;
mod rejection;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tokio::{
    sync::Mutex,
    time::{Interval, MissedTickBehavior, interval},
};

pub use namespace::Namespace;
pub use rejection::Rejection;

/// What a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A TCP connection with data.
    Tcp,
    /// A datagram and its answer.
    Udp,
    /// An ICMP echo request, which the receiver's kernel answers.
    Echo,
}

/// A connection to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// Whose connection it is.
    pub from: &'a Namespace,
    /// Who has the destination's address.
    pub to: &'a Namespace,
    /// The address to connect to.
    pub destination: IpAddr,
    /// How.
    pub protocol: Protocol,
}

/// How a probe ended for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The receiver's answer came back.
    Answered,
    /// An ICMP error came back.
    Rejected(Rejection),
    /// A TCP reset came back.
    Reset,
    /// The sender's own kernel refused to send, with this error number.
    NotSent(i32),
    /// Nothing came back in time.
    Silence,
}

/// What both ends saw of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The sender's own address; none if it could not send.
    pub own: Option<IpAddr>,
    /// The port that it was sent to; 0 for an echo request.
    pub port: u16,
    /// The source that the receiver saw; none if nothing arrived (of TCP: if no connection did).
    pub seen: Option<IpAddr>,
    /// What the sender saw.
    pub end: End,
}

/// How hard to try.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The least time between the starts of two probes. Whoever rejects a probe may do so only so
    /// often.
    pub pace: Duration,
    /// How many probes may be under way.
    pub at_once: usize,
    /// How long to wait until an unanswered datagram or echo request is sent again. TCP does so
    /// after 1 s (RFC 6298, section 2).
    pub resend: Duration,
    /// How long to wait for any answer.
    pub patience: Duration,
    /// The port of the first probe's listener; each further probe has the next one. None leaves the
    /// choice to the kernel, which may choose a port again.
    pub first_port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(1),
            at_once: 96,
            resend: Duration::from_millis(400),
            patience: Duration::from_millis(2500),
            first_port: None,
        }
    }
}

/// A probe could not be made; a probe that fails is an [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A namespace cannot be opened or entered.
    #[error("cannot enter network namespace {namespace}: {source}")]
    Namespace {
        /// What it was called.
        namespace: String,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to wait for sockets with.
    #[error("cannot start probing: {0}")]
    Runtime(#[source] io::Error),
    /// A socket cannot be opened.
    #[error(
        "cannot open a {protocol} socket at {address} in network namespace {namespace}: {source}"
    )]
    Socket {
        /// What it was called.
        namespace: String,
        /// What was tried there.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Makes all probes, several at a time; the outcomes are in the order of the probes.
pub async fn run(probes: &[Probe<'_>], options: &Options) -> Result<Vec<Outcome>, ProbeError> {
    let mut clock = interval(options.pace.max(Duration::from_micros(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let clock = Mutex::new(clock);
    let clock = &clock;
    let all = probes.iter().enumerate().map(|(number, probe)| async move {
        Ok::<_, ProbeError>((number, one(number, probe, options, clock).await?))
    });
    let mut outcomes: Vec<(usize, Outcome)> =
        stream::iter(all).buffer_unordered(options.at_once.max(1)).try_collect().await?;
    outcomes.sort_unstable_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

async fn one(
    number: usize,
    probe: &Probe<'_>,
    options: &Options,
    clock: &Mutex<Interval>,
) -> Result<Outcome, ProbeError> {
    clock.lock().await.tick().await;
    let port = options.first_port.map_or(0, |first| first.saturating_add(number as u16));
    match probe.protocol {
        Protocol::Tcp => connection::tcp(port, probe, options).await,
        Protocol::Udp => connection::udp(port, probe, options).await,
        Protocol::Echo => echo::echo(number, probe, options).await,
    }
}

impl Probe<'_> {
    /// Opens a socket at the destination.
    fn listen<T: Send>(
        &self,
        port: u16,
        open: impl FnOnce(SocketAddr) -> io::Result<T> + Send,
    ) -> Result<T, ProbeError> {
        self.socket(self.to, SocketAddr::new(self.destination, port), open)
    }

    /// Opens a socket at the source, at whatever address the kernel chooses.
    fn call<T: Send>(
        &self,
        open: impl FnOnce(SocketAddr) -> io::Result<T> + Send,
    ) -> Result<T, ProbeError> {
        self.socket(self.from, SocketAddr::new(namespace::any(self.destination), 0), open)
    }

    fn socket<T: Send>(
        &self,
        namespace: &Namespace,
        address: SocketAddr,
        open: impl FnOnce(SocketAddr) -> io::Result<T> + Send,
    ) -> Result<T, ProbeError> {
        namespace.enter(|| open(address))?.map_err(|source| {
            let (namespace, protocol) = (namespace.name().to_owned(), self.protocol);
            ProbeError::Socket { namespace, protocol, address, source }
        })
    }
}

impl Protocol {
    /// Every protocol, in the order in which tables show them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Echo];
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Echo => "ICMP echo",
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered => formatter.write_str("answered"),
            Self::Rejected(rejection) => write!(formatter, "{rejection}"),
            Self::Reset => formatter.write_str("TCP reset"),
            Self::NotSent(errno) => write!(formatter, "{}", io::Error::from_raw_os_error(*errno)),
            Self::Silence => formatter.write_str("no answer"),
        }
    }
}
