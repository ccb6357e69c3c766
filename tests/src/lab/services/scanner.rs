//! A program that scans: packets to random addresses from random ports, as fast as it can.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::libc;
use vnet_common::tcp::flags::SYN;

use super::raw::RawSocket;
use crate::lab::background::Background;
use crate::lab::error::Result;
use crate::lab::namespace::Namespace;
use crate::programs::{Body, Packet};

/// What a scanner sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// SYNs to random ports.
    Syn,
    /// Datagrams to random ports.
    Udp,
    /// Datagrams to one port of one address, so that there is nothing new in them: what a scan is
    /// compared with.
    Nothing,
}

/// A running scan of 10.0.0.0/8 or of `2001:db8:8000::/33`; it ends when this value is dropped.
#[derive(Debug)]
pub struct Scanner {
    sent: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    _thread: Background,
}

impl Scanner {
    /// Starts a scan from an address of `namespace`, of that address's family.
    pub fn start(namespace: &Namespace, source: IpAddr, scan: Scan) -> Result<Self> {
        // Packets come with their IP header (raw(7)).
        let socket = RawSocket::open(namespace, source, libc::IPPROTO_RAW as u8)?;
        let (sent, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ended) = (Arc::clone(&sent), Arc::clone(&end));
        let thread = Background::start("scanner", move |_stop| {
            let mut random = Random(0x2545_f491_4f6c_dd1d);
            while !ended.load(Ordering::Relaxed) {
                let packet = random.packet(source, scan);
                // Its own queue may be full.
                if socket.send(packet.destination, &packet.ip()).is_ok() {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        })?;
        Ok(Self { sent, end, _thread: thread })
    }

    /// Packets that it has sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// `xorshift64*` (Vigna, 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn port(&mut self) -> u16 {
        1024 + ((u128::from(self.next()) * 64512) >> 64) as u16
    }

    fn packet(&mut self, source: IpAddr, scan: Scan) -> Packet {
        let (from, to) = match scan {
            Scan::Syn | Scan::Udp => (self.port(), self.port()),
            Scan::Nothing => (1024, 1024),
        };
        let low = if scan == Scan::Nothing { 1 } else { self.next() };
        let destination = match source {
            IpAddr::V4(_) => Ipv4Addr::from_bits(10 << 24 | low as u32 & 0xff_ffff).into(),
            IpAddr::V6(_) => {
                let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0x8000, 0, 0, 0, 0, 0);
                Ipv6Addr::from_bits(prefix.to_bits() | u128::from(low)).into()
            }
        };
        let body = match scan {
            Scan::Syn => Body::Tcp { source: from, destination: to, flags: SYN },
            Scan::Udp | Scan::Nothing => {
                Body::Udp { source: from, destination: to, has_checksum: true }
            }
        };
        Packet::new(source, destination, body)
    }
}
