//! Whether somebody else serves a network already: libvirt's dnsmasq, or an operator's.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
    sockopt::{BindToDevice, Ipv6V6Only},
};

/// A port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// UDP 67
    Dhcp,
    /// UDP 53 at the address.
    Dns(IpAddr),
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp => formatter.write_str("DHCP (UDP port 67)"),
            Self::Dns(address) => write!(formatter, "DNS (UDP port 53 at {address})"),
        }
    }
}

/// The first service port of a bridge that a process of this network namespace listens at. `addresses`
/// are the host's own on the bridge; those that it does not have yet are nobody's.
pub fn taken_port(bridge: &str, addresses: &[IpAddr]) -> io::Result<Option<Port>> {
    let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 67);
    if is_taken(everywhere, Some(bridge))? {
        return Ok(Some(Port::Dhcp));
    }
    for address in addresses {
        if is_taken(SocketAddr::new(*address, 53), None)? {
            return Ok(Some(Port::Dns(*address)));
        }
    }
    Ok(None)
}

/// Asks the kernel by binding: it knows of sockets on all addresses and on single interfaces.
fn is_taken(address: SocketAddr, interface: Option<&str>) -> io::Result<bool> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let probe = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&probe, Ipv6V6Only, &true)?;
    }
    if let Some(interface) = interface {
        setsockopt(&probe, BindToDevice, &interface.into())?;
    }
    match bind(std::os::fd::AsRawFd::as_raw_fd(&probe), &SockaddrStorage::from(address)) {
        Ok(()) | Err(nix::errno::Errno::EADDRNOTAVAIL) => Ok(false),
        Err(nix::errno::Errno::EADDRINUSE) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
