//! Servers and clients that tests need in guests and outside.

mod clients;
mod dhcp;
mod dhcpv6;
mod dns;
mod dnsmasq;
mod echo;
mod http;
mod iperf;
mod nft;
mod raw;
mod sctp;
mod stun;
mod tcpdump;

pub use clients::Ping;
pub use dhcp::DhcpLease;
pub use dns::DnsAnswer;
pub use dnsmasq::{Dnsmasq, DnsmasqConfig};
pub use echo::{TcpEcho, UdpEcho};
pub use http::{HttpServer, Upload, content, hash};
pub use iperf::{IperfReport, IperfServer};
pub use raw::RawEcho;
pub use sctp::{SctpAssociation, SctpServer};
pub use stun::{Dependence, NatBehaviour, StunServer};
pub use tcpdump::Tcpdump;
