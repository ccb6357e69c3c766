//! Servers and clients that tests need in guests and outside.

mod bind;
mod clients;
mod dhcp;
mod dhcpv6;
mod dns;
mod dnsmasq;
mod echo;
mod ftp;
mod http;
mod iperf;
mod kernel_sctp;
mod nft;
mod raw;
mod scanner;
mod sctp;
mod stun;
mod tcpdump;

pub use clients::Ping;
pub use dhcp::DhcpLease;
pub use dns::DnsAnswer;
pub use dnsmasq::{Dnsmasq, DnsmasqConfig};
pub use echo::{TcpEcho, UdpEcho};
pub use ftp::FtpServer;
pub use http::{HttpServer, Upload, content, hash};
pub use iperf::{IperfReport, IperfServer};
pub use kernel_sctp::KernelSctpServer;
pub(crate) use kernel_sctp::kernel_has_sctp;
pub use raw::RawEcho;
pub use scanner::{Scan, Scanner};
pub use sctp::{SctpAssociation, SctpServer};
pub use stun::{Dependence, NatBehaviour, StunServer};
pub use tcpdump::Tcpdump;
