//! What every journey needs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket,
    sockopt::{ReuseAddr, SendTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike};
use vnet_tests::lab::services::{TcpEcho, UdpEcho, content};
use vnet_tests::lab::{CapturedPacket, Namespace, Node, StandardLab, listing};
use vnet_tests::vnet::{Vnet, nat_network};

pub const DEADLINE: Duration = Duration::from_secs(10);
/// For what must not be answered.
pub const SILENCE: Duration = Duration::from_millis(300);
pub const UPLINK: &str = "203.0.113.2";
pub const OUTSIDE: &str = "203.0.113.1";

/// The definition of the standard lab's network.
pub fn default_network() -> String {
    nat_network("default", "virbr0", &["192.168.122.1/24"])
}

/// The standard lab with vnet running.
pub struct Nat {
    // Before the lab, whose end kills every process in it.
    pub vnet: Vnet,
    pub lab: StandardLab,
}

impl Nat {
    pub fn new() -> anyhow::Result<Self> {
        Self::with(&[])
    }

    /// With further arguments of `vnet run`.
    pub fn with(arguments: &[&str]) -> anyhow::Result<Self> {
        let lab = StandardLab::new()?;
        let vnet = Vnet::start_with(&lab.host, &[default_network()], arguments)?;
        Ok(Self { vnet, lab })
    }

    pub fn guests(&self) -> [&Node; 2] {
        [&self.lab.tap_guest, &self.lab.veth_guest]
    }

    /// The successful end of a journey: netfilter was not involved, and vnet ends cleanly.
    pub fn finish(self) -> anyhow::Result<()> {
        finish(&self.lab.host, self.vnet)
    }
}

/// As [`Nat::finish`].
pub fn finish(host: &Node, vnet: Vnet) -> anyhow::Result<()> {
    assert_eq!(host.nft_ruleset()?, "");
    assert_eq!(host.conntrack_count()?, 0);
    vnet.stop()?;
    Ok(())
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Every IPv4 packet came from or went to one of these addresses at the host's side, and its
/// checksums are right.
pub fn assert_only_uplink_is_seen(packets: &[CapturedPacket], uplink: &[&str]) {
    assert!(!packets.is_empty());
    for packet in packets {
        // Captured beyond the uplink: what is not outgoing there came from the host.
        let host_side = if packet.outgoing { packet.destination() } else { packet.source() };
        let known = uplink.iter().any(|address| host_side == Some(ip(address)));
        assert!(known, "{packet}\nin\n{}", listing(packets));
        packet.verify_checksums().unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

/// Sends `length` bytes and gets them back.
pub fn assert_echoes(stream: &TcpStream, length: usize) {
    let sent = content(length);
    let mut back = vec![0; length];
    std::thread::scope(|scope| {
        let (mut reader, mut writer) = (stream, stream);
        let sent = &sent;
        let sending = scope.spawn(move || writer.write_all(sent));
        reader.read_exact(&mut back).unwrap();
        sending.join().unwrap().unwrap();
    });
    assert!(back == sent, "{length} bytes came back changed");
}

/// A TCP connection from a port of choice.
pub fn tcp_from(ns: &Namespace, from: SocketAddrV4, to: SocketAddrV4) -> anyhow::Result<TcpStream> {
    let connected = ns.enter(|| -> nix::Result<OwnedFd> {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, ReuseAddr, &true)?;
        // Also bounds the time of connect(2).
        setsockopt(&fd, SendTimeout, &TimeVal::seconds(DEADLINE.as_secs().cast_signed()))?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(from))?;
        connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
        Ok(fd)
    })?;
    let stream = TcpStream::from(connected?);
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

pub fn v4(address: &str, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address.parse().unwrap(), port)
}

/// Asks over a socket of the caller's and gets the question back.
pub fn assert_udp_echoes(socket: &UdpSocket, question: &[u8]) {
    let mut answer = vec![0; question.len() + 1];
    socket.send(question).unwrap();
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], question);
}

/// Neither ping nor TCP nor UDP gets an answer from there.
pub fn assert_unreachable(from: &Node, to: &str) -> anyhow::Result<()> {
    let ping = from.run_ping_once(to)?;
    assert_eq!(ping, 0, "{} reaches {to} by ping", from.name());
    let tcp = from.tcp_connect(at(to, 7), SILENCE);
    assert!(tcp.is_err(), "{} reaches {to} by TCP", from.name());
    let udp = from.udp_ask(at(to, 7), b"anybody?", SILENCE);
    assert!(udp.is_err(), "{} reaches {to} by UDP", from.name());
    Ok(())
}

/// TCP and UDP echo on port 7 of every address, so that what is unreachable would have answered.
pub fn echo_servers(node: &Node) -> anyhow::Result<(TcpEcho, UdpEcho)> {
    Ok((TcpEcho::start(node, at("0.0.0.0", 7))?, UdpEcho::start(node, at("0.0.0.0", 7))?))
}

pub trait PingOnce {
    fn run_ping_once(&self, to: &str) -> anyhow::Result<u32>;
}

impl PingOnce for Node {
    /// Answers to one request within 0.3 s.
    fn run_ping_once(&self, to: &str) -> anyhow::Result<u32> {
        Ok(self.ping_with(to, 1, &["-W", "0.3"])?.received)
    }
}

/// As [`Namespace::counters`].
pub fn counters(node: &Node) -> anyhow::Result<BTreeMap<String, u64>> {
    Ok(node.counters()?)
}

/// As [`Namespace::assert_no_checksum_errors`].
pub fn assert_no_checksum_errors(node: &Node) -> anyhow::Result<()> {
    Ok(node.assert_no_checksum_errors()?)
}
