//! The lab with the services that the guests use.

use std::net::SocketAddr;
use std::ops::Deref;

use anyhow::Result;

use crate::lab::services::{HttpServer, TcpEcho, UdpEcho};
use crate::lab::{Node, StandardLab};

/// The host's address on its uplink: the only one that the outside may see.
pub(super) const UPLINK: &str = "203.0.113.2";
/// The outside host.
pub(super) const OUTSIDE: &str = "203.0.113.1";
/// Port of the TCP echo servers.
pub(super) const ECHO: u16 = 7;

/// The standard lab, with a web server and a UDP service outside and a TCP server everywhere.
#[derive(Debug)]
pub(super) struct Stage {
    /// Outside, port 80.
    pub(super) web: HttpServer,
    /// Outside, port 53: sends each datagram back.
    pub(super) udp: UdpEcho,
    _echo: Vec<TcpEcho>,
    // Last, so that the servers end before their namespaces.
    standard: StandardLab,
}

impl Deref for Stage {
    type Target = StandardLab;

    fn deref(&self) -> &StandardLab {
        &self.standard
    }
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let standard = StandardLab::new()?;
        let outside = |port| SocketAddr::new(std::net::IpAddr::V4([203, 0, 113, 1].into()), port);
        let web = HttpServer::start(&standard.outside, outside(80))?;
        let udp = UdpEcho::start(&standard.outside, outside(53))?;
        let everywhere = SocketAddr::from(([0, 0, 0, 0], ECHO));
        let echo = [&standard.tap_guest, &standard.veth_guest, &standard.host, &standard.outside]
            .map(|node| TcpEcho::start(node, everywhere));
        let echo = echo.into_iter().collect::<Result<_, _>>()?;
        Ok(Self { web, udp, _echo: echo, standard })
    }

    /// The guests with what they are plugged in by.
    pub(super) fn guests(&self) -> [(&Node, &'static str); 2] {
        [(&self.standard.tap_guest, "guest1 (tap)"), (&self.standard.veth_guest, "guest2 (veth)")]
    }
}
